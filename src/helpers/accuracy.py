"""Accuracy of scorers on preference pairs by Eq. 2 of the paper, and what one number hides.

Everything here is statistics on margins: the score of the chosen response minus that of the
rejected one. A *margins table* has one row a scorer, repeat and pair, and the columns ``scorer``,
``kind`` (``model`` or ``null``), ``repeat``, ``fold``, ``pair_id``, ``margin`` among others
(:mod:`helpers.trials` makes it). ``data`` is a frame of pairs with unique ids.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import combinations
from string import ascii_letters

import numpy as np
import pandas as pd

from helpers import stats
from helpers.significance import holm, mcnemar_exact
from helpers.stats import Estimate

MIXTURE = "mixture"
# What a tie earns: nothing by Eq. 2, where the chosen response must score higher; one half is what
# a coin would earn on it.
STRICT, HALF = 0.0, 0.5


def credit(margins, tie: float = STRICT) -> np.ndarray:
    """1 for a margin above zero, ``tie`` for zero, 0 below (Eq. 2 for ``tie=0``); shape (n,).

    Raises ValueError on missing or infinite margins: they would count as wrong unseen.
    """
    margins = np.asarray(margins, dtype=float)
    if not np.isfinite(margins).all():
        raise ValueError(
            f"{(~np.isfinite(margins)).sum()} of {margins.size} margins are missing or infinite; "
            "find the pairs and mend the scorer, they are not wrong answers"
        )
    return np.where(margins > 0, 1.0, np.where(margins == 0, tie, 0.0))


def per_pair(margins: pd.DataFrame, tie: float = STRICT) -> pd.Series:
    """Credit of each pair, averaged over repeats: shape (pairs,), indexed by ``pair_id``.

    The same pairs recur in every repeat, so the pair is the unit and not the row.
    """
    earned = pd.Series(credit(margins["margin"], tie), index=margins["pair_id"].to_numpy())
    return earned.groupby(level=0, sort=False).mean().rename_axis("pair_id")


def measures(
    margins: pd.DataFrame, prompts: pd.Series, *, seed: int, n_resamples: int = 1000
) -> dict[str, Estimate]:
    """``strict`` (Eq. 2), ``half`` (a tie earns one half) and ``ties`` (share) of one scorer.

    ``prompts`` by ``pair_id``: pairs with one prompt are a cluster of the bootstrap, and credits
    are averaged over repeats first. ``wilson`` is the strict accuracy with Wilson's interval, there
    where each pair has one decision in all repeats.
    """
    strict, half = per_pair(margins), per_pair(margins, HALF)
    ties = 2 * (half - strict)
    clusters = prompts.loc[strict.index].to_numpy()
    options = dict(clusters=clusters, seed=seed, n_resamples=n_resamples)
    found = {
        "strict": stats.cluster_share(strict, **options),
        "half": stats.cluster_share(half, **options),
        "ties": stats.cluster_share(ties, **options),
    }
    if strict.isin([0, 1]).all():
        found["wilson"] = stats.wilson(int(strict.sum()), len(strict))
    return found


def table(
    margins: pd.DataFrame, data: pd.DataFrame, *, seed: int, n_resamples: int = 1000
) -> pd.DataFrame:
    """:func:`measures` of every scorer on each test set (subset) and on their mixture.

    Columns: ``scorer``, ``kind``, ``test_set``, ``measure`` and those of :class:`stats.Estimate`.
    The mixture pools all pairs of the scorer, so its accuracy lies between those of the subsets.
    """
    known = data.set_index("pair_id")
    rows = []
    for name, group in margins.groupby("scorer", sort=False):
        subset = known["subset"].loc[group["pair_id"]].to_numpy()
        parts = {s: group[subset == s] for s in dict.fromkeys(data["subset"]) if s in subset}
        for test_set, part in (parts | {MIXTURE: group}).items():
            found = measures(part, known["prompt"], seed=seed, n_resamples=n_resamples)
            head = dict(scorer=name, kind=group["kind"].iloc[0], test_set=test_set)
            rows += [head | {"measure": m} | e._asdict() for m, e in found.items()]
    return pd.DataFrame(rows)


def pick(
    held_back: pd.DataFrame,
    data: pd.DataFrame,
    by: Collection[str] = ("repeat", "fold", "subset"),
    *,
    worst: bool = False,
    tie: float = STRICT,
) -> pd.DataFrame:
    """The scorer with the highest (or lowest) accuracy on training pairs, one a group of ``by``.

    ``held_back``: margins of the scorers to choose from, on pairs of the training folds that they
    have not learned from. The first scorer wins a tie. Columns: those of ``by``, and ``scorer``.
    Raises ValueError without any scorer.
    """
    if held_back.empty:
        raise ValueError("no scorer to choose from; give held-back margins of at least one")
    subset = data.set_index("pair_id")["subset"].loc[held_back["pair_id"]].to_numpy()
    earned = held_back.assign(subset=subset, credit=credit(held_back["margin"], tie))
    mean = earned.groupby([*by, "scorer"], sort=False)["credit"].mean().reset_index()
    groups = mean.groupby(list(by), sort=False)["credit"]
    return mean.loc[groups.idxmin() if worst else groups.idxmax(), [*by, "scorer"]]


def choose(margins: pd.DataFrame, picked: pd.DataFrame, data: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``margins`` whose scorer was picked for the group that they belong to."""
    subset = data.set_index("pair_id")["subset"].loc[margins["pair_id"]].to_numpy()
    return margins.assign(subset=subset).merge(picked, on=list(picked.columns))


