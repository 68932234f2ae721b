"""Closed forms, published values and planted truth for helpers.stats.

Coverage is simulated with fixed seeds. Each bound is four standard errors of the
simulation around an expected value that is computed, not chosen.
"""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import significance, stats

Z = scipy.stats.norm.ppf(0.975)


def four_se(share: float, runs: int) -> float:
    return 4 * math.sqrt(share * (1 - share) / runs)


def percentile_coverage(k: int, n_resamples: int, inflation: float = 1.0) -> float:
    """Expected coverage of a percentile bootstrap interval of a mean of k near-normal units.

    The bootstrap variance lacks the factor k / (k - 1), its quantile lies between order
    statistics of finitely many resamples, and the units may be fewer than assumed: `inflation`
    is the true variance over the assumed one.
    """
    tail = (0.025 * (n_resamples - 1) + 1) / (n_resamples + 1)
    quantile = -scipy.stats.norm.ppf(tail) * math.sqrt((k - 1) / k / inflation)
    return 2 * scipy.stats.t.cdf(quantile, k - 1) - 1


def assert_covers(intervals, truth: float, expected: float) -> None:
    hits = np.mean([e.low <= truth <= e.high for e in intervals])
    assert abs(hits - expected) < four_se(expected, len(intervals)), (hits, expected)


# Wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_newcombe(successes, n, low, high):
    estimate = stats.wilson(successes, n)
    assert estimate.value == successes / n
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=5e-5)
    assert (estimate.n, estimate.method) == (n, "Wilson")


@settings(deadline=None)
@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_value_and_mirrors(case):
    successes, n = case
    estimate, mirrored = stats.wilson(successes, n), stats.wilson(n - successes, n)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert (mirrored.low, mirrored.high) == pytest.approx(
        (1 - estimate.high, 1 - estimate.low), abs=1e-12
    )


def test_wilson_covers_on_average_where_wald_does_not():
    """Exact coverage, no simulation: binomial probabilities of the counts whose interval holds p.

    The bound is the distance of Wald's average coverage from 95 %, ten times smaller.
    """
    sizes, shares = range(20, 121, 5), (0.6, 0.7, 0.8, 0.9)
    wilson, wald = [], []
    for n in sizes:
        k = np.arange(n + 1)
        low, high = np.array([stats.wilson(int(i), n)[1:3] for i in k]).T
        half = Z * np.sqrt(k / n * (1 - k / n) / n)
        for p in shares:
            weights = scipy.stats.binom.pmf(k, n, p)
            wilson.append(weights[(low <= p) & (p <= high)].sum())
            wald.append(weights[abs(k / n - p) <= half].sum())
    assert abs(np.mean(wilson) - 0.95) < abs(np.mean(wald) - 0.95) / 10
    assert np.mean(wald) < 0.94


@pytest.mark.parametrize(
    ("successes", "n", "message"),
    [
        (0, 0, "skip this group"),
        (3, 2, "must lie in 0..n"),
        (-1, 2, "must lie in 0..n"),
        (1.5, 2, "whole numbers"),
    ],
)
def test_counts_are_checked(successes, n, message):
    with pytest.raises(ValueError, match=message):
        stats.wilson(successes, n)
    with pytest.raises(ValueError, match=message):
        significance.exact_two_share_p(1, 2, successes, n)


# Bootstrap of clusters and of pairs


def clustered_normal(rng, k: int, size: int, icc: float) -> tuple[np.ndarray, np.ndarray]:
    """Standard normal values, mean 0, with the given intra-cluster correlation."""
    clusters = np.repeat(np.arange(k), size)
    shared, own = rng.normal(size=k), rng.normal(size=k * size)
    return math.sqrt(icc) * shared[clusters] + math.sqrt(1 - icc) * own, clusters


