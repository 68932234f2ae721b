import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from helpers import calibration
from helpers.pairs import ASSISTANT, HUMAN, frame, parse


def planted(n: int, scale: float, seed: int) -> np.ndarray:
    """Margins x with P(chosen wins) = sigmoid(scale * |x|) for the side that x prefers."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return np.where(rng.random(n) < expit(scale * np.abs(x)), np.abs(x), -np.abs(x))


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_the_scale_is_recovered_whatever_the_unit_of_the_margin(scale):
    margins = planted(40_000, scale, seed=0)
    assert calibration.fit_scale(margins) == pytest.approx(scale, rel=0.08)
    assert calibration.fit_scale(1000 * margins) == pytest.approx(scale / 1000, rel=0.08)


@pytest.mark.parametrize("margins", [[-1.0, -2.0], [1.0, -1.0], [0.0, 0.0], []])
def test_a_scorer_without_information_gets_scale_zero(margins):
    assert calibration.fit_scale(margins) == pytest.approx(0, abs=1e-3)


def test_two_right_of_three_equal_margins_mean_two_thirds():
    # sigmoid(a) = 2/3 at a = ln 2: the maximum-likelihood estimate in closed form.
    assert calibration.fit_scale([1.0, 1.0, -1.0]) == pytest.approx(np.log(2), rel=1e-3)


def test_never_wrong_ends_at_the_bound():
    assert calibration.fit_scale([0.5, 0.5, 0.5]) == pytest.approx(100, rel=1e-3)


def test_the_scale_comes_from_held_back_pairs_of_the_same_fold_and_subset():
    prompt = f"{HUMAN} q?{ASSISTANT}"
    data = frame(
        [
            dict(parse(prompt + f" a{i}", prompt + f" b{i}"), subset="s", split="test", row=i)
            for i in range(4)
        ]
    )
    head = dict(scorer="m", repeat=0)
    held = pd.DataFrame(
        head | dict(fold=[0, 0, 0], pair_id=data["pair_id"][:3], margin=[1.0, 1, -1])
    )
    margins = pd.DataFrame(head | dict(fold=0, pair_id=data["pair_id"][3:], margin=[2.0]))
    probability = calibration.probabilities(margins, held, data)
    assert probability.tolist() == pytest.approx([expit(2 * np.log(2))], rel=1e-3)
    with pytest.raises(ValueError, match="1 margins have no held-back pairs"):
        calibration.probabilities(margins.assign(fold=1), held, data)


def test_reliability_counts_every_pair_once_and_finds_the_planted_accuracy():
    p = np.repeat([0.9, 0.2, 0.5], [50, 30, 20])  # right, wrong with confidence 0.8, tied
    table = calibration.reliability(p, parts=3)
    assert table["n"].sum() == 100
    found = table.set_index(table["confidence"].round(6))["accuracy"]
    assert found[0.9] == 1 and found[0.8] == 0 and found[0.5] == 0.5


def test_the_error_of_an_overconfident_model_by_hand():
    rng = np.random.default_rng(0)
    wins = rng.random(4000) < rng.uniform(0.5, 1, 4000)
    found = calibration.excess(np.where(wins, 0.99, 0.01), seed=0, draws=100)
    # Confidence 0.99 in all pairs, right in the share `wins`: the error is their difference.
    assert found.error == pytest.approx(0.99 - wins.mean()) and found.p_value < 0.02


def answers(rng, n, shift=0.0):
    """Probabilities of a model that is right with its own confidence less ``shift``."""
    confidence = rng.uniform(0.55, 0.95, n)
    return np.where(rng.random(n) < confidence - shift, confidence, 1 - confidence)


def test_the_excess_of_calibrated_models_is_near_zero_and_their_p_values_are_even():
    rng = np.random.default_rng(0)
    found = [calibration.excess(answers(rng, 300), seed=s, draws=200) for s in range(60)]
    assert abs(np.mean([f.excess for f in found])) < 0.005
    assert np.mean([f.error for f in found]) > 0.04, "the raw error is far from 0"
    # Of 60 even p-values, 3 lie below 0.05 on average and 9 or more in one of 700 studies.
    p = np.array([f.p_value for f in found])
    assert (p <= 0.05).sum() < 9 and 0.35 < p.mean() < 0.65
    assert all(f.floor.low < f.floor.value < f.floor.high for f in found)


def test_a_miscalibrated_model_exceeds_the_floor_by_its_error():
    found = calibration.excess(answers(np.random.default_rng(1), 4000, shift=0.1), seed=0)
    assert found.p_value < 0.002 and found.error > found.floor.high
    assert found.excess == found.error - found.floor.value
    assert 0.06 < found.excess < 0.11 and found.floor.n == 4000


def test_ties_are_as_right_as_they_claim():
    found = calibration.excess(np.full(50, 0.5), seed=0)
    assert (found.floor.value, found.excess, found.p_value) == (0, 0, 1)
    with pytest.raises(ValueError, match="no pairs"):
        calibration.excess([], seed=0)


def test_accuracy_by_margin_finds_where_the_scorer_is_right():
    margins = np.r_[np.tile([0.1, -0.1], 50), np.full(100, 3.0)]
    table = calibration.by_margin(margins, parts=2)
    assert table["value"].tolist() == [0.5, 1] and table["n"].tolist() == [100, 100]
    assert (table["low_margin"] > 0).all() and table["high_margin"].tolist() == [0.1, 3.0]
