"""The gold world: what is planted is there, at its rate, and nothing else is."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import binom

from helpers import gold, lexicon, pairs, pitfalls, splits, stats, world

HASH = """
import hashlib, sys
from helpers import world
w = world.make(300, seed=5, length_bias=0.5, style_bias=0.5)
votes = world.annotate(w.pairs, w.truth, style_bias=0.3, position_bias=0.1, seed=2)
text = "".join(f.to_csv() for f in (w.pairs, w.truth, votes))
print(hashlib.sha256(text.encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def made():
    return world.make(5000, seed=0)


def signs(truth):
    return truth["better"].map({"chosen": 1, "rejected": -1, "tie": 0}).to_numpy()


def against(votes, truth):
    """Whether each vote goes against the truth, and whether the truth is on the chosen side."""
    better = truth["better"].loc[votes["pair_id"]].to_numpy()
    told = better != "tie"
    return (votes["vote"].to_numpy() != better)[told], (better == "chosen")[told]


def near(successes, n, share):
    """Whether a count lies in the central 99.9 % of the binomial with this share."""
    low, high = binom.interval(0.999, n, share)
    return low <= successes <= high


def test_pairs_follow_the_schema_and_are_all_different(made):
    pairs.check(made.pairs)
    assert made.pairs["pair_id"].is_unique
    assert made.truth.index.tolist() == made.pairs["pair_id"].tolist()
    assert made.pairs["row"].tolist() == list(range(5000))
    assert made.pairs["rejected_prompt"].isna().all()
    parsed = [
        pairs.parse(p + c, p + r)["pair_id"]
        for p, c, r in zip(made.pairs["prompt"], made.pairs["chosen"], made.pairs["rejected"])
    ]
    assert parsed == made.truth.index.tolist()


def test_every_word_is_in_the_vocabulary_between_single_spaces(made):
    known = set(lexicon.VOCABULARY)
    for column in ("prompt", "chosen", "rejected"):
        for text in made.pairs[column]:
            bare = text.replace(pairs.HUMAN, "").replace(pairs.ASSISTANT, "")
            tokens = bare.split()
            assert set(tokens) <= known and bare == "".join(f" {t}" for t in tokens)
            assert tokens == lexicon.words(bare)
    used = {
        w
        for column in ("prompt", "chosen", "rejected")
        for t in made.pairs[column]
        for w in t.split()
    }
    assert known <= used


def test_responses_are_short_and_scores_have_a_spread(made):
    chosen = made.pairs["chosen"][~made.truth["empty"].to_numpy()]
    lengths = chosen.map(lambda text: len(lexicon.words(text)))
    assert lengths.quantile(0.1) >= 8 and lengths.quantile(0.9) <= 45 and lengths.max() < 120
    for subset in world.SUBSETS:
        scores = made.truth["gold_chosen"][(made.pairs["subset"] == subset).to_numpy()]
        assert scores.std() > 0.2 and scores.nunique() > 50


def test_truth_is_gold_read_off_the_text(made):
    for side in ("chosen", "rejected"):
        scores = gold.scores(made.pairs["prompt"], made.pairs[side])
        assert made.truth[f"gold_{side}"].tolist() == scores.tolist()
    gap = made.truth["gold_chosen"] - made.truth["gold_rejected"]
    assert (made.truth["better"] == "tie").equals(gap.abs() <= world.NEAR_TIE)
    assert ((made.truth["better"] == "chosen") <= (gap > 0)).all()
    assert made.truth["toxic"].equals(made.truth["gold_chosen"] < 0)
    assert made.truth["split"].tolist() == [splits.split_of(p) for p in made.pairs["prompt"]]
    assert set(made.truth["category"]) == {
        "Same",
        "Opposite",
        "Toxic",
        "Vague",
        "Repetitive",
        "Empty",
    }
    plain = made.truth[made.truth["category"].isin(["Same", "Opposite", "Vague"])]
    assert not plain[["toxic", "empty", "repetitive"]].any(axis=None)
    by_label = {"chosen": "Same", "rejected": "Opposite", "tie": "Vague"}
    assert plain["category"].tolist() == plain["better"].map(by_label).tolist()


def test_empty_and_repetitive_are_what_the_flags_find(made, tokenizer):
    found = pitfalls.flag(made.pairs, tokenizer)
    for name in ("empty", "repetitive"):
        assert found[name].tolist() == made.truth[name].tolist() and made.truth[name].any()


@pytest.mark.parametrize("rate", [0.0, 0.05])
def test_pitfalls_are_planted_at_their_rates(rate):
    truth = world.make(2000, seed=3, toxic=rate, empty=rate, repetitive=rate).truth
    assert near(truth["empty"].sum(), 2000, rate)
    assert near(truth["repetitive"].sum(), 2000, rate)
    # Harmful responses are chosen for other reasons, too.
    assert truth["toxic"].mean() >= rate


def test_default_rates_give_the_papers_shares():
    for error, share in ((world.LABEL_ERROR, 0.678), (world.LABEL_ERROR_TEST, 0.515)):
        truth = world.make(3000, seed=1, label_error=error).truth
        assert near((truth["category"] == "Same").sum(), 3000, share)


@pytest.mark.parametrize("error", [0.0, 0.2, 0.5])
def test_the_label_errs_at_its_rate_whatever_the_side(error):
    clean = {"toxic": 0, "empty": 0, "repetitive": 0}
    truth = world.make(3000, seed=2, label_error=error, **clean).truth
    told = truth[truth["better"] != "tie"]
    assert near((told["better"] == "rejected").sum(), len(told), error)


def share_of_ties_won(gap, **settings):
    """How often the label of a true tie falls on the side with the larger gap."""
    made = world.make(2000, seed=4, **settings)
    gaps = np.array([gap(a, b) for a, b in zip(made.pairs["chosen"], made.pairs["rejected"])])
    tie = (signs(made.truth) == 0) & (gaps != 0) & ~made.truth["empty"].to_numpy()
    return stats.wilson(int((gaps[tie] > 0).sum()), int(tie.sum()))


@pytest.mark.parametrize(
    ("name", "gap"), [("length_bias", world.length_gap), ("style_bias", world.style_gap)]
)
def test_label_biases_show_in_the_labels_and_are_absent_at_zero(name, gap):
    without, biased = share_of_ties_won(gap), share_of_ties_won(gap, **{name: 1.5})
    assert without.low <= 0.5 <= without.high and biased.low > 0.5


def test_longer_and_politer_is_better_among_typical_answers_as_far_as_that_goes(made):
    sign = signs(made.truth)
    for gap in (world.length_gap, world.style_gap):
        gaps = np.array([gap(a, b) for a, b in zip(made.pairs["chosen"], made.pairs["rejected"])])
        told = (sign != 0) & (gaps != 0)
        agrees = np.sign(gaps[told]) == sign[told]
        share = stats.wilson(int(agrees.sum()), int(told.sum()))
        assert share.low > 0.5 and share.high < 0.75


def test_annotator_error_is_recovered_and_symmetric_without_bias(made):
    votes = world.annotate(made.pairs, made.truth, n_annotators=3, error=[0.05, 0.2, 0.35], seed=1)
    for name, error in zip(["annotator-1", "annotator-2", "annotator-3"], [0.05, 0.2, 0.35]):
        wrong, chosen = against(votes[votes["annotator"] == name], made.truth)
        for side in (chosen, ~chosen):
            assert near(wrong[side].sum(), side.sum(), error)


def test_a_vote_on_a_true_tie_is_a_coin_and_may_be_a_tie(made):
    tied = made.truth.index[made.truth["better"] == "tie"]
    for rate in (0.0, 0.4):
        votes = world.annotate(made.pairs, made.truth, error=0.0, tie_rate=rate, seed=6)
        here = votes[votes["pair_id"].isin(tied)]
        assert near((here["vote"] == "tie").sum(), len(here), rate)
        assert near((here["vote"] == "chosen").sum(), len(here), (1 - rate) / 2)
        assert (votes["vote"] == "tie").sum() == (here["vote"] == "tie").sum()


@pytest.mark.parametrize(
    ("name", "gap"), [("length_bias", "length_gap"), ("style_bias", "style_gap")]
)
def test_a_bias_adds_to_the_log_odds(made, name, gap):
    votes = world.annotate(made.pairs, made.truth, error=0.2, **{name: 0.7}, seed=8)
    gaps = np.array(
        [getattr(world, gap)(a, b) for a, b in zip(made.pairs["chosen"], made.pairs["rejected"])]
    )
    chance = expit(signs(made.truth) * logit(0.8) + 0.7 * gaps)
    chose = (votes["vote"] == "chosen").to_numpy().reshape(4, -1)
    for group in (gaps > 0, gaps < 0, gaps == 0):
        expected, spread = (
            chance[group].sum() * 4,
            np.sqrt((chance * (1 - chance))[group].sum() * 4),
        )
        assert abs(chose[:, group].sum() - expected) < 3.3 * spread


def test_position_bias_adds_error_on_both_sides_alike(made):
    votes = world.annotate(made.pairs, made.truth, error=0.1, position_bias=2.0, seed=9)
    wrong, chosen = against(votes, made.truth)
    expected = 1 - (expit(logit(0.9) + 2) + expit(logit(0.9) - 2)) / 2
    for side in (chosen, ~chosen):
        assert near(wrong[side].sum(), side.sum(), expected)


def test_votes_are_a_vote_table_and_depend_on_their_pair_alone(made):
    votes = world.annotate(made.pairs, made.truth, seed=1)
    assert list(votes) == ["pair_id", "annotator", "vote", "toxic", "source"]
    assert len(votes) == 4 * 5000 and not votes.duplicated(["pair_id", "annotator"]).any()
    assert set(votes["source"]) == {"simulation"} and votes["toxic"].dtype == bool
    part = world.annotate(
        made.pairs.sample(200, random_state=0), made.truth, n_annotators=2, seed=1
    )
    both = part.merge(votes, on=["pair_id", "annotator"])
    assert len(both) == 400 and (both["vote_x"] == both["vote_y"]).all()
    other = world.annotate(made.pairs, made.truth, seed=2)
    assert 0.05 < (other["vote"] != votes["vote"]).mean() < 0.5
    marked = votes["toxic"].to_numpy() != made.truth["toxic"].loc[votes["pair_id"]].to_numpy()
    assert near(marked.sum(), len(votes), 0.02)


def test_annotators_err_independently(made):
    votes = world.annotate(made.pairs, made.truth, n_annotators=2, error=0.3, seed=3)
    one, two = (against(v, made.truth)[0] for _, v in votes.groupby("annotator"))
    assert near((one & two).sum(), len(one), 0.09)


def test_a_shorter_world_is_the_beginning_of_a_longer_one(made):
    short = world.make(200, seed=0)
    pd.testing.assert_frame_equal(short.pairs, made.pairs.head(200))
    pd.testing.assert_frame_equal(short.truth, made.truth.head(200))
    other = world.make(200, seed=1)
    assert len(set(other.pairs["pair_id"]) & set(short.pairs["pair_id"])) < 5
    none = world.make(0, seed=0)
    pairs.check(none.pairs)
    assert len(none.truth) == 0 and list(none.truth) == list(made.truth)


def test_same_seed_same_bytes_in_every_process():
    hashes = {
        subprocess.run(
            [sys.executable, "-c", HASH],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(hashes) == 1 and len(hashes.pop()) == 65


@pytest.mark.parametrize(
    "settings", [{"toxic": 1.2}, {"empty": -0.1}, {"toxic": 0.6, "empty": 0.6}, {"label_error": 2}]
)
def test_impossible_rates_are_said(settings):
    with pytest.raises(ValueError, match="rates must lie in"):
        world.make(1, seed=0, **settings)


def test_bad_annotator_settings_are_said(made):
    for settings in (
        {"error": 1.5},
        {"error": [0.1, 0.1, 0.1, -1]},
        {"tie_rate": 2},
        {"toxic_error": -1},
    ):
        with pytest.raises(ValueError, match="must lie in"):
            world.annotate(made.pairs, made.truth, seed=0, **settings)
    with pytest.raises(ValueError, match="at least 1"):
        world.annotate(made.pairs, made.truth, n_annotators=0, seed=0)
    with pytest.raises(ValueError, match="1 pairs have no truth"):
        world.annotate(made.pairs, made.truth.iloc[1:], seed=0)


def test_a_world_that_is_used_up_says_so(monkeypatch):
    monkeypatch.setattr(world.writers, "prompt", lambda rng: "\n\nHuman: hello\n\nAssistant:")
    monkeypatch.setattr(world.writers, "response", lambda rng, _: rng.choice([" yes", " no"]))
    with pytest.raises(ValueError, match="no new pair in 100 draws"):
        world.make(50, seed=0)
