import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from helpers import accuracy, circularity, rewards
from helpers.circularity import LabelSource
from helpers.pairs import ASSISTANT, HUMAN, frame, parse
from helpers.rewards import Scorer

# Chosen longer than rejected, in characters; counted from the files by an independent script.
LONGEST = {
    "harmless-base": 0.4425,
    "helpful-base": 0.5956,
    "helpful-online": 0.4257,
    "helpful-rejection-sampled": 0.5580,
}


def make(n: int, *, subsets=("s",), per_prompt: int = 1):
    records = []
    for i in range(n):
        prompt = f"{HUMAN} question {i // per_prompt}?{ASSISTANT}"
        subset = subsets[i % len(subsets)]
        record = parse(prompt + f" yes {i}", prompt + f" no {i}")
        records.append(dict(record, subset=subset, split="test", row=i))
    return frame(records)


def margins_of(data, values, name="m", kind="model", repeat=0, fold=0):
    return pd.DataFrame(
        dict(scorer=name, kind=kind, repeat=repeat, fold=fold, pair_id=data["pair_id"])
        | dict(margin=np.asarray(values, dtype=float))
    )


def value(table, measure, test_set=accuracy.MIXTURE):
    row = table[(table["measure"] == measure) & (table["test_set"] == test_set)]
    return row["value"].item()


# Eq. 2


def test_a_constant_scorer_is_never_right_and_always_tied():
    data = make(30)
    constant = rewards.length(1)._replace(score=lambda prompts, responses: np.ones(len(responses)))
    table = accuracy.table(margins_of(data, rewards.margins(constant, data)), data, seed=0)
    assert [value(table, m) for m in ("strict", "half", "ties")] == [0, 0.5, 1]


def test_length_baseline_on_the_real_test_sets(hh_test_sets):
    _, data = hh_test_sets
    margins = margins_of(data, rewards.margins(rewards.length(1), data))
    table = accuracy.table(margins, data, seed=0, n_resamples=50)
    for subset, known in LONGEST.items():
        assert round(value(table, "strict", subset), 4) == known
        assert value(table, "wilson", subset) == value(table, "strict", subset)
    shorter = accuracy.per_pair(margins.assign(margin=-margins["margin"])).mean()
    assert value(table, "strict") + shorter + value(table, "ties") == pytest.approx(1)


@settings(max_examples=30)
@given(st.lists(st.sampled_from([-1.0, 0.0, 2.0]), min_size=6, max_size=40), st.integers(1, 3))
def test_the_mixture_lies_between_its_subsets(values, n_subsets):
    data = make(len(values), subsets=("a", "b", "c")[:n_subsets])
    table = accuracy.table(margins_of(data, values), data, seed=0, n_resamples=20)
    for measure in ("strict", "half", "ties"):
        parts = table[(table["measure"] == measure) & (table["test_set"] != accuracy.MIXTURE)]
        low, high = parts["value"].min(), parts["value"].max()
        assert low - 1e-12 <= value(table, measure) <= high + 1e-12


def test_repeats_of_the_same_decisions_make_no_interval_narrower():
    data = make(60)
    values = np.resize([1, 1, -1], 60)
    once = margins_of(data, values)
    five = pd.concat([margins_of(data, values, repeat=r) for r in range(5)])
    first, again = (accuracy.table(m, data, seed=0) for m in (once, five))
    pd.testing.assert_frame_equal(first, again)


def test_a_pair_that_is_right_in_half_of_the_repeats_counts_half_and_has_no_wilson_interval():
    data = make(4)
    margins = pd.concat([margins_of(data, [1, 1, -1, -1]), margins_of(data, [1, -1, 1, -1])])
    table = accuracy.table(margins, data, seed=0)
    assert value(table, "strict") == 0.5 and "wilson" not in set(table["measure"])


def test_pairs_of_one_prompt_are_one_cluster():
    alone, together = make(40), make(40, per_prompt=4)
    values = np.repeat([1, -1] * 5, 4)
    widths = []
    for data in (alone, together):
        table = accuracy.table(margins_of(data, values), data, seed=0)
        row = table[(table["measure"] == "strict") & (table["test_set"] == "s")].iloc[0]
        widths.append(row["high"] - row["low"])
    assert widths[1] > 1.5 * widths[0]


def test_missing_margins_are_errors_and_not_wrong_answers():
    with pytest.raises(ValueError, match="2 of 3 margins"):
        accuracy.credit([np.nan, np.inf, 1])


