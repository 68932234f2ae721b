import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers import stats, votes

SIDES = st.sampled_from(votes.VOTES)


def table(rows, source="test"):
    """Rows of (pair, annotator, vote) or (pair, annotator, vote, toxic)."""
    columns = ["pair_id", "annotator", "vote", "toxic"]
    return pd.DataFrame([(*r, False)[:4] for r in rows], columns=columns).assign(source=source)


def ballots(*sides, pair="p", toxic=0):
    return [(pair, f"a{i}", side, i < toxic) for i, side in enumerate(sides)]


def flags(pair_ids, empty=(), repetitive=()):
    index = pd.Index(list(pair_ids), name="pair_id")
    return pd.DataFrame(
        {"empty": index.isin(list(empty)), "repetitive": index.isin(list(repetitive))}, index
    )


def category(*sides, toxic=0, **rule):
    return votes.categorise(table(ballots(*sides, toxic=toxic)), flags(["p"]), **rule).loc["p"]


@st.composite
def votings(draw):
    """A vote table of 1 to 6 pairs and 0 to 8 votes each, and its flags."""
    rows, ids = [], [f"p{i}" for i in range(draw(st.integers(1, 6)))]
    for pair in ids:
        for i in range(draw(st.integers(0, 8))):
            rows.append((pair, f"a{i}", draw(SIDES), draw(st.booleans())))
    some = st.lists(st.sampled_from(ids), unique=True)
    return table(rows).astype({"vote": object}), flags(ids, draw(some), draw(some))


# --- the vote table -----------------------------------------------------------------------------


GOOD = table([("p", "a", "chosen"), ("p", "b", "tie"), ("q", "a", "rejected", True)])


def test_a_good_table_is_kept_and_toxic_is_filled():
    assert votes.check(GOOD, ["p", "q", "r"])["toxic"].tolist() == [False, False, True]
    for marks in ([None, True, False], [None, 1, 0], [np.nan, 1.0, 0.0]):
        assert votes.check(GOOD.assign(toxic=marks))["toxic"].tolist() == [False, True, False]
    extra = votes.check(GOOD.drop(columns="toxic").assign(seconds=3))
    assert extra["toxic"].tolist() == [False] * 3 and extra["seconds"].eq(3).all()
    assert "toxic" in GOOD and GOOD["toxic"].tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vote": ["chosen", "A", "tie"]}, r"vote is none of.*1 row.*'vote': 'A'"),
        ({"vote": ["chosen", None, "tie"]}, r"vote is missing.*1 row"),
        ({"vote": [1, 0, 1]}, r"vote is missing or no text in 3 row"),
        ({"annotator": ["a", "a", "a"]}, r"second vote.*1 row.*'vote': 'tie'"),
        ({"annotator": ["a", None, "a"]}, "annotator is missing"),
        ({"pair_id": ["p", "x", "x"]}, r"unknown pair_id.*2 row.*'x'"),
        ({"source": [None] * 3}, "source is missing"),
        ({"toxic": ["no", "yes", "no"]}, r"toxic is not true or false in 3 row"),
        ({"toxic": [2, 0, 1]}, r"toxic is not true or false in 1 row"),
    ],
)
def test_bad_tables_name_the_first_offenders(change, message):
    with pytest.raises(ValueError, match=message):
        votes.check(GOOD.assign(**change), ["p", "q"])


def test_missing_columns_are_named():
    with pytest.raises(ValueError, match=r"\['annotator', 'source'\] missing"):
        votes.check(GOOD.drop(columns=["annotator", "source"]))


def test_counts():
    got = votes.counts(GOOD, ["r", "q", "p"])
    assert got.index.tolist() == ["r", "q", "p"]
    assert got.columns.tolist() == ["n", "chosen", "rejected", "tie", "toxic"]
    assert got.to_numpy().tolist() == [[0, 0, 0, 0, 0], [1, 0, 1, 0, 1], [2, 1, 0, 1, 0]]
    assert votes.counts(GOOD).index.tolist() == ["p", "q"]


# --- categories ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", list(itertools.product(votes.VOTES, repeat=4)))
def test_four_annotators_follow_the_paper(sides):
    chosen, rejected = sides.count("chosen"), sides.count("rejected")
    expected = "Same" if chosen >= 3 else "Opposite" if rejected >= 3 else "Vague"
    assert category(*sides) == expected


@pytest.mark.parametrize("n", range(1, 9))
def test_other_numbers_of_annotators(n):
    needed = {1: 1, 2: 2, 3: 2, 4: 3, 5: 3, 6: 4, 7: 4, 8: 5}[n]
    assert votes.votes_needed(n) == needed
    for wins in range(n + 1):
        got = category(*["chosen"] * wins, *["rejected"] * (n - wins))
        assert got == ("Same" if wins >= needed else "Opposite" if n - wins >= needed else "Vague")


