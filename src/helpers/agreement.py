"""How far annotators agree, raw and beyond chance.

Everything reads the vote table of :mod:`helpers.votes`; the chance-corrected coefficients also read
a table of counts (one row a pair, one column a category, whole numbers), which is all that some
published data hold. Every coefficient is an :class:`helpers.stats.Estimate` with a percentile
bootstrap of whole clusters: ``clusters`` is a Series from pair id to cluster (the prompt, say),
None makes every pair a cluster. ``n`` is the number of pairs that carry the comparison.
"""

from collections.abc import Callable
from itertools import combinations

import krippendorff
import numpy as np
import pandas as pd
from statsmodels.stats.inter_rater import cohens_kappa

from helpers import stats
from helpers.stats import Estimate
from helpers.votes import VOTES, check, counts


def mt_bench_votes(verdicts: pd.DataFrame) -> pd.DataFrame:
    """MT-bench verdicts (:func:`helpers.corpora.mt_bench`) as a vote table.

    A pair is a question, a turn and two models; "chosen" stands for the model whose name comes
    first, whichever order the judge saw. An inconsistent verdict is a tie, as in the authors'
    evaluation. One author judged one pair twice: the second vote counts as another annotator's.
    """
    names = np.sort(verdicts[["model_a", "model_b"]].to_numpy(str), axis=1)
    first_wins = (verdicts["winner"] == "model_a") == (verdicts["model_a"] == names[:, 0])
    vote = np.where(first_wins, "chosen", "rejected")
    place = verdicts[["question_id", "turn"]].astype(str).agg("/".join, axis=1)
    table = pd.DataFrame({"pair_id": place + "/" + names[:, 0] + "/" + names[:, 1]})
    again = pd.Series(table["pair_id"] + verdicts["judge"]).duplicated()
    table["annotator"] = verdicts["judge"].where(~again, verdicts["judge"] + " (again)")
    table["vote"] = np.where(verdicts["winner"].str.startswith("tie"), "tie", vote)
    return table.assign(toxic=False, source="MT-bench")


def pandalm_votes(comparisons: pd.DataFrame) -> pd.DataFrame:
    """PandaLM's test set (:func:`helpers.corpora.pandalm`) as a vote table: response 1 "chosen"."""
    names = ["annotator1", "annotator2", "annotator3"]
    table = comparisons.melt("idx", names, "annotator", "vote").rename(columns={"idx": "pair_id"})
    table["vote"] = table["vote"].map({0: "tie", 1: "chosen", 2: "rejected"})
    return table.assign(pair_id=table["pair_id"].astype(str), toxic=False, source="PandaLM")


def fleiss(votes: pd.DataFrame, *, seed: int, clusters=None, n_resamples=2000) -> Estimate:
    """Fleiss' kappa, generalised to pairs with different numbers of votes (Gwet 2014, chapter 2).

    Agreement is the mean, over pairs with two votes or more, of the share of vote pairs that
    agree; a category's chance share is its mean share over all pairs, so a pair with one vote
    enters only there (the method counts them). With equal numbers it is Fleiss (1971).
    Raises ValueError for one annotator only, no pair with two votes, or votes all alike.
    """

    def kappa(sums: np.ndarray) -> np.ndarray:
        agreement, expected = sums[0] / sums[1], ((sums[3:] / sums[2]) ** 2).sum()
        return (agreement - expected) / (1 - expected)

    table = _table(votes)
    _refuse_constant(table, "Fleiss' kappa")
    return _bootstrap("Fleiss' kappa", table, _shares, kappa, clusters, seed, n_resamples)


def gwet_ac1(votes: pd.DataFrame, *, seed: int, clusters=None, n_resamples=2000) -> Estimate:
    """Gwet's AC1 (Gwet 2008), any number of raters, missing votes as in :func:`fleiss`.

    Chance agreement is sum p (1 - p) / (q - 1) over the q categories of the scale: chosen,
    rejected, and tie if anyone voted so; or the columns of a count table. Unlike kappa it stays
    defined, at 1, when all votes are alike. Raises ValueError as :func:`fleiss` does otherwise.
    """

    def ac1(sums: np.ndarray) -> np.ndarray:
        share = sums[3:] / sums[2]
        expected = (share * (1 - share)).sum() / (len(share) - 1)
        return (sums[0] / sums[1] - expected) / (1 - expected)

    table = _table(votes)
    return _bootstrap("Gwet's AC1", table, _shares, ac1, clusters, seed, n_resamples)


