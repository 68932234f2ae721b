"""Over-optimisation of a proxy: gold along best-of-n and along KL, its forms, where it turns.

Following Gao, Schulman and Hilton (2022): d = sqrt(KL), the distance from the start, and gold as a
function of d. Curves come as arrays (units, points), a unit being what was repeated independently
(a seed, a proxy, a prompt). Bands and bootstraps are over units.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import ArrayLike
from scipy.special import gammaln

from helpers.stats import LEVEL, Estimate


def best_of_n_weights(total: int, n: int) -> np.ndarray:
    """Chance that the i-th worst of ``total`` samples is the best of ``n`` drawn from them without
    replacement: C(i - 1, n - 1) / C(total, n), shape (total,), worst first.

    Computed as logarithms, since both overflow. Raises ValueError unless 1 <= n <= total.
    """
    if not 1 <= n <= total:
        raise ValueError(f"n={n}: the best of n needs 1 <= n <= {total}, the number of samples")
    weights = np.zeros(total)
    i = np.arange(n, total + 1)
    log_above = gammaln(i) - gammaln(n) - gammaln(i - n + 1)
    log_below = gammaln(total + 1) - gammaln(n + 1) - gammaln(total - n + 1)
    weights[n - 1 :] = np.exp(log_above - log_below)
    return weights / weights.sum()  # the logarithms' rounding errors, 1e-12 at 4,096 samples


def best_of_n(proxy: ArrayLike, values: ArrayLike, ns: Sequence[int]) -> np.ndarray:
    """Expected value of the sample with the best proxy of n, for each prompt and n.

    ``proxy`` and ``values`` have shape (prompts, N): N independent samples of each prompt. Give
    gold scores as values for the gold curve and the proxy itself for the proxy's. The result has
    shape (prompts, len(ns)) and is unbiased: the mean over all subsets of n of the N samples
    (Nakano et al. 2021, appendix I). Samples with equal proxies are chosen with equal chances.
    """
    proxy, values = np.asarray(proxy, float), np.asarray(values, float)
    if proxy.ndim != 2 or proxy.shape != values.shape:
        raise ValueError(f"proxy has shape {proxy.shape}, values {values.shape}; give two (P, N)")
    if not (np.isfinite(proxy).all() and np.isfinite(values).all()):
        raise ValueError("proxy or values hold numbers that are missing or infinite")
    order = np.argsort(proxy, axis=1, kind="stable")
    ranked, sorted_values = (np.take_along_axis(x, order, 1) for x in (proxy, values))
    # Within a run of equal proxies every sample stands for the run's mean.
    starts = np.ones(ranked.shape, dtype=bool)
    starts[:, 1:] = np.diff(ranked, axis=1) > 0
    run = np.cumsum(starts.ravel()) - 1
    means = np.bincount(run, sorted_values.ravel()) / np.bincount(run)
    weights = np.stack([best_of_n_weights(proxy.shape[1], n) for n in ns], axis=1)
    return means[run].reshape(ranked.shape) @ weights


def best_of_n_curves(
    proxies: ArrayLike, gold: ArrayLike, ns: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """What is gained over a single sample, by the proxy and by gold, for several proxies.

    ``proxies`` (units, prompts, N), ``gold`` (prompts, N), the same samples for all. Two arrays
    (units, len(ns)): means over prompts of the best of n less those of all samples, so that both
    are 0 at n = 1. Proxies are on their own scales: standardise them before they share an axis.
    """
    proxies, gold = np.asarray(proxies, float), np.asarray(gold, float)
    if proxies.ndim != 3:
        raise ValueError(f"proxies have shape {proxies.shape}; give (units, prompts, samples)")
    by_proxy = [best_of_n(proxy, proxy, ns).mean(0) - proxy.mean() for proxy in proxies]
    by_gold = [best_of_n(proxy, gold, ns).mean(0) - gold.mean() for proxy in proxies]
    return np.array(by_proxy), np.array(by_gold)


def best_of_n_kl(n: ArrayLike) -> np.ndarray:
    """KL of the best-of-n policy from the policy that is sampled, in nats: ln n - (n - 1) / n.

    Exact where no two samples are alike, an upper bound otherwise (Beirami et al. 2024).
    """
    n = np.asarray(n, dtype=float)
    if (n < 1).any():
        raise ValueError("n must be at least 1")
    return np.log(n) - (n - 1) / n


def ensemble(
    scores: ArrayLike, kind: Literal["mean", "min", "uwo"], weight: float | None = None
) -> np.ndarray:
    """One proxy of several (Coste et al. 2023): their mean, their minimum (worst-case optimisation,
    WCO), or mean - weight * variance (uncertainty-weighted optimisation, UWO).

    ``scores`` (members, ...), on one scale: standardise each member on one reference set first, or
    the minimum is that of the member with the lowest scale. The variance divides by the number of
    members. Raises ValueError for fewer than two members, or a weight that is missing or unused.
    """
    scores = np.asarray(scores, dtype=float)
    if scores.ndim < 2 or len(scores) < 2:
        raise ValueError(f"scores have shape {scores.shape}; give (2 or more members, ...)")
    if (kind == "uwo") != (weight is not None):
        raise ValueError(f"kind {kind!r} with weight {weight}: give a weight for uwo, and only so")
    if kind == "uwo":
        return scores.mean(0) - weight * scores.var(0)
    if kind not in ("mean", "min"):
        raise ValueError(f"unknown kind {kind!r}; use mean, min or uwo")
    return scores.mean(0) if kind == "mean" else scores.min(0)


def along(runs: Sequence[pd.DataFrame], x: str, y: str, grid: ArrayLike) -> np.ndarray:
    """``y`` of each run where its ``x`` (its KL, say) takes the values of ``grid``: (runs, points).

    The rows are put in the order of x and joined by straight lines; rows of exactly the same x
    count as their mean. Time plays no part: where a run comes back near an x, early and late rows
    stand side by side, and a point of the grid is drawn between the two that lie next to it,
    whichever these are; it is no mean over the visits. NaN outside of what a run has reached, since
    nothing is known there; points that some run lacks must be left out by the caller before curves
    are averaged.
    """
    found = []
    for run in runs:
        means = run[[x, y]].dropna().groupby(x)[y].mean()
        if means.empty:
            raise ValueError(f"a run has no row with both {x} and {y}")
        found.append(np.interp(grid, means.index, means, left=np.nan, right=np.nan))
    return np.array(found)


def band(curves: ArrayLike) -> pd.DataFrame:
    """Mean of the curves at each point, with a t interval over units: ``value``, ``low``, ``high``,
    ``n``. Student's t, since three seeds are few: a bootstrap of them is far too narrow."""
    curves = _as_curves(curves)
    means, (low, high) = curves.mean(0), _t_interval(curves)
    return pd.DataFrame({"value": means, "low": low, "high": high, "n": len(curves)})


