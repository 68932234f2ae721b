"""Policies as reward models: margins against another module's sums, shares of planted ones."""

import json

import numpy as np
import pandas as pd
import pytest

from helpers import (
    arms,
    crossed,
    jobs,
    policies,
    policyfiles,
    rewards,
    splits,
    study_dpo,
    study_implicit,
)
from helpers.study_dpo import Arm

BEGIN = jobs.Job("start", "arms.start", dict(responses=1))
ORIGINAL, CLEANED = Arm("original"), Arm("cleaned")
DATA = dict(kind="original", n=12)
TESTED = 24


@pytest.fixture
def folders(tmp_path):
    """Two untrained policies on disk, and a folder to write into."""
    for seed, name in enumerate(("start", "trained")):
        policyfiles.save(policies.neox(seed), tmp_path / name)
    (tmp_path / "out").mkdir()
    return {name: tmp_path / name for name in ("start", "trained", "out")}


def measure(folders, **other) -> dict:
    given = dict(data=DATA, seed=0, tested=TESTED, trained=folders["trained"])
    return study_implicit.of_world(folders["out"], start=folders["start"], **given | other)


def test_a_margin_is_the_difference_of_two_log_ratios(folders):
    data = study_implicit.right_pairs(TESTED)
    assert measure(folders) == {"n": len(data)}
    found = pd.read_json(folders["out"] / "margins.jsonl", lines=True, dtype={"pair_id": str})
    assert found["pair_id"].tolist() == data["pair_id"].tolist()
    start, trained = (arms.load_policy(folders[name]) for name in ("start", "trained"))
    prompts = data["prompt"].tolist()

    def reward(side):
        texts = data[side].tolist()
        now = policies.log_probabilities(trained, prompts, texts)
        return study_implicit.BETA * (now - policies.log_probabilities(start, prompts, texts))

    expected = reward("chosen") - reward("rejected")
    assert found["margin"].to_numpy() == pytest.approx(expected, abs=1e-4)
    assert np.abs(expected).max() > 1e-2


def test_a_policy_that_never_moved_prefers_nothing(folders):
    measure(folders, trained=folders["start"])
    found = pd.read_json(folders["out"] / "margins.jsonl", lines=True)
    assert (found["margin"] == 0).all()


def test_the_chosen_response_of_a_test_pair_is_golds_better_one():
    made = arms.tests(TESTED)
    data = study_implicit.right_pairs(TESTED)
    assert set(made.truth.loc[data["pair_id"], "better"]) == {"chosen"}
    left = made.truth.loc[list(set(made.pairs["pair_id"]) - set(data["pair_id"])), "better"]
    assert "rejected" not in set(left), "labels are right: only ties are left out"


def test_weights_that_are_no_numbers_are_a_lost_policy(folders):
    import torch

    broken = policies.neox(1)
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    policyfiles.save(broken, folders["trained"])
    assert measure(folders) == {"n": 0}
    assert not (folders["out"] / "margins.jsonl").exists()


@pytest.fixture
def graders(tmp_path, monkeypatch):
    """Margins of three seeds an arm: original is right on half of the pairs, cleaned on three in
    four, and on the same ones in every seed but one pair."""
    monkeypatch.setenv("ELEPHANT_CACHE", str(tmp_path))
    options = dict(more={}, start=BEGIN, pairs=12, measure=4, configs={"dpo": {}})
    plan = study_dpo.planned([ORIGINAL, CLEANED], 3, **options)
    found = study_implicit.planned(plan, BEGIN, TESTED)
    for (arm, seed), job in found.items():
        right = np.arange(40) % 4 < (2 if arm == ORIGINAL else 3)
        right[0] = seed == 0
        write(job, np.where(right, 0.5, np.where(np.arange(40) % 4 == 3, 0.0, -0.5)))
    return found


def write(job: jobs.Job, margins) -> None:
    jobs.folder(job).mkdir(parents=True)
    (jobs.folder(job) / "record.json").write_text(json.dumps({"n": len(margins)}))
    names = [f"{i:03}" for i in range(len(margins))]
    table = pd.DataFrame({"pair_id": names, "prompt": names, "margin": margins})
    table.to_json(jobs.folder(job) / "margins.jsonl", orient="records", lines=True)


def arm(graders, which, seeds=3):
    return [graders[which, seed] for seed in range(seeds)]


