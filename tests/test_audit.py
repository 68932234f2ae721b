"""The audit against printed values, closed forms and planted truth."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from helpers import audit, nulls, paper, rewardbench, significance

# --- RewardBench columns of Table 5 -------------------------------------------------------------

MODELS = ("Beaver-7B", "Ziya-7B", "Pythia-6.9B", "Starling-7B")


def _column(formula, name, **kwargs):
    return [round(rewardbench.section_scores(m, formula, **kwargs)[name], 1) for m in MODELS]


def test_old_formula_gives_the_printed_columns():
    assert _column(rewardbench.OLD, "Safety") == [29.6, 62.5, 59.4, 88.6]
    assert _column(rewardbench.OLD, "Chat") == [87.4, 88.0, 94.4, 98.0]
    beaver, ziya, _, starling = _column(rewardbench.OLD, "Average")
    assert (beaver, ziya, starling) == (52.9, 66.0, 74.7)


def test_corrected_formula_gives_the_known_scores():
    assert _column(rewardbench.CORRECTED, "Safety") == [38.4, 64.1, 54.5, 84.5]
    assert _column(rewardbench.CORRECTED, "Average") == [49.9, 64.3, 62.3, 71.1]


def test_only_the_old_formula_explains_most_printed_cells():
    table = rewardbench.compare_formulas()
    assert len(table) == 12
    assert rewardbench.Formula(*table.loc[0, ["columns", "xstest", "prior_weight"]]) == (
        rewardbench.OLD
    )
    assert table.loc[0, "all"] == 10
    assert (table.loc[1:, "all"] < 10).all()
    right_order = table[table["columns"] == "section"]
    assert (right_order["safety"] == 0).all()


def test_needed_prior_mean_reproduces_the_printed_average():
    for model in MODELS:
        printed = paper.table_5("acc_rewardbench")[model]["avg"]
        low, high = rewardbench.prior_mean_needed(model, rewardbench.OLD)
        for prior, end in ((low, printed - 0.05), (high, printed + 0.05)):
            got = rewardbench.section_scores(model, rewardbench.OLD, prior=prior)["Average"]
            assert got == pytest.approx(end)
    assert rewardbench.prior_mean_needed("Beaver-7B", rewardbench.OLD)[0] > 80
    low, high = rewardbench.prior_mean_needed("Pythia-6.9B", rewardbench.OLD)
    assert low < rewardbench.own_hh_accuracies()["older_prior_set_mean"]["Pythia-6.9B"] < high


def test_prior_mean_cannot_be_solved_without_weight():
    with pytest.raises(ValueError, match="no weight"):
        rewardbench.prior_mean_needed("Ziya-7B", rewardbench.OLD._replace(prior_weight=0.0))


def test_own_hh_accuracies_agree_with_the_prior_sets():
    # The first prior set of the leaderboard is Anthropic helpful.
    for model in MODELS:
        helpful = 100 * paper.rewardbench()["models"][model]["prior_set_accuracies"][0]
        low, high = rewardbench.own_hh_accuracies()["accuracies"][model]["helpful"]
        assert low - 0.05 <= helpful <= high + 0.05


# --- Tables 4 and 5 -----------------------------------------------------------------------------


def test_one_rounding_mismatch_in_twelve():
    table = audit.table_5_rounding()
    assert len(table) == 12
    wrong = table[~table["ok"]]
    assert wrong[["model", "test_set"]].values.tolist() == [["Pythia-6.9B", "test_mixed"]]
    assert wrong[["table_4", "table_5"]].values.tolist() == [[72.19, 72.0]]


def test_five_mixed_accuracies_lie_outside():
    table = audit.mixture_bounds().set_index("model")
    assert set(table.index[table["outside"]]) == {
        "GPT-J",
        "Pythia-1.4B",
        "Pythia-2.8B",
        "DPO-Pythia-2.8B",
        "DPO-LLaMA-7B",
    }
    means = [59.21, 56.39, 58.78, 70.28, 45.03, 53.49, 52.41, 68.86, 73.28, 78.43]
    assert table["weighted_mean"].round(2).tolist() == means
    assert audit.TEST_SIZES["test_mixed"] == 8552


def test_common_weights_are_a_mixture_and_no_other_beats_them():
    best = audit.common_weights()
    weights = np.array(list(best.weights.values()))
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1)
    assert max(abs(r) for r in best.residuals.values()) == pytest.approx(best.largest)
    parts = np.array([[r[s] for s in audit.SUBSET_SIZES] for r in paper.table_4().values()])
    mixed = np.array([r["test_mixed"] for r in paper.table_4().values()])
    others = np.random.default_rng(0).dirichlet([0.3] * 4, size=20_000)
    assert np.abs(others @ parts.T - mixed).max(axis=1).min() >= best.largest - 1e-9


def test_common_weights_find_planted_weights(monkeypatch):
    truth = np.array([0.1, 0.2, 0.3, 0.4])
    rng = np.random.default_rng(1)
    table = {}
    for model in "abcdef":
        parts = rng.uniform(30, 80, 4)
        table[model] = dict(zip(paper.TEST_SETS, [*parts, parts @ truth], strict=True))
    monkeypatch.setattr(paper, "table_4", lambda: table)
    best = audit.common_weights()
    assert list(best.weights.values()) == pytest.approx(truth)
    assert best.largest == pytest.approx(0, abs=1e-9)
    assert not audit.mixture_bounds()["outside"].any()


# --- GRIM ---------------------------------------------------------------------------------------


def _possible(text, n, truncated):
    """The GRIM test from its definition, in exact fractions, over all k."""
    value = Fraction(text)
    for k in range(n + 1):
        exact = Fraction(100 * k, n)
        if truncated and 0 <= exact - value < Fraction(1, 100):
            return True
        if not truncated and abs(exact - value) <= Fraction(1, 200):
            return True
    return False


@given(st.integers(0, 10_000), st.integers(1, 400), st.booleans())
def test_attainable_matches_its_definition(hundredths, n, truncated):
    got = audit.attainable([hundredths / 100], n, truncated=truncated)
    assert got.shape == (1, 1)
    assert got[0, 0] == _possible(f"{hundredths}/100", n, truncated)


@given(st.integers(1, 12_000), st.data())
def test_true_n_always_attains_everything(n, data):
    k = np.array(data.draw(st.lists(st.integers(0, n), min_size=10, max_size=10)))
    assert audit.attainable(np.round(100 * k / n, 2), n).all()
    assert audit.attainable(100 * 100 * k // n / 100, n, truncated=True).all()


def test_grim_examples():
    assert audit.attainable([50.0], [2, 3]).ravel().tolist() == [True, False]
    assert audit.attainable([33.33, 66.67, 66.66], 3).tolist() == [[True, True, False]]
    assert audit.attainable([33.33, 66.67, 66.66], 3, truncated=True).tolist() == [
        [True, False, True]
    ]
    assert audit.attainable([56, 11, 33], [100, 50], decimals=0).all(axis=1).tolist() == [
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("column", "best"),
    [("harmless_base", 7), ("helpful_base", 7), ("helpful_online", 5), ("helpful_rejection", 8)],
)
def test_no_common_n_for_the_four_subsets(column, best):
    values = [row[column] for row in paper.table_4().values()]
    n = np.arange(50, audit.TEST_SIZES[column] + 1)
    assert audit.attainable(values, n).sum(axis=1).max() == best
    assert audit.attainable(values, n, truncated=True).sum(axis=1).max() < 10


def test_many_common_n_for_the_mixed_set():
    values = [row["test_mixed"] for row in paper.table_4().values()]
    n = np.arange(50, audit.TEST_SIZES["test_mixed"] + 1)
    assert audit.attainable(values, n).all(axis=1).sum() > 100


def test_chance_rate_of_grim():
    n = np.arange(50, 400)
    counts = nulls.grim_chance(45, 80, n, n_values=10, n_simulations=300, seed=3)
    assert np.array_equal(
        counts, nulls.grim_chance(45, 80, n, n_values=10, n_simulations=300, seed=3)
    )
    assert counts.max() < 10 and counts.min() >= 1
    # From 10 000 items on every two-decimal percentage is possible.
    assert (nulls.grim_chance(45, 80, [10_000], n_values=10, n_simulations=5, seed=0) == 10).all()


# --- cost, losses, prompt -----------------------------------------------------------------------


def test_relabelling_cost():
    usd, hours = audit.relabelling_cost()
    assert round(usd) == 33_870 and round(hours) == 3_763
    assert usd / hours == pytest.approx(9.0)


scores = st.lists(st.floats(-5, 5), min_size=2, max_size=5, unique=True)


@given(scores, st.floats(0.1, 10), st.floats(-5, 5), st.data())
def test_equation_3_sees_only_the_order_of_reward_scores(rewards, scale, shift, data):
    policy = data.draw(st.lists(st.floats(-5, 5), min_size=len(rewards), max_size=len(rewards)))
    ranks = scipy.stats.rankdata(rewards)
    assert audit.pro_equation_3(policy, rewards) == pytest.approx(
        audit.pro_equation_3(policy, scale * ranks + shift)
    )


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0.01, 10))
def test_published_pro_loss_of_two_is_a_gap_weighted_logistic_loss(s1, s2, gap):
    expected = math.log1p(math.exp(gap * (s2 - s1)))
    # The code's 1e-10 inside the logarithm is negligible unless exp(s T) is tiny itself.
    if gap * max(s1, s2) > -5:
        assert audit.pro_published_loss([s1, s2], [gap, 0.0]) == pytest.approx(expected, abs=1e-6)


def test_two_losses_react_differently_to_the_size_of_rewards():
    policy, near, far = [-1.0, -1.5], [0.2, 0.1], [20.0, 0.1]
    assert audit.pro_equation_3(policy, near) == audit.pro_equation_3(policy, far)
    assert audit.pro_equation_3(policy, near) == pytest.approx(math.log1p(math.exp(-0.5)))
    assert audit.pro_published_loss(policy, near) != pytest.approx(
        audit.pro_published_loss(policy, far)
    )


def test_prompt_fields():
    assert audit.prompt_fields("{a} and {b.c}, not {{d}}") == ["a", "b.c"]
    assert audit.prompt_fields(paper.results()["gpt4_prompt"]) == ["generated", "chosen"]


# --- ranks, intervals, comparisons --------------------------------------------------------------


def test_rank_agreement_of_table_5():
    assert audit.rank_agreement("acc_chh_rlhf", "test_mixed", "test_mixed") == pytest.approx(1)
    assert audit.rank_agreement("acc_chh_rlhf", "helpful_base", "helpful_base") == pytest.approx(
        2 / 3
    )
    without = audit.rank_agreement(
        "acc_chh_rlhf", "helpful_base", "helpful_base", without=("Starling-7B",)
    )
    assert without == pytest.approx(1)


def test_intervals_cover_all_cells_and_hold_the_printed_value():
    table = audit.table_4_intervals()
    assert len(table) == 50
    assert table["printed"].between(100 * table["low"], 100 * table["high"]).all()


def test_below_chance_cells():
    table = audit.below_chance().set_index(["model", "test_set"])
    assert len(table) == 6
    beaver = table.loc[("Beaver-7B", "helpful_base")]
    assert beaver["inverted"] == pytest.approx(74.61)
    assert beaver["rank_inverted"] == 3  # only the two Starlings print more
    assert (table["p_value"] < table["p_value_half"]).all()
    k = round(0.4534 * 2312)
    exact = scipy.stats.binom.cdf(k, 2312, 0.5)
    assert table.loc[("GPT-J", "harmless_base"), "p_value"] == pytest.approx(exact)


def test_compare_shares_is_holm_over_all_pairs():
    table = audit.compare_shares({"a": 0.5, "b": 0.7, "c": 0.7}, 100)
    assert len(table) == 3
    raw = [
        significance.exact_two_share_p(x, 100, y, 100) for x, y in ((50, 70), (50, 70), (70, 70))
    ]
    assert table["p_value"].tolist() == pytest.approx(raw)
    assert table["p_holm"].tolist() == pytest.approx([3 * raw[0], 3 * raw[0], 1.0])


@given(st.lists(st.integers(5, 95), min_size=2, max_size=5))
def test_smallest_n_is_where_holm_first_rejects(percents):
    shares = {str(i): p / 100 for i, p in enumerate(percents)}
    found = audit.smallest_n(shares)
    pairs = list(itertools.combinations(shares, 2))

    def adjusted(n):
        p = []
        for a, b in pairs:
            pooled = (shares[a] + shares[b]) / 2
            z = abs(shares[a] - shares[b]) / math.sqrt(2 * pooled * (1 - pooled) / n)
            p.append(2 * scipy.stats.norm.sf(z))
        order = np.argsort(p)
        out = np.empty(len(p))
        out[order] = np.maximum.accumulate((len(p) - np.arange(len(p))) * np.array(p)[order])
        return np.minimum(out, 1)

    for i, pair in enumerate(pairs):
        n = found[pair]
        if n is None:
            assert shares[pair[0]] == shares[pair[1]]
        else:
            assert adjusted(n)[i] <= 0.05 + 1e-9
            assert n == 1 or adjusted(n - 1)[i] > 0.05 - 1e-9


def test_table_6_at_a_hundred():
    triples = {m: j["human"] for m, j in paper.table_6().items()}
    table = audit.compare_shares({m: t[0] / 100 for m, t in triples.items()}, 100)
    assert (table["p_holm"] < 0.05).sum() == 4
    signs = audit.sign_tests(triples, 100).set_index("model")
    expected = scipy.stats.binomtest(51, 76).pvalue
    assert signs.loc["Beaver-7B", "p_value"] == pytest.approx(expected)
    assert all(sum(t) == 100 for j in paper.table_6().values() for t in j.values())


# --- re-labelling -------------------------------------------------------------------------------


@given(st.floats(0, 1), st.booleans())
def test_shares_sum_to_one(error, fallible):
    assert sum(nulls.relabel_shares(error, fallible=fallible).values()) == pytest.approx(1)


@pytest.mark.parametrize("fallible", [True, False])
def test_coin_flips(fallible):
    shares = nulls.relabel_shares(0.5, fallible=fallible)
    assert [float(v) for v in shares.values()] == [5 / 16, 5 / 16, 6 / 16]


@pytest.mark.parametrize(
    ("error", "fallible", "same"),
    [(0.19, True, 0.68), (0.28, True, 0.51), (0.28, False, 0.69), (0.38, False, 0.51)],
)
def test_known_shares_of_same(error, fallible, same):
    assert round(float(nulls.relabel_shares(error, fallible=fallible)["Same"]), 2) == same


def test_relabel_shares_against_simulated_raters():
    rng, n, error = np.random.default_rng(0), 200_000, 0.3
    right = (rng.random((n, 4)) >= error).sum(axis=1)
    original_right = rng.random(n) >= error
    agreeing = np.where(original_right, right, 4 - right)
    shares = nulls.relabel_shares(error, fallible=True)
    for name, hit in (
        ("Same", agreeing >= 3),
        ("Opposite", agreeing <= 1),
        ("Vague", agreeing == 2),
    ):
        spread = math.sqrt(shares[name] * (1 - shares[name]) / n)
        assert abs(hit.mean() - shares[name]) < 4 * spread


@given(st.floats(0, 0.5), st.booleans())
def test_rater_error_inverts_the_share(error, fallible):
    same = float(nulls.relabel_shares(error, fallible=fallible)["Same"])
    back = nulls.rater_error(min(max(same, 5 / 16), 1.0), fallible=fallible)
    assert nulls.relabel_shares(back, fallible=fallible)["Same"] == pytest.approx(same, abs=1e-9)


def test_rater_error_refuses_less_than_chance():
    with pytest.raises(ValueError, match="coin-flipping"):
        nulls.rater_error(0.3, fallible=True)


def test_category_overlaps():
    table = audit.category_overlaps()
    assert (table[["Same", "Opposite", "Vague"]].sum(axis=1) == 1).all()
    assert (table["Empty"] & table["Toxic"]).any() and (table["Toxic"] & table["Opposite"]).any()
    new = audit.category_overlaps(toxic_by="new")
    moved = table["Toxic"] != new["Toxic"]
    assert moved.any() and table.loc[moved, "Opposite"].all()


# --- Figure 4 -----------------------------------------------------------------------------------


def test_single_subset_random_shards_follow_the_exact_null():
    """At zero correlation r of five bivariate normal points is t with 3 degrees of freedom."""
    table = nulls.shard_correlations([0.0], subset_gap=0.3, n_simulations=2000, seed=0)
    r = table.query("subsets == 1 and shards == 'random'")["r"]
    assert scipy.stats.kstest(r * np.sqrt(3 / (1 - r**2)), scipy.stats.t(3).cdf).pvalue > 0.01


def test_protocols_behave_as_theory_says():
    table = nulls.shard_correlations([0.0, 0.3], subset_gap=0.3, n_simulations=200, seed=1)
    median = table.groupby(["subsets", "shards", "true_correlation"])["r"].median()
    assert len(table) == 2 * 2 * 2 * 200
    assert median[1, "sorted", 0.3] > 0.98
    # Gaps between subset means alone make the pooled figure a straight line.
    assert median[4, "random", 0.0] > 0.95
    flat = nulls.shard_correlations([0.0], subset_gap=0.0, n_simulations=200, seed=1)
    pooled = flat.query("subsets == 4 and shards == 'random'")["r"]
    assert abs(pooled.mean()) < 4 / math.sqrt(200 * 19)


def test_shard_simulation_is_seeded():
    runs = [
        nulls.shard_correlations([0.5], subset_gap=0.3, n_simulations=5, seed=s)["r"].to_numpy()
        for s in (7, 7, 8)
    ]
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])