def test_the_threshold_is_a_parameter():
    assert category("chosen", "chosen", "rejected") == "Same"
    assert category("chosen", "chosen", "rejected", majority=0.7) == "Vague"
    # 0.57 * 100 is less than 57 in floating point; 57 of 100 are not more than 57 per cent.
    assert votes.votes_needed(100, 0.57) == 58
    for bad in (0.4, 1.0):
        with pytest.raises(ValueError, match="majority"):
            votes.votes_needed(4, bad)


def test_toxic_needs_more_than_its_share_or_a_flag():
    sides = ["chosen"] * 4
    assert [category(*sides, toxic=k) for k in range(5)] == ["Same"] * 3 + ["Toxic"] * 2
    assert category(*sides, toxic=1, toxic_share=0) == "Toxic"
    assert category(*sides, toxic=0, toxic_share=0) == "Same"
    flagged = flags(["p", "q"]).assign(toxic=[True, False])
    got = votes.categorise(table(ballots(*sides)), flagged)
    assert got.to_dict() == {"p": "Toxic", "q": "Unvoted"}


def test_flags_need_no_votes_and_unvoted_pairs_stay():
    got = votes.categorise(table(ballots("chosen")), flags("pqrs", empty="qr", repetitive="rp"))
    assert got.to_dict() == {"p": "Repetitive", "q": "Empty", "r": "Empty", "s": "Unvoted"}
    order = ("Repetitive", "Empty", "Toxic", "Opposite", "Same", "Vague")
    got = votes.categorise(
        table(ballots("chosen")), flags("pqrs", empty="qr", repetitive="rp"), precedence=order
    )
    assert got["r"] == "Repetitive"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(precedence=("Empty", "Toxic")), "must be an order of"),
        (dict(toxic_share=1.0), "toxic_share"),
        (dict(flags=flags(["p", "p"])), r"repeated, first \['p'\]"),
        (dict(flags=flags(["p"]).drop(columns="empty")), r"\['empty'\] missing"),
        (dict(flags=flags(["p"]).assign(repetitive=[None])), "repetitive holds other values"),
        (dict(flags=flags(["q"])), "unknown pair_id"),
    ],
)
def test_bad_rules_and_flags(change, message):
    options = dict(flags=flags(["p"])) | change
    with pytest.raises(ValueError, match=message):
        votes.categorise(table(ballots("chosen")), options.pop("flags"), **options)


@settings(max_examples=40)
@given(votings(), st.permutations(votes.CATEGORIES), st.randoms(use_true_random=False))
def test_categories_partition_the_pairs_and_names_and_order_do_not_matter(voting, order, random):
    frame, marks = voting
    got = votes.categorise(frame, marks, precedence=order)
    assert got.index.equals(marks.index)
    assert set(got) <= {*votes.CATEGORIES, votes.UNVOTED}
    assert votes.shares(got)["count"].sum() == len(marks)
    voted = marks.index.isin(frame["pair_id"])
    unseen = ~voted & ~marks.any(axis=1)
    assert ((got == votes.UNVOTED) == unseen).all()
    names = random.sample([f"n{i}" for i in range(8)], 8)
    renamed = frame.assign(annotator=frame["annotator"].map(lambda a: names[int(a[1:])]))
    shuffled = renamed.loc[random.sample(list(frame.index), len(frame))]
    pd.testing.assert_series_equal(votes.categorise(shuffled, marks, precedence=order), got)


@settings(max_examples=40)
@given(votings())
def test_swapping_the_sides_swaps_same_and_opposite(voting):
    frame, marks = voting
    swap = {"chosen": "rejected", "rejected": "chosen", "tie": "tie"}
    frame = frame.assign(toxic=False)
    got = votes.categorise(frame, marks)
    other = votes.categorise(frame.assign(vote=frame["vote"].map(swap)), marks)
    assert other.tolist() == got.replace({"Same": "Opposite", "Opposite": "Same"}).tolist()


def test_shares_with_wilson_intervals_and_groups():
    found = pd.Series(["Same"] * 6 + ["Vague"] * 3 + ["Unvoted"], index=list("abcdefghij"))
    got = votes.shares(found).set_index("category")
    assert got.index.tolist() == [*votes.CATEGORIES, "Unvoted"]
    low, high = stats.wilson(6, 10)[1:3]
    row = got.loc["Same", ["count", "share", "low", "high", "n", "method"]]
    assert row.tolist() == [6, 0.6, low, high, 10, "Wilson"]
    assert got.loc["Empty", "count"] == 0 and got["count"].sum() == 10
    grouped = votes.shares(found, by=pd.Series([*"xxxxxxxxyy"], index=found.index))
    assert grouped.columns.tolist()[0] == "group"
    assert grouped.groupby("group")["count"].sum().to_dict() == {"x": 8, "y": 2}
    assert (grouped["n"] == grouped["group"].map({"x": 8, "y": 2})).all()
    with pytest.raises(ValueError, match="same"):
        votes.shares(pd.Series(["same"]))


