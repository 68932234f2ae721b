import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import duplicates, pairs, pitfalls
from helpers.pairs import ASSISTANT, HUMAN

QUESTION = HUMAN + " Why is the sky blue, and not green?" + ASSISTANT
YES = " Because air scatters blue light more than it scatters red light, in every direction."
NO = " It is not; the sky has no colour of its own, and what you see is a trick of the eye."


def frame(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """Pairs of (prompt, chosen, rejected) as a frame of the schema."""
    records = [
        dict(pairs.parse(prompt + chosen, prompt + rejected), subset="s", split="test", row=row)
        for row, (prompt, chosen, rejected) in enumerate(rows)
    ]
    return pairs.frame(records)


def flagged(data: pd.DataFrame, **options) -> dict[str, list[int]]:
    """Row numbers by flag, for the flags that are raised at all."""
    found = duplicates.flag(data, **options).drop(columns="near_group")
    return {name: np.flatnonzero(found[name]).tolist() for name in found if found[name].any()}


def groups(data: pd.DataFrame, **options) -> set[frozenset]:
    """Near-duplicate groups as sets of pair ids, free of labels."""
    group = duplicates.flag(data, **options)["near_group"]
    ids = data["pair_id"].groupby(group).agg(frozenset)
    return set(ids[ids.index >= 0])


def words(rng: random.Random, n: int) -> list[str]:
    return [f"{rng.randrange(16**8):08x}" for _ in range(n)]


def dialogue(spoken: list[str]) -> tuple[str, str, str]:
    """A pair whose dialogue is "Human", the first ten words, "Assistant", and the other words."""
    middle = (10 + len(spoken)) // 2
    parts = (" ".join(part) for part in (spoken[:10], spoken[10:middle], spoken[middle:]))
    question, chosen, rejected = parts
    return f"{HUMAN} {question}{ASSISTANT}", f" {chosen}", f" {rejected}"


def twins(rng: random.Random, shingles: int, changed: int) -> list[tuple[str, str, str]]:
    """Two pairs of so many shingles, the last so many of them different: their Jaccard similarity
    is (shingles - changed) / (shingles + changed)."""
    # Two more words are spoken by the markers, and n words have n - 4 shingles.
    spoken = words(rng, shingles + 2)
    return [dialogue(spoken), dialogue(spoken[:-changed] + words(rng, changed))]


# The real test sets


def test_the_real_test_sets(hh_test_sets):
    _, data = hh_test_sets
    harmless = data[data["subset"] == "harmless-base"]
    found = duplicates.flag(harmless)
    assert not found["duplicate_pair"].any() and not found["swapped_pair"].any()
    # 2,310 different prompts in 2,312 pairs; two more differ in punctuation only.
    assert harmless["prompt"].nunique() == 2310
    folded = harmless["prompt"].map(pitfalls.normalise)
    assert duplicates.keys(harmless)["prompt"].nunique() == folded.nunique() == 2309
    assert found["duplicate_prompt"].equals(folded.duplicated(keep=False))
    for members in groups(harmless):
        texts = harmless.set_index("pair_id").loc[sorted(members), ["prompt", "chosen", "rejected"]]
        sets = [duplicates.shingles(" ".join(row)) for row in texts.itertuples(index=False)]
        for i, one in enumerate(sets):
            others = sets[:i] + sets[i + 1 :]
            assert max(len(one & other) / len(one | other) for other in others) >= 0.8


# What is a duplicate


def test_equal_pairs_whatever_case_spacing_and_punctuation():
    data = frame(
        (QUESTION, YES, NO), (QUESTION, YES.upper(), NO.replace(",", " -")), (QUESTION, NO, "")
    )
    assert flagged(data) == dict(duplicate_prompt=[0, 1, 2], duplicate_pair=[0, 1])
    assert (duplicates.flag(data)["near_group"] == -1).all()


def test_swapped_pairs_contradict_each_other():
    other = frame((QUESTION, YES, NO), (QUESTION, NO, YES), (QUESTION, YES, YES))
    assert flagged(other) == dict(duplicate_prompt=[0, 1, 2], swapped_pair=[0, 1])
    both = frame((QUESTION, YES, NO), (QUESTION, NO, YES), (QUESTION, YES, NO))
    assert flagged(both)["duplicate_pair"] == [0, 2] and flagged(both)["swapped_pair"] == [0, 1, 2]
    same = frame((QUESTION, YES, YES), (QUESTION, YES, YES))
    assert "swapped_pair" not in flagged(same)


def test_texts_without_words_are_told_apart():
    data = frame((QUESTION, "\0", ""), (QUESTION, "", "\0"), (QUESTION, "?", "!"))
    assert flagged(data)["swapped_pair"] == [0, 1] and "duplicate_pair" not in flagged(data)


@pytest.mark.parametrize(
    ("shingles", "changed", "near"),
    [(180, 20, True), (181, 20, True), (178, 20, False), (185, 15, True), (150, 30, False)],
)
def test_near_means_a_jaccard_similarity_of_at_least_the_threshold(shingles, changed, near):
    # 160 / 200 is 0.8 exactly, 158 / 198 just below.
    data = frame(*twins(random.Random(0), shingles, changed))
    one, other = (
        duplicates.shingles(" ".join(t)) for t in twins(random.Random(0), shingles, changed)
    )
    assert len(one & other) / len(one | other) == (shingles - changed) / (shingles + changed)
    assert flagged(data) == (dict(duplicate_prompt=[0, 1], near_duplicate=[0, 1]) if near else
                             dict(duplicate_prompt=[0, 1]))  # fmt: skip


def test_groups_hold_their_members_and_copies_of_them():
    rng = random.Random(1)
    first, second = twins(rng, 185, 15)
    third, fourth = twins(rng, 185, 15)
    alone = dialogue(words(rng, 187))
    data = frame(first, alone, third, second, fourth, first)
    group = duplicates.flag(data)["near_group"]
    assert group[1] == -1
    assert group[0] == group[3] == group[5] != group[2] == group[4] >= 0
    assert flagged(data)["duplicate_pair"] == [0, 5]
    assert flagged(data)["near_duplicate"] == [0, 2, 3, 4, 5]


def test_a_chain_is_one_group():
    rng = random.Random(2)
    spoken = words(rng, 187)
    chain = [spoken := spoken[:-15] + words(rng, 15) if k % 2 else words(rng, 15) + spoken[15:]
             for k in range(2, 8)]  # fmt: skip
    data = frame(*map(dialogue, chain))
    (members,) = groups(data)
    assert members == set(data["pair_id"])


def test_shingles():
    assert duplicates.shingles("A b, c. D e F") == {"a b c d e", "b c d e f"}
    assert duplicates.shingles("One two") == {"one two"}
    assert duplicates.shingles("") == {""}


def test_no_pairs_no_flags():
    found = duplicates.flag(frame())
    assert len(found) == 0
    assert list(found) == list(duplicates.flag(frame((QUESTION, YES, NO))))


@pytest.mark.parametrize("threshold", [0, -0.1, 1.5, 80])
def test_a_threshold_that_is_no_similarity_is_refused(threshold):
    with pytest.raises(ValueError, match=f"threshold={threshold} must lie above 0"):
        duplicates.flag(frame((QUESTION, YES, NO)), threshold=threshold)


# Order, seeds, size


@pytest.fixture(scope="module")
def family():
    """Forty pairs that change one word each, and sixty without a twin."""
    rng = random.Random(3)
    spoken = words(rng, 60)
    rows = [dialogue(words(rng, 40)) for _ in range(60)]
    for at in range(20, 60):
        rows.append(dialogue(spoken[:at] + words(rng, 1) + spoken[at + 1 :]))
    return frame(*rows)


@pytest.mark.parametrize("order", range(5))
def test_the_order_of_the_rows_does_not_matter(family, order):
    expected = duplicates.flag(family)
    assert expected["near_duplicate"].sum() > 20
    shuffled = family.sample(frac=1, random_state=order)
    found = duplicates.flag(shuffled)
    assert found.index.equals(shuffled.index)
    flags = [name for name in found if name != "near_group"]
    pd.testing.assert_frame_equal(found[flags].sort_index(), expected[flags])
    assert groups(shuffled) == groups(family)


def test_same_seed_same_result_and_clear_cases_need_no_luck(family):
    pd.testing.assert_frame_equal(duplicates.flag(family, seed=1), duplicates.flag(family, seed=1))
    assert groups(family, seed=1) == groups(family, seed=2) == groups(family)
    one, other = (duplicates._signatures(family, seed)[1] for seed in (1, 2))
    assert (one != other).all()


def test_five_thousand_copies_of_one_text():
    data = frame((QUESTION, YES, NO))
    data = pd.concat([data] * 5_000 + [frame(dialogue(words(random.Random(4), 50)))])
    found = duplicates.flag(data.reset_index(drop=True))
    assert found["duplicate_pair"].tolist() == [True] * 5_000 + [False]
    assert not found["near_duplicate"].any()


def test_hundreds_of_versions_of_one_text_are_one_group():
    rng = random.Random(5)
    spoken = words(rng, 80)
    data = frame(*(dialogue(spoken[:-1] + words(rng, 1)) for _ in range(400)))
    (members,) = groups(data)
    assert members == set(data["pair_id"])


def test_recall_of_the_banding():
    # At 0.85 two texts miss each other in all 32 bands with probability 6e-11.
    rng = random.Random(6)
    rows = [row for _ in range(250) for row in twins(rng, 185, 15)]
    data = frame(*rows)
    expected = {frozenset(data["pair_id"][i : i + 2]) for i in range(0, len(data), 2)}
    assert groups(data) == expected


# Between splits


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abc")), min_size=1, max_size=40))
def test_shared_between_counts_distinct_hashes(entries):
    hashed, place = pd.DataFrame(entries, columns=["hash", "place"]).to_numpy().T
    table = duplicates.shared_between(pd.Series(hashed), pd.Series(place))
    sets = {name: {h for h, p in entries if p == name} for name in sorted(set(place))}
    assert list(table) == list(table.index) == list(sets)
    for one in sets:
        for other in sets:
            assert table.loc[one, other] == len(sets[one] & sets[other])
