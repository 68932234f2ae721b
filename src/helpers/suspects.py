"""Labels that look wrong without any vote: confident learning on a panel's margins.

cleanlab ranks labels by how improbable a model that never saw them finds them (Northcutt et al.
2021). The model is the cross-fitted panel, so what it flags is what breaks the pattern of the other
labels, and never a mistake that is part of the pattern.
"""

import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from scipy.special import expit
from sklearn.metrics import cohen_kappa_score


def label_issues(margins: pd.DataFrame) -> pd.DataFrame:
    """``issue`` (bool) and ``quality`` (probability of the label) by ``pair_id``.

    ``margins``: columns pair_id, annotator, margin (score of chosen minus rejected), as
    :func:`helpers.panels.cross_fit` gives them. Each member's margins are divided by their median
    size, so that no member's scale decides, and averaged; the logistic of the mean is taken as the
    probability that the chosen response is better.

    Every label says "chosen is better". Confident learning needs both classes, so every second
    pair is turned round, label and probability together; that changes nothing about the pair.
    """
    size = margins.groupby("annotator")["margin"].transform(lambda m: m.abs().median())
    scaled = margins["margin"] / size.where(size > 0, 1.0)
    probability = expit(scaled.groupby(margins["pair_id"]).mean())
    turned = np.arange(len(probability)) % 2
    right = np.where(turned, 1 - probability, probability)
    table = np.column_stack([1 - right, right])
    labels = np.where(turned, 0, 1)
    return pd.DataFrame(
        {
            "issue": find_label_issues(labels, table, n_jobs=1),
            "quality": get_label_quality_scores(labels, table),
        },
        index=probability.index,
    )


def overlap(first: pd.Series, second: pd.Series) -> dict[str, float]:
    """Sizes of two sets of flagged pairs, of both, their Jaccard index and Cohen's kappa.

    Both are boolean with the same index. Empty sets have a Jaccard index of 1.
    """
    a, b = first.to_numpy(bool), second.loc[first.index].to_numpy(bool)
    both, either = int((a & b).sum()), int((a | b).sum())
    return {
        "first": int(a.sum()),
        "second": int(b.sum()),
        "both": both,
        "jaccard": both / either if either else 1.0,
        "kappa": float(cohen_kappa_score(a, b)) if either > 0 else 1.0,
    }