def test_precedence_effect_shows_every_order():
    frame = table(ballots(*["rejected"] * 3, pair="p", toxic=3) + ballots("chosen", pair="q"))
    marks = flags("pq", empty="p", repetitive="p")
    got = votes.precedence_effect(frame, marks)
    counts = got.pivot(index="order", columns="category", values="count")
    assert len(counts) == 6 and (counts.sum(axis=1) == 2).all()
    for order, row in counts.iterrows():
        assert row[order.split(" > ")[0]] == 1 and row["Same"] == 1
    swap = votes.precedence_effect(frame, flags("pq"), of=("Toxic", "Opposite"))
    assert swap.query("count == 1 and category != 'Same'")["category"].tolist() == [
        "Toxic",
        "Opposite",
    ]


# --- the error model ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "original", "same"),
    [(0.28, 0, 69), (0.38, 0, 51), (0.19, None, 68), (0.28, None, 51)],
)
def test_published_reading_of_claim_1(error, original, same):
    found = votes.expected_shares(error, original_error=original)["Same"]
    assert round(100 * float(found)) == same
    assert votes.solve_error(float(found), original_error=original) == pytest.approx(error)


@pytest.mark.parametrize("original", [0.0, 0.3, None])
@pytest.mark.parametrize("n", range(1, 9))
def test_expected_shares_by_enumeration(n, original):
    """All 3^n votings of a pair with a right and a wrong label."""
    error, tie = 0.2, 0.15
    chance = {"right": (1 - tie) * (1 - error), "wrong": (1 - tie) * error, "tie": tie}
    wrong_label = error if original is None else original
    expected = dict.fromkeys(("Same", "Opposite", "Vague"), 0.0)
    for voting in itertools.product(chance, repeat=n):
        p = np.prod([chance[v] for v in voting])
        right, wrong = 2 * voting.count("right") > n, 2 * voting.count("wrong") > n
        expected["Same"] += p * ((1 - wrong_label) * right + wrong_label * wrong)
        expected["Opposite"] += p * ((1 - wrong_label) * wrong + wrong_label * right)
        expected["Vague"] += p * (not right and not wrong)
    got = votes.expected_shares(error, n, original_error=original, tie_rate=tie)
    assert {k: float(v) for k, v in got.items()} == pytest.approx(expected)


def test_expected_shares_take_arrays():
    got = votes.expected_shares(np.array([[0.1, 0.5]]), 5)
    assert got["Same"].shape == (1, 2)
    assert got["Same"][0, 1] == votes.expected_shares(0.5, 5)["Same"]


@given(
    st.floats(0, 0.5),
    st.integers(1, 9),
    st.sampled_from([None, 0.0, 0.1, 0.4]),
    st.sampled_from([0.0, 0.05, 0.3, 0.9]),
)
@example(0.49999999999999994, 1, None, 0.0)
def test_solving_inverts_the_model(error, n, original, tie):
    model = dict(original_error=original, tie_rate=tie)
    same = float(votes.expected_shares(error, n, **model)["Same"])
    back = votes.solve_error(same, n, **model)
    assert votes.expected_shares(back, n, **model)["Same"] == pytest.approx(same, abs=1e-9)


def test_bad_error_models():
    with pytest.raises(ValueError, match=r"0.3125..1.0000: coin-flipping"):
        votes.solve_error(0.3)
    with pytest.raises(ValueError, match="original_error=0.5"):
        votes.solve_error(0.6, original_error=0.5)
    for bad in (dict(rater_error=1.1), dict(rater_error=0.1, original_error=-0.1)):
        with pytest.raises(ValueError, match=r"must lie in 0\.\.1"):
            votes.expected_shares(**bad)
    for bad in (0, 2.5):
        with pytest.raises(ValueError, match="n_annotators"):
            votes.expected_shares(0.1, bad)
    with pytest.raises(ValueError, match="tie_rate"):
        votes.expected_shares(0.1, tie_rate=2)