# Lift over the best null


def test_the_p_value_of_a_lift_is_that_of_all_sign_flips():
    data = make(8)
    better = margins_of(data, np.ones(8))
    worse = margins_of(data, [-1] * 6 + [1] * 2, "null", "null")
    # Six clusters that differ, all in one direction: 2 of the 64 ways to flip them are as far.
    p = accuracy.lift_p(better, worse, data, seed=0)
    assert p == pytest.approx(2 / 64, abs=0.008)
    assert p == accuracy.lift_p(worse, better, data, seed=0)
    assert accuracy.lift_p(better, better, data, seed=0) == 1
    with pytest.raises(ValueError, match="share no pair"):
        accuracy.lift_p(better[:4], worse[4:], data, seed=0)


def test_pairs_of_one_prompt_change_places_together():
    data = make(8, per_prompt=4)
    better, worse = margins_of(data, np.ones(8)), margins_of(data, -np.ones(8), "null", "null")
    assert accuracy.lift_p(better, worse, data, seed=0) == pytest.approx(0.5, abs=0.03)


def test_a_tie_counts_as_asked():
    data = make(8)
    tied = margins_of(data, np.zeros(8), "null", "null")
    half = margins_of(data, [1, -1] * 4)
    assert accuracy.lift_p(half, tied, data, seed=0, tie=accuracy.HALF) == 1
    assert accuracy.lift_p(half, tied, data, seed=0) < 0.2


def test_the_null_is_chosen_on_training_pairs_and_not_on_the_test():
    data = make(20)
    test, train = data[:10], data[10:]
    nulls = {"lucky": (1, -1), "honest": (-1, 1)}  # right on the test, right in training
    found, held = (
        pd.concat([margins_of(d, np.full(10, v[i]), name, "null") for name, v in nulls.items()])
        for i, d in enumerate((test, train))
    )
    chosen = accuracy.pick(held, data)
    assert chosen["scorer"].tolist() == ["honest"]
    worst = accuracy.pick(held, data, ["repeat"], worst=True)
    assert worst.to_dict("records") == [{"repeat": 0, "scorer": "lucky"}]
    null = accuracy.choose(found, chosen, data)
    model = margins_of(test, np.ones(10))
    lift = accuracy.lift(model, null, data, seed=0)
    assert (lift.value, lift.low, lift.high) == (1, 1, 1)


def test_lift_is_the_difference_on_the_pairs_that_both_scored():
    data = make(10)
    model = margins_of(data[:6], [1, 1, 1, 1, -1, -1])
    null = margins_of(data[2:], [1, -1, -1, -1, 1, 1, 1, 1], "n", "null")
    # Shared pairs 2..5: the model is right on two, the null on one.
    assert accuracy.lift(model, null, data, seed=0)[0] == pytest.approx(0.25)
    with pytest.raises(ValueError, match="share no pair"):
        accuracy.lift(model[:2], null, data, seed=0)


def test_without_scorers_there_is_nothing_to_pick():
    data = make(4)
    with pytest.raises(ValueError, match="no scorer"):
        accuracy.pick(margins_of(data[:0], []), data)


# Tests between models, tie groups


def test_mcnemar_of_two_scorers_is_the_binomial_test_on_discordant_pairs():
    data = make(12)
    a = margins_of(data, [1] * 9 + [-1] * 3, "a")
    b = margins_of(data, [-1] * 8 + [1] * 4, "b")
    row = accuracy.compare(pd.concat([a, b])).iloc[0]
    assert (row["a_only"], row["b_only"], row["n"]) == (8, 3, 12)
    assert row["p_value"] == pytest.approx(binomtest(3, 11).pvalue)
    assert row["p_holm"] == row["p_value"]


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests():
    data = make(30)
    table = accuracy.compare(
        pd.concat([margins_of(data, np.full(30, v), n) for n, v in dict(a=1, b=-1, c=-2).items()])
    )
    assert len(table) == 3
    assert table["p_holm"].min() == pytest.approx(3 * table["p_value"].min())


@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(lambda p: p[0] < p[1])))
def test_two_names_share_a_letter_exactly_where_they_do_not_differ(differ):
    names = [f"n{i}" for i in range(7)]
    given_letters = accuracy.letters(names, [(f"n{a}", f"n{b}") for a, b in differ])
    for i in range(7):
        assert given_letters[f"n{i}"]
        for j in range(i + 1, 7):
            shared = set(given_letters[f"n{i}"]) & set(given_letters[f"n{j}"])
            assert bool(shared) == ((i, j) not in differ)


