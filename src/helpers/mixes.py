"""Training sets of one size from the gold world: as labelled, cleaned, and what else could explain
that cleaning helps.

Cleaning changes labels and drops pairs, and dropping close pairs alone makes what is left easier.
So beside the cleaned set stand sets of the same size from the same pool whose labels were left
alone: a random choice of it, and a choice whose gold gaps are those of the cleaned set.
"""

from functools import lru_cache
from itertools import islice

import numpy as np
import pandas as pd

from helpers import clean, gold, pairs, votes, world

KINDS = ("original", "cleaned", "random removal", "margin-matched removal", "true labels")
# One kind of affected pair is mended or taken out, the others stay; as named in the paper's 3.1.
PITFALLS = ("Opposite", "Vague", "Toxic", "Empty", "Repetitive")
# Pairs of the pool for each pair of the training set: cleaning at the default rates keeps 86 %.
_SPARE = 1.5
_BINS = 10


def drawn(
    n: int, *parts: str, seed: int, subset: str | None = None, **settings: float
) -> world.World:
    """``n`` pairs whose prompts belong to these parts of :mod:`helpers.splits`, and to ``subset``
    where one is given; ``settings`` are those of :func:`helpers.world.stream`. With one seed,
    settings of the annotator change labels and not texts."""
    found = _drawn(n, parts, seed, subset, tuple(sorted(settings.items())))
    return world.World(found.pairs.copy(), found.truth.copy())


# The jobs of one process ask again and again: for the pairs that all are tested on, and for one
# pool for each arm of a seed. To make them takes as long as some steps of training.
@lru_cache(maxsize=16)
def _drawn(n: int, parts: tuple, seed: int, subset: str | None, settings: tuple) -> world.World:
    stream = world.stream(seed=seed, **dict(settings))
    of_these = ((r, t) for r, t in stream if t["split"] in parts)
    wanted = ((r, t) for r, t in of_these if subset in (None, r["subset"]))
    records, truths = zip(*islice(wanted, n))
    data = pairs.frame([record | {"row": row} for row, record in enumerate(records)])
    # The stream counts a pair's split as HH-RLHF does; here the part decides.
    return world.World(data, pd.DataFrame(truths).set_index("pair_id"))


def training_set(
    kind: str,
    n: int,
    *,
    seed: int,
    annotators: int = 4,
    annotator_error: float = 0.1,
    subset: str | None = None,
    **settings: float,
) -> pd.DataFrame:
    """``n`` pairs (schema of :mod:`helpers.pairs`) of prompts of the part ``policy``.

    ``kind`` is one of :data:`KINDS`, or ``only <pitfall>``: the pairs of that category alone are
    cleaned, the rest is as labelled. The pool, its texts and its original labels are the same for
    all kinds of one seed. Categories are the majority's of ``annotators`` simulated ones, each
    wrong with probability ``annotator_error`` (votes: simulation), by the paper's rule. ``subset``
    takes prompts of one subset of the world. Raises ValueError for an unknown kind, or a pool too
    small for ``n``.
    """
    data, truth = drawn(round(n * _SPARE), "policy", seed=seed, subset=subset, **settings)
    if kind in ("original", "random removal"):
        # The pool is in random order. A second choice of the same size from it: what another draw
        # alone does.
        found = data if kind == "original" else data.sample(frac=1, random_state=seed)
    elif kind == "true labels":
        better = truth.loc[data["pair_id"], "better"].to_numpy()
        found = swapped(data, better == "rejected")[better != "tie"]
    else:
        categories = categorised(data, truth, annotators, annotator_error, seed)
        if kind == "cleaned":
            found = cleaned(data, categories, votes.CATEGORIES)
        elif kind == "margin-matched removal":
            target = cleaned(data, categories, votes.CATEGORIES).head(n)
            found = matched(data, gaps(data), gaps(target), n, seed=seed)
        elif kind.startswith("only ") and kind[5:] in PITFALLS:
            found = cleaned(data, categories, ("Same", kind[5:]))
        else:
            raise ValueError(f"unknown kind {kind!r}; there are {KINDS} and only <{PITFALLS}>")
    if len(found) < n:
        raise ValueError(f"{kind}: {len(found)} pairs are left of {len(data)}, {n} are wanted")
    return found.head(n).reset_index(drop=True)


def categorised(
    data: pd.DataFrame, truth: pd.DataFrame, annotators: int, error: float, seed: int
) -> pd.Series:
    """Category by ``pair_id`` by the votes of simulated annotators."""
    cast = world.annotate(data, truth, n_annotators=annotators, error=error, seed=seed)
    known = truth.loc[data["pair_id"], ["empty", "repetitive"]].reset_index(drop=True)
    return clean.categorise(data, cast, known)


def cleaned(data: pd.DataFrame, categories: pd.Series, mended: tuple[str, ...]) -> pd.DataFrame:
    """The paper's cleaning of the pairs whose category is in ``mended``: Opposite swapped, what is
    neither Same nor Opposite dropped. Pairs of other categories stay as they are."""
    category = categories.loc[data["pair_id"]].to_numpy()
    of_these = np.isin(category, mended)
    kept = ~of_these | np.isin(category, clean.KEPT)
    inverted = of_these & (category == "Opposite")
    return swapped(data[kept], inverted[kept]).reset_index(drop=True)


def swapped(data: pd.DataFrame, which: np.ndarray) -> pd.DataFrame:
    """The pairs with chosen and rejected exchanged where ``which`` (bool, a row a pair)."""
    out = data.copy()
    out.loc[which, ["chosen", "rejected"]] = data.loc[which, ["rejected", "chosen"]].to_numpy()
    return out


def gaps(data: pd.DataFrame) -> np.ndarray:
    """Absolute difference of the gold scores of each pair's responses, shape (n,)."""
    prompts = data["prompt"].tolist()
    sides = [gold.scores(prompts, data[side].tolist()) for side in ("chosen", "rejected")]
    return np.abs(sides[0] - sides[1])


def matched(
    data: pd.DataFrame, margin: np.ndarray, target: np.ndarray, n: int, *, seed: int
) -> pd.DataFrame:
    """``n`` pairs of ``data`` whose margins are distributed as ``target``: by tenths of the
    target, so many of each as the target has; a tenth with too few gives all it has, and the rest
    is filled at random."""
    rng = np.random.default_rng(seed)
    edges = np.unique(np.quantile(target, np.linspace(0, 1, _BINS + 1)))

    def places(values: np.ndarray) -> np.ndarray:
        # On an edge is a place of its own: many pairs have one margin, 0 or that of a harmful side.
        return np.searchsorted(edges, values, "left") + np.searchsorted(edges, values, "right")

    of, wanted = places(margin), places(target)
    rows: list[int] = []
    for place in np.unique(wanted):
        here = rng.permutation(np.flatnonzero(of == place))
        rows += here[: round(n * float((wanted == place).mean()))].tolist()
    left = rng.permutation(np.setdiff1d(np.arange(len(data)), rows))
    chosen = np.array([*rows, *left])[:n]
    return data.iloc[np.sort(chosen)]