def krippendorff_alpha(
    votes: pd.DataFrame, *, seed: int, clusters=None, n_resamples=2000
) -> Estimate:
    """Krippendorff's alpha, nominal, by the package krippendorff; pairs with one vote play no part.

    The bootstrap needs the coefficient of sums over pairs, observed disagreement and votes a
    category, because the package takes 13 ms for 20,000 pairs. Raises ValueError as
    :func:`fleiss` does.
    """

    def alpha(sums: np.ndarray) -> np.ndarray:
        n = sums[1:].sum()
        return 1 - (n - 1) * sums[0] / (n**2 - (sums[1:] ** 2).sum())

    table = _table(votes)
    _refuse_constant(table[table.sum(axis=1) > 1], "Krippendorff's alpha")
    found = _bootstrap(
        "Krippendorff's alpha, nominal", table, _disagreement, alpha, clusters, seed, n_resamples
    )
    value = krippendorff.alpha(value_counts=table.to_numpy(), level_of_measurement="nominal")
    return found._replace(value=float(value))


def _table(votes: pd.DataFrame) -> pd.DataFrame:
    """Counts of votes, one row a pair, one column a category of the scale."""
    if "vote" in votes:
        names = check(votes)["annotator"].unique()
        if len(names) < 2:
            raise ValueError(f"one annotator only ({list(names)}): agreement needs two or more")
        table = counts(votes)[list(VOTES)]
        table = table if table["tie"].any() else table.drop(columns="tie")
    else:
        table = votes
        numbers = table.to_numpy()
        if table.shape[1] < 2 or not ((numbers >= 0) & (numbers % 1 == 0)).all():
            raise ValueError("a count table needs two columns or more, of whole numbers from 0")
    if not (table.sum(axis=1) > 1).any():
        raise ValueError(f"none of {len(table)} pairs has two votes: there is nothing to agree on")
    return table


def _refuse_constant(table: pd.DataFrame, name: str) -> None:
    used = table.columns[table.any()]
    if len(used) < 2:
        raise ValueError(
            f"all votes are {used[0]!r}: chance agreement is 1 and {name} is 0/0; give the share "
            "of agreement, or gwet_ac1"
        )


def _shares(table: np.ndarray) -> np.ndarray:
    """A row a pair: agreement and 1 if it has two votes, 1 and its category shares if any."""
    n = table.sum(axis=1)
    many, any_vote = n > 1, n > 0
    agreeing = (table * (table - 1)).sum(axis=1) / np.where(many, n * (n - 1), 1)
    return np.column_stack([agreeing, many, any_vote, table / np.where(any_vote, n, 1)[:, None]])


def _disagreement(table: np.ndarray) -> np.ndarray:
    """A row a pair: disagreement, and votes a category; zeros for pairs without two votes."""
    n = table.sum(axis=1)
    disagreement = (n**2 - (table**2).sum(axis=1)) / np.maximum(n - 1, 1)
    return np.column_stack([disagreement, table]) * (n > 1)[:, None]


def _bootstrap(
    name: str,
    table: pd.DataFrame,
    moments: Callable,
    coefficient: Callable,
    clusters,
    seed: int,
    n_resamples: int,
) -> Estimate:
    """Bootstrap of a coefficient of sums over pairs: sums a cluster are made once."""
    labels, unit = _labels(table.index, clusters)
    codes, units = pd.factorize(labels, sort=True)
    by_pair = moments(table.to_numpy(dtype=float))
    by_unit = np.zeros((len(units), by_pair.shape[1]))
    np.add.at(by_unit, codes, by_pair)

    def of_units(rows: np.ndarray) -> float:
        drawn = np.bincount(rows.astype(int), minlength=len(units))
        with np.errstate(divide="ignore", invalid="ignore"):  # a resample of one category: NaN
            return float(coefficient(drawn @ by_unit))

    found = stats.cluster_bootstrap(
        np.arange(len(units)), np.arange(len(units)), of_units, seed=seed, n_resamples=n_resamples
    )
    n = table.sum(axis=1)
    method = f"{name}, {found.method}, {unit}"
    if (n == 1).any():
        method += f"; {int((n == 1).sum())} pairs with one vote carry no comparison"
    return found._replace(n=int((n > 1).sum()), method=method)


