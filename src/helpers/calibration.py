"""Calibration of scorers: does sigmoid(scale * margin) say how often the chosen response wins?

The scale is fitted on training folds, since a margin has no unit of its own. For the tables see
:mod:`helpers.accuracy`.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit

from helpers import stats
from helpers.accuracy import HALF, bins, credit
from helpers.stats import Estimate

_STEEPEST = 50.0  # of the scale, in units of one over the median size of a margin


class Excess(NamedTuple):
    """An expected calibration ``error``, the ``floor`` that chance alone would show, with the
    interval that holds 95 % of such errors, the ``excess`` of one over the other, and the
    ``p_value`` of an error as large under right confidences."""

    error: float
    floor: Estimate
    excess: float
    p_value: float


def fit_scale(margins) -> float:
    """The factor a >= 0 under which sigmoid(a * margin) best predicts that the chosen side wins.

    Maximum likelihood (temperature scaling of Bradley-Terry). A scorer that is wrong more often
    than right gets 0: it is not turned round. Where no margin is negative the likelihood has no
    maximum, and the factor ends at 50 over the median size of a margin.
    """
    margins = np.asarray(margins, dtype=float)
    size = np.median(np.abs(margins[margins != 0])) if margins.any() else 0.0
    if not size:
        return 0.0
    result = minimize_scalar(
        lambda a: -log_expit(a * margins / size).mean(), bounds=(0, _STEEPEST), method="bounded"
    )
    # The bounded search ends near, not at, a bound.
    scale = 0.0 if result.x < 1e-4 else float(result.x)
    return scale / size


def probabilities(margins: pd.DataFrame, held_back: pd.DataFrame, data: pd.DataFrame) -> pd.Series:
    """sigmoid(scale * margin) for each row of ``margins``, the scale fitted on ``held_back``.

    One scale for each scorer, repeat, fold and subset. Raises ValueError where one has none.
    """
    keys = ["scorer", "repeat", "fold", "subset"]
    subset = data.set_index("pair_id")["subset"]
    of_test = margins.assign(subset=subset.loc[margins["pair_id"]].to_numpy())
    of_held = held_back.assign(subset=subset.loc[held_back["pair_id"]].to_numpy())
    scale = of_held.groupby(keys)["margin"].apply(fit_scale).rename("scale")
    scales = of_test.join(scale, on=keys)["scale"]
    if scales.isna().any():
        raise ValueError(f"{scales.isna().sum()} margins have no held-back pairs to fit a scale on")
    return pd.Series(expit(scales * margins["margin"]), index=margins.index)


def reliability(probability, parts: int = 10) -> pd.DataFrame:
    """Accuracy against confidence in at most ``parts`` equally full bins.

    ``probability``: that the chosen side wins, shape (n,). Confidence is max(p, 1 - p); the answer
    is right where p > 1/2, and one half at 1/2. Columns: ``confidence`` (mean), ``accuracy``,
    ``low``, ``high`` (Wilson, ties rounded down), ``n``.
    """
    confidence, right = _answers(probability)
    rows = []
    for _, part in pd.DataFrame(dict(c=confidence, r=right)).groupby(bins(confidence, parts)):
        interval = stats.wilson(int(part["r"].sum()), len(part))
        rows.append((part["c"].mean(), part["r"].mean(), interval.low, interval.high, len(part)))
    return pd.DataFrame(rows, columns=["confidence", "accuracy", "low", "high", "n"])


def excess(probability, *, seed: int, parts: int = 10, draws: int = 1000) -> Excess:
    """The calibration error beyond what a model with exactly right confidences would show.

    The error is the mean over equally full bins of |accuracy - confidence|, weighted by size (Guo
    et al. 2017): always above 0, so it is compared with what chance makes of it. A bootstrap would
    not do, since resamples are biased upwards once more. The error's distribution under right
    confidences is drawn: each pair is right with its own confidence, independently of the others,
    and ties stay ties. The p-value is the share of draws, the data among them, with an error at
    least as large. Whether a scale that was fitted on other pairs still fits is part of the
    question. Raises ValueError without any pair.
    """
    confidence, right = _answers(probability)
    if not len(right):
        raise ValueError("no pairs, so no confidences to check")
    codes = bins(confidence, parts)
    found = float(np.abs(np.bincount(codes, weights=right - confidence)).sum() / len(right))
    chance = _by_chance(confidence, right, codes, seed, draws)
    floor, (low, high) = float(chance.mean()), np.quantile(chance, [0.025, 0.975])
    method = f"95 % of {draws} draws with right confidences, seed {seed}"
    # Equal sums in another order may differ in the last place.
    p_value = (1 + (chance >= found - 1e-12).sum()) / (1 + draws)
    interval = Estimate(floor, float(low), float(high), len(right), method)
    return Excess(found, interval, found - floor, float(p_value))


def by_margin(margins, parts: int = 5) -> pd.DataFrame:
    """Strict accuracy with Wilson's interval by size of the margin, in equally full bins.

    Columns: ``low_margin``, ``high_margin`` and those of :class:`stats.Estimate`.
    """
    margins = np.asarray(margins, dtype=float)
    right, size = credit(margins), np.abs(margins)
    rows = []
    for code in np.unique(codes := bins(size, parts)):
        inside = codes == code
        estimate = stats.wilson(int(right[inside].sum()), int(inside.sum()))
        edges = dict(low_margin=size[inside].min(), high_margin=size[inside].max())
        rows.append(edges | estimate._asdict())
    return pd.DataFrame(rows)


def _by_chance(confidence, right, codes, seed: int, draws: int) -> np.ndarray:
    """Calibration errors, shape (draws,), of answers that are right as often as they claim."""
    rng = np.random.default_rng(seed)
    tied = right == HALF

    def error() -> float:
        # A tie earns one half at a confidence of one half, whatever chance does.
        drawn = np.where(tied, HALF, rng.random(len(right)) < confidence)
        return np.abs(np.bincount(codes, weights=drawn - confidence)).sum() / len(right)

    return np.array([error() for _ in range(draws)])


def _answers(probability) -> tuple[np.ndarray, np.ndarray]:
    p = np.asarray(probability, dtype=float)
    return np.maximum(p, 1 - p), credit(p - 0.5, HALF)
