"""Means over seeds crossed with prompts: every seed's policy has answered every prompt.

Both were drawn from more that there could be, so both count: an interval over seeds alone speaks of
these prompts only, and one over prompts alone of these trainings only.
"""

from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from helpers.stats import LEVEL, Estimate


class Crossed(NamedTuple):
    """``estimate`` (its n counts seeds), its standard error and degrees of freedom, for
    :func:`helpers.significance.equivalence`, and the two-sided p-value that the mean is 0."""

    estimate: Estimate
    standard_error: float
    df: float
    p_value: float


def mean(values: ArrayLike) -> Crossed:
    """Mean of ``values``, shape (seeds, prompts), two or more of each, all finite; else ValueError.

    Two-way random effects without replication (Clark 1973). With the mean squares S of seeds, P of
    prompts and E of what is left, the variance of the mean is (S + P - E) / n, here at least that
    by seeds or by prompts alone, S / n and P / n. Degrees of freedom after Satterthwaite (1946).
    In simulations with 300 prompts the interval held the mean in 92 to 97 % of the cases with three
    seeds and in 94 to 96 % with five; by seeds alone it was 91 and, where prompts differ most, 86.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or min(values.shape) < 2 or not np.isfinite(values).all():
        raise ValueError(
            f"values have shape {values.shape}; give (2 or more seeds, 2 or more prompts), finite"
        )
    seeds, prompts = values.shape
    # Deviations from one of the values: constant data then have no spread at all, rather than one
    # by rounding.
    origin = values[0, 0]
    values = values - origin
    middle = values.mean()
    by_seed, by_prompt = values.mean(1) - middle, values.mean(0) - middle
    left = values - middle - by_seed[:, None] - by_prompt
    squares = (
        prompts * (by_seed**2).sum(),
        seeds * (by_prompt**2).sum(),
        (left**2).sum(),
    )
    freedom = (seeds - 1, prompts - 1, (seeds - 1) * (prompts - 1))
    of_seeds, of_prompts, rest = (s / f for s, f in zip(squares, freedom))
    both = of_seeds + of_prompts - rest
    squared = max(both, of_seeds, of_prompts)
    if squared == both and both > 0:
        parts = (of_seeds**2, of_prompts**2, rest**2)
        df = both**2 / sum(p / f for p, f in zip(parts, freedom))
    else:
        df = seeds - 1 if squared == of_seeds else prompts - 1
    error = float(np.sqrt(squared / values.size))
    value, t = float(origin + middle), scipy.stats.t(df)
    half = float(t.ppf((1 + LEVEL) / 2)) * error
    method = f"t interval, {seeds} seeds crossed with {prompts} prompts, {df:.1f} df"
    estimate = Estimate(value, value - half, value + half, seeds, method)
    p_value = 2 * float(t.sf(abs(value) / error)) if error else float(value == 0)
    return Crossed(estimate, error, float(df), p_value)
