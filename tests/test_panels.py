import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import judge, panels, rewards
from helpers.pairs import ASSISTANT, HUMAN, frame, parse
from helpers.panels import Member

VOTE_COLUMNS = ["pair_id", "annotator", "vote", "toxic", "source"]


def make(n: int, *, per_prompt: int = 1, subset: str = "s", seed: int = 0, wrong=0.0):
    """Pairs in which the response with the word 'good' wins, but for wrong labels."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(n):
        prompt = f"{HUMAN} {subset} question {i // per_prompt}?{ASSISTANT}"
        sides = [f" a {w} answer, number {i}." for w in ("good", "bad")]
        if rng.random() < wrong:
            sides.reverse()
        record = parse(prompt + sides[0], prompt + sides[1])
        records.append(dict(record, subset=subset, split="test", row=i))
    return frame(records)


FAST = {"words": panels.MEMBERS["tfidf-words"], "length": panels.MEMBERS["length"]}
RULE = {"shorter": Member("length", lambda data, seed: rewards.length(-1))}


def remembering(seen: list):
    """A member that knows by heart what it was trained on, and nothing else."""

    def fit(data, seed):
        sides = {**dict.fromkeys(data["chosen"], 1.0), **dict.fromkeys(data["rejected"], -1.0)}
        seen.append(set(data["pair_id"]))

        def score(_prompts, responses):
            return np.array([sides.get(text, 0.0) for text in responses])

        return rewards._learned(data, "memory", "memory", score)

    return {"memory": Member("memory", fit)}


# Cross-fitting


@pytest.mark.parametrize("per_prompt", [1, 3])
def test_memory_gains_nothing(per_prompt):
    seen = []
    margins = panels.cross_fit(make(60, per_prompt=per_prompt), remembering(seen), seed=0)
    assert len(seen) == 10 and not margins["margin"].any()
    assert (panels.margin_votes(margins)["vote"] == "tie").all()


def test_no_member_sees_the_prompt_it_votes_on_on_either_side():
    data = make(60, per_prompt=2)
    crossed = [
        dict(
            parse(data["prompt"][i] + f" x {i}", data["prompt"][i + 7] + f" y {i}"),
            subset="s",
            split="test",
            row=100 + i,
        )
        for i in range(0, 40, 5)
    ]
    data = frame([*data.assign(rejected_prompt=None).to_dict("records"), *crossed])
    touches = {
        p.pair_id: {p.prompt} | ({p.rejected_prompt} if pd.notna(p.rejected_prompt) else set())
        for p in data.itertuples()
    }
    seen = []
    margins = panels.cross_fit(data, remembering(seen), folds=4, seed=1)
    for k in range(4):
        held = set(margins["pair_id"][margins["fold"] == k])
        prompts = set().union(*(touches[p] for p in held))
        # Two fits a fold: the one whose margins set the threshold, and the one that votes.
        for trained in seen[2 * k : 2 * k + 2]:
            assert trained and not trained & held
            assert not prompts & set().union(*(touches[p] for p in trained))
    assert set(margins["pair_id"]) == set(data["pair_id"]) and margins["pair_id"].is_unique


def test_a_member_that_was_trained_elsewhere_on_these_pairs_is_caught():
    data = make(40)
    fitted = rewards.length_bt(data, 0)
    with pytest.raises(ValueError, match="length was trained on"):
        panels.cross_fit(data, {"x": Member("length", lambda *_: fitted)}, seed=0)
    same_prompts = make(40).assign(pair_id=[f"{i:016x}" for i in range(40)])
    fitted = rewards.length_bt(same_prompts, 0)
    with pytest.raises(ValueError, match="pairs or prompts"):
        panels.cross_fit(data, {"x": Member("length", lambda *_: fitted)}, seed=0)


def test_the_pattern_is_found_and_wrong_labels_against_it_are_outvoted():
    data = make(300, wrong=0.1)
    is_wrong = data["chosen"].str.contains("bad").to_numpy()
    assert 15 < is_wrong.sum() < 50
    margins = panels.cross_fit(data, {"words": FAST["words"]}, seed=0, tie_share=0.0)
    votes = panels.margin_votes(margins).set_index("pair_id").loc[data["pair_id"], "vote"]
    assert (votes.to_numpy() == np.where(is_wrong, "rejected", "chosen")).mean() > 0.95


def test_the_label_on_the_pair_itself_does_not_move_its_vote():
    data = make(80)
    turned = data.copy()
    row = 17
    turned.loc[row, ["chosen", "rejected"]] = data.loc[row, ["rejected", "chosen"]].to_numpy()
    one, other = (panels.cross_fit(d, FAST, seed=0) for d in (data, turned))
    at = data["pair_id"][row]
    mine, theirs = (m[m["pair_id"] == at].set_index("annotator")["margin"] for m in (one, other))
    assert (mine["words"], mine["length"]) == (-theirs["words"], -theirs["length"])
    assert mine["words"] != 0


def test_subsets_that_want_opposite_things_get_members_of_their_own():
    one, other = make(60, subset="short"), make(60, subset="long")
    one = one.assign(chosen="x", rejected="xxxx")
    other = other.assign(chosen="xxxx", rejected="x")
    data = pd.concat([one, other], ignore_index=True)
    margins = panels.cross_fit(data, {"length": FAST["length"]}, seed=0)
    assert (margins["margin"] == 3).all(), "each subset's own wish"
    assert (panels.margin_votes(margins)["vote"] == "chosen").all()


def test_a_margin_below_the_threshold_or_none_at_all_is_a_tie():
    margins = pd.DataFrame(
        dict(margin=[2.0, 1.0, 0.9, -0.9, -1.0, 0.0], threshold=[1.0] * 5 + [0.0])
    ).assign(pair_id="p", annotator="m")
    votes = panels.margin_votes(margins)["vote"].tolist()
    assert votes == ["chosen", "chosen", "tie", "tie", "rejected", "tie"]


def test_the_threshold_makes_about_the_share_of_ties_asked_for():
    rng = np.random.default_rng(0)
    data = make(1000)
    data["chosen"] = ["x" * n for n in rng.integers(1, 4000, 1000)]
    for share in (0.0, 0.1, 0.5):
        votes = panels.reward_panel(data, RULE, seed=0, tie_share=share)
        assert (votes["vote"] == "tie").mean() == pytest.approx(share, abs=0.04)


def test_leaving_a_family_out():
    data = make(50)
    votes = panels.reward_panel(data, FAST, seed=0, leave_out=["tfidf"])
    assert set(votes["annotator"]) == {"length"}
    with pytest.raises(ValueError, match="no judge is left"):
        panels.cross_fit(data, FAST, seed=0, leave_out=["tfidf", "length"])


def test_the_standard_panel_has_four_members_and_a_clean_vote_table():
    data = make(60)
    votes = panels.reward_panel(data, folds=3, seed=0)
    assert list(votes.columns) == VOTE_COLUMNS and set(votes["source"]) == {"panel"}
    assert votes.groupby("pair_id").size().eq(4).all() and len(votes) == 240
    assert not votes.duplicated(["pair_id", "annotator"]).any() and not votes["toxic"].any()
    assert set(votes["vote"]) <= {"chosen", "rejected", "tie"}
    again = panels.reward_panel(data.sample(frac=1, random_state=1), folds=3, seed=0)
    key = ["pair_id", "annotator"]
    agree = votes.merge(again, on=key, suffixes=("", "_2"))
    assert (agree["vote"] == agree["vote_2"]).mean() > 0.97, "row order is no information"


def test_bad_settings_are_named():
    data = make(20)
    with pytest.raises(ValueError, match="folds is 2"):
        panels.cross_fit(data, RULE, folds=2, seed=0)
    with pytest.raises(ValueError, match="tie_share is 1"):
        panels.cross_fit(data, RULE, seed=0, tie_share=1)
    with pytest.raises(ValueError, match=r"s: 3 pairs leave \d of 5 folds empty"):
        panels.cross_fit(make(3), RULE, seed=0)
    with pytest.raises(ValueError, match="not a frame of pairs"):
        panels.cross_fit(data.drop(columns="turns"), RULE, seed=0)


@given(st.lists(st.text(max_size=10), max_size=20), st.integers(3, 10), st.integers(0, 5))
def test_a_prompts_fold_depends_on_the_prompt_and_the_seed_only(prompts, folds, seed):
    found = panels.folds_of(prompts, folds, seed)
    assert ((found >= 0) & (found < folds)).all()
    alone = [panels.folds_of([p], folds, seed)[0] for p in prompts]
    assert found.tolist() == alone


def test_folds_are_about_even():
    counts = np.bincount(panels.folds_of([f"prompt {i}" for i in range(5000)], 5, 0))
    assert counts.min() > 900 and counts.max() < 1100


# What is said of a panel


def test_circularity_names_what_everyone_learned():
    data = pd.concat([make(50), make(50, subset="t")], ignore_index=True)
    margins = panels.cross_fit(data, FAST | RULE, seed=0)
    table, statement = panels.circularity(margins)
    rows = table.set_index("annotator")
    assert rows["independent"].to_dict() == {"words": False, "length": False, "shorter": True}
    assert rows["learned"]["words"] == "original labels of s/test; original labels of t/test"
    assert 0 < rows["fewest_pairs"]["words"] <= rows["most_pairs"]["words"] < 50
    assert statement.startswith("Independent of the preference labels: shorter.")
    only = panels.cross_fit(data, FAST, seed=0, leave_out=["length"])
    _, statement = panels.circularity(only, leave_out=["length"])
    assert statement.startswith("No member is independent") and statement.endswith(
        "out are length."
    )


def test_agreement_with_labels_counts_ties_half():
    data = make(4)
    votes = pd.DataFrame(
        dict(pair_id=data["pair_id"], annotator="m", vote=["chosen", "chosen", "tie", "rejected"])
    )
    row = panels.against_labels(votes, data, seed=0).iloc[0]
    assert (row["value"], row["ties"], row["n"]) == (0.625, 0.25, 4)
    assert row["low"] <= row["value"] <= row["high"]
    with pytest.raises(ValueError, match="1 votes are on unknown pairs, the first on zz"):
        panels.against_labels(votes.assign(pair_id=["zz", *data["pair_id"][1:]]), data, seed=0)


# Judges


def answers(*rows) -> pd.DataFrame:
    """Rows of (pair, first, status, vote, toxic) by one judge."""
    columns = ["pair_id", "first", "status", "vote", "toxic"]
    return pd.DataFrame(rows, columns=columns).assign(judge="j", text="", problem="")


CASES = {
    # votes with the chosen and with the rejected side first: the vote, or None
    ("chosen", "chosen"): "chosen",
    ("rejected", "rejected"): "rejected",
    ("tie", "tie"): "tie",
    ("chosen", "rejected"): "tie",
    ("rejected", "chosen"): "tie",
    ("tie", "chosen"): "tie",
    ("rejected", "tie"): "tie",
    (None, "chosen"): None,
    ("chosen", None): None,
    (None, None): None,
}


def test_both_orders_make_a_vote():
    rows = []
    for i, pair in enumerate(CASES):
        for first, vote in zip(judge.SIDES, pair):
            status = "answered" if vote else ("failed" if i % 2 else "unparseable")
            rows.append((f"p{i}", first, status, vote, False))
    votes, report = panels.judge_panel(answers(*rows))
    expected = {f"p{i}": vote for i, vote in enumerate(CASES.values()) if vote}
    assert votes.set_index("pair_id")["vote"].to_dict() == expected
    assert list(votes.columns) == VOTE_COLUMNS and set(votes["source"]) == {"judges"}
    assert report.drop(columns="judge").iloc[0].to_dict() == dict(
        pairs=10,
        consistent=3,
        inconsistent=4,
        incomplete=3,
        both_first=1,
        both_second=1,
        unparseable=1,
        failed=3,
    )


def test_a_toxicity_mark_needs_both_orders():
    marks = {"p0": (True, True), "p1": (True, False), "p2": (False, False)}
    rows = [
        (p, first, "answered", "chosen", mark)
        for p, pair in marks.items()
        for first, mark in zip(judge.SIDES, pair)
    ]
    votes, _ = panels.judge_panel(answers(*rows))
    assert votes.set_index("pair_id")["toxic"].to_dict() == {"p0": True, "p1": False, "p2": False}


def test_judges_are_kept_apart_and_one_without_an_answer_is_reported():
    good = answers(*[("p0", first, "answered", "chosen", False) for first in judge.SIDES])
    mute = answers(*[("p0", first, "failed", None, False) for first in judge.SIDES])
    votes, report = panels.judge_panel(pd.concat([good, mute.assign(judge="mute")]))
    assert votes["annotator"].tolist() == ["j"]
    assert report.set_index("judge")["incomplete"].to_dict() == {"j": 0, "mute": 1}
    votes, _ = panels.judge_panel(mute)
    assert votes.empty and list(votes.columns) == VOTE_COLUMNS


def test_a_pair_asked_twice_by_one_judge_is_refused():
    rows = [("p0", first, "answered", "chosen", False) for first in judge.SIDES]
    with pytest.raises(ValueError, match="not a one-to-one merge"):
        panels.judge_panel(answers(*rows, rows[0]))
    with pytest.raises(ValueError, match="no answers"):
        panels.judge_panel(answers())


# Real pairs


def test_every_real_pair_gets_its_votes(hh_test_sets):
    _, data = hh_test_sets
    margins = panels.cross_fit(data, {"length": FAST["length"]} | RULE, seed=0)
    votes = panels.margin_votes(margins)
    assert len(votes) == 2 * len(data) == 17_104
    assert set(votes["pair_id"]) == set(data["pair_id"])
    table = panels.against_labels(votes, data, seed=0).set_index(["annotator", "subset"])
    # Shorter answers win in harmless-base, longer ones in helpful-base: both signs are learned.
    assert table["low"]["length", "harmless-base"] > 0.5
    assert table["low"]["length", "helpful-base"] > 0.5 > table["high"]["shorter", "helpful-base"]
