"""Estimates with 95 % intervals, exact tests and power, on scipy and statsmodels.

Every interval is a two-sided 95 % interval, its method is named in words, and everything random
takes a seed. Pairs that share a prompt are not independent: give their prompts as clusters.
"""

import warnings
from collections.abc import Callable
from numbers import Integral
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_confint

LEVEL = 0.95
_BATCH_CELLS = 2_000_000  # resampled indices held in memory at once: 16 MB


class Estimate(NamedTuple):
    """A value with its 95 % interval [low, high], the number of observations and the method."""

    value: float
    low: float
    high: float
    n: int
    method: str


class McNemar(NamedTuple):
    """Items only `a` got right, items only `b` got right, all items, two-sided exact p-value."""

    a_only: int
    b_only: int
    n: int
    p_value: float


def wilson(successes: int, n: int) -> Estimate:
    """Share of successes in 0..1 with the Wilson score interval (Wilson 1927).

    Raises ValueError unless n is a whole number of at least 1 and 0 <= successes <= n.
    """
    _check_counts(successes, n)
    value = successes / n
    low, high = proportion_confint(successes, n, alpha=1 - LEVEL, method="wilson")
    # Wilson's interval holds the share; at 0 and n the library is off by one rounding error.
    return Estimate(value, min(float(low), value), max(float(high), value), int(n), "Wilson")


def cluster_bootstrap(
    values: ArrayLike,
    clusters: ArrayLike,
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    seed: int,
    n_resamples: int = 2000,
) -> Estimate:
    """Percentile bootstrap that resamples whole clusters (Davison and Hinkley 1997, section 3.8).

    values and clusters have shape (n,); clusters holds one label a value, of any sortable kind.
    The statistic is taken on the pooled values of the drawn clusters, so a cluster weighs by its
    size. For np.mean the work is done on the sums and counts of the clusters; any other statistic
    is called once a resample. The percentile interval is too narrow with few clusters: with k
    clusters of equal size its coverage is near that of a t interval with normal quantiles
    (89 % at k = 8, 93.6 % at k = 30).

    Raises ValueError on empty, non-finite or misshapen input, on missing labels, and on a single
    cluster.
    """
    values = _as_vector(values, "values")
    codes, method = _resampling_units(clusters, len(values), n_resamples, seed)
    return _bootstrap_estimate(values, codes, statistic, seed, n_resamples, method)


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    seed: int,
    n_resamples: int = 2000,
) -> Estimate:
    """Mean of a - b on the same items, with a percentile bootstrap of items or of clusters.

    a, b and clusters have shape (n,), row by row the same item; a and b may be boolean.
    Raises ValueError as `cluster_bootstrap` does, and where a and b differ in length.
    """
    a, b = _as_pair(a, b, "a", "b")
    codes, method = _resampling_units(clusters, len(a), n_resamples, seed)
    method = f"paired difference, {method}"
    return _bootstrap_estimate(a - b, codes, np.mean, seed, n_resamples, method)


