"""The gold world's jobs as the pool runs them, in a process of their own, as small as they go."""

import numpy as np
import pandas as pd
import pytest

from helpers import arms, gold, graded, jobs, policies, splits, world
from helpers.jobs import Job

MEASURE = 12
START = Job(
    "start",
    "arms.start",
    dict(responses=48, seed=0, measure=MEASURE, config=dict(learning_rate=3e-3, epochs=1)),
)
PROXY = Job("proxy", "arms.proxy", dict(grade=[24, 0.0, 0.0, 0.0], seed=0, tested=30))
REFEREE = Job("referee", "arms.referee", dict(labels=24, seed=0, tested=30))
BOTH = dict(start=START, proxy=PROXY)


def dpo(name: str, **config) -> Job:
    data = dict(kind="cleaned", n=16)
    config = dict(batch_size=8, kl_prompts=2, logging_steps=1) | config
    settings = dict(data=data, seed=0, measure=MEASURE, config=config)
    return Job(name, "arms.dpo", settings, {"start": START})


DPO = dpo("dpo")
FAR = dpo("too far", most_kl=1e-12, kl_every=1)
LOST = dpo("no numbers", learning_rate=float("inf"), kl_every=0)
STANDARD = Job("standard", "arms.standard", {}, BOTH)
PPO = Job(
    "ppo",
    "arms.reinforce",
    dict(method="ppo", prompts=16, seed=0, measure=MEASURE)
    | dict(config=dict(updates=2, batch_size=8, response_length=8)),
    BOTH | dict(standard=STANDARD),
)
PRO = Job(
    "pro",
    "arms.ranked",
    dict(prompts=8, length=3, seed=0, measure=MEASURE, config=dict(epochs=1, kl_prompts=2)),
    BOTH | dict(standard=STANDARD),
)
BEGUN = Job("begun", "study_dpo.begin", dict(measure=MEASURE), {"start": START})
SAMPLED = Job("sampled", "arms.sampled", dict(prompts=3, samples=4, seed=0), {"start": START})
SCORED = Job("scored", "arms.scored", {}, dict(samples=SAMPLED, proxy=PROXY))
POLICIES = (START, DPO, FAR, PPO, PRO)
COLUMNS = [
    *("pair_id", "subset", "prompt", "chosen", "response", "gold", "gold_chosen"),
    *("parses", "finished", "length", "kl"),
]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The record of each job by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELEPHANT_CACHE", str(tmp_path_factory.mktemp("cache")))
        wanted = [*POLICIES, LOST, REFEREE, SAMPLED, SCORED, STANDARD, BEGUN]
        records = jobs.run(wanted, workers=1)
        yield {job.name: record for job, record in zip(wanted, records)}


def responses(job: Job) -> pd.DataFrame:
    return arms.read(jobs.folder(job) / "responses.jsonl")


def log(job: Job) -> pd.DataFrame:
    return pd.read_csv(jobs.folder(job) / "history.csv")


def test_every_policy_answers_the_same_prompts_that_nothing_has_learned(done):
    tests = arms.tests(MEASURE).pairs
    assert {splits.split_of(prompt) for prompt in tests["prompt"]} == {"test"}
    for job in POLICIES:
        table = responses(job)
        assert list(table.columns) == COLUMNS and len(table) == MEASURE, job.name
        assert table["pair_id"].tolist() == tests["pair_id"].tolist(), job.name
        assert done[job.name]["measured"] == MEASURE, job.name
        found = gold.scores(table["prompt"], table["response"])
        np.testing.assert_allclose(table["gold"], found)
        other = gold.scores(tests["prompt"], tests["rejected"])
        assert (table["gold_chosen"] >= other - world.NEAR_TIE).all(), "labels are right"


def test_the_stored_policy_is_the_one_that_was_measured(done):
    for job in (START, DPO):
        policy = arms.load_policy(jobs.folder(job))
        reference = None if job is START else arms.load_policy(jobs.folder(START))
        again = arms.measured(policy, reference, MEASURE)
        assert again["response"].tolist() == responses(job)["response"].tolist()
        np.testing.assert_allclose(again["kl"], responses(job)["kl"], atol=1e-4)


