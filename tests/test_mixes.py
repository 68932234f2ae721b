import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from helpers import gold, mixes, pairs, splits, world

N, SEED = 200, 5
ALL = (*mixes.KINDS, *(f"only {pitfall}" for pitfall in mixes.PITFALLS))
# No annotator errs: categories are the truth's, but for ties, where each tosses a coin.
EXACT = dict(annotator_error=0.0, toxic=0.1, empty=0.05, repetitive=0.05)


@pytest.fixture(scope="module")
def sets():
    return {kind: mixes.training_set(kind, N, seed=SEED) for kind in ALL}


@pytest.fixture(scope="module")
def exact():
    return {kind: mixes.training_set(kind, N, seed=SEED, **EXACT) for kind in ALL}


@pytest.fixture(scope="module")
def pool():
    return mixes.drawn(round(N * 1.5), "policy", seed=SEED)


def order(data: pd.DataFrame) -> np.ndarray:
    """1 where gold prefers the chosen response, -1 where the rejected one, 0 for near-ties."""
    prompts = data["prompt"].tolist()
    gap = gold.scores(prompts, data["chosen"].tolist())
    gap = gap - gold.scores(prompts, data["rejected"].tolist())
    return np.where(np.abs(gap) <= world.NEAR_TIE, 0, np.sign(gap)).astype(int)


def flaws(data: pd.DataFrame) -> dict[str, int]:
    """How many pairs have each flaw that their texts show."""
    prompts = data["prompt"].tolist()
    toxic = gold.scores(prompts, data["chosen"].tolist()) < 0
    empty = (data["chosen"].str.strip() == "") | (data["rejected"].str.strip() == "")
    same = data["chosen"] == data["rejected"]
    return {
        "Toxic": int((toxic & ~empty & ~same).sum()),
        "Empty": int(empty.sum()),
        "Repetitive": int(same.sum()),
        "Opposite": int(((order(data) < 0) & ~toxic & ~empty & ~same).sum()),
    }


def labels(data: pd.DataFrame) -> dict[str, tuple[str, str]]:
    return dict(zip(data["pair_id"], zip(data["chosen"], data["rejected"])))


def test_all_kinds_have_one_size_one_schema_and_prompts_to_learn_from(sets):
    for kind, data in sets.items():
        assert pairs.check(data) is data and len(data) == N, kind
        assert data.index.equals(pd.RangeIndex(N)), kind
        assert data["pair_id"].is_unique, kind
        assert {splits.split_of(prompt) for prompt in data["prompt"]} == {"policy"}, kind


def test_all_kinds_come_from_one_pool_and_change_at_most_the_order_of_a_pair(sets, pool):
    known = labels(pool.pairs)
    for kind, data in sets.items():
        swapped = 0
        for pair_id, both in labels(data).items():
            swapped += both != known[pair_id]
            assert both in (known[pair_id], known[pair_id][::-1]), kind
        mends = kind in ("cleaned", "true labels", "only Opposite")
        assert (swapped > 0) == mends, kind


def test_the_original_is_the_pool_as_it_comes_and_random_removal_another_choice(sets, pool):
    pd.testing.assert_frame_equal(sets["original"], pool.pairs.head(N))
    other = sets["random removal"]
    assert set(other["pair_id"]) != set(sets["original"]["pair_id"])
    again = mixes.training_set("random removal", N, seed=SEED)
    pd.testing.assert_frame_equal(other, again)


def test_true_labels_leave_nothing_wrong_or_tied(sets):
    assert (order(sets["true labels"]) == 1).all()
    assert (order(sets["original"]) == -1).mean() > 0.08, "else there is nothing to mend"


def test_annotators_without_error_clean_all_but_ties(exact):
    cleaned = exact["cleaned"]
    assert not any(flaws(cleaned).values())
    # Four coins on a true tie say "Vague" in six of sixteen cases.
    assert 0 < (order(cleaned) == 0).mean() < (order(exact["original"]) == 0).mean()
    before = flaws(exact["original"])
    assert all(before.values()), "else the test shows nothing"


@pytest.mark.parametrize("pitfall", ["Toxic", "Empty", "Repetitive", "Opposite"])
def test_one_pitfall_is_mended_and_the_others_stay(exact, pitfall):
    found = flaws(exact[f"only {pitfall}"])
    assert found.pop(pitfall) == 0
    before = flaws(exact["original"])
    for other, count in found.items():
        # Another 200 of the same 300 pairs: about as many, not none.
        assert count > before[other] / 3, other