def mcnemar_exact(a_correct: ArrayLike, b_correct: ArrayLike) -> McNemar:
    """Exact McNemar test that two models are right equally often on the same items.

    Both arguments have shape (n,) and hold booleans or 0 and 1. The test is the two-sided binomial
    test on the items that only one of the two got right; without such an item, p is 1.

    Raises ValueError on other values (half-credit for a tie is not a count of right and wrong).
    """
    a, b = _as_pair(a_correct, b_correct, "a_correct", "b_correct")
    if not np.isin([a, b], (0, 1)).all():
        raise ValueError(
            "a_correct or b_correct holds values other than 0 and 1; decide ties as right or wrong "
            "first, or use paired_bootstrap for half-credit"
        )
    table = np.array([[a @ b, a @ (1 - b)], [(1 - a) @ b, (1 - a) @ (1 - b)]]).astype(int)
    p_value = float(mcnemar(table, exact=True).pvalue)
    return McNemar(int(table[0, 1]), int(table[1, 0]), len(a), p_value)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down adjusted p-values (Holm 1979), shape (m,), in the order of the input.

    An empty input gives an empty array. Raises ValueError on a p-value outside 0..1 or missing:
    a missing p-value would shrink the family of tests unseen.
    """
    p = np.asarray(p_values, dtype=float)
    if p.ndim != 1:
        raise ValueError(f"p_values has shape {p.shape}; give one dimension")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(
            "p_values must lie in 0..1, none missing; take failed tests out and report how many"
        )
    return multipletests(p, method="holm")[1] if len(p) else p


def correlation(
    x: ArrayLike,
    y: ArrayLike,
    kind: Literal["pearson", "spearman", "kendall"] = "pearson",
    *,
    clusters: ArrayLike | None = None,
    seed: int,
    n_resamples: int = 2000,
) -> Estimate:
    """Pearson's r, Spearman's rho or Kendall's tau-b of x and y, both of shape (n,).

    Pearson without clusters has Fisher's z interval, which takes the pairs for bivariate normal;
    the seed is then not used. Everything else has a percentile bootstrap of items or of clusters.
    A resample in which x or y is constant has no correlation: it is left out, and the method
    counts it.

    Raises ValueError for n < 4, constant x or y, an unknown kind, or a single cluster.
    """
    x, y = _as_pair(x, y, "x", "y")
    if kind not in _COEFFICIENTS:
        raise ValueError(f"unknown kind {kind!r}; use one of {', '.join(_COEFFICIENTS)}")
    n = len(x)
    if n < 4:
        raise ValueError(f"correlation of {n} items; an interval needs at least 4")
    for name, values in (("x", x), ("y", y)):
        if np.ptp(values) == 0:
            raise ValueError(f"{name} is constant ({values[0]}); its correlation is not defined")
    label, coefficient = _COEFFICIENTS[kind]
    if kind == "pearson" and clusters is None:
        result = scipy.stats.pearsonr(x, y)
        value, low, high = map(float, (result.statistic, *result.confidence_interval(LEVEL)))
        return Estimate(value, low, high, n, f"{label}, Fisher z interval")
    codes, method = _resampling_units(clusters, n, n_resamples, seed)
    distribution = _bootstrap_rows(
        lambda rows: coefficient(x[rows], y[rows]), codes, seed, n_resamples
    )
    return _percentile_estimate(float(coefficient(x, y)), distribution, n, f"{label}, {method}")


def minimum_detectable_difference(
    n: int,
    *,
    share: float = 0.5,
    power: float = 0.8,
    alpha: float = 0.05,
    discordance: float | None = None,
) -> float:
    """Smallest true difference of two shares that a two-sided test finds with the given power.

    Without `discordance`: two independent groups of n each, one of them with the true share
    `share`. The effect size h = 2 asin(sqrt p1) - 2 asin(sqrt p2) (Cohen 1988, chapter 6) comes
    from statsmodels' NormalIndPower and is turned back into shares, upwards or downwards from
    `share`, whichever difference is smaller.

    With `discordance`: n pairs judged by both, of which the share psi = `discordance` differs
    (McNemar's test; `share` plays no part). The difference d solves Connor's equation
    sqrt(n) d = z(1 - alpha/2) sqrt(psi) + z(power) sqrt(psi - d^2)
    (Connor 1987, Biometrics 43:207-211; first order the same as Miettinen 1968, Biometrics
    24:339-352). d cannot exceed psi.

    Both are normal approximations: exact tests (Fisher, McNemar) have somewhat less power, the
    more so the smaller n.

    Raises ValueError where even the largest possible difference is found less often than `power`.
    """
    if not isinstance(n, Integral) or n < 1:
        raise ValueError(f"n={n!r} must be a whole number of at least 1")
    if not 0 < alpha < power < 1:
        raise ValueError(f"need 0 < alpha < power < 1, got alpha={alpha}, power={power}")
    if not 0 <= share <= 1:
        raise ValueError(f"share={share} must lie in 0..1 (not per cent)")
    unreachable = ValueError(
        f"no possible difference reaches power {power} with n={n}, "
        + (f"share={share}" if discordance is None else f"discordance={discordance}")
        + f", alpha={alpha}; use more items"
    )
    if discordance is not None:
        if not 0 < discordance <= 1:
            raise ValueError(f"discordance={discordance} must lie above 0 and at most at 1")
        z_alpha, z_power = scipy.stats.norm.ppf([1 - alpha / 2, power])

        def excess(d: float) -> float:
            spread = z_alpha * np.sqrt(discordance) + z_power * np.sqrt(discordance - d**2)
            return np.sqrt(n) * d - spread

        if excess(discordance) < 0:
            raise unreachable
        return float(brentq(excess, 0, discordance))

    angle = np.arcsin(np.sqrt(share))
    largest = max(np.pi - 2 * angle, 2 * angle)
    test = NormalIndPower()
    if test.power(largest, n, alpha) < power:
        raise unreachable
    effect = brentq(lambda h: test.power(h, n, alpha) - power, 0, largest)
    ends = [angle + effect / 2, angle - effect / 2]
    return float(min(abs(np.sin(end) ** 2 - share) for end in ends if 0 <= end <= np.pi / 2))


def smallest_rank_p(n: int) -> float:
    """Smallest two-sided p-value that the exact test of Kendall's tau on n items can reach.

    It is the p-value of a perfect ranking without ties. Raises ValueError for n < 2.
    """
    if not isinstance(n, Integral) or n < 2:
        raise ValueError(f"n={n!r}; a ranking needs a whole number of at least 2 items")
    ranks = np.arange(n)
    return float(scipy.stats.kendalltau(ranks, ranks, method="exact").pvalue)


def exact_two_share_p(successes_a: int, n_a: int, successes_b: int, n_b: int) -> float:
    """Two-sided p-value of Fisher's exact test that two independent groups share one share.

    Raises ValueError unless both n are at least 1 and 0 <= successes <= n.
    """
    _check_counts(successes_a, n_a)
    _check_counts(successes_b, n_b)
    table = [[successes_a, n_a - successes_a], [successes_b, n_b - successes_b]]
    return float(scipy.stats.fisher_exact(table).pvalue)


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    # A draw of tied items is constant; numpy would warn and divide by zero.
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return np.corrcoef(x, y)[0, 1]


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    return _pearson(scipy.stats.rankdata(x), scipy.stats.rankdata(y))


def _kendall(x: np.ndarray, y: np.ndarray) -> float:
    # Only the coefficient is used; "asymptotic" spares the p-value's exact enumeration.
    return scipy.stats.kendalltau(x, y, method="asymptotic").statistic


_COEFFICIENTS = {
    "pearson": ("Pearson r", _pearson),
    "spearman": ("Spearman rho", _spearman),
    "kendall": ("Kendall tau-b", _kendall),
}


def _bootstrap_estimate(values, codes, statistic, seed, n_resamples, method) -> Estimate:
    if statistic is not np.mean:
        distribution = _bootstrap_rows(
            lambda rows: statistic(values[rows]), codes, seed, n_resamples
        )
        return _percentile_estimate(float(statistic(values)), distribution, len(values), method)
    # Deviations from one of the values: the mean of constant data is then exact, not off by a
    # rounding error that differs from resample to resample.
    origin = values[0]
    sums, counts = np.bincount(codes, weights=values - origin), np.bincount(codes)
    result = scipy.stats.bootstrap(
        (sums, counts),
        lambda s, c, axis: s.sum(axis=axis) / c.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=n_resamples,
        batch=max(1, _BATCH_CELLS // len(sums)),
        rng=np.random.default_rng(seed),
    )
    value = float(origin + sums.sum() / counts.sum())
    distribution = origin + result.bootstrap_distribution
    estimate = _percentile_estimate(value, distribution, len(values), method)
    # Where all clusters have one mean, low or high can miss the value by a rounding error.
    return estimate._replace(low=min(estimate.low, value), high=max(estimate.high, value))


def _bootstrap_rows(statistic, codes, seed, n_resamples) -> np.ndarray:
    """Bootstrap distribution of a statistic of row numbers, whole clusters drawn; (n_resamples,).

    `codes` numbers the cluster of each row from 0. A NaN marks a resample without a value.
    """
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes

    def of_draw(draw: np.ndarray) -> float:
        lengths = sizes[draw]
        offsets = starts[draw] - (np.cumsum(lengths) - lengths)
        return float(statistic(order[np.repeat(offsets, lengths) + np.arange(lengths.sum())]))

    with warnings.catch_warnings():
        # scipy warns of NaN in the distribution; _percentile_estimate counts and reports them.
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        return scipy.stats.bootstrap(
            (np.arange(len(sizes)),),
            of_draw,
            vectorized=False,
            method="percentile",
            n_resamples=n_resamples,
            batch=max(1, _BATCH_CELLS // len(sizes)),
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution


def _percentile_estimate(value, distribution, n, method) -> Estimate:
    undefined = int(np.isnan(distribution).sum())
    if np.isnan(value) or undefined == len(distribution):
        raise ValueError(f"the statistic is not defined on these {n} values or on any resample")
    low, high = np.nanquantile(distribution, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if undefined:
        method += f"; {undefined} resamples without a defined value left out"
    return Estimate(value, float(low), float(high), n, method)


def _resampling_units(clusters, n, n_resamples, seed) -> tuple[np.ndarray, str]:
    """Number from 0 of the unit that each of n rows belongs to, shape (n,), and the method."""
    kind, name = ("bootstrap", "items") if clusters is None else ("cluster bootstrap", "clusters")
    labels = np.arange(n) if clusters is None else np.asarray(clusters)
    if labels.shape != (n,):
        raise ValueError(f"clusters has shape {labels.shape}; give one label for each of {n} rows")
    # np.unique would take all missing labels for one cluster.
    if pd.isna(labels).any():
        raise ValueError("clusters has missing labels; give every row a cluster")
    units, codes = np.unique(labels, return_inverse=True)
    if len(units) < 2:
        raise ValueError(f"{name}: only one, so there is nothing to resample; give at least 2")
    return codes, f"percentile {kind}, {n_resamples} resamples of {len(units)} {name}, seed {seed}"


def _as_vector(values, name) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name} has shape {values.shape}; give one dimension, at least 1 value")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise ValueError(f"{name} has {bad} missing or infinite values; drop and report them first")
    return values


def _as_pair(a, b, name_a, name_b) -> tuple[np.ndarray, np.ndarray]:
    a, b = _as_vector(a, name_a), _as_vector(b, name_b)
    if len(a) != len(b):
        raise ValueError(
            f"{name_a} has {len(a)} values and {name_b} {len(b)}; they must be the same items"
        )
    return a, b


def _check_counts(successes, n) -> None:
    if not isinstance(successes, Integral) or not isinstance(n, Integral):
        raise ValueError(f"successes={successes!r} and n={n!r} must be whole numbers")
    if n < 1:
        raise ValueError(f"n={n}: a share of no items is not defined; skip this group and say so")
    if not 0 <= successes <= n:
        raise ValueError(f"successes={successes} must lie in 0..n with n={n}")