def test_caps_of_truly_tied_pairs():
    got = votes.caps(range(1, 9))
    assert got.index.tolist() == list(range(1, 9))
    assert got.loc[4].to_dict() == {
        "needed": 3,
        "Same": 0.3125,
        "Opposite": 0.3125,
        "Vague": 0.375,
    }
    # The middle of the binomial distribution, from one row of Pascal's triangle to the next.
    even = [scipy.stats.binom.pmf(n // 2, n, 0.5) for n in (2, 4, 6, 8)]
    assert got.loc[[2, 4, 6, 8], "Vague"].tolist() == pytest.approx(even)
    assert got.loc[[1, 3, 5, 7], "Vague"].tolist() == [0] * 4
    assert votes.caps(4).index.tolist() == [4]
    assert votes.caps(1, tie_rate=0.2).loc[1, "Vague"] == pytest.approx(0.2)


# --- simulated annotators -----------------------------------------------------------------------


def planted(n, seed, chosen=1.0):
    sides = np.random.default_rng([seed, 99]).choice(votes.VOTES[:2], n, p=[chosen, 1 - chosen])
    return pd.Series(sides, [f"p{i}" for i in range(n)])


@pytest.mark.parametrize(
    ("n", "error", "wrong_labels", "tie"),
    [(4, 0.1, 0.0, 0.0), (4, 0.28, 0.28, 0.0), (3, 0.2, 0.1, 0.1), (8, 0.5, 0.0, 0.0)],
)
def test_simulated_shares_lie_in_the_intervals_of_the_model(n, error, wrong_labels, tie):
    expected = votes.expected_shares(error, n, original_error=wrong_labels, tie_rate=tie)
    runs, size = 40, 500
    covered = dict.fromkeys(expected, 0)
    for seed in range(runs):
        truth = planted(size, seed, 1 - wrong_labels)
        voted = votes.simulate(truth, n_annotators=n, error=error, seed=seed, tie_rate=tie)
        found = votes.shares(votes.categorise(voted, flags(truth.index))).set_index("category")
        for name, share in expected.items():
            covered[name] += found.loc[name, "low"] <= share <= found.loc[name, "high"]
    # 95 % intervals, so the number that covers is binomial; one test in 10,000 may fail by luck.
    for name in expected:
        assert covered[name] >= scipy.stats.binom.ppf(1e-4, runs, 0.95), name


def test_simulation_has_the_errors_that_were_set():
    truth = planted(20_000, 1, chosen=0.6)
    errors = [0.0, 0.1, 0.5]
    voted = votes.simulate(
        truth, n_annotators=3, error=0.9, seed=1, annotator_errors=errors, tie_rate=0.2
    )
    votes.check(voted, truth.index)
    assert (voted["source"] == "simulation").all() and not voted["toxic"].any()
    decided = voted[voted["vote"] != "tie"]
    wrong = decided["vote"] != decided["pair_id"].map(truth)
    for share, error in zip(wrong.groupby(decided["annotator"]).mean(), errors, strict=True):
        spread = np.sqrt(error * (1 - error) / 16_000)
        assert abs(share - error) <= 4 * spread
    assert abs((voted["vote"] == "tie").mean() - 0.2) < 4 * np.sqrt(0.16 / 60_000)


def test_true_ties_split_by_coin_and_annotators_are_nested():
    truth = pd.Series("tie", [f"p{i}" for i in range(4000)])
    eight = votes.simulate(truth, n_annotators=8, error=0.0, seed=5)
    four = votes.simulate(truth, n_annotators=4, error=0.0, seed=5)
    pd.testing.assert_frame_equal(eight.head(len(four)), four)
    vague = (votes.categorise(four, flags(truth.index)) == "Vague").sum()
    assert scipy.stats.binomtest(int(vague), 4000, 0.375).pvalue > 1e-3
    again = votes.simulate(truth, n_annotators=4, error=0.0, seed=5)
    pd.testing.assert_frame_equal(again, four)
    assert not votes.simulate(truth, n_annotators=4, error=0.0, seed=6).equals(four)


def test_planted_toxicity_is_found():
    truth = planted(300, 2)
    toxic = pd.Series(np.arange(300) % 5 == 0, truth.index)
    exact = votes.simulate(truth, n_annotators=4, error=0.1, seed=0, toxic=toxic)
    found = votes.categorise(exact, flags(truth.index)) == "Toxic"
    assert (found == toxic).all()
    noisy = votes.simulate(truth, n_annotators=4, error=0.1, seed=0, toxic=toxic, toxic_error=0.2)
    wrong = (noisy["toxic"] != noisy["pair_id"].map(toxic)).sum()
    assert scipy.stats.binomtest(int(wrong), 1200, 0.2).pvalue > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(error=1.2), "errors"),
        (dict(annotator_errors=[0.1]), "give 2 annotator"),
        (dict(n_annotators=0), "n_annotators"),
        (dict(tie_rate=-1), "tie_rate"),
        (dict(truth=pd.Series(["a"], ["p"])), "truth must be one of"),
        (dict(truth=pd.Series(["chosen"] * 2, ["p", "p"])), "every pair once"),
    ],
)
def test_bad_simulations(change, message):
    options = dict(truth=planted(3, 0), n_annotators=2, error=0.1, seed=0) | change
    with pytest.raises(ValueError, match=message):
        votes.simulate(**options)
