import itertools

import krippendorff
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import fleiss_kappa

from helpers import agreement, corpora, downloads, votes

# Ratings 1 to 5 of 12 subjects by four raters, 0 missing: cac.raw4raters of Gwet's package irrCAC
# (Gwet 2014, page 120), whose manual prints the coefficients below.
FOUR_RATERS = """1101 2232 3333 3333 2222 1234 4444 1121 2222 0555 0011 0030""".split()
# Six raters, five diagnoses, 15 patients (Fleiss 1971, in part): distrib.6raters of irrCAC.
SIX_RATERS = """00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040
 03300 10050 02031""".split()
COEFFICIENTS = [agreement.fleiss, agreement.krippendorff_alpha, agreement.gwet_ac1]
FAST = dict(seed=0, n_resamples=50)


@pytest.fixture
def real(monkeypatch):
    """The real data: the one allowed skip. Nothing is downloaded."""
    folder = downloads.data_folder()
    sets = [corpora.SETS[name].folder for name in ("mt_bench", "pandalm", "toxicity")]
    if folder is None or not all((folder / each).is_dir() for each in sets):
        pytest.skip("no real data here: set ELEPHANT_DATA to a folder with the public sets")
    monkeypatch.setattr(downloads, "answers", lambda address: False)


def table(wide: dict[str, str]) -> pd.DataFrame:
    """A vote table from one string of votes an annotator: c, r, t, or a dot for none."""
    names = {"c": "chosen", "r": "rejected", "t": "tie"}
    rows = [
        (f"p{i}", annotator, names[letter])
        for annotator, given_votes in wide.items()
        for i, letter in enumerate(given_votes)
        if letter != "."
    ]
    frame = pd.DataFrame(rows, columns=["pair_id", "annotator", "vote"])
    return frame.assign(toxic=False, source="test")


def count_table(rows, categories):
    return pd.DataFrame([[row.count(c) for c in categories] for row in rows], columns=[*categories])


# --- published values ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("coefficient", "printed"),
    list(zip(COEFFICIENTS, [0.76117, 0.74342, 0.77544], strict=True)),
)
def test_printed_values_with_missing_votes(coefficient, printed):
    found = coefficient(count_table(FOUR_RATERS, "12345"), **FAST)
    assert round(found.value, 5) == printed
    assert found.n == 11 and "1 pairs with one vote" in found.method
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize(
    ("coefficient", "printed"),
    [(agreement.fleiss, 0.4139265), (agreement.gwet_ac1, 0.4448007)],
)
def test_printed_values_of_six_raters(coefficient, printed):
    counts = pd.DataFrame([[int(digit) for digit in row] for row in SIX_RATERS])
    assert round(coefficient(counts, **FAST).value, 7) == printed


def test_printed_ac1_and_kappa_of_two_raters():
    """cont3x3abstractors of irrCAC; its three diagnoses stand here for the three votes."""
    square = [[13, 0, 0], [0, 20, 7], [0, 4, 56]]
    a, b = "", ""
    for (i, one), (j, other) in itertools.product(enumerate("crt"), repeat=2):
        a, b = a + one * square[i][j], b + other * square[i][j]
    both = table({"a": a, "b": b})
    assert round(agreement.gwet_ac1(both, **FAST).value, 7) == 0.8493305
    kappa = agreement.cohen_pairwise(both, **FAST)
    assert len(kappa) == 1 and kappa.loc[0, "n"] == 100
    assert round(kappa.loc[0, "value"], 7) == 0.7964094


@pytest.mark.parametrize(
    ("against", "ties", "share", "n"),
    [
        ("gpt4", True, 0.660, 1343),
        ("gpt4", False, 0.846, 859),
        ("human", True, 0.630, 721),
        ("human", False, 0.810, 479),
    ],
)
def test_mt_bench_agreement_is_the_published_one(real, against, ties, share, n):
    human, gpt4 = (frame[frame["turn"] == 1] for frame in corpora.mt_bench())
    experts = agreement.mt_bench_votes(human[human["judge"].str.startswith("expert_")])
    other = agreement.mt_bench_votes(gpt4) if against == "gpt4" else None
    found = agreement.pairwise_agreement(experts, other, ties=ties, **FAST)
    assert found.n == n
    assert round(found.value, 3) == share
    assert found.low < found.value < found.high


def test_mt_bench_alpha(real):
    human = agreement.mt_bench_votes(corpora.mt_bench()[0])
    assert len(votes.check(human)) == 3355
    assert human["annotator"].str.endswith("(again)").sum() == 1
    found = agreement.krippendorff_alpha(human, **FAST)
    assert round(found.value, 4) == 0.4855 and found.n == 961
    # Pairs on one question share it; the interval by question is another one.
    question = human.set_index("pair_id").index.to_series().str.split("/").str[0]
    by_question = agreement.krippendorff_alpha(
        human, clusters=question[~question.index.duplicated()], **FAST
    )
    assert by_question.value == found.value and "80 clusters" in by_question.method