class Fit(NamedTuple):
    """A form fitted to a mean curve. ``a``, ``b`` and ``peak`` (d at which the form is highest)
    have percentile bootstrap intervals over units. ``inside`` says whether the peak lies within the
    measured d: if not, it is an extrapolation. ``rmse`` is in units of gold, ``rmse_share`` a share
    of the mean curve's range; show it beside the form, which is assumed and not derived."""

    form: str
    a: Estimate
    b: Estimate
    peak: Estimate | None
    inside: bool
    rmse: float
    rmse_share: float
    n_points: int


def shape(form: Literal["bon", "rl"], d: ArrayLike, a: float, b: float) -> np.ndarray:
    """d (a - b d) for best-of-n and d (a - b ln d) for reinforcement learning; 0 at d = 0."""
    linear, curved = _columns(form, np.asarray(d, dtype=float))
    return a * linear + b * curved


def fit(
    form: Literal["bon", "rl"],
    d: ArrayLike,
    gold: ArrayLike,
    *,
    seed: int,
    n_resamples: int = 2000,
) -> Fit:
    """Least squares of Gao et al.'s form on the mean curve; the form is linear in a and b.

    ``d`` (points,), ``gold`` (units, points), the gold score minus that of the start, so that it is
    0 at d = 0 (ValueError where a point at d = 0 is not). The bootstrap draws whole curves. A form
    without a peak (b <= 0 or a <= 0: it goes on rising, or falls from the start) has ``peak`` None;
    resamples without one are left out of the interval and counted in its method.
    """
    gold, d = _as_curves(gold), np.asarray(d, dtype=float)
    if d.shape != gold.shape[1:] or (d < 0).any() or len(np.unique(d[d > 0])) < 3:
        raise ValueError(f"d has shape {d.shape}; give one d >= 0 a point, 3 or more above 0")
    if np.abs(gold[:, d == 0]).max(initial=0) > 1e-9:
        raise ValueError("gold at d = 0 is not 0; subtract the score of the start from each curve")
    columns = np.stack(_columns(form, d), axis=1)
    solve = np.linalg.pinv(columns)
    mean = gold.mean(0)
    # Least squares is linear in gold: the fit to a mean of curves is the mean of their fits.
    each = gold @ solve.T
    draws = np.random.default_rng(seed).integers(len(gold), size=(n_resamples, len(gold)))
    resampled = each[draws].mean(1)
    rmse = float(np.sqrt(np.mean((mean - columns @ (solve @ mean)) ** 2)))
    method = f"percentile bootstrap, {n_resamples} resamples of {len(gold)} curves, seed {seed}"
    a, b = (_percentiles(each[:, i].mean(), resampled[:, i], len(gold), method) for i in (0, 1))
    top = _peak(form, a.value, b.value)
    peak, inside = None, False
    if np.isfinite(top):
        tops = _peak(form, *resampled.T)
        without = int((~np.isfinite(tops)).sum())
        said = f"{method}; {without} resamples without a peak left out" if without else method
        peak = _percentiles(float(top), tops[np.isfinite(tops)], len(gold), said)
        inside = bool(d.min() <= top <= d.max())
    share = rmse / np.ptp(mean) if np.ptp(mean) else np.inf
    return Fit(form, a, b, peak, inside, rmse, float(share), len(d))


