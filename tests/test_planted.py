import pandas as pd
import pytest

from helpers import duplicates, pairs, pitfalls, planted


@pytest.mark.parametrize("seed", range(4))
def test_every_planted_pitfall_is_found_and_nothing_else(seed, tokenizer):
    data, truth = planted.planted_pairs(600, seed=seed)
    found = pitfalls.flag(data, tokenizer).join(duplicates.flag(data, seed=seed))
    for name in planted.PITFALLS:
        expected = truth.index[truth[name]].tolist()
        assert expected, name
        assert found.index[found[name]].tolist() == expected, name


def test_names_are_those_of_the_flags():
    data, truth = planted.planted_pairs(400, seed=0)
    flags = {*pitfalls.FLAGS, *duplicates.flag(data)}
    assert set(planted.PITFALLS) == set(truth) <= flags
    assert set(pitfalls.FLAGS) <= set(planted.PITFALLS)


def test_same_seed_same_bytes_other_seed_other_bytes():
    one, truth = planted.planted_pairs(300, seed=7)
    again, same = planted.planted_pairs(300, seed=7)
    pd.testing.assert_frame_equal(one, again)
    pd.testing.assert_frame_equal(truth, same)
    other, elsewhere = planted.planted_pairs(300, seed=8)
    assert not set(one["pair_id"]) & set(other["pair_id"])
    assert not truth.equals(elsewhere)


def test_pairs_follow_the_schema_and_rates_are_kept():
    data, truth = planted.planted_pairs(500, seed=0, rate=0.02)
    pairs.check(data)
    assert data["row"].tolist() == list(range(500)) and set(data["subset"]) == {planted.SUBSET}
    marked = truth.sum()
    copies = ["duplicate_pair", "swapped_pair", "near_duplicate"]
    # A copy also marks its original, and what agrees in 1,024 tokens agrees in 512.
    assert (marked[copies] == 20).all() and marked["truncated_512"] == 20
    assert (marked.drop([*copies, "truncated_512"]) == 10).all()
    # No two pitfalls in one pair, but for the two limits.
    assert (truth.drop(columns="truncated_1024").sum(axis=1) <= 1).all()
    assert (truth["truncated_1024"] <= truth["truncated_512"]).all()


def test_no_rate_plants_nothing():
    _, truth = planted.planted_pairs(50, seed=0, rate=0)
    assert not truth.any(axis=None)


def test_no_pairs_are_a_frame_of_the_schema():
    data, truth = planted.planted_pairs(0, seed=0)
    pairs.check(data)
    assert len(data) == len(truth) == 0 and list(truth) == list(planted.PITFALLS)


@pytest.mark.parametrize(("n", "rate"), [(100, 0.08), (20, 0.5), (100, -0.1), (100, 1.1)])
def test_a_rate_that_does_not_fit_is_said(n, rate):
    with pytest.raises(ValueError, match=f"11 pitfalls at rate {rate} do not fit into {n} pairs"):
        planted.planted_pairs(n, seed=0, rate=rate)


def test_prompts_that_should_differ_do_even_where_words_are_few(monkeypatch):
    # With few words the same question is drawn often.
    monkeypatch.setattr(planted, "_NOUNS", ["kettle", "garden"])
    monkeypatch.setattr(planted, "_VERBS", ["paint"])
    monkeypatch.setattr(planted, "_ADJECTIVES", ["old"])
    data, truth = planted.planted_pairs(400, seed=0)
    assert data["rejected_prompt"].notna().equals(truth["prompts_differ"])