def test_cluster_bootstrap_covers_and_itemwise_does_not():
    k, size, icc, runs, n_resamples = 60, 4, 0.5, 600, 399
    rng = np.random.default_rng(11)
    clustered, itemwise = [], []
    for seed in range(runs):
        values, clusters = clustered_normal(rng, k, size, icc)
        items = np.arange(len(values))
        clustered.append(
            stats.cluster_bootstrap(values, clusters, seed=seed, n_resamples=n_resamples)
        )
        itemwise.append(stats.cluster_bootstrap(values, items, seed=seed, n_resamples=n_resamples))
    assert_covers(clustered, 0, percentile_coverage(k, n_resamples))
    # The design effect 1 + (m - 1) icc is by how much the item-wise variance is too small.
    naive = percentile_coverage(k * size, n_resamples, inflation=1 + (size - 1) * icc)
    assert naive < 0.8
    assert_covers(itemwise, 0, naive)


def test_paired_bootstrap_covers_the_planted_difference():
    """Two models on shared prompts: a is right with chance 0.7, b with 0.6, prompts in common."""
    k, size, runs, n_resamples = 120, 3, 800, 399
    rng = np.random.default_rng(12)
    clusters = np.repeat(np.arange(k), size)
    estimates = []
    for seed in range(runs):
        common = rng.normal(size=k)[clusters]
        a, b = (
            (common + rng.normal(size=k * size)) / math.sqrt(2) < scipy.stats.norm.ppf(share)
            for share in (0.7, 0.6)
        )
        estimates.append(stats.paired_bootstrap(a, b, clusters, seed=seed, n_resamples=n_resamples))
    assert_covers(estimates, 0.1, percentile_coverage(k, n_resamples))


def test_fast_mean_equals_the_loop_over_pooled_rows():
    """Same seed, same draws: sums and counts give what pooling the rows gives, sizes unequal."""
    rng = np.random.default_rng(3)
    clusters = rng.choice(list("abcdefghij"), size=50)
    values = rng.normal(size=50) + (clusters == "a") * 3
    fast = stats.cluster_bootstrap(values, clusters, seed=5, n_resamples=300)
    loop = stats.cluster_bootstrap(values, clusters, lambda v: v.mean(), seed=5, n_resamples=300)
    assert fast[:3] == pytest.approx(loop[:3], rel=1e-12)
    assert fast[3:] == loop[3:]
    assert fast.value == pytest.approx(values.mean(), rel=1e-12)
    assert fast.method == "percentile cluster bootstrap, 300 resamples of 10 clusters, seed 5"


def test_two_clusters_by_hand():
    """Draws AA, AB, BA, BB: the ends are the clusters' own means, the value weighs by size."""
    estimate = stats.cluster_bootstrap([0, 0, 0, 1], ["A", "A", "A", "B"], seed=0)
    assert estimate[:4] == (0.25, 0, 1, 4)


def test_clusters_of_one_mean_keep_the_value_inside():
    """All clusters have mean 0.5, but sums of decimals round: every resample ends off 0.5."""
    values = [0.2, 0.8, 0.2, 0.8, -0.5, 1.5, 0.5, 0.5, 0.5, 0.5]
    estimate = stats.cluster_bootstrap(values, [0, 0, 1, 1, 2, 2, 3, 4, 5, 6], seed=0)
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate[:3] == pytest.approx((0.5, 0.5, 0.5), rel=1e-12)


def test_general_statistic_is_used():
    values = np.array([0.0, 0, 0, 0, 0, 0, 0, 0, 0, 100])
    estimate = stats.cluster_bootstrap(values, np.arange(10), np.median, seed=0, n_resamples=400)
    # More than half of ten draws on the one outlier has probability below 1e-4.
    assert estimate[:3] == (0, 0, 0)


finite = st.floats(-1e6, 1e6).map(lambda v: round(v, 3))
samples = st.lists(st.tuples(finite, st.integers(0, 4)), min_size=2, max_size=30).filter(
    lambda rows: len({cluster for _, cluster in rows}) > 1
)


@settings(max_examples=60, deadline=None)
@given(samples, st.integers(0, 2**32 - 1))
def test_cluster_bootstrap_properties(rows, order_seed):
    values, clusters = zip(*rows, strict=True)
    estimate = stats.cluster_bootstrap(values, clusters, seed=1, n_resamples=200)
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate == stats.cluster_bootstrap(values, clusters, seed=1, n_resamples=200)
    shuffled = [rows[i] for i in np.random.default_rng(order_seed).permutation(len(rows))]
    again = stats.cluster_bootstrap(*zip(*shuffled, strict=True), seed=1, n_resamples=200)
    assert again.value == pytest.approx(estimate.value, rel=1e-9, abs=1e-6)


