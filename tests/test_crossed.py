import numpy as np
import pytest
import scipy.stats

from helpers import crossed, significance


def coverage(seeds: int, by_seed: float, by_prompt: float) -> float:
    rng = np.random.default_rng(seeds)
    hits = 0
    for _ in range(600):
        values = rng.normal(size=(seeds, 150))
        values += rng.normal(0, by_seed, (seeds, 1)) + rng.normal(0, by_prompt, (1, 150))
        found = crossed.mean(values).estimate
        hits += found.low <= 0 <= found.high
    return hits / 600


@pytest.mark.parametrize("by_seed, by_prompt", [(0, 0), (0.1, 0.2), (0.1, 1.0), (0.5, 0)])
def test_the_interval_covers_whatever_varies(by_seed, by_prompt):
    assert 0.9 < coverage(3, by_seed, by_prompt) < 0.99
    assert 0.92 < coverage(6, by_seed, by_prompt) < 0.985


def test_where_only_seeds_differ_it_is_the_t_interval_of_their_means():
    means = np.array([0.1, 0.4, 0.3])
    values = np.repeat(means[:, None], 50, axis=1)
    found = crossed.mean(values)
    half = scipy.stats.t.ppf(0.975, 2) * scipy.stats.sem(means)
    assert found.df == 2 and found.standard_error == pytest.approx(scipy.stats.sem(means))
    assert found.estimate[:3] == pytest.approx(
        (means.mean(), means.mean() - half, means.mean() + half)
    )
    assert found.p_value == pytest.approx(scipy.stats.ttest_1samp(means, 0).pvalue)
    assert found.estimate.n == 3


def test_where_only_prompts_differ_it_is_the_t_interval_of_theirs():
    prompts = np.random.default_rng(0).normal(size=80)
    found = crossed.mean(np.tile(prompts, (4, 1)))
    assert found.standard_error == pytest.approx(scipy.stats.sem(prompts)) and found.df == 79


def test_it_is_symmetric_and_moves_with_the_values():
    values = np.random.default_rng(1).normal(size=(3, 40))
    one, negated, moved = (crossed.mean(v) for v in (values, -values, values + 7))
    assert negated.estimate.low == pytest.approx(-one.estimate.high)
    assert moved.estimate.low == pytest.approx(one.estimate.low + 7)
    assert crossed.mean(values.T).standard_error == pytest.approx(one.standard_error)
    assert (one.p_value < 0.05) == (not one.estimate.low <= 0 <= one.estimate.high)


def test_constants_have_no_spread():
    found = crossed.mean(np.full((3, 7), 0.1))
    assert found.estimate[:3] == (0.1, 0.1, 0.1) and found.p_value == 0
    assert crossed.mean(np.zeros((3, 7))).p_value == 1


def test_it_feeds_the_equivalence_test():
    found = crossed.mean(np.random.default_rng(2).normal(size=(5, 400)))
    estimate, error, df, _ = found
    assert significance.equivalence(estimate.value, error, df, 0.5, 5).equivalent


@pytest.mark.parametrize("values", [np.zeros(5), np.zeros((1, 5)), np.full((3, 3), np.nan)])
def test_what_has_no_interval_is_refused(values):
    with pytest.raises(ValueError, match="2 or more seeds"):
        crossed.mean(values)
