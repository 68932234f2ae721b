"""Chapter 09's tables: closed forms, planted effects, and that it reads the runs of 07 and 08."""

import ast
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from helpers import goodhart, graded, jobs, notebooks, rewards, stats, study_goodhart, study_ppo
from helpers.jobs import Job
from helpers.standardised import Standard

ROOT = Path(__file__).parents[1]
START = Job("start", "arms.start", {"seed": 0})
CONFIG = {"updates": 4, "batch_size": 8}


def parameters(chapter: str, profile: str) -> dict:
    """A notebook's parameters as a profile sets them, and what its cells call ``SIX``."""
    (path,) = (ROOT / "notebooks").glob(f"{chapter}_*.ipynb")
    found = {}
    cells = notebooks.code_cells(notebooks.read(path))
    for cell in cells:
        tagged = "parameters" in cell.metadata.get("tags", [])
        if not (tagged or "SIX = (" in cell.source):
            continue
        for node in ast.parse(cell.source).body:
            name = getattr(node.targets[0], "id", "") if isinstance(node, ast.Assign) else ""
            if tagged or name == "SIX":
                found[name] = ast.literal_eval(node.value)
    # The arms of chapter 08, whatever the parameter of their lengths is called.
    lines = "\n".join(cell.source for cell in cells).splitlines()
    found["arms"] = [x.replace("pro_lengths", "lengths") for x in lines if x.startswith("methods ")]
    text = (ROOT / "profiles" / f"{profile}.yaml").read_text(encoding="utf-8")
    found |= yaml.safe_load(text)["notebooks"][path.stem]
    return json.loads(json.dumps(found))


@pytest.mark.parametrize("profile", ["smoke", "cpu", "gpu", "paper"])
def test_it_plans_the_very_trainings_of_chapters_07_and_08(profile):
    mine = parameters("09", profile)
    ppo, pro = parameters("07", profile), parameters("08", profile)
    for name in ("start_responses", "start_epochs"):
        assert mine[name] == ppo[name] == pro[name]
    for name in ("tested", "measure", "ppo", "rloo", "rloo_grades", "SIX", "span"):
        assert mine[name] == ppo[name], name
    assert (mine["ppo_grades"], mine["ppo_seeds"]) == (ppo["grades"], ppo["seeds"])
    assert mine["pro"] == {name: pro[name] for name in mine["pro"]}
    assert (mine["pro_lengths"], mine["pro_config"]) == (pro["lengths"], pro["config"])
    assert mine["arms"] == pro["arms"] and len(mine["arms"]) == 2


def test_every_grade_of_a_sweep_is_there_and_a_friend_errs_as_its_control_does():
    assert set().union(*study_goodhart.SWEEPS.values()) == set(graded.GRADES)
    control, *friends = (graded.GRADES[g] for g in study_goodhart.SWEEPS["annotator bias"])
    for friend in friends:
        assert friend._replace(length_bias=0.0, style_bias=0.0) == control


def test_samples_and_scores_keep_their_order_and_count_twins(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "folder", lambda job: tmp_path)
    rows = [("a", "one two", 1.0), ("a", "one two", 1.0), ("b", "one", 2.0), ("b", "x y z", 3.0)]
    table = pd.DataFrame(rows, columns=["prompt", "response", "gold"])
    table.to_json(tmp_path / "samples.jsonl", orient="records", lines=True)
    np.save(tmp_path / "scores.npy", np.array([1.0, 2.0, 3.0, 4.0]))
    job = Job("samples", "arms.sampled", {"prompts": 2, "samples": 2})
    found = study_goodhart.samples(job)
    assert found.gold.tolist() == [[1, 1], [2, 3]] and found.words.tolist() == [[2, 2], [1, 3]]
    assert found.alike == 0.5
    scored = study_goodhart.scores(job, found.gold.shape)
    assert scored.ravel() == pytest.approx(np.array([-1.5, -0.5, 0.5, 1.5]) / np.sqrt(1.25))
    with pytest.raises(ValueError, match="4 samples"):
        study_goodhart.samples(job._replace(settings={"prompts": 2, "samples": 3}))
    with pytest.raises(ValueError, match="same"):
        study_goodhart.standard_scores(np.ones((2, 2)))