def test_another_seed_draws_anew():
    values, clusters = clustered_normal(np.random.default_rng(0), 30, 2, 0.5)
    first, second = (stats.cluster_bootstrap(values, clusters, seed=s) for s in (0, 1))
    assert first.value == second.value
    assert (first.low, first.high) != (second.low, second.high)


@pytest.mark.filterwarnings("error")
@given(finite, st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_constant_data_collapse(value, n):
    clusters = np.arange(n) // 2 if n > 2 else np.arange(n)
    estimate = stats.cluster_bootstrap([value] * n, clusters, seed=0, n_resamples=50)
    assert estimate[:4] == (value, value, value, n)
    same = stats.paired_bootstrap([value] * n, [value] * n, seed=0, n_resamples=50)
    assert same[:4] == (0, 0, 0, n)


@pytest.mark.parametrize(
    ("values", "clusters", "message"),
    [
        ([1, 2], ["p", "p"], "nothing to resample"),
        ([1, 2], ["p"], "one label for each of 2"),
        ([1, 2], ["p", None], "missing labels"),
        ([1, np.nan], ["p", "q"], "1 missing or infinite"),
        ([], [], "at least 1 value"),
    ],
)
def test_cluster_bootstrap_refuses(values, clusters, message):
    with pytest.raises(ValueError, match=message):
        stats.cluster_bootstrap(values, clusters, seed=0)


def test_paired_bootstrap_is_the_bootstrap_of_differences():
    rng = np.random.default_rng(4)
    a, b = rng.random((2, 40)) < 0.6
    prompts = rng.integers(0, 15, 40)
    difference = a.astype(float) - b
    clustered = stats.paired_bootstrap(a, b, prompts, seed=9)
    assert clustered[:4] == stats.cluster_bootstrap(difference, prompts, seed=9)[:4]
    assert clustered.method.startswith("paired difference, percentile cluster bootstrap")
    items = stats.paired_bootstrap(a, b, seed=9)
    assert items[:4] == stats.cluster_bootstrap(difference, np.arange(40), seed=9)[:4]
    assert "2000 resamples of 40 items, seed 9" in items.method
    with pytest.raises(ValueError, match="the same items"):
        stats.paired_bootstrap(a, b[:-1], seed=9)
    with pytest.raises(ValueError, match="nothing to resample"):
        stats.paired_bootstrap([1], [0], seed=9)


# Correlation


def bivariate_normal(rng, rho: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    x, e = rng.normal(size=(2, n))
    return x, rho * x + math.sqrt(1 - rho**2) * e


def test_pearson_fisher_closed_form():
    rng = np.random.default_rng(6)
    x, y = bivariate_normal(rng, 0.4, 50)
    estimate = stats.correlation(x, y, seed=0)
    r = np.corrcoef(x, y)[0, 1]
    ends = np.tanh(np.arctanh(r) + np.array([-Z, Z]) / math.sqrt(47))
    assert estimate[:3] == pytest.approx((r, *ends))
    assert estimate[3:] == (50, "Pearson r, Fisher z interval")


def test_pearson_fisher_covers():
    rng = np.random.default_rng(7)
    pairs = (bivariate_normal(rng, 0.6, 60) for _ in range(2000))
    assert_covers([stats.correlation(x, y, seed=0) for x, y in pairs], 0.6, 0.95)


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        ("pearson", scipy.stats.pearsonr),
        ("spearman", scipy.stats.spearmanr),
        ("kendall", scipy.stats.kendalltau),
    ],
)
def test_coefficients_are_scipys_with_ties(kind, reference):
    rng = np.random.default_rng(8)
    x, y = rng.integers(0, 5, (2, 60))
    prompts = rng.integers(0, 30, 60)
    estimate = stats.correlation(x, y, kind, clusters=prompts, seed=2, n_resamples=200)
    assert estimate.value == pytest.approx(reference(x, y).statistic)
    assert estimate.low < estimate.value < estimate.high
    k = len(set(prompts))
    assert f"cluster bootstrap, 200 resamples of {k} clusters, seed 2" in estimate.method
    assert estimate == stats.correlation(x, y, kind, clusters=prompts, seed=2, n_resamples=200)