def test_letters_start_with_the_best():
    assert accuracy.letters(["x", "y", "z"], [("x", "z")]) == {"x": "a", "y": "ab", "z": "b"}
    assert accuracy.letters(["x", "y"], []) == {"x": "a", "y": "a"}


# Cleaned labels


def test_parts_of_cleaning_add_up_and_swapping_wrong_labels_makes_a_perfect_scorer_perfect():
    rng = np.random.default_rng(0)
    kind = rng.choice(["right", "wrong", "vague"], 600, p=[0.5, 0.3, 0.2])
    margin = np.select([kind == "right", kind == "wrong"], [1, -1], rng.choice([-1, 1], 600))
    found, parts = accuracy.removal(margin, kind == "vague", kind == "wrong", range(600), seed=0)
    assert found["cleaned"].value == 1
    assert found["kept"].value == pytest.approx((kind == "right").sum() / (kind != "vague").sum())
    assert parts["total"].value == pytest.approx(
        parts["dropping"].value + parts["swapping"].value, abs=1e-12
    )
    assert parts["swapping"].value == pytest.approx(1 - found["kept"].value)


def test_random_removal_leaves_the_accuracy_where_it_was():
    margin = np.resize([1, 1, 1, -1], 400)
    dropped = np.arange(400) % 4 == 3  # cleaning drops exactly what is wrong
    found, parts = accuracy.removal(margin, dropped, np.zeros(400, bool), range(400), seed=0)
    assert found["kept"].value == 1 and parts["dropping"].value == 0.25
    assert found["random"].value == pytest.approx(0.75, abs=0.005)
    assert found["random"].low < 0.75 < found["random"].high
    assert found["random"].n == found["kept"].n == 300


def test_dropping_the_near_ties_is_what_a_matched_removal_does_too():
    rng = np.random.default_rng(1)
    size = rng.random(4000)
    margin = np.where(rng.random(4000) < 0.5 + size / 2, size, -size)
    dropped = size < np.quantile(size, 0.3)  # the tenths of the margin's size, exactly
    found, parts = accuracy.removal(margin, dropped, np.zeros(4000, bool), range(4000), seed=0)
    assert parts["dropping"].low > 0.05
    assert found["matched"].value == pytest.approx(found["kept"].value)
    assert parts["beyond_margin"].value == pytest.approx(0, abs=1e-12)


def test_cleaning_that_keeps_nothing_is_refused():
    with pytest.raises(ValueError, match="drops every pair"):
        accuracy.removal([1.0, 2.0], [True, True], [False, False], [0, 1], seed=0)


# Circularity


def scorer(family="minilm", pair_ids=(), **facts):
    return Scorer("s", family, "", frozenset(pair_ids), frozenset(), len, facts)


def test_the_guard_names_every_overlap():
    panel = LabelSource("panel", frozenset({"tfidf"}), frozenset({"p1", "p2"}), "hh-rlhf")
    circular, why = circularity.guard(
        scorer("tfidf", {"p2"}, training_data="3,600 external pairs, Anthropic/HH_RLHF among them"),
        panel,
    )
    assert circular
    assert "family (tfidf)" in why and "1 pairs" in why and "hh-rlhf" in why


@pytest.mark.parametrize(
    ("tested", "labels", "circular"),
    [
        (scorer("tfidf"), LabelSource("panel", frozenset({"tfidf"})), True),
        (scorer("minilm", {"p"}), LabelSource("panel", frozenset({"tfidf"}), frozenset("p")), True),
        (scorer("minilm", {"p"}), LabelSource("original"), False),
        (scorer("ziya", training_data="HH-RLHF"), LabelSource("original", data="hh-rlhf"), True),
        (scorer("ziya", training_data="HH-RLHF"), LabelSource("simulation"), False),
        (scorer("profanity"), LabelSource("panel", frozenset({"tfidf"}), frozenset("p")), False),
    ],
)
def test_circular_or_not(tested, labels, circular):
    found, why = circularity.guard(tested, labels)
    assert found == circular == bool(why)


def test_a_circular_row_cannot_win():
    values = pd.Series({"circular": 0.9, "fair": 0.6, "poor": 0.5})
    assert circularity.winner(values, ["circular"]) == "fair"
    assert circularity.winner(values, []) == "circular"
    assert circularity.winner(values, values.index) is None
