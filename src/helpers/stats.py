"""Estimates with 95 % intervals, on scipy and statsmodels.

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


def wilson(successes: int, n: int) -> Estimate:
    """Share of successes in 0..1 with the Wilson score interval (Wilson 1927).

    Raises ValueError unless n is a whole number of at least 1 and 0 <= successes <= n.
    """
    check_counts(successes, n)
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


def cluster_share(
    hits: ArrayLike, clusters: ArrayLike, *, seed: int, n_resamples: int = 2000
) -> Estimate:
    """Share of hits (0 or 1; one half for a tie) by :func:`cluster_bootstrap`.

    Where all are 0, or all 1, a bootstrap has no width and would claim certainty: the interval is
    then Wilson's on the clusters, as if each were one draw, since its own hits may go together.
    Raises ValueError as :func:`cluster_bootstrap` does, so for a single cluster, too.
    """
    found = cluster_bootstrap(hits, clusters, seed=seed, n_resamples=n_resamples)
    if found.value not in (0, 1):
        return found
    n = len(set(clusters))
    bound = wilson(int(found.value) * n, n)
    method = f"Wilson, of {n} clusters as units: all values are {found.value:g}"
    return found._replace(low=bound.low, high=bound.high, method=method)


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
    a, b = as_pair(a, b, "a", "b")
    codes, method = _resampling_units(clusters, len(a), n_resamples, seed)
    method = f"paired difference, {method}"
    return _bootstrap_estimate(a - b, codes, np.mean, seed, n_resamples, method)


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
    x, y = as_pair(x, y, "x", "y")
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


def as_pair(a, b, name_a: str, name_b: str) -> tuple[np.ndarray, np.ndarray]:
    """Two vectors of finite numbers of one length, both of shape (n,); else ValueError."""
    a, b = _as_vector(a, name_a), _as_vector(b, name_b)
    if len(a) != len(b):
        raise ValueError(
            f"{name_a} has {len(a)} values and {name_b} {len(b)}; they must be the same items"
        )
    return a, b


def check_counts(successes: int, n: int) -> None:
    """ValueError unless n is a whole number of at least 1 and 0 <= successes <= n."""
    if not isinstance(successes, Integral) or not isinstance(n, Integral):
        raise ValueError(f"successes={successes!r} and n={n!r} must be whole numbers")
    if n < 1:
        raise ValueError(f"n={n}: a share of no items is not defined; skip this group and say so")
    if not 0 <= successes <= n:
        raise ValueError(f"successes={successes} must lie in 0..n with n={n}")