def test_pandalm(real):
    voted = agreement.pandalm_votes(corpora.pandalm())
    majority = votes.counts(voted)[["tie", "chosen", "rejected"]].idxmax(axis=1).value_counts()
    assert majority.to_dict() == {"tie": 105, "chosen": 422, "rejected": 472}
    kappas = agreement.cohen_pairwise(voted, **FAST)
    assert kappas["value"].round(4).tolist() == [0.8520, 0.8789, 0.8617]
    assert (kappas["n"] == 999).all()
    assert round(agreement.fleiss(voted, **FAST).value, 4) == 0.8642
    assert round(agreement.krippendorff_alpha(voted, **FAST).value, 4) == 0.8642


def test_davidson_from_counts(real):
    counts = corpora.davidson()[["hate", "offensive", "neither"]]
    assert round(agreement.krippendorff_alpha(counts, **FAST).value, 4) == 0.5428


# --- against the libraries ----------------------------------------------------------------------


def count_tables(n_votes):
    def of(size):
        row = n_votes.flatmap(lambda n: st.lists(st.integers(0, 2), min_size=n, max_size=n))
        return st.lists(row, min_size=size, max_size=size)

    return st.integers(2, 8).flatmap(of).map(lambda rows: count_table(rows, range(3)))


@settings(max_examples=50)
@given(count_tables(st.just(4)))
def test_fleiss_is_that_of_statsmodels(counts):
    assume((counts.any()).sum() > 1)
    assert agreement.fleiss(counts, **FAST).value == pytest.approx(fleiss_kappa(counts))


@settings(max_examples=50)
@given(count_tables(st.integers(0, 6)))
def test_the_sums_behind_the_bootstrap_give_the_package_alpha(counts):
    many = counts[counts.sum(axis=1) > 1]
    assume(len(many) and many.any().sum() > 1)
    captured = []

    def bootstrap(name, table, moments, coefficient, *rest):
        captured.append(coefficient(moments(table.to_numpy(dtype=float)).sum(axis=0)))
        return original(name, table, moments, coefficient, *rest)

    original = agreement._bootstrap
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "_bootstrap", bootstrap)
        found = agreement.krippendorff_alpha(counts, **FAST).value
    expected = krippendorff.alpha(value_counts=counts, level_of_measurement="nominal")
    assert found == expected == pytest.approx(captured[0])


