"""Best-of-n against enumeration and simulation, forms against planted truth."""

from itertools import combinations
from math import comb, exp, log

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from helpers import goodhart

FEW = settings(max_examples=30)


# Best of n


def enumerated(proxy, values, n) -> float:
    """The mean over all subsets of n; equal proxies share."""
    found = []
    for drawn in combinations(range(len(proxy)), n):
        best = max(proxy[i] for i in drawn)
        found.append(np.mean([values[i] for i in drawn if proxy[i] == best]))
    return float(np.mean(found))


@FEW
@given(st.data(), st.integers(1, 7))
def test_best_of_n_is_the_mean_over_all_subsets(data, total):
    # Few distinct proxies, so that ties occur.
    proxy = data.draw(hnp.arrays(float, total, elements=st.integers(0, 4).map(float)))
    values = data.draw(hnp.arrays(float, total, elements=st.integers(-9, 9).map(float)))
    ns = range(1, total + 1)
    (found,) = goodhart.best_of_n(proxy[None], values[None], ns)
    assert found == pytest.approx([enumerated(proxy, values, n) for n in ns])


def test_best_of_n_is_unbiased_by_simulation():
    """The estimate from 12 samples has the mean of many draws of the best of 4."""
    rng = np.random.default_rng(0)
    proxy = rng.normal(size=(20_000, 12))
    gold = 0.6 * proxy + 0.8 * rng.normal(size=proxy.shape)
    found = goodhart.best_of_n(proxy, gold, [4])[:, 0]
    drawn = rng.normal(size=(400_000, 4)).max(1)
    se = np.hypot(found.std() / np.sqrt(len(found)), 0.6 * drawn.std() / np.sqrt(len(drawn)))
    assert abs(found.mean() - 0.6 * drawn.mean()) < 4 * se


@FEW
@given(st.integers(1, 60), st.data())
def test_weights_are_chances(total, data):
    n = data.draw(st.integers(1, total))
    weights = goodhart.best_of_n_weights(total, n)
    exact = [comb(i - 1, n - 1) / comb(total, n) for i in range(1, total + 1)]
    assert weights == pytest.approx(exact, rel=1e-9)


def test_weights_hold_where_the_binomials_overflow():
    weights = goodhart.best_of_n_weights(4096, 2048)
    assert np.isfinite(weights).all() and weights.sum() == pytest.approx(1)
    # The best of all is in half of the subsets, the second best leads a quarter and a bit.
    assert weights[-1] == pytest.approx(0.5)
    assert weights[-2] == pytest.approx(0.5 * 2048 / 4095, rel=1e-9)


@FEW
@given(hnp.arrays(float, (3, 8), elements=st.floats(-5, 5)))
def test_the_proxy_rises_with_n_and_ends_at_its_maximum(proxy):
    found = goodhart.best_of_n(proxy, proxy, range(1, 9))
    assert (np.diff(found, axis=1) >= -1e-9).all()
    assert found[:, 0] == pytest.approx(proxy.mean(1))
    assert found[:, -1] == pytest.approx(proxy.max(1))


def test_best_of_n_refuses():
    for n in (0, 4):
        with pytest.raises(ValueError, match="1 <= n <= 3"):
            goodhart.best_of_n_weights(3, n)
    with pytest.raises(ValueError, match="two"):
        goodhart.best_of_n(np.zeros((2, 3)), np.zeros((3, 2)), [1])
    with pytest.raises(ValueError, match="missing"):
        goodhart.best_of_n([[np.nan]], [[0.0]], [1])


def test_kl_of_best_of_n_closed_form_and_by_integration():
    ns = np.array([1, 2, 4, 16, 256])
    assert goodhart.best_of_n_kl(ns) == pytest.approx([log(n) - (n - 1) / n for n in ns])
    # The rank of the best of n among infinitely many has density n u^(n-1) on 0..1.
    u = (np.arange(2_000_000) + 0.5) / 2_000_000
    density = 16 * u**15
    assert goodhart.best_of_n_kl(16) == pytest.approx((density * np.log(density)).mean(), abs=1e-5)
    with pytest.raises(ValueError, match="at least 1"):
        goodhart.best_of_n_kl(0)


def test_kl_is_a_bound_where_samples_repeat():
    """Two answers, each drawn half of the time: best of n takes the better with 1 - 2^-n."""
    for n in (2, 5, 20):
        p = 1 - 0.5**n
        exact = p * log(2 * p) + (1 - p) * log(2 * (1 - p))
        assert exact < goodhart.best_of_n_kl(n)