def test_powers_end_at_the_most():
    assert study_goodhart.powers(64) == [1, 2, 4, 8, 16, 32, 64]
    assert study_goodhart.powers(6) == [1, 2, 4, 6] and study_goodhart.powers(1) == [1]


def test_gains_start_at_nothing_and_end_at_the_best_sample():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(5, 8))
    found = study_goodhart.gains(np.stack([true, -true]), true, [1, 8])
    assert found[:, :, 0] == pytest.approx(np.zeros((2, 5)))
    assert found[0, :, 1] == pytest.approx(true.max(1) - true.mean(1))
    assert found[1, :, 1] == pytest.approx(true.min(1) - true.mean(1))


def test_one_proxy_has_an_interval_over_prompts_and_more_one_over_both():
    cells = np.array([[0.0, 1.0, 2.0]])
    found = study_goodhart.mean(cells)
    half = 4.302652729911275 / np.sqrt(3)  # t, 2 degrees of freedom, 97.5 %; deviation 1
    assert found[:4] == pytest.approx((1.0, 1.0 - half, 1.0 + half, 3))
    both = study_goodhart.mean(np.vstack([cells, cells + 1]))
    assert both.value == 1.5 and both.n == 2 and "2 seeds crossed" in both.method
    table = study_goodhart.band(np.stack([cells, cells + 1], axis=2))
    assert table["value"].tolist() == [1.0, 2.0]


def test_agreement_is_within_prompts_and_a_prompt_without_spread_counts_as_none():
    true = np.array([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0], [5.0, 5.0, 5.0]])
    proxy = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    assert study_goodhart.agreement(proxy, true).value == pytest.approx(0)
    assert study_goodhart.agreement(proxy[:1].repeat(2, 0), true[:2]).value == pytest.approx(1)


def test_a_planted_bias_turns_gold_over_and_a_random_error_does_not():
    """Gold is lowered by a heavy tail that the biased proxy pays for; noise has none."""
    rng = np.random.default_rng(0)
    worth, length = rng.normal(size=(200, 128)), rng.exponential(size=(200, 128))
    true = worth - 0.3 * length**2
    proxies = np.stack([worth + length, true + rng.normal(size=true.shape)])
    ns = study_goodhart.powers(128)
    biased, noisy = study_goodhart.gains(proxies, true, ns)
    assert goodhart.turnover(ns, biased).seen and not goodhart.turnover(ns, noisy).seen


def test_fit_gives_back_a_planted_form_and_none_where_there_is_too_little():
    d = np.array([0.0, 0.5, 1.0, 1.5])
    curves = np.stack([goodhart.shape("bon", d, a, 0.5) for a in (0.9, 1.1)])
    found = study_goodhart.fit("bon", d, curves, seed=0)
    assert (found.a.value, found.b.value, found.peak.value) == pytest.approx((1.0, 0.5, 1.0))
    assert study_goodhart.fit("bon", d[:3], curves[:, :3], seed=0) is None
    assert study_goodhart.fit("bon", d, curves[:1], seed=0) is None


def test_trajectories_are_read_where_all_seeds_have_been():
    kl = [np.linspace(-0.01, 4, 9), np.linspace(0, 1, 9)]
    log = pd.concat(
        pd.DataFrame({"kl": k, "reward": k, "gold": 2 * k + 7.0}).assign(
            method="ppo", grade="g", seed=seed
        )
        for seed, k in enumerate(kl)
    )
    found = study_goodhart.trajectories(log, 7.0, span=1)
    runs = found["ppo", "g"]
    assert len(runs) == 2 and runs[0]["d"].iloc[[0, -1]].tolist() == [0, 2]
    grid = study_goodhart.shared(runs, 5)
    assert grid == pytest.approx([0.25, 0.5, 0.75, 1.0])
    values = goodhart.along(runs, "d", "gold", grid)
    assert np.isfinite(values).all() and values[:, -1] == pytest.approx([2, 2], rel=0.01)
    apart = [pd.DataFrame({"d": [0.0, 1.0]}), pd.DataFrame({"d": [2.0, 3.0]})]
    assert not len(study_goodhart.shared(apart, 5))