def _labels(pair_ids: pd.Index, clusters: pd.Series | None) -> tuple[np.ndarray, str]:
    if clusters is None:
        return np.asarray(pair_ids), "a cluster is a pair"
    labels = clusters.reindex(pair_ids)
    if labels.isna().any():
        lost = labels.index[labels.isna()].unique()
        raise ValueError(f"clusters: {len(lost)} pair(s) have no label, first {list(lost[:3])}")
    return labels.to_numpy(), "clusters as given"


def cohen_pairwise(
    votes: pd.DataFrame, *, seed: int, clusters=None, n_resamples=2000
) -> pd.DataFrame:
    """Cohen's kappa (unweighted, statsmodels) of every two annotators on the pairs both judged.

    One row two annotators: a, b, and the fields of Estimate. Where kappa or its bootstrap does not
    exist the row stays, value NaN, and the method says why. Raises ValueError for one annotator.
    """
    _table(votes)
    wide = check(votes).pivot(index="pair_id", columns="annotator", values="vote")
    codes = wide.apply(lambda column: column.map({side: i for i, side in enumerate(VOTES)}))
    rows = []
    for a, b in combinations(sorted(codes), 2):
        both = codes[[a, b]].dropna()
        rows.append(dict(a=a, b=b) | _cohen(both, clusters, seed, n_resamples)._asdict())
    return pd.DataFrame(rows)


def _cohen(both: pd.DataFrame, clusters, seed: int, n_resamples: int) -> Estimate:
    size = len(VOTES)
    cells = both.to_numpy(dtype=int) @ [size, 1]

    def kappa(drawn: np.ndarray) -> float:
        square = np.bincount(drawn.astype(int), minlength=size**2).reshape(size, size)
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(cohens_kappa(square, return_results=False))

    labels, unit = _labels(both.index, clusters)
    if len(np.unique(labels)) < 2:
        why = f"not estimated: {len(both)} pair(s) in common, in fewer than two clusters"
    elif len(np.unique(both)) == 1:
        why = f"not defined: both only ever voted {VOTES[int(both.iloc[0, 0])]!r}"
    else:
        found = stats.cluster_bootstrap(cells, labels, kappa, seed=seed, n_resamples=n_resamples)
        return found._replace(method=f"Cohen's kappa, {found.method}, {unit}")
    return Estimate(np.nan, np.nan, np.nan, len(both), why)


def pairwise_agreement(
    a: pd.DataFrame,
    b: pd.DataFrame | None = None,
    *,
    ties: bool = True,
    seed: int,
    clusters=None,
    n_resamples: int = 2000,
) -> Estimate:
    """Share of vote pairs on the same pair that agree; n counts vote pairs.

    Each vote of ``a`` meets each of ``b`` or, without ``b``, every two votes of ``a`` meet. No
    majority is taken.

    The rule of MT-bench (Zheng et al. 2023; FastChat, compute_agreement.py). Without ``ties`` a
    vote pair counts only if neither vote is a tie. Raises ValueError where nothing can be compared.
    """
    columns = ["pair_id", "annotator", "vote"]
    a = check(a)[columns]
    met = a.merge(a if b is None else check(b)[columns], on="pair_id", suffixes=("_a", "_b"))
    if b is None:
        met = met[met["annotator_a"] < met["annotator_b"]]
    if not ties:
        met = met[(met["vote_a"] != "tie") & (met["vote_b"] != "tie")]
    if met.empty:
        raise ValueError(
            "no two votes on the same pair to compare; see the pair ids of both tables"
        )
    labels, unit = _labels(pd.Index(met["pair_id"]), clusters)
    agree = met["vote_a"] == met["vote_b"]
    found = stats.cluster_bootstrap(agree, labels, seed=seed, n_resamples=n_resamples)
    return found._replace(method=f"share of agreeing vote pairs, {found.method}, {unit}")