class Turnover(NamedTuple):
    """Whether gold has turned over: ``drop`` is how far it has fallen from its peak to the last
    point, ``peak_x`` where the mean curve is highest, ``text`` the finding with its rule."""

    seen: bool
    peak_x: float
    drop: Estimate
    text: str


def turnover(x: ArrayLike, gold: ArrayLike) -> Turnover:
    """Whether gold falls again within the measured range, by a rule that noise does not meet.

    ``x`` (points,), rising (n, KL or its root); ``gold`` (units, points), two or more units. The
    highest point of a noisy curve always lies above its last one, so a unit's drop is taken from
    the point where the mean of the *other* units peaks. A turnover is seen where the t interval of
    these drops lies above 0. Not seen is a result: the interval's upper end says which drop is left
    possible.
    """
    gold, x = _as_curves(gold), np.asarray(x, dtype=float)
    if x.shape != gold.shape[1:] or len(x) < 2 or (np.diff(x) <= 0).any():
        raise ValueError(f"x has shape {x.shape}; give one x a point, 2 or more, rising")
    units = len(gold)
    others = (gold.sum(0) - gold) / (units - 1)
    peaks = others.argmax(1)
    drops = gold[np.arange(units), peaks] - gold[:, -1]
    low, high = (float(end[0]) for end in _t_interval(drops[:, None]))
    drop = Estimate(float(drops.mean()), low, high, units, "t interval, peak from the other units")
    top = float(x[gold.mean(0).argmax()])
    rule = (
        f"rule: the 95 % interval of the fall from the peak to x = {x[-1]:g}, each of {units} "
        "units from the peak of the others, lies above 0"
    )
    fell = f"a fall of {drop.value:.3g} [{low:.3g}, {high:.3g}]"
    if low > 0:
        return Turnover(True, top, drop, f"turnover seen, highest at x = {top:g}, {fell} ({rule})")
    end = f"{fell}; more than {high:.3g} is excluded"
    if (peaks == len(x) - 1).all():
        # Every drop is 0 by construction then: its interval has no width and says nothing.
        end = "the mean of the others is highest there, whichever unit is left out"
    text = f"no turnover seen up to x = {x[-1]:g}: {end} ({rule})"
    return Turnover(False, top, drop, text)


def _columns(form: str, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if form not in ("bon", "rl"):
        raise ValueError(f"unknown form {form!r}; use bon or rl")
    # d ln d goes to 0 with d.
    return d, -(d**2) if form == "bon" else -d * np.log(np.where(d > 0, d, 1))


def _peak(form: str, a, b):
    """Where the form is highest; NaN where it has no peak at a d above 0."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    has = (b > 0) & (a > 0) if form == "bon" else b > 0
    b = np.where(has, b, np.nan)
    with np.errstate(over="ignore"):  # a peak beyond all numbers is none
        return a / (2 * b) if form == "bon" else np.exp(a / b - 1)


def _percentiles(value: float, distribution: np.ndarray, n: int, method: str) -> Estimate:
    low, high = np.quantile(distribution, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high), n, method)


def _t_interval(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    half = scipy.stats.t.ppf((1 + LEVEL) / 2, len(curves) - 1) * scipy.stats.sem(curves, axis=0)
    return curves.mean(0) - half, curves.mean(0) + half


def _as_curves(curves: ArrayLike) -> np.ndarray:
    curves = np.asarray(curves, dtype=float)
    if curves.ndim != 2 or len(curves) < 2 or not curves.shape[1]:
        raise ValueError(f"curves have shape {curves.shape}; give (2 or more units, points)")
    if not np.isfinite(curves).all():
        raise ValueError("curves hold numbers that are missing; leave out points that a unit lacks")
    return curves
