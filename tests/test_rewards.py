import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import rewards
from helpers.pairs import ASSISTANT, HUMAN, frame, parse

GOOD = ["a clear and complete answer", "a kind and useful reply", "an exact explanation"]
BAD = ["some vague rambling", "a rude and lazy remark", "empty chatter"]


def make(n: int, seed: int = 0, wrong: float = 0.0):
    """n pairs in which good words win, but for a share of wrong labels."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(n):
        sides = [f" {rng.choice(words)} {rng.integers(99)}." for words in (GOOD, BAD)]
        if rng.random() < wrong:
            sides.reverse()
        prompt = f"{HUMAN} Question {i}?{ASSISTANT}"
        record = parse(prompt + sides[0], prompt + sides[1])
        records.append(dict(record, subset="s", split="train", row=i))
    return frame(records)


LEARNERS = {
    "words": lambda data, seed=0: rewards.tfidf_bt(data, seed),
    "characters": lambda data, seed=0: rewards.tfidf_bt(data, seed, "char_wb"),
    "features": rewards.features_bt,
    "length": rewards.length_bt,
}


@pytest.mark.parametrize("name", ["words", "characters"])
def test_planted_words_are_learned_and_carry_over(name):
    scorer = LEARNERS[name](make(200, wrong=0.1), 0)
    assert (rewards.margins(scorer, make(200, seed=1)) > 0).mean() > 0.95


@pytest.mark.parametrize("fit", LEARNERS.values(), ids=LEARNERS)
def test_no_side_is_preferred_by_its_place(fit):
    data = make(60, wrong=0.3)
    swapped = data.assign(chosen=data["rejected"], rejected=data["chosen"])
    scorer = fit(data, 0)
    np.testing.assert_allclose(
        rewards.margins(scorer, swapped), -rewards.margins(scorer, data), atol=1e-9
    )
    same = data.assign(rejected=data["chosen"])
    assert not rewards.margins(scorer, same).any(), "no intercept: equal responses score alike"


@pytest.mark.parametrize("name", ["words", "characters", "features"])
def test_wrong_labels_turn_the_sign_of_what_is_learned(name):
    data = make(60)
    swapped = data.assign(chosen=data["rejected"], rejected=data["chosen"])
    one, other = (LEARNERS[name](d, 0) for d in (data, swapped))
    np.testing.assert_allclose(rewards.margins(one, data), -rewards.margins(other, data), atol=0.02)


@pytest.mark.parametrize("fit", LEARNERS.values(), ids=LEARNERS)
def test_the_same_seed_gives_the_same_scores_and_the_coin_does_not_matter(fit):
    data = make(60, wrong=0.2)
    margins = [rewards.margins(fit(data, seed), data) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(margins[0], margins[1])
    # Turning a pair round leaves its likelihood alone; only the solver's rounding may differ.
    np.testing.assert_allclose(margins[0], margins[2], atol=0.02)


@pytest.mark.parametrize("fit", LEARNERS.values(), ids=LEARNERS)
def test_a_learner_says_what_it_saw(fit):
    record = parse(f"{HUMAN} One?{ASSISTANT} a b", f"{HUMAN} Two?{ASSISTANT} c")
    other = frame([dict(record, subset="t", split="test", row=0)])
    data = frame([*make(20).to_dict("records"), *other.to_dict("records")])
    data["rejected_prompt"] = data["rejected_prompt"].where(data["rejected_prompt"].notna())
    scorer = fit(data, 0)
    assert scorer.pair_ids == set(data["pair_id"]) and len(scorer.pair_ids) == 21
    assert {f"{HUMAN} One?{ASSISTANT}", f"{HUMAN} Two?{ASSISTANT}"} <= scorer.prompts
    assert scorer.learned == "original labels of s/train, t/test"


@pytest.mark.parametrize("rule", [rewards.length(1), rewards.length(-1), rewards.profanity()])
def test_rules_learned_nothing(rule):
    assert not rule.pair_ids and not rule.prompts and "no preference labels" in rule.learned


def test_lengths():
    texts = ["", "ab", "abcd"]
    assert rewards.length(1).score([""] * 3, texts).tolist() == [0, 2, 4]
    assert rewards.length(-1).score([""] * 3, texts).tolist() == [0, -2, -4]
    with pytest.raises(ValueError, match="sign is 2"):
        rewards.length(2)


def test_length_takes_its_sign_from_the_labels():
    data = make(10)
    longer = data.assign(chosen="long answer", rejected="short")
    assert rewards.length_bt(longer, 0).score([""], ["abc"])[0] == 3
    shorter = data.assign(chosen="short", rejected="long answer")
    assert rewards.length_bt(shorter, 0).score([""], ["abc"])[0] == -3


def test_swearing_scores_lower():
    kind, rude = rewards.profanity().score(["", ""], ["Thank you.", "You stupid idiot!"])
    assert -1 <= rude < -0.9 < -0.1 < kind <= 0


@pytest.mark.parametrize("which", range(len(rewards.FEATURES)))
def test_each_feature_sees_what_it_is_named_after(which):
    plain, marked = {
        "log length": ("Yes", "Yes, all of it"),
        "lines": ("one two", "one\ntwo"),
        "asks a question": ("What.", "What?"),
        "refuses": ("I can do that.", "I can't do that."),
        "profanity": ("you good idea", "you stupid idiot"),
    }[rewards.FEATURES[which]]
    low, high = rewards._features([plain, marked])[:, which]
    assert high > low


@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_any_text_has_a_finite_score(texts):
    for scorer in SCORERS:
        scores = scorer.score([""] * len(texts), texts)
        assert scores.shape == (len(texts),) and np.isfinite(scores).all()


SCORERS = [fit(make(30), 0) for fit in LEARNERS.values()] + [rewards.profanity()]


def test_too_few_pairs_are_named():
    with pytest.raises(ValueError, match="tfidf-words has 1 pairs"):
        rewards.tfidf_bt(make(1), 0)
    with pytest.raises(ValueError, match="not a frame of pairs"):
        rewards.features_bt(make(3).drop(columns="turns"), 0)


def test_real_pairs_margins_use_each_sides_own_text(hh_test_sets):
    _, data = hh_test_sets
    rule = rewards.length(1)
    expected = data["chosen"].str.len() - data["rejected"].str.len()
    np.testing.assert_array_equal(rewards.margins(rule, data), expected)