def test_ends_are_gains_on_the_prompts_that_the_start_has_answered():
    before = pd.DataFrame({"pair_id": ["p", "q"], "response": ["x", "xx"], "gold": [0.0, 1.0]})
    before["prompt"] = ""
    row = dict(method="PRO", ranking=2, grade="g", seed=0)
    answers = pd.DataFrame(
        {
            "pair_id": ["q", "p", "r"],
            "prompt": ["", "", ""],
            "response": ["xxxx", "xxx", "x" * 99],
            "gold": [1.5, 0.0, -9.0],
            "kl": [3.0, 5.0, 99.0],
        }
    ).assign(**row)
    silent = answers.assign(seed=1, response="", gold=0.0, kl=np.nan)
    proxies = {"g": (rewards.length(+1), Standard(5.0, 2.0))}
    found = study_goodhart.ends(pd.concat([answers, silent]), before, proxies)
    assert found.loc[0, ["kl", "d", "gold", "proxy"]].tolist() == [4.0, 2.0, 0.25, 1.0]
    assert len(found) == 2 and np.isnan(found.loc[1, "d"]) and found.loc[1, "proxy"] == -0.75


def test_ensembles_are_planned_with_members_of_their_own_labels_and_one_start():
    options = dict(weight=0.5, measure=9, tested=9, config=CONFIG)
    found = study_goodhart.planned(["mean", "uwo"], "100 right labels", 3, 2, START, **options)
    assert [(run.grade.split()[0], run.seed) for run in found] == [
        ("mean", 0), ("mean", 1), ("uwo", 0), ("uwo", 1),
    ]  # fmt: skip
    assert len({jobs.key(run.job) for run in found}) == 4
    needs = found[0].job.needs
    assert {needs[f"member_{k}"].settings["seed"] for k in range(3)} == {0, 1, 2}
    assert found[0].job.settings["weight"] is None and found[2].job.settings["weight"] == 0.5
    (single,) = study_ppo.planned(
        "ppo", ["100 right labels"], 1, START, measure=9, tested=9, config=CONFIG
    )
    assert single.job.settings["prompts"] == found[0].job.settings["prompts"]
    assert single.job.needs["proxy"] == needs["member_0"]


def test_an_ensemble_of_two_that_disagree_rewards_what_both_like(tmp_path, monkeypatch):
    """Longer and shorter, standardised: their mean is 0 for every text, their minimum is not."""
    seen = {}

    def ppo(base, score, scale, prompts, config, seed, gold):
        seen["scores"], seen["scale"] = score(["", ""], ["x", "xxx"]), scale
        raise InterruptedError

    scorers = {"member_0": rewards.length(+1), "member_1": rewards.length(-1)}
    monkeypatch.setattr(study_goodhart.arms, "load_policy", lambda path: None)
    monkeypatch.setattr(study_goodhart.arms, "load_scorer", lambda path: scorers[path.name])
    monkeypatch.setattr(
        study_goodhart.arms,
        "reference_of",
        lambda base, scorer: Standard(float(np.mean(scorer.score(["", ""], ["x", "xxx"]))), 1.0),
    )
    monkeypatch.setattr(study_goodhart.align_ppo, "ppo", ppo)
    with pytest.raises(InterruptedError):
        study_goodhart.reinforced(
            tmp_path, kind="min", weight=None, prompts=1, seed=0, measure=1, config=CONFIG,
            start=tmp_path, **{name: Path(name) for name in scorers},
        )  # fmt: skip
    assert seen["scores"].tolist() == [-1.0, -1.0] and seen["scale"] == Standard(-1.0, 1.0)
    assert isinstance(study_goodhart.mean(np.zeros((1, 3))), stats.Estimate)
