"""Duels, effects and the claim's test set against counts made by hand; jobs against parameters."""

import numpy as np
import pandas as pd
import pytest

from helpers import align_pro, arms, gold, jobs, rewards, stats, study_pro, world
from helpers.study_pro import POOLED, Arm

BEST, WORST = Arm("PRO", 2, "good"), Arm("PRO", 2, "poor")


def table(arm: Arm, scores, **columns) -> pd.DataFrame:
    """Answers of one arm: ``scores`` (seeds, prompts), the first half harmless."""
    scores = np.asarray(scores, dtype=float)
    seeds, n = scores.shape
    rows = [
        dict(seed=s, pair_id=f"p{i}", subset=world.SUBSETS[i >= n // 2], prompt=f"q{i}")
        for s in range(seeds)
        for i in range(n)
    ]
    found = pd.DataFrame(rows).assign(gold=scores.ravel(), **arm._asdict(), **columns)
    return study_pro.of_prompts(found)


def planned(seeds: int = 3, **settings) -> dict:
    start = arms.start_job(100, 1)
    models = {grade: jobs.Job(grade, "arms.proxy", {"grade": [grade]}) for grade in "ab"}
    wanted = [Arm(method, 2, grade) for method in study_pro.METHODS for grade in models]
    config = {"learning_rate": 1e-3} | settings
    return study_pro.plan(
        wanted, seeds, start=start, models=models, prompts=8, measure=4, config=config
    )


def test_the_worst_and_the_best_are_those_by_accuracy():
    assert study_pro.extremes({"a": 0.7, "b": 0.9, "c": 0.5}) == ("c", "b")
    with pytest.raises(ValueError, match="none is better"):
        study_pro.extremes({"a": 0.7, "b": 0.7})


def test_a_job_for_each_arm_and_seed_and_all_different():
    found = planned()
    assert len({jobs.key(job) for job in found.values()}) == len(found)
    assert len(found) == 2 * 3 * len(study_pro.METHODS)
    for (arm, seed), job in found.items():
        config = align_pro.Config(**job.settings["config"])
        own = study_pro.METHODS[arm.method].get("learning_rate", 1e-3)
        assert config.learning_rate == own and job.settings["seed"] == seed


def test_arms_of_one_seed_differ_in_the_reward_model_alone():
    found = planned(1)
    a, b = (found[Arm("PRO", 2, grade), 0] for grade in "ab")
    assert a.settings == b.settings and a.needs["start"] == b.needs["start"]
    assert a.needs["proxy"] != b.needs["proxy"]
    # Rewards are on the scale of their own model.
    assert a.needs["standard"].needs["proxy"] == a.needs["proxy"]


def test_the_methods_are_those_of_the_papers():
    configs = {name: align_pro.Config(**fields) for name, fields in study_pro.METHODS.items()}
    of_loss = {name: (one.method, one.sft_weight) for name, one in configs.items()}
    assert configs["PRO"] == align_pro.Config()
    assert of_loss["Eq. 3"] == (align_pro.PRINTED.method, 0.0)
    assert configs["RRHF"] == align_pro.RRHF and of_loss["CoH"][0] == align_pro.COH.method


def test_a_duel_by_hand():
    first = table(BEST, [[1.0, 0.50, 0.0, 0.9], [1.0, 1.0, 1.0, 1.0]])
    second = table(WORST, [[0.0, 0.51, 0.5, 0.9], [0.0, 0.0, 2.0, 0.0]])
    found = study_pro.duel(first, second, "gold", near_tie=0.02)
    assert found["outcome"].tolist() == [1, 0, -1, 0, 1, 1, -1, 1]
    # Turned round, every win is a loss.
    turned = study_pro.duel(second, first, "gold", near_tie=0.02)
    assert turned["outcome"].tolist() == (-found["outcome"]).tolist()


def test_a_duel_pairs_by_seed_and_prompt_and_not_by_place():
    first = table(BEST, [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    second = table(WORST, [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    mixed = second.sample(frac=1, random_state=0)
    assert (study_pro.duel(first, mixed, "gold", 0.0)["outcome"] == 0).all()


def test_the_weakest_lead_is_the_one_that_is_shown_least():
    def lead(value, low, high):
        return stats.Estimate(value, low, high, 6, "")

    leads = {"many": lead(0.12, 0.03, 0.21), "few": lead(0.15, -0.02, 0.32)}
    assert study_pro.weakest(leads)[0] == "few", "its value is larger and its interval holds zero"
    leads["against"] = lead(-0.1, -0.15, -0.05)
    leads["vague"] = lead(0.0, -0.5, 0.5)
    assert study_pro.weakest(leads)[0] == "against", "one set where it is reversed decides"


def test_an_answer_without_its_opponent_is_an_error():
    first, second = table(BEST, np.ones((2, 4))), table(WORST, np.zeros((2, 4)))
    with pytest.raises(ValueError, match="same prompts with the same seeds"):
        study_pro.duel(first, second.iloc[1:], "gold", 0.0)
    with pytest.raises(ValueError, match="no rows of"):
        study_pro.of(first, WORST)


def test_shares_of_each_set_by_hand():
    first = table(BEST, [[1, 1, 0, 0], [1, 1, 0, 1]])
    second = table(WORST, [[0, 0, 1, 1], [0, 1, 1, 1]])
    sets = study_pro.by_set(study_pro.duel(first, second, "gold", 0.0))
    assert list(sets) == [*sorted(world.SUBSETS), POOLED]
    harmless = study_pro.shares(sets[world.SUBSETS[0]], seed=0)
    helpful = study_pro.shares(sets[world.SUBSETS[1]], seed=0)
    both = study_pro.shares(sets[POOLED], seed=0)
    assert [harmless[k].value for k in ("win", "tie", "lose", "net")] == [0.75, 0.25, 0, 0.75]
    assert [helpful[k].value for k in ("win", "tie", "lose", "net")] == [0, 0.25, 0.75, -0.75]
    assert both["net"].value == pytest.approx(0)
    assert (
        study_pro.weakest({k: study_pro.shares(v, seed=0)["net"] for k, v in sets.items()})[0]
        == world.SUBSETS[1]
    )


def test_equal_policies_have_no_lead_and_a_planted_gain_is_found():
    rng = np.random.default_rng(0)
    prompts = rng.normal(size=200)
    scores = prompts + rng.normal(0, 0.1, (4, 200))
    first, second = table(BEST, scores + 0.3), table(WORST, scores)
    found = study_pro.difference(first, second)
    assert found.estimate.value == pytest.approx(0.3)
    assert found.estimate.low <= found.estimate.high
    same = study_pro.difference(first, first)
    assert same.estimate.low == same.estimate.value == same.estimate.high == 0


def test_the_start_policy_stands_beside_every_seed():
    begun = table(WORST, [[0.0, 1.0, 2.0, 3.0]]).drop(columns=["seed", *Arm._fields])
    own = table(BEST, [[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0]])
    assert study_pro.difference(own, begun).estimate.value == pytest.approx(1.5)


def test_a_prompt_that_stands_twice_is_one_unit():
    own = table(BEST, [[0.0, 1.0, 5.0, 5.0], [0.0, 1.0, 5.0, 5.0]])
    own.loc[own["pair_id"] == "p3", "unit"] = own.loc[own["pair_id"] == "p2", "unit"].to_numpy()
    assert study_pro.mean(own, "gold").estimate.value == pytest.approx(2)


def test_a_tie_is_as_wide_for_a_judge_as_for_gold():
    own = table(BEST, np.random.default_rng(0).normal(size=(2, 50)))
    own = own.assign(referee=3 - 7 * own["gold"])
    assert study_pro.near_tie(own, "gold") == pytest.approx(world.NEAR_TIE)
    assert study_pro.near_tie(own, "referee") == pytest.approx(7 * world.NEAR_TIE)


def test_a_judge_that_has_seen_a_prompt_is_refused():
    own = table(BEST, np.ones((2, 4)), response="yes")

    def score(prompts, responses):
        return np.array([len(a) + len(b) for a, b in zip(prompts, responses)])

    def scorer(prompts=()):
        return rewards.Scorer("judge", "rule", "", frozenset(), frozenset(prompts), score)

    assert study_pro.refereed(own, scorer())["referee"].tolist() == [5] * 8
    with pytest.raises(ValueError, match="learned from 1"):
        study_pro.refereed(own, scorer(["q2"]))


def test_a_run_that_left_no_policy_stays_and_says_nothing():
    found = study_pro.nothing(5)
    assert len(found) == 5 and not found["parses"].any()
    assert found["gold"].tolist() == gold.scores(found["prompt"].tolist(), [""] * 5).tolist()
    assert found["pair_id"].tolist() == arms.tests(5).pairs["pair_id"].tolist()


def test_strengths_of_two_are_the_odds_of_their_duels_and_of_more_their_order():
    rng = np.random.default_rng(0)
    scores = {arm: rng.normal(size=(2, 200)) + lift for arm, lift in ((BEST, 0.5), (WORST, 0.0))}
    both = pd.concat([table(arm, one) for arm, one in scores.items()], ignore_index=True)
    found = study_pro.strengths(both, "gold", [BEST, WORST])
    limit = study_pro.near_tie(both, "gold")
    parts = [study_pro.of(both, arm) for arm in (BEST, WORST)]
    outcome = study_pro.duel(*parts, "gold", limit)["outcome"]
    odds = np.log((outcome == 1).sum() / (outcome == -1).sum())
    value = found.log_strength["value"]
    assert value[str(BEST)] - value[str(WORST)] == pytest.approx(odds, abs=1e-6)
    assert found.n == 400 and "200 items" in found.tie.method
    # A third of one seed alone: the duels are those of the seed that all have.
    third = Arm("RRHF", 2, "good")
    three = pd.concat([both, table(third, rng.normal(size=(1, 200)) + 2)], ignore_index=True)
    found = study_pro.strengths(three, "gold", [BEST, WORST, third])
    order = found.log_strength["value"].sort_values(ascending=False).index.tolist()
    assert order == [str(third), str(BEST), str(WORST)] and found.n == 600
    never = pd.concat([table(BEST, np.ones((1, 4))), table(WORST, np.zeros((1, 4)))])
    with pytest.raises(ValueError, match="not bounded"):
        study_pro.strengths(never.reset_index(drop=True), "gold", [BEST, WORST])
