"""The protocol of the paper's Figure 4 on scores of items: correlation of five shards' means.

Each subset is split into shards and the mean scores of the shards are correlated; how shards are
cut is not said. Here they are cut both ways, on the scores of a :class:`helpers.correlation.Study`,
where the correlation by item is known. (:mod:`helpers.nulls` asks what chance alone would show.)
"""

from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd

from helpers import stats
from helpers.correlation import Study, coefficient

SHARDS = 5  # Figure 4's caption


def means(x: np.ndarray, y: np.ndarray, cut: Literal["random", "sorted"], rng) -> np.ndarray:
    """Mean of x and of y in each of ``SHARDS`` equal shards (to one item), shape (2, SHARDS): cut
    at random, or from the items sorted by x."""
    order = rng.permutation(len(x)) if cut == "random" else np.argsort(x, kind="stable")
    shards = np.array_split(order, SHARDS)
    return np.array([[v[s].mean() for s in shards] for v in (x, y)])


def protocols(data: Study, *, n_studies: int, seed: int) -> pd.DataFrame:
    """Pearson's r of every model in repeated studies, by item and by Figure 4's shard means.

    A study draws as many clusters as there are, with replacement, and cuts the drawn items of each
    subset into shards: the same random shards for all models, or sorted by the model's own score.
    Columns: study, model, cut (``items``, ``random``, ``sorted``), shown (``one`` subset or
    ``all``), subset (``all`` where all are pooled), r. By item, ``all`` is within subsets.
    """
    rng = np.random.default_rng(seed)
    y, names, models = data.human_mean, list(data.models), data.models.to_numpy()
    labels, codes = np.unique(data.items["subset"], return_inverse=True)
    members = _parts(pd.factorize(data.items["cluster"])[0])
    rows = []
    for number in range(n_studies):
        drawn = np.concatenate([members[c] for c in rng.integers(len(members), size=len(members))])
        parts = [drawn[codes[drawn] == code] for code in range(len(labels))]
        cut_seed = rng.integers(2**63)
        for model, x in zip(names, models.T):
            r = coefficient(x[drawn], y[drawn], subsets=codes[drawn])
            rows.append((number, model, "items", "all", "all", r))
            one = zip(labels, (coefficient(x[p], y[p]) for p in parts))
            rows += [(number, model, "items", "one", label, r) for label, r in one]
            for cut in ("random", "sorted"):
                # One seed a study: the random shards are then those of every other model.
                same = np.random.default_rng(cut_seed)
                points = [means(x[p], y[p], cut, same) for p in parts]
                rows.append((number, model, cut, "all", "all", coefficient(*np.hstack(points))))
                one = zip(labels, points)
                rows += [(number, model, cut, "one", at, coefficient(*m)) for at, m in one]
    return pd.DataFrame(rows, columns=["study", "model", "cut", "shown", "subset", "r"])


def misranked(
    repeats: pd.DataFrame, truth: pd.DataFrame, *, least: float, seed: int
) -> pd.DataFrame:
    """How often a protocol puts two models in the wrong order; one row a cut and what is shown.

    ``truth``: model by subset (and ``all``), the true correlations. Two models whose truths differ
    by less than ``least`` are not compared; equal or undefined correlations count as wrong. The
    share is over studies, subsets and pairs of models, as :func:`share` with studies as units.
    """
    wide = repeats.pivot(index=["cut", "shown", "subset", "study"], columns="model", values="r")
    parts = []
    for (cut, shown, subset), group in wide.groupby(level=["cut", "shown", "subset"]):
        for a, b in combinations(wide.columns, 2):
            gap = truth.loc[a, subset] - truth.loc[b, subset]
            if abs(gap) >= least:
                wrong = ~((group[a] - group[b]) * np.sign(gap) > 0)
                row = dict(cut=cut, shown=shown, study=group.index.get_level_values("study"))
                parts.append(pd.DataFrame(row | {"wrong": wrong.to_numpy(float)}))
    if not parts:
        raise ValueError(f"no two models' true correlations differ by {least} or more")
    rows = []
    for (cut, shown), group in pd.concat(parts).groupby(["cut", "shown"]):
        wrong = stats.cluster_share(group["wrong"].to_numpy(), group["study"].to_numpy(), seed=seed)
        rows.append(dict(cut=cut, shown=shown, share=wrong))
    return pd.DataFrame(rows)


def _parts(codes: np.ndarray) -> list[np.ndarray]:
    """Row numbers of each code that occurs."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