@pytest.mark.parametrize(
    ("kind", "truth"),
    [
        # Values at rho = 0.5 under the bivariate normal (Kruskal 1958).
        ("spearman", 6 / math.pi * math.asin(0.25)),
        ("kendall", 2 / math.pi * math.asin(0.5)),
    ],
)
def test_rank_correlations_cover_the_planted_value(kind, truth):
    n, runs, n_resamples = 100, 120, 99
    rng = np.random.default_rng(9)
    estimates = []
    for seed in range(runs):
        x, y = bivariate_normal(rng, 0.5, n)
        estimates.append(stats.correlation(x, y, kind, seed=seed, n_resamples=n_resamples))
    assert_covers(estimates, truth, percentile_coverage(n, n_resamples))


def test_clustered_correlation_covers_and_itemwise_does_not():
    """Every pair thrice: three times the rows, not one pair more of information."""
    k, copies, runs, n_resamples = 120, 3, 150, 99
    rng = np.random.default_rng(10)
    clusters = np.repeat(np.arange(k), copies)
    clustered, itemwise = [], []
    for seed in range(runs):
        x, y = (np.repeat(v, copies) for v in bivariate_normal(rng, 0.5, k))
        options = {"seed": seed, "n_resamples": n_resamples}
        clustered.append(stats.correlation(x, y, clusters=clusters, **options))
        itemwise.append(stats.correlation(x, y, clusters=np.arange(k * copies), **options))
    assert_covers(clustered, 0.5, percentile_coverage(k, n_resamples))
    naive = percentile_coverage(k * copies, n_resamples, inflation=copies)
    assert naive < 0.75
    assert_covers(itemwise, 0.5, naive)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["spearman", "kendall"])
def test_undefined_resamples_are_counted(kind):
    """Four items, x with one outlier: a resample without it, or of it alone, has constant x."""
    estimate = stats.correlation([1, 1, 1, 4], [1, 3, 2, 4], kind, seed=0)
    undefined = int(estimate.method.split("; ")[1].split()[0])
    # x is constant with probability (3/4)^4 + (1/4)^4; with both x in, y varies as well.
    expected = (3**4 + 1) / 4**4
    assert abs(undefined / 2000 - expected) < four_se(expected, 2000)
    assert -1 <= estimate.low <= estimate.high <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=4, max_size=40))
def test_pearson_interval_holds_its_value(rows):
    x, y = zip(*rows, strict=True)
    if len(set(x)) == 1 or len(set(y)) == 1:
        with pytest.raises(ValueError, match="constant"):
            stats.correlation(x, y, seed=0)
        return
    estimate = stats.correlation(x, y, seed=0)
    assert -1 <= estimate.low <= estimate.value <= estimate.high <= 1


@pytest.mark.parametrize("kind", ["pearson", "spearman", "kendall"])
def test_correlation_refuses(kind):
    with pytest.raises(ValueError, match="at least 4"):
        stats.correlation([1, 2, 3], [1, 2, 3], kind, seed=0)
    with pytest.raises(ValueError, match="y is constant"):
        stats.correlation([1, 2, 3, 4], [2, 2, 2, 2], kind, seed=0)
    with pytest.raises(ValueError, match="nothing to resample"):
        stats.correlation([1, 2, 3, 4], [2, 1, 4, 3], kind, clusters=[7] * 4, seed=0)
    with pytest.raises(ValueError, match="the same items"):
        stats.correlation([1, 2, 3, 4], [2, 1, 4], kind, seed=0)


def test_correlation_refuses_unknown_kind():
    with pytest.raises(ValueError, match="pearson, spearman, kendall"):
        stats.correlation([1, 2, 3, 4], [2, 1, 4, 3], "tau", seed=0)