def test_only_vague_takes_out_pairs_that_annotators_split_on(exact):
    found, before = exact["only Vague"], exact["original"]
    assert (order(found) == 0).sum() < (order(before) == 0).sum()
    assert flaws(found)["Opposite"] > 0 and flaws(found)["Toxic"] > 0


def test_margins_are_matched_and_labels_left_alone(sets, pool):
    target, found = (mixes.gaps(sets[kind]) for kind in ("cleaned", "margin-matched removal"))
    assert scipy.stats.ks_2samp(found, target).statistic < 0.06
    known = labels(pool.pairs)
    own = labels(sets["margin-matched removal"])
    assert all(known[pair_id] == both for pair_id, both in own.items())
    # As easy as the cleaned pairs, as wrong as the original ones.
    share = {kind: (order(data) == -1).mean() for kind, data in sets.items()}
    assert share["margin-matched removal"] == pytest.approx(share["original"], abs=0.06)
    assert share["cleaned"] < 0.04


@given(st.integers(1, 40), st.integers(0, 5))
def test_matching_gives_as_many_different_pairs_as_asked(n, seed):
    rng = np.random.default_rng(seed)
    data = pd.DataFrame({"row": np.arange(40)})
    # Many margins are equal in the gold world, at zero above all.
    margin, target = rng.integers(0, 4, 40) / 3, rng.integers(0, 4, n) / 3
    found = mixes.matched(data, margin, target, n, seed=seed)
    assert len(found) == n and found["row"].is_unique and found["row"].is_monotonic_increasing


def test_matching_takes_what_the_target_has():
    margin = np.repeat([0.1, 0.9], 50)
    target = np.repeat([0.1, 0.9], [5, 15])
    data = pd.DataFrame({"margin": margin})
    found = mixes.matched(data, margin, target, 20, seed=0)["margin"]
    assert (found == 0.9).sum() == 15
    # Too few of a kind: all of them, and the rest from what is left.
    scarce = mixes.matched(data, margin, np.repeat([0.1, 0.9], [1, 79]), 80, seed=0)["margin"]
    assert (scarce == 0.9).sum() == 50 and len(scarce) == 80


def test_cleaning_does_not_depend_on_the_index_of_its_pairs(pool):
    data = pool.pairs
    categories = mixes.categorised(data, pool.truth, 4, 0.1, SEED)
    whole = mixes.cleaned(data, categories, ("Opposite",))
    some = data[data.index % 2 == 1]
    part = mixes.cleaned(some, categories, ("Opposite",))
    expected = whole[whole["pair_id"].isin(some["pair_id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, expected)
    assert labels(part) != labels(some)


@pytest.mark.parametrize("subset", world.SUBSETS)
def test_a_subset_has_its_own_pool_of_full_size(subset):
    for seed in range(6):
        data = mixes.training_set("cleaned", 60, seed=seed, subset=subset)
        assert set(data["subset"]) == {subset} and len(data) == 60
        harmful = {gold.request(prompt).harmful for prompt in data["prompt"]}
        assert harmful == {subset == "gold-harmless"}


def test_seeds_draw_different_pools_and_repeat_themselves(sets):
    other = mixes.training_set("original", N, seed=SEED + 1)
    assert not set(other["pair_id"]) & set(sets["original"]["pair_id"])
    pd.testing.assert_frame_equal(mixes.training_set("cleaned", N, seed=SEED), sets["cleaned"])


def test_more_pairs_of_one_seed_begin_with_the_fewer():
    few, many = (mixes.training_set("original", n, seed=SEED) for n in (20, 30))
    pd.testing.assert_frame_equal(few, many.head(20))


@pytest.mark.parametrize("kind", ["clean", "only Same", "only", "only opposite"])
def test_unknown_kinds_are_refused(kind):
    with pytest.raises(ValueError, match="unknown kind"):
        mixes.training_set(kind, 10, seed=0)


def test_a_pool_that_cleaning_empties_is_refused():
    with pytest.raises(ValueError, match="are left of 15, 10 are wanted"):
        mixes.training_set("cleaned", 10, seed=0, toxic=0.9)
