import json

import numpy as np
import pandas as pd
import pytest

from helpers import crossed, gold, jobs, mixes, paper, splits, stats, study_dpo, world
from helpers.study_dpo import HARMLESS, HELPFUL, START, Arm

BEGIN = jobs.Job("start", "arms.start", dict(responses=1))
ORIGINAL, CLEANED, IPO = Arm("original"), Arm("cleaned"), Arm("original", "ipo")
GAIN, SEEDS, PROMPTS = {ORIGINAL: 0.1, CLEANED: 0.3, IPO: 0.2}, 4, 60
SEED_SHIFT = np.array([-0.02, 0.0, 0.0, 0.02])


def finish(job: jobs.Job, record: dict, responses: pd.DataFrame | None, log: str) -> None:
    """Put down what a finished job would have left."""
    folder = jobs.folder(job)
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record))
    (folder / "history.csv").write_text(log)
    if responses is not None:
        responses.to_json(folder / "responses.jsonl", orient="records", lines=True)


@pytest.fixture()
def plan(tmp_path, monkeypatch):
    """Trainings whose gold gain over the start policy is planted: GAIN, and SEED_SHIFT."""
    monkeypatch.setenv("ELEPHANT_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)
    # Two rows of one prompt, as happens among pairs.
    prompts = [f"\n\nHuman: {max(i, 1)}\n\nAssistant:" for i in range(PROMPTS)]
    base = pd.DataFrame({"prompt": prompts, "pair_id": [str(i) for i in range(PROMPTS)]})
    base["subset"] = [HARMLESS if i % 3 == 0 else HELPFUL for i in range(PROMPTS)]
    before = rng.uniform(-0.5, 0.5, PROMPTS)
    base = base.assign(chosen="", response="", gold_chosen=0.3, parses=True, finished=True)
    base = base.assign(length=5, kl=0.0)
    record = dict(measured=PROMPTS, stopped="", training_s=2.0, pairs=7)
    finish(BEGIN, record, base.assign(gold=before), "step,loss\n1,0.5\n")
    found = study_dpo.planned(
        GAIN, SEEDS, more={}, start=BEGIN, pairs=7, measure=PROMPTS,
        configs={"dpo": {}, "ipo": {"loss": "ipo", "beta": 1.0}},
    )  # fmt: skip
    for (arm, seed), job in found.items():
        noise = rng.normal(0, 0.05, PROMPTS)
        own = base.assign(gold=before + GAIN[arm] + SEED_SHIFT[seed] + noise, kl=1.5)
        log = "step,loss,rewards/accuracies,kl\n1,0.7,0.5,\n2,0.6,0.75,1.25\n3,0.4,0.8,\n"
        finish(job, record, own, log)
    return found


@pytest.fixture()
def answers(plan):
    return study_dpo.answers(plan, BEGIN)


def test_arms_are_different_trainings_with_readable_names():
    arms = study_dpo.wanted(mixes.PITFALLS, ("cdpo", "ipo"))
    assert len(set(arms)) == len(arms) == 5 + 5 + 4 + 4
    names = [arm.name for arm in arms]
    assert len(set(names)) == len(names) and "cleaned, dpo" in names
    assert f"original, dpo, {HELPFUL}" in names and "only Vague, dpo" in names


def test_a_job_for_each_arm_and_seed_with_its_own_loss_and_data():
    configs = {"dpo": {}, "cdpo": {"loss": "cdpo"}}
    arms = [CLEANED, Arm("cleaned", "cdpo"), Arm("original", subset=HELPFUL)]
    options = dict(start=BEGIN, pairs=9, measure=3, configs=configs)
    plan = study_dpo.planned(arms, 2, more={CLEANED: 5}, **options)
    assert len(plan) == 5 + 2 + 2 and len({jobs.key(job) for job in plan.values()}) == 9
    assert plan[arms[2], 1].settings["data"] == dict(kind="original", n=9, subset=HELPFUL)
    assert plan[arms[1], 0].settings["config"] == {"loss": "cdpo"}
    assert "subset" not in plan[CLEANED, 4].settings["data"]
    assert all(job.needs == {"start": BEGIN} for job in plan.values())


def test_every_run_is_in_the_table_with_its_last_figures(plan):
    table = study_dpo.trainings(plan)
    assert len(table) == len(plan) and (table["pairs"] == 7).all()
    assert (table[["loss", "accuracy", "kl"]] == [0.4, 0.8, 1.25]).all(axis=None)


def test_a_log_without_kl_is_no_error(plan):
    job = plan[IPO, 0]
    (jobs.folder(job) / "history.csv").write_text("step,loss\n1,0.5\n")
    row = study_dpo.trainings({(IPO, 0): job}).iloc[0]
    assert row["loss"] == 0.5 and row[["accuracy", "kl"]].isna().all()


def test_planted_gains_and_differences_are_found(answers):
    for arm, gain in GAIN.items():
        found = study_dpo.effect(answers, {arm.name: 1, START: -1}, SEEDS)
        assert found.estimate.low < gain < found.estimate.high
        assert found.estimate.high - found.estimate.low < 0.15 and found.estimate.n == SEEDS
    cleaning = study_dpo.effect(answers, {CLEANED.name: 1, ORIGINAL.name: -1}, SEEDS)
    # The seeds' shifts are common to both arms and cancel.
    assert cleaning.estimate.value == pytest.approx(0.2, abs=0.02)
    assert cleaning.estimate.high - cleaning.estimate.low < 0.05 and cleaning.p_value < 1e-6
    none = {CLEANED.name: 1, IPO.name: -1, ORIGINAL.name: -0.5, START: 0.5}
    assert study_dpo.effect(answers, none, SEEDS).estimate.value == pytest.approx(0.05, abs=0.02)


def test_an_effect_is_the_crossed_mean_over_prompts_not_rows(answers):
    own = answers[(answers["arm"] == CLEANED.name) & (answers["subset"] == HARMLESS)]
    grid = own.groupby(["seed", "prompt"])["gold"].mean().unstack()
    expected = crossed.mean(grid.to_numpy())
    found = study_dpo.effect(answers, {CLEANED.name: 1}, SEEDS, subset=HARMLESS)
    assert found.estimate[:3] == pytest.approx(expected.estimate[:3])
    assert answers["unit"].nunique() == PROMPTS - 1
    fewer = study_dpo.effect(answers, {CLEANED.name: 1}, 2)
    assert fewer.estimate.n == 2


def test_shares_are_effects_too(answers):
    own = answers[answers["arm"] == CLEANED.name]
    safe = study_dpo.effect(answers, {CLEANED.name: 1}, SEEDS, column="safe").estimate
    rows = own.groupby(["seed", "unit"])["safe"].mean()
    assert safe.value == pytest.approx(rows.mean())
    net = np.sign(own["gold"] - 0.3) * (np.abs(own["gold"] - 0.3) > world.NEAR_TIE)
    assert own["net"].tolist() == net.tolist()


def test_levels_of_shares_end_where_shares_do(answers):
    parses = study_dpo.level(answers, CLEANED.name, SEEDS, column="parses")
    expected = stats.wilson(PROMPTS - 1, PROMPTS - 1)
    assert parses[:3] == pytest.approx(expected[:3]) and parses.n == SEEDS
    for column in ("net", "safe"):
        one = study_dpo.level(answers.assign(**{column: 1.0}), CLEANED.name, SEEDS, column=column)
        assert one.value == one.high == 1 and one.low < 1
        rough = study_dpo.effect(answers, {CLEANED.name: 1}, SEEDS, column=column).estimate
        inside = study_dpo.level(answers, CLEANED.name, SEEDS, column=column)
        assert inside.value == rough.value and inside.high == min(rough.high, 1)
    gold_level = study_dpo.level(answers, CLEANED.name, SEEDS)
    assert gold_level == study_dpo.effect(answers, {CLEANED.name: 1}, SEEDS).estimate


def test_questions_of_one_call_are_corrected_together(answers):
    asked = {
        "cleaning": {CLEANED.name: 1, ORIGINAL.name: -1},
        "ipo": {IPO.name: 1, ORIGINAL.name: -1},
    }
    table = study_dpo.effects(answers, asked, SEEDS)
    assert table["question"].tolist() == list(asked)
    assert (table["p_holm"] >= table["p_value"]).all()
    assert table["p_holm"].max() <= 2 * table["p_value"].max()


def test_a_lost_run_has_rows_and_whatever_rests_on_it_no_value(plan):
    job = plan[IPO, 2]
    folder = jobs.folder(job)
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(
        json.dumps(record | dict(measured=0, stopped="loss is nan"))
    )
    (folder / "responses.jsonl").unlink()
    found = study_dpo.answers(plan, BEGIN)
    lost = found[(found["arm"] == IPO.name) & (found["seed"] == 2)]
    assert len(lost) == PROMPTS and lost["gold"].isna().all() and (lost["response"] == "").all()
    asked = {
        "ipo": {IPO.name: 1, ORIGINAL.name: -1},
        "cleaning": {CLEANED.name: 1, ORIGINAL.name: -1},
    }
    table = study_dpo.effects(found, asked, SEEDS)
    assert table.loc[0, ["value", "p_value", "p_holm"]].isna().all()
    assert table.loc[1, "p_holm"] == table.loc[1, "p_value"]
    assert (study_dpo.trainings(plan)["stopped"] != "").sum() == 1
    assert study_dpo.effect(found, asked["ipo"], 2) is not None, "the seeds before it are whole"


def test_arms_and_seeds_that_were_not_planned_are_refused(answers):
    for weights, seeds in (({"cleaned": 1}, SEEDS), ({CLEANED.name: 1}, SEEDS + 1)):
        with pytest.raises(KeyError):
            study_dpo.effect(answers, weights, seeds)


def test_a_training_set_is_described_by_gold():
    data = mixes.training_set("original", 120, seed=1, empty=0.05, repetitive=0.05, toxic=0.1)
    found = study_dpo.describe(data)
    prompts = data["prompt"].tolist()
    first, second = (
        np.array(gold.scores(prompts, data[s].tolist())) for s in ("chosen", "rejected")
    )
    assert found["wrong"] == pytest.approx((first < second - world.NEAR_TIE).mean())
    assert found["gap"] == pytest.approx(np.abs(first - second).mean())
    assert found["harmful"] > 0.05 and found["empty"] > 0 and found["identical"] > 0
    assert found["tied"] >= found["identical"]
    exact = study_dpo.describe(mixes.training_set("true labels", 120, seed=1))
    assert exact["wrong"] == exact["tied"] == 0


def test_table_2_as_differences():
    table = study_dpo.published(paper.results()["table_2"])
    assert len(table) == 6 and (table["gain"] > 0).all()
    row = table.set_index(["model", "column"]).loc[("DPO-LLaMA-7B", "helpful_base")]
    assert row.tolist() == pytest.approx([-9.4, -9.0, 0.4])


def test_units_are_the_prompts_of_the_project(answers):
    assert answers["unit"].iloc[0] == splits.prompt_hash(answers["prompt"].iloc[0])
