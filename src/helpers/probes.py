"""What a reward model does on a suite of :mod:`helpers.suites`, and on the paper's own examples.

Scores of different models have no common unit: differences are measured in standard deviations of
a model's own scores, and responses of the paper's tables are compared by rank.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats

from helpers import pairs, paper, rewards, splits, stats, suites

# Differences below this share of the model's standard deviation of chosen scores are negligible.
# The paper says "similar scores" and gives no number; a tenth is half of what Cohen calls small.
NEGLIGIBLE = 0.1


def scored(suite: pd.DataFrame, score: rewards.Score) -> pd.DataFrame:
    """The suite with ``base_score`` and ``probe_score``; each text of a prompt is scored once.

    Raises ValueError naming the pair of the first score that is not finite.
    """
    texts = [(p, t) for side in ("base", "probed") for p, t in zip(suite["prompt"], suite[side])]
    unique = {key: i for i, key in enumerate(dict.fromkeys(texts))}
    values = np.asarray(score([p for p, _ in unique], [t for _, t in unique]), dtype=float)
    both = values[[unique[key] for key in texts]].reshape(2, len(suite))
    bad = ~np.isfinite(both).all(axis=0)
    if bad.any():
        row = suite.iloc[int(np.argmax(bad))]
        raise ValueError(
            f"pair {row['pair_id']}, probe {row['probe']}: the score is not finite; a reward model "
            "that gives no number cannot be probed (half precision that overflows is one cause)"
        )
    return suite.assign(base_score=both[0], probe_score=both[1])


class Result(NamedTuple):
    """What one model does on one probe.

    ``sensitivity``: mean of (base - probe) in standard deviations of the model's chosen scores,
    None where these are constant; ``flip``: share of probes that score at least as high as the
    base (Wilson), ``flip_clustered`` the same with prompts as clusters (``stats.cluster_share``:
    Wilson on the prompts where all or none flip); ``negligible``: share of differences below
    ``NEGLIGIBLE`` standard deviations. Estimates by prompt are None where there
    are fewer than two prompts.
    """

    probe: str
    expects: str
    sensitivity: stats.Estimate | None
    flip: stats.Estimate
    flip_clustered: stats.Estimate | None
    negligible: stats.Estimate


def spread(score: rewards.Score, data: pd.DataFrame) -> float:
    """Standard deviation of a model's scores of all chosen responses of ``data``: the unit of its
    sensitivities. Differences of score cannot be compared between models in any other."""
    return float(np.std(score(data["prompt"].tolist(), data["chosen"].tolist()), ddof=1))


def results(
    scores: pd.DataFrame, unit: float, *, seed: int, negligible: float = NEGLIGIBLE
) -> list[Result]:
    """One :class:`Result` a probe, in the order of the suite, from the frame of :func:`scored`.

    ``unit`` is the model's :func:`spread`.
    """
    out = []
    for name, group in scores.groupby("probe", sort=False):
        difference = (group["base_score"] - group["probe_score"]).to_numpy()
        clusters, n = group["prompt"].map(splits.prompt_hash), len(group)
        many, varied = clusters.nunique() > 1, unit > 0
        flips = difference <= 0
        small = np.abs(difference) < negligible * unit if varied else difference == 0
        out.append(
            Result(
                name,
                suites.PROBES[name].expects,
                stats.cluster_bootstrap(difference / unit, clusters, seed=seed)
                if many and varied
                else None,
                stats.wilson(int(flips.sum()), n),
                stats.cluster_share(flips, clusters.to_numpy(), seed=seed) if many else None,
                stats.wilson(int(small.sum()), n),
            )
        )
    return sorted(out, key=lambda r: list(suites.PROBES).index(r.probe))


def orientation(margins: np.ndarray, prompts: Collection[str], *, seed: int) -> stats.Estimate:
    """Share of pairs whose better response scores higher, a tie counted half, prompts as clusters.

    Twice this minus one is the rank correlation of score and label within pairs (Somers' d): below
    one half the scores of the whole model are inverted. Ties count half, since Eq. 2, which counts
    them as wrong, would call a constant score inverted.
    """
    credit = (np.sign(margins) + 1) / 2
    clusters = [splits.prompt_hash(p) for p in prompts]
    return stats.cluster_share(credit, clusters, seed=seed)


def verdict(share: stats.Estimate) -> str:
    """``right way round``, ``inverted``, or ``open`` where the interval holds one half."""
    if share.low > 0.5:
        return "right way round"
    return "inverted" if share.high < 0.5 else "open"


def paper_responses() -> pd.DataFrame:
    """The responses of Tables 1, 3 and 8, one a row, with the prompt in HH-RLHF's form.

    Columns: ``table``, ``id``, ``question``, ``prompt``, ``method``, ``response``, ``published``
    (NaN where the text of the paper has lost it). The scores are on two scales: the raw output in
    Table 1, its sigmoid in Tables 3 and 8.
    """
    rows = [
        dict(
            table=table,
            id=probe["id"],
            question=probe["prompt"],
            prompt=f"{pairs.HUMAN} {probe['prompt']}{pairs.ASSISTANT}",
            method=response["method"],
            response=f" {response['text']}",
            published=response["score"],
        )
        for table in (1, 3, 8)
        for probe in paper.results()[f"table_{table}"]["probes"]
        for response in probe["responses"]
    ]
    return pd.DataFrame(rows).astype({"published": float})


def ranks(responses: pd.DataFrame, column: str) -> pd.Series:
    """Rank within the prompt, 1 for the highest score, ties at their mean; NaN where there is no
    score. Ranks are all that can be compared between scores of different units."""
    return responses.groupby("id")[column].rank(ascending=False)


def rank_agreement(published: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """``(tau-b, p)`` of Kendall's rank correlation of one prompt's responses, p two-sided: exact
    without ties, else by the normal approximation. Raises ValueError where either is constant."""
    for name, values in (("published", published), ("scores", scores)):
        if np.ptp(values) == 0:
            raise ValueError(f"{name} is constant, so it has no rank correlation")
    found = scipy.stats.kendalltau(published, scores)
    return float(found.statistic), float(found.pvalue)