def test_curves_begin_at_zero_and_a_proxy_of_pure_noise_gains_no_gold():
    rng = np.random.default_rng(6)
    gold = rng.normal(size=(300, 32))
    good, noise = gold + rng.normal(size=gold.shape), rng.normal(size=gold.shape)
    proxy, truth = goodhart.best_of_n_curves([good, noise], gold, [1, 2, 8, 32])
    assert proxy.shape == truth.shape == (2, 4)
    assert np.abs(proxy[:, 0]).max() < 1e-12 and np.abs(truth[:, 0]).max() < 1e-12
    assert (np.diff(truth[0]) > 0.1).all() and np.abs(truth[1]).max() < 4 / np.sqrt(300)
    # Regression to the mean: gold is half of the proxy's variance, and gains half as much.
    assert truth[0, 1:] == pytest.approx(proxy[0, 1:] / 2, abs=0.15)
    with pytest.raises(ValueError, match="units, prompts, samples"):
        goodhart.best_of_n_curves(gold, gold, [1])


# Ensembles


def test_ensembles_by_hand():
    scores = np.array([[1.0, 4.0], [3.0, 4.0]])
    assert goodhart.ensemble(scores, "mean").tolist() == [2, 4]
    assert goodhart.ensemble(scores, "min").tolist() == [1, 4]
    assert goodhart.ensemble(scores, "uwo", 0.5).tolist() == [1.5, 4]
    for kind, weight in (("uwo", None), ("min", 1.0)):
        with pytest.raises(ValueError, match="weight"):
            goodhart.ensemble(scores, kind, weight)
    with pytest.raises(ValueError, match="unknown kind"):
        goodhart.ensemble(scores, "median")
    with pytest.raises(ValueError, match="2 or more members"):
        goodhart.ensemble(scores[:1], "mean")


@FEW
@given(hnp.arrays(float, (4, 3), elements=st.floats(-5, 5)), st.floats(0, 2))
def test_doubt_never_pays(scores, weight):
    mean = goodhart.ensemble(scores, "mean")
    assert (goodhart.ensemble(scores, "min") <= mean + 1e-9).all()
    assert (goodhart.ensemble(scores, "uwo", weight) <= mean + 1e-9).all()
    one = np.repeat(scores[:1], 3, axis=0)
    assert goodhart.ensemble(one, "uwo", weight) == pytest.approx(scores[0])


# Curves


def test_runs_meet_at_the_same_kl():
    runs = [
        pd.DataFrame({"kl": [0.0, 2.0, 4.0], "gold": [0.0, 1.0, 0.0]}),
        # Comes back to a KL of 1, and has a row without a gold score.
        pd.DataFrame({"kl": [0.0, 1.0, 3.0, 1.0, 2.0], "gold": [0.0, 1.0, 3.0, 2.0, np.nan]}),
    ]
    found = goodhart.along(runs, "kl", "gold", [0, 1, 2, 3.5])
    assert found[0].tolist() == [0, 0.5, 1, 0.25]
    assert found[1][:3] == pytest.approx([0, 1.5, 2.25])
    assert np.isnan(found[1][3]), "that run has not been there"
    with pytest.raises(ValueError, match="no row"):
        goodhart.along([runs[0].assign(gold=np.nan)], "kl", "gold", [0])


def test_a_run_that_comes_back_is_read_in_the_order_of_x_and_not_of_time():
    back = pd.DataFrame({"kl": [0.0, 1, 2, 1.5], "gold": [0.0, 1, 2, 0]})
    found = goodhart.along([back], "kl", "gold", [1, 1.25, 1.5, 1.75, 2])
    # On the way out it passed 1.5 at 1.5; the late row alone stands there, and no mean of both.
    assert found[0] == pytest.approx([1, 0.5, 0, 1, 2])


def test_bands_cover_at_their_level():
    """Three seeds, many times: Student's interval holds 95 %."""
    rng = np.random.default_rng(1)
    curves = rng.normal(size=(3, 20_000))  # the points stand for repetitions
    table = goodhart.band(curves)
    covered = ((table["low"] < 0) & (table["high"] > 0)).mean()
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 20_000)
    assert table["value"].to_numpy() == pytest.approx(curves.mean(0)) and (table["n"] == 3).all()
    for bad in (curves[:1], np.full((3, 2), np.nan), np.zeros(3)):
        with pytest.raises(ValueError, match="curves"):
            goodhart.band(bad)


# Forms

D = np.sqrt(goodhart.best_of_n_kl([1, 2, 4, 8, 16, 32, 64, 128, 256]))