def lift(
    model: pd.DataFrame,
    null: pd.DataFrame,
    data: pd.DataFrame,
    *,
    seed: int,
    tie: float = STRICT,
) -> Estimate:
    """Accuracy of ``model`` minus that of ``null`` on the pairs that both scored.

    Both are margins of one scorer (or of :func:`choose`); paired bootstrap, prompts as clusters,
    credits averaged over repeats. Raises ValueError where they share no pair.
    """
    both = pd.concat([per_pair(model, tie), per_pair(null, tie)], axis=1, join="inner")
    if both.empty:
        raise ValueError("model and null share no pair; score both on the same test set")
    prompts = data.set_index("pair_id")["prompt"].loc[both.index]
    return stats.paired_bootstrap(both[0], both[1], prompts.to_numpy(), seed=seed)


def lift_p(
    model: pd.DataFrame,
    null: pd.DataFrame,
    data: pd.DataFrame,
    *,
    seed: int,
    tie: float = STRICT,
    draws: int = 9999,
) -> float:
    """Two-sided p-value that :func:`lift` is 0, to be corrected over several models.

    Permutation test: were model and null alike, they could change places in any cluster (all pairs
    of a prompt). The share of seeded draws, the data among them, with a sum of differences at least
    as far from 0. Arguments and errors are those of :func:`lift`.
    """
    both = pd.concat([per_pair(model, tie), per_pair(null, tie)], axis=1, join="inner")
    if both.empty:
        raise ValueError("model and null share no pair; score both on the same test set")
    prompts = data.set_index("pair_id")["prompt"].loc[both.index].to_numpy()
    sums = (both[0] - both[1]).groupby(prompts).sum().to_numpy()
    sums = sums[sums != 0]
    rng, far = np.random.default_rng(seed), abs(sums.sum()) - 1e-9
    step, beyond = max(1, 2_000_000 // max(1, len(sums))), 0  # 16 MB of signs at a time
    for at in range(0, draws, step):
        signs = rng.choice([-1.0, 1.0], (min(step, draws - at), len(sums)))
        beyond += int((np.abs(signs @ sums) >= far).sum())
    return (1 + beyond) / (1 + draws)


def compare(margins: pd.DataFrame, *, repeat: int = 0) -> pd.DataFrame:
    """McNemar's exact test of every two scorers on the pairs that both scored, Holm over all.

    The test needs one decision a pair, so it takes those of one ``repeat``. Columns: ``a``, ``b``,
    ``a_only``, ``b_only``, ``n``, ``p_value``, ``p_holm``.
    """
    one = margins[margins["repeat"] == repeat]
    right = pd.DataFrame(
        {name: per_pair(group) for name, group in one.groupby("scorer", sort=False)}
    )
    rows = []
    for a, b in combinations(right, 2):
        first, second = right[a].to_numpy(), right[b].to_numpy()
        both = ~np.isnan(first) & ~np.isnan(second)
        if both.any():
            rows.append(dict(a=a, b=b) | mcnemar_exact(first[both], second[both])._asdict())
    found = pd.DataFrame(rows, columns=["a", "b", "a_only", "b_only", "n", "p_value"])
    return found.assign(p_holm=holm(found["p_value"]))


def letters(names: Sequence[str], differ: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Compact letter display: two names share a letter exactly where they do not differ.

    Insert and absorb (Piepho 2004). ``names`` in the order in which letters are given, best first;
    ``differ`` holds the pairs of names whose difference was found. A shared letter means that no
    difference was found, not that there is none. Raises ValueError beyond 52 letters.
    """
    groups = [set(names)]
    for pair in differ:
        split = []
        for group in groups:
            split += [group - {name} for name in pair] if group >= set(pair) else [group]
        # A group that lies in another says nothing new; of equal ones the first stays.
        groups = [
            g for i, g in enumerate(split)
            if not any(g < h or (g == h and j < i) for j, h in enumerate(split))
        ]  # fmt: skip
    if len(groups) > len(ascii_letters):
        raise ValueError(f"{len(groups)} tie groups and 52 letters; compare fewer scorers")
    groups.sort(key=lambda group: [name not in group for name in names])
    return {
        name: "".join(letter for letter, g in zip(ascii_letters, groups) if name in g)
        for name in names
    }


def removal(
    margin,
    dropped,
    swapped,
    clusters,
    *,
    seed: int,
    strata: int = 10,
    draws: int = 1000,
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """``(accuracies, parts)``: what cleaning a test set does to a strict accuracy, and why.

    All arguments have shape (n,): the margins under the original labels, whether cleaning drops
    the pair, whether it swaps the label, and the prompt. Accuracies: ``original`` (all pairs),
    ``kept`` (original labels, pairs that cleaning keeps), ``cleaned`` (new labels on the same),
    ``random`` (original labels, equally many pairs dropped at random) and ``matched`` (as many
    dropped at random in each of ``strata`` equally full bins of the margin's size as cleaning
    drops there). Wilson intervals; those of the last two hold 95 % of the draws.

    Parts, each a difference with a cluster bootstrap: ``total`` (cleaned - original) =
    ``dropping`` (kept - original) + ``swapping`` (cleaned - kept); and ``beyond_margin`` (kept -
    matched), what dropping does more than dropping pairs with such margins would.
    Raises ValueError where no pair is kept.
    """
    margin, dropped = np.asarray(margin, dtype=float), np.asarray(dropped, dtype=bool)
    kept = ~dropped
    if not kept.any():
        raise ValueError("cleaning drops every pair; there is no accuracy on none")
    right = credit(margin)
    relabelled = credit(np.where(np.asarray(swapped, dtype=bool), -margin, margin))
    codes = bins(np.abs(margin), strata)

    def wilson(values: np.ndarray) -> Estimate:
        return stats.wilson(int(values.sum()), len(values))

    def by_stratum(rows: np.ndarray) -> np.ndarray:
        """Pairs, right ones and kept ones in each stratum, shape (3, strata)."""
        weights = (np.ones(len(rows)), right[rows], kept[rows])
        return np.array([np.bincount(codes[rows], w, codes.max() + 1) for w in weights])

    def drawn(of_all: np.ndarray, name: str) -> Estimate:
        n, good, keep = of_all.astype(int)
        rng = np.random.default_rng(seed)
        share = rng.hypergeometric(good, n - good, keep, (draws, len(n))).sum(axis=1) / keep.sum()
        low, high = np.quantile(share, [0.025, 0.975])
        method = f"95 % of {draws} draws, {name}, seed {seed}"
        return Estimate(float(share.mean()), float(low), float(high), int(keep.sum()), method)

    def part(name: str):
        def of(rows: np.ndarray) -> float:
            rows = rows.astype(int)
            inside = rows[kept[rows]]
            if not len(inside):
                return np.nan
            first = (relabelled if name in ("total", "swapping") else right)[inside].mean()
            if name == "swapping":
                return first - right[inside].mean()
            if name != "beyond_margin":
                return first - right[rows].mean()
            n, good, keep = by_stratum(rows)
            return first - (keep * good / np.maximum(n, 1)).sum() / keep.sum()

        return stats.cluster_bootstrap(
            np.arange(len(margin)), clusters, of, seed=seed, n_resamples=1000
        )

    table = by_stratum(np.arange(len(margin)))
    accuracies = {
        "original": wilson(right),
        "kept": wilson(right[kept]),
        "cleaned": wilson(relabelled[kept]),
        "random": drawn(table.sum(axis=1, keepdims=True), "equally many pairs dropped at random"),
        "matched": drawn(table, "dropped at random within bins of the margin's size"),
    }
    return accuracies, {p: part(p) for p in ("total", "dropping", "swapping", "beyond_margin")}


def bins(values: np.ndarray, parts: int) -> np.ndarray:
    """Number of the equally full bin of each value, from 0; equal values stay together."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, parts + 1)[1:-1]))
    return np.unique(np.searchsorted(edges, values, side="right"), return_inverse=True)[1]