@settings(max_examples=30)
@given(st.lists(st.tuples(*[st.sampled_from("crt.")] * 3), min_size=4, max_size=12))
def test_cohen_is_that_of_scikit_learn(rows):
    letters = dict(zip("abc", map("".join, zip(*rows, strict=True)), strict=True))
    frame = table(letters)
    assume(frame["annotator"].nunique() == 3 and frame["pair_id"].duplicated().any())
    found = agreement.cohen_pairwise(frame, **FAST)
    assert list(zip(found["a"], found["b"], strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]
    for row in found.itertuples():
        both = [p for p in zip(letters[row.a], letters[row.b], strict=True) if "." not in p]
        assert row.n == len(both)
        if len(both) < 2:
            assert np.isnan(row.value) and "not estimated" in row.method
        elif len({vote for pair in both for vote in pair}) == 1:
            assert np.isnan(row.value) and "not defined" in row.method
        else:
            expected = cohen_kappa_score(*zip(*both, strict=True))
            assert row.value == pytest.approx(expected) and -1 <= row.low <= row.high <= 1


# --- invariances and intervals ------------------------------------------------------------------


@settings(max_examples=40)
@given(
    st.lists(st.tuples(*[st.sampled_from("crt.")] * 4), min_size=3, max_size=8),
    st.sampled_from(COEFFICIENTS),
    st.randoms(use_true_random=False),
)
def test_names_and_order_do_not_matter_and_values_stay_in_range(rows, coefficient, random):
    frame = table(dict(zip("abcd", map("".join, zip(*rows, strict=True)), strict=True)))
    counts = votes.counts(frame)
    many = counts.loc[counts["n"] > 1, list(votes.VOTES)]
    assume(len(counts) > 1 and many.any().sum() > 1 and frame["annotator"].nunique() > 1)
    found = coefficient(frame, **FAST)
    assert found.value <= 1 + 1e-12 and found.low <= found.high
    # Few votes a pair can push a kappa below -1; with the same number on each it cannot go there.
    if counts["n"].nunique() == 1:
        assert found.value >= -1 - 1e-12
    names = dict(zip("abcd", random.sample("wxyz", 4), strict=True))
    other = frame.assign(annotator=frame["annotator"].map(names))
    other = other.loc[random.sample(list(frame.index), len(frame))]
    again = coefficient(other, **FAST)
    assert again[:4] == pytest.approx(found[:4]) and again.method == found.method


def test_perfect_agreement_is_one_and_coin_flips_are_zero():
    perfect = table({"a": "ccrr", "b": "ccrr", "c": "ccrr"})
    rng = np.random.default_rng(0)
    noise = table({name: "".join(rng.choice([*"cr"], 3000)) for name in "abc"})
    for coefficient in COEFFICIENTS:
        assert coefficient(perfect, **FAST).value == pytest.approx(1)
        found = coefficient(noise, seed=0, n_resamples=200)
        # Three raters give 9000 vote pairs; the standard error of their mean is 1 / sqrt(9000).
        assert abs(found.value) < 4 / np.sqrt(9000)
        assert found.low < found.value < found.high


def test_intervals_cover_the_coefficient_of_the_population():
    """Two raters who err independently: kappa is (1 - 2 e)^2 when both sides are equally common."""
    error, runs, covered = 0.2, 60, 0
    for seed in range(runs):
        truth = pd.Series(["chosen", "rejected"] * 100, [f"p{i}" for i in range(200)])
        voted = votes.simulate(truth, n_annotators=2, error=error, seed=seed)
        found = agreement.krippendorff_alpha(voted, seed=0, n_resamples=300)
        covered += found.low <= (1 - 2 * error) ** 2 <= found.high
    # The number that covers is binomial; one test in 10,000 may fail by luck.
    assert covered >= scipy.stats.binom.ppf(1e-4, runs, 0.95)


def test_clusters_widen_the_interval_of_copied_pairs():
    base = {name: letters for name, letters in zip("ab", ("ccrrcrcrcc", "ccrrrrccrc"), strict=True)}
    frame = table({name: letters * 20 for name, letters in base.items()})
    origin = pd.Series({f"p{i}": i % 10 for i in range(200)})
    options = dict(seed=0, n_resamples=300)
    for coefficient in COEFFICIENTS:
        alone = coefficient(frame, **options)
        copied = coefficient(frame, clusters=origin, **options)
        assert copied.value == alone.value
        assert copied.high - copied.low > 3 * (alone.high - alone.low)
        assert "of 10 clusters" in copied.method and "clusters as given" in copied.method
    with pytest.raises(ValueError, match=r"199 pair\(s\) have no label"):
        agreement.fleiss(frame, clusters=origin.head(1), **options)


# --- degenerate cases ---------------------------------------------------------------------------


@pytest.mark.parametrize("coefficient", [*COEFFICIENTS, agreement.cohen_pairwise])
def test_one_annotator_and_no_pair_with_two_votes(coefficient):
    with pytest.raises(ValueError, match=r"one annotator only \(\['a'\]\)"):
        coefficient(table({"a": "crc"}), seed=0)
    with pytest.raises(ValueError, match="none of 3 pairs has two votes"):
        coefficient(table({"a": "cr.", "b": "..c"}), seed=0)


def test_votes_all_alike():
    same = table({"a": "ccc", "b": "ccc"})
    for coefficient in (agreement.fleiss, agreement.krippendorff_alpha):
        with pytest.raises(ValueError, match="all votes are 'chosen'.*0/0"):
            coefficient(same, seed=0)
    assert agreement.gwet_ac1(same, seed=0)[:4] == (1, 1, 1, 3)
    row = agreement.cohen_pairwise(same, seed=0).iloc[0]
    assert np.isnan(row["value"]) and "only ever voted 'chosen'" in row["method"]


def test_resamples_of_one_category_are_counted():
    found = agreement.fleiss(table({"a": "cccr", "b": "cccr"}), seed=0)
    assert "resamples without a defined value left out" in found.method


def test_bad_count_tables():
    for bad in ([[1.5, 2]], [[-1, 2]], [[3]]):
        with pytest.raises(ValueError, match="count table"):
            agreement.fleiss(pd.DataFrame(bad), seed=0)


def test_pairwise_agreement_counts_every_two_votes_once():
    frame = table({"a": "ct", "b": "cr", "c": "r."})
    found = agreement.pairwise_agreement(frame, **FAST)
    assert (found.value, found.n) == (1 / 4, 4)
    with pytest.raises(ValueError, match="only one"):
        agreement.pairwise_agreement(frame, ties=False, **FAST)
    against = agreement.pairwise_agreement(frame, table({"judge": "ct"}), **FAST)
    assert (against.value, against.n) == (3 / 5, 5)
    with pytest.raises(ValueError, match="no two votes"):
        agreement.pairwise_agreement(table({"a": "cr"}), **FAST)


def test_mt_bench_votes_do_not_depend_on_the_order_shown():
    row = dict(judge="author_0", question_id=81, turn=1)
    verdicts = pd.DataFrame(
        [
            row | dict(model_a="x", model_b="y", winner="model_a"),
            row | dict(model_a="y", model_b="x", winner="model_a"),
            row | dict(model_a="y", model_b="x", winner="tie (inconsistent)", turn=2),
        ],
        index=[7, 8, 9],
    )
    got = agreement.mt_bench_votes(verdicts)
    assert got["pair_id"].tolist() == ["81/1/x/y", "81/1/x/y", "81/2/x/y"]
    assert got["vote"].tolist() == ["chosen", "rejected", "tie"]
    assert got["annotator"].tolist() == ["author_0", "author_0 (again)", "author_0"]
    votes.check(got)
