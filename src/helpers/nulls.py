"""What chance alone would print: null models of the paper's protocols (chapter 00).

Coin-flipping and erring annotators, unrelated percentages under the GRIM scan, and Figure 4's
five-shard means at known correlations. Simulations are seeded; shares lie in 0..1.
"""

from itertools import product

import numpy as np
import pandas as pd

from helpers import votes
from helpers.audit import SUBSET_SIZES, attainable

SHARDS = 5  # Figure 4's caption


def grim_chance(
    low: float, high: float, n, *, n_values: int, n_simulations: int, seed: int
) -> np.ndarray:
    """How many of ``n_values`` unrelated two-decimal percentages, uniform in [low, high], the best
    n of ``n`` can give: counts of shape (n_simulations,). What the GRIM scan finds by luck."""
    first = round(100 * low)
    grid = np.arange(first, round(100 * high) + 1)
    possible = attainable(grid / 100, n).astype(np.int8)
    draws = np.random.default_rng(seed).integers(len(grid), size=(n_simulations, n_values))
    return np.array([possible[:, draw].sum(axis=1).max() for draw in draws])


def relabel_shares(error, *, fallible: bool) -> dict[str, np.ndarray]:
    """Expected Same, Opposite and Vague when each of four independent raters errs with probability
    ``error`` (scalar or array). ``fallible``: the original label errs as often as a rater does;
    otherwise it is right. See :func:`helpers.votes.expected_shares`."""
    return votes.expected_shares(error, original_error=None if fallible else 0.0)


def rater_error(same: float, *, fallible: bool) -> float:
    """The rater error in 0..0.5 that gives this share of Same, were disagreement the only cause.

    Raises ValueError for a share below that of coin flips, 5/16.
    """
    return votes.solve_error(same, original_error=None if fallible else 0.0)


def shard_correlations(
    true_correlations, *, subset_gap: float, n_simulations: int, seed: int
) -> pd.DataFrame:
    """Figure 4's protocol on bivariate normal scores: Pearson's r of five-shard means.

    Score and human rating of every response have unit variance and the given correlation within a
    subset; the means of both rise by ``subset_gap`` from subset to subset. Sizes are the public
    ones (up to four responses are left out so that shards are equal). Shards are random or cut
    from the responses sorted by score; the figure is one subset or all four together. Long form:
    true_correlation, subsets, shards, r.
    """
    rng = np.random.default_rng(seed)
    means = {kind: np.empty((2, n_simulations, 4, SHARDS)) for kind in ("random", "sorted")}
    for subset, size in enumerate(SUBSET_SIZES.values()):
        shape = (SHARDS, size // SHARDS)
        for simulation in range(n_simulations):
            draw = rng.standard_normal((2, size // SHARDS * SHARDS))
            means["random"][:, simulation, subset] = draw.reshape(2, *shape).mean(axis=2)
            draw = draw[:, np.argsort(draw[0])]
            means["sorted"][:, simulation, subset] = draw.reshape(2, *shape).mean(axis=2)
    level = subset_gap * np.arange(4)[:, None]
    frames = []
    for rho, (kind, (x, noise)), used in product(true_correlations, means.items(), (1, 4)):
        # Means are linear: one draw of scores and noise serves every true correlation.
        y = rho * x + np.sqrt(1 - rho**2) * noise
        points = [(v + level)[:, :used].reshape(n_simulations, -1) for v in (x, y)]
        r = _row_correlation(*points)
        frames.append(pd.DataFrame(dict(true_correlation=rho, subsets=used, shards=kind, r=r)))
    return pd.concat(frames, ignore_index=True)


def _row_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    return (x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