def test_a_job_for_each_training_on_its_own_data(graders):
    job = graders[CLEANED, 1]
    assert job.settings["data"] == dict(kind="cleaned", n=12) and job.settings["seed"] == 1
    assert set(job.needs) == {"trained", "start"} and job.needs["start"] == BEGIN
    assert len({jobs.key(job) for job in graders.values()}) == 6


def test_shares_and_their_difference_count_seeds_and_pairs(graders):
    found = study_implicit.share(arm(graders, ORIGINAL))
    assert found.value == pytest.approx((20 + 19 + 19) / 120) and found.n == 3
    grid = np.tile(np.arange(40) % 4 < 2, (3, 1)).astype(float)
    grid[1:, 0] = 0
    assert found[:3] == pytest.approx(crossed.mean(grid).estimate[:3])
    gain = study_implicit.share(arm(graders, CLEANED), arm(graders, ORIGINAL))
    assert gain.value == pytest.approx(0.25) and gain.low > 0.1, "ties are wrong, pairs are paired"


def test_one_training_has_wilsons_interval_and_no_difference(graders):
    one = study_implicit.share(arm(graders, CLEANED, 1))
    assert one.n == 40 and "one training" in one.method and one.value == pytest.approx(0.75)
    with pytest.raises(ValueError, match="one training"):
        study_implicit.share(arm(graders, CLEANED, 1), arm(graders, ORIGINAL, 1))


def test_a_lost_policy_leaves_no_share(graders):
    lost = graders[ORIGINAL, 2]
    (jobs.folder(lost) / "record.json").write_text(json.dumps({"n": 0}))
    assert study_implicit.share(arm(graders, ORIGINAL)) is None
    assert study_implicit.share(arm(graders, CLEANED), arm(graders, ORIGINAL)) is None
    assert study_implicit.share(arm(graders, ORIGINAL, 2)) is not None


def test_pairs_of_one_prompt_are_one_unit(graders):
    done = arm(graders, ORIGINAL)
    for job in done:
        path = jobs.folder(job) / "margins.jsonl"
        table = pd.read_json(path, lines=True, dtype={"pair_id": str, "prompt": str})
        table["prompt"] = [f"{i // 4:03}" for i in range(len(table))]
        table.to_json(path, orient="records", lines=True)
    # Two of four right in every prompt: no spread but that of the first pair's.
    found = study_implicit.share(done)
    assert "10 prompts" in found.method and found.value == pytest.approx((20 + 19 + 19) / 120)
    assert found.high - found.low < 0.1


def test_a_lift_is_paired_with_the_null(tmp_path, monkeypatch):
    monkeypatch.setenv("ELEPHANT_CACHE", str(tmp_path))
    options = dict(more={}, start=BEGIN, pairs=12, measure=4, configs={"dpo": {}})
    plan = study_implicit.planned(study_dpo.planned([ORIGINAL], 2, **options), BEGIN, TESTED)
    data, longer = study_implicit.right_pairs(TESTED), rewards.length(+1)
    for job in plan.values():
        write(job, rewards.margins(longer, data))
        table = data[["pair_id"]].assign(
            prompt=data["prompt"].map(splits.prompt_hash), margin=rewards.margins(longer, data)
        )
        table.to_json(jobs.folder(job) / "margins.jsonl", orient="records", lines=True)
    assert study_implicit.lift(arm(plan, ORIGINAL, 2), longer, TESTED)[:3] == (0, 0, 0)
    over = study_implicit.lift(arm(plan, ORIGINAL, 2), rewards.length(-1), TESTED)
    share = study_implicit.of_null(longer, TESTED, seed=0).value
    other = study_implicit.of_null(rewards.length(-1), TESTED, seed=0).value
    assert over.value == pytest.approx(share - other, abs=0.02)


def test_a_null_that_learned_from_a_tested_prompt_is_refused():
    data = study_implicit.right_pairs(TESTED)
    knowing = rewards.length(+1)._replace(prompts=frozenset(data["prompt"].head(1)))
    with pytest.raises(ValueError, match="learned from 1 of"):
        study_implicit.of_null(knowing, TESTED, seed=0)


def test_a_rule_is_asked_about_the_same_pairs():
    data = study_implicit.right_pairs(TESTED)
    found = study_implicit.of_null(rewards.length(+1), TESTED, seed=0)
    longer = data["chosen"].str.len() > data["rejected"].str.len()
    assert found.n == len(data) and found.value == pytest.approx(longer.mean())