@pytest.mark.parametrize(
    ("form", "a", "b", "peak"), [("bon", 1.5, 0.4, 1.875), ("rl", 1.2, 0.8, exp(0.5))]
)
def test_a_planted_form_is_found(form, a, b, peak):
    curve = goodhart.shape(form, D, a, b)
    noise = np.random.default_rng(2).normal(scale=0.02, size=(12, len(D)))
    noise[:, 0] = 0
    found = goodhart.fit(form, D, curve + noise, seed=0)
    for estimate, truth in ((found.a, a), (found.b, b), (found.peak, peak)):
        assert estimate.low < truth < estimate.high
        assert estimate.value == pytest.approx(truth, rel=0.03) and estimate.n == 12
    assert found.inside and found.n_points == len(D)
    assert found.rmse < 0.02 and found.rmse_share < 0.02
    exact = goodhart.fit(form, D, np.stack([curve, curve]), seed=0)
    for estimate, truth in ((exact.a, a), (exact.b, b), (exact.peak, peak)):
        assert estimate[:3] == pytest.approx((truth,) * 3)
    assert exact.rmse == pytest.approx(0, abs=1e-9)


def test_a_peak_beyond_the_data_is_marked():
    curve = goodhart.shape("rl", D, 1.5, 0.4)
    found = goodhart.fit("rl", D, np.stack([curve, curve]), seed=0)
    assert found.peak.value == pytest.approx(exp(2.75)) and not found.inside


def test_the_wrong_form_shows_its_error():
    heavy = np.where(D < 1, D, 1 - 3 * (D - 1) ** 3)[None].repeat(3, 0)
    heavy[:, 0] = 0
    assert goodhart.fit("bon", D, heavy, seed=0).rmse_share > 0.05
    rising = np.stack([D, 1.1 * D])
    found = goodhart.fit("bon", D, rising + 0.05 * D**2, seed=0)
    assert found.peak is None and not found.inside and found.b.value < 0


def test_the_peak_is_where_the_form_is_highest():
    fine = np.linspace(0.01, 20, 200_000)
    for form in ("bon", "rl"):
        top = fine[goodhart.shape(form, fine, 1.2, 0.6).argmax()]
        assert float(goodhart._peak(form, 1.2, 0.6)) == pytest.approx(top, abs=1e-3)
    assert goodhart.shape("rl", [0.0], 1, 1).tolist() == [0]


def test_fits_are_refused_where_they_mean_nothing():
    with pytest.raises(ValueError, match="3 or more"):
        goodhart.fit("bon", [0, 1], np.zeros((2, 2)), seed=0)
    with pytest.raises(ValueError, match="subtract"):
        goodhart.fit("bon", D, np.ones((2, len(D))), seed=0)
    with pytest.raises(ValueError, match="unknown form"):
        goodhart.fit("ppo", D, np.zeros((2, len(D))), seed=0)


# Turnover


def test_a_turnover_is_seen_and_said():
    rng = np.random.default_rng(3)
    gold = goodhart.shape("bon", D, 2, 1) + rng.normal(scale=0.02, size=(5, len(D)))
    found = goodhart.turnover(D, gold)
    assert found.seen and found.drop.low > 0 and found.peak_x == pytest.approx(1, abs=0.4)
    assert found.text.startswith("turnover seen") and "rule:" in found.text


def test_no_turnover_is_a_result_too():
    rising = np.stack([D, 2 * D, 3 * D])
    found = goodhart.turnover(D, rising)
    assert not found.seen and found.drop[:3] == (0, 0, 0)
    assert "no turnover seen" in found.text and "whichever unit is left out" in found.text
    assert "excluded" not in found.text, "an interval without width excludes nothing"


def test_a_flat_noisy_curve_seldom_turns_over():
    """The highest point of noise always lies above the last; the rule must not fall for it."""
    rng = np.random.default_rng(4)
    seen, naive = [], []
    for _ in range(400):
        gold = rng.normal(size=(5, 9))
        seen.append(goodhart.turnover(D, gold).seen)
        naive.append(gold.mean(0).max() > gold.mean(0)[-1])
    assert np.mean(naive) > 0.8
    assert np.mean(seen) < 0.025 + 4 * np.sqrt(0.025 * 0.975 / 400), "one side of a 95 % interval"


def test_turnover_refuses():
    with pytest.raises(ValueError, match="rising"):
        goodhart.turnover([0, 0], np.zeros((2, 2)))
    with pytest.raises(ValueError, match="2 or more units"):
        goodhart.turnover([0, 1], np.zeros((1, 2)))