def test_the_start_policy_asked_again_answers_the_same(done):
    pd.testing.assert_frame_equal(responses(BEGUN), responses(START))


def test_a_training_moves_away_from_its_start(done):
    assert (responses(START)["kl"] == 0).all()
    for job in (DPO, PPO, PRO):
        assert responses(job)["kl"].max() > 0, job.name
        before, after = (arms.load_policy(jobs.folder(j)).model for j in (START, job))
        moved = [bool((p != q).any()) for p, q in zip(before.parameters(), after.parameters())]
        assert any(moved), job.name


def test_dpo_trains_on_the_set_that_was_asked_for(done):
    record, history = done["dpo"], log(DPO)
    assert record["pairs"] == 16 and record["stopped"] == "" and record["training_s"] > 0
    assert history["step"].tolist() == [1, 2], "16 pairs, 8 a step"
    assert history["loss"][0] == pytest.approx(np.log(2), abs=1e-6)


def test_runs_that_were_stopped_stay_with_their_reason(done):
    assert "above the bound of 1e-12" in done["too far"]["stopped"]
    assert len(responses(FAR)) == MEASURE
    lost = done["no numbers"]
    assert lost["stopped"] and lost["measured"] == 0
    assert not (jobs.folder(LOST) / "responses.jsonl").exists() and len(log(LOST)) > 0


def test_reward_models_learn_from_prompts_that_policies_are_not_judged_on(done):
    for job, parts in ((PROXY, {"policy", "panel"}), (REFEREE, {"judge"})):
        scorer = arms.load_scorer(jobs.folder(job))
        assert {splits.split_of(prompt) for prompt in scorer.prompts} <= parts, job.name
        assert len(scorer.pair_ids) == 24
        accuracy = jobs.record(job)["accuracy"]
        assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1


def test_the_log_of_reinforcement_has_gold_beside_the_reward(done):
    history = log(PPO)
    assert len(history) == 2 and {"reward", "raw_reward", "gold", "kl"} <= set(history.columns)
    scale = done["standard"]
    expected = (history["raw_reward"] - scale["mean"]) / scale["deviation"]
    assert np.allclose(history["reward"], expected, atol=1e-5)
    assert history["gold"].between(-2, 1).all()


def test_rankings_are_measured_against_gold(done):
    found = done["pro"]["rankings"]
    assert found["n"] == 8 and 0 <= found["right"] <= 1 and 0 <= found["labels_right"] <= 1
    assert len(log(PRO)) >= 1
    assert done["standard"]["deviation"] > 0


def test_samples_and_scores_stand_in_one_order(done):
    table = arms.read(jobs.folder(SAMPLED) / "samples.jsonl")
    prompts = arms.prompts_of(3, "test", seed=arms.TEST_SEED)
    assert table["prompt"].tolist() == [prompt for prompt in prompts for _ in range(4)]
    assert table.groupby("prompt")["response"].nunique().min() > 1, "samples are independent"
    np.testing.assert_allclose(table["gold"], gold.scores(table["prompt"], table["response"]))
    scores = np.load(jobs.folder(SCORED) / "scores.npy")
    scorer = arms.load_scorer(jobs.folder(PROXY))
    np.testing.assert_allclose(
        scores, scorer.score(table["prompt"].tolist(), table["response"].tolist()), atol=1e-5
    )
    assert done["scored"]["n"] == 12 == len(scores)


def test_prompts_are_different_and_of_their_part():
    for part in splits.SHARES:
        found = arms.prompts_of(20, part, seed=1)
        assert len(set(found)) == 20 and {splits.split_of(p) for p in found} == {part}
    assert arms.prompts_of(5, "test", seed=1) == arms.prompts_of(9, "test", seed=1)[:5]


def test_jobs_of_one_name_are_the_same_in_all_chapters():
    one, same, other = (arms.start_job(responses=n, epochs=1) for n in (10, 10, 11))
    assert jobs.key(one) == jobs.key(same) != jobs.key(other)
    for name, grade in graded.GRADES.items():
        assert arms.proxy_job(name).settings["grade"] == list(grade)
    assert policies.parses(arms.tests(1).pairs["chosen"][0])
