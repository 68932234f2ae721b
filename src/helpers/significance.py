"""Exact tests, correction for many tests, and power, on scipy and statsmodels.

All p-values are two-sided. Pairs that share a prompt are not independent, and no test here corrects
for that: where it matters, use the clustered intervals of :mod:`helpers.stats`.
"""

from numbers import Integral
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower

from helpers.stats import LEVEL, Estimate, as_pair, check_counts

_POWER = 0.8  # the usual one, and the default of what is asked for a difference


class McNemar(NamedTuple):
    """Items only `a` got right, items only `b` got right, all items, two-sided exact p-value."""

    a_only: int
    b_only: int
    n: int
    p_value: float


def mcnemar_exact(a_correct: ArrayLike, b_correct: ArrayLike) -> McNemar:
    """Exact McNemar test that two models are right equally often on the same items.

    Both arguments have shape (n,) and hold booleans or 0 and 1. The test is the two-sided binomial
    test on the items that only one of the two got right; without such an item, p is 1.

    Raises ValueError on other values (half-credit for a tie is not a count of right and wrong).
    """
    a, b = as_pair(a_correct, b_correct, "a_correct", "b_correct")
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


class Equivalence(NamedTuple):
    """``effect`` with its 95 % interval, in units of the margin; ``p_value`` of the two one-sided
    tests; ``equivalent``: p is at most alpha."""

    effect: Estimate
    p_value: float
    equivalent: bool


def equivalence(
    value: float, standard_error: float, df: float, margin: float, n: int, *, alpha: float = 0.05
) -> Equivalence:
    """Two one-sided t tests (TOST; Schuirmann 1987) that a true effect lies in -margin..margin.

    ``value`` is the estimated effect (a mean difference, a slope), ``standard_error`` and ``df``
    its standard error and degrees of freedom, ``n`` the number of independent units behind it. The
    margin is the smallest effect that would matter and has to be stated before the run. p is the
    larger of the two one-sided p-values. A large p does not show an effect: with few units nothing
    is shown, and a test of difference that finds none shows no equivalence either.

    The interval of ``effect`` is the 95 % one of the house, in units of the margin: where it lies
    inside of -1..1, TOST rejects at 2.5 % and so at 5 %, for which the 90 % interval is enough.

    Raises ValueError for a margin, standard error or df that is not above 0, and where one is not
    finite.
    """
    if not (np.isfinite([value, standard_error, df, margin]).all() and margin > 0):
        raise ValueError(
            f"value={value}, standard_error={standard_error}, df={df}, margin={margin}: all must "
            "be finite and the margin above 0"
        )
    if standard_error <= 0 or df <= 0:
        raise ValueError(
            f"standard_error={standard_error}, df={df}: both must be above 0; without spread there "
            "is nothing to test"
        )
    t = scipy.stats.t(df)
    p_value = max(t.sf((value + margin) / standard_error), t.cdf((value - margin) / standard_error))
    half = t.ppf((1 + LEVEL) / 2) * standard_error
    ends = np.array([value, value - half, value + half]) / margin
    method = f"t interval, {df:g} degrees of freedom, in units of the margin {margin:g}; TOST"
    effect = Estimate(*map(float, ends), n, method)
    return Equivalence(effect, float(p_value), bool(p_value <= alpha))


def detectable(prompts: int, ties: float = 0.0) -> float | None:
    """Smallest true difference of wins and losses, as a share, that a sign test on so many prompts
    finds with power 0.8; None where not even 1 is found."""
    try:
        return minimum_detectable_difference(prompts, discordance=max(1 - ties, 1e-9))
    except ValueError:
        return None


def visible(accuracy: float, difference: float = 1.0) -> float:
    """What a judge that is right with probability ``accuracy`` makes of a true difference of wins
    and losses, if its errors do not depend on the arm: (2 accuracy - 1) times as much."""
    return max(0.0, 2 * accuracy - 1) * difference


def prompts_needed(accuracy: float, difference: float) -> float:
    """Prompts on which such a judge shows a true difference of wins and losses with power 0.8,
    without ties (Connor's equation, as in :func:`minimum_detectable_difference`); infinite for a
    coin."""
    seen = visible(accuracy, difference)
    if not 0 <= difference <= 1 or not 0 <= accuracy <= 1:
        raise ValueError(f"{accuracy=}, {difference=}: both are shares in 0..1")
    if not seen:
        return float("inf")
    z_alpha, z_power = scipy.stats.norm.ppf([(1 + LEVEL) / 2, _POWER])
    return float(np.ceil(((z_alpha + z_power * np.sqrt(1 - seen**2)) / seen) ** 2))


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
    check_counts(successes_a, n_a)
    check_counts(successes_b, n_b)
    table = [[successes_a, n_a - successes_a], [successes_b, n_b - successes_b]]
    return float(scipy.stats.fisher_exact(table).pvalue)
