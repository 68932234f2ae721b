"""Chapter 07's tables: planted effects, closed forms, and that no run is lost."""

import json

import numpy as np
import pandas as pd
import pytest

from helpers import gold, graded, jobs, rewards, stats, study_ppo, world
from helpers.jobs import Job

START = Job("start", "arms.start", {"seed": 0})
CONFIG = {"updates": 10, "batch_size": 8, "generations": 4}


def crossed_table(seeds, prompts, rng, *, by_seed=0.0, by_prompt=0.0, noise=0.0, mean=0.0):
    grid = mean + rng.normal(scale=noise, size=(seeds, prompts))
    grid += rng.normal(scale=by_seed, size=(seeds, 1)) + rng.normal(
        scale=by_prompt, size=(1, prompts)
    )
    return pd.DataFrame(
        {
            "seed": np.repeat(np.arange(seeds), prompts),
            "pair_id": np.tile(np.arange(prompts), seeds),
            "value": grid.ravel(),
        }
    )


def test_with_seeds_alone_the_crossed_interval_is_the_t_interval_of_their_means():
    table = crossed_table(3, 5, np.random.default_rng(1), by_seed=1.0)
    found = study_ppo.mean_of(table, "value")
    means = table.groupby("seed")["value"].mean()
    half = 4.302652729911275 * means.std(ddof=1) / np.sqrt(3)  # t, 2 degrees of freedom, 97.5 %
    assert found[:3] == pytest.approx((means.mean(), means.mean() - half, means.mean() + half))
    assert found.n == 3 and "2.0 df" in found.method


def test_shares_stay_shares_and_alike_values_get_wilsons_interval():
    table = crossed_table(3, 20, np.random.default_rng(0)).assign(value=False)
    table["all"] = True
    none = study_ppo.mean_of(table, "value", share=True)
    assert none.value == 0 == none.low and none.high == stats.wilson(0, 20).high
    assert study_ppo.mean_of(table, "all", share=True).low == stats.wilson(20, 20).low
    table["value"] = table["pair_id"] == 0
    found = study_ppo.mean_of(table, "value", share=True)
    assert found.low == 0 and found.value == pytest.approx(0.05)


def test_a_gap_or_a_single_seed_is_refused():
    table = crossed_table(2, 4, np.random.default_rng(0))
    with pytest.raises(ValueError, match="finite"):
        study_ppo.mean_of(table.iloc[1:], "value")
    with pytest.raises(ValueError, match="2 or more seeds"):
        study_ppo.mean_of(table[table["seed"] == 0], "value")


def test_win_tie_lose_by_hand():
    table = crossed_table(2, 4, np.random.default_rng(0))
    table["ours"] = [1.0, 0.5, 0.51, 0.0] * 2
    table["theirs"] = [0.0, 0.5, 0.5, 0.5] * 2
    found = study_ppo.win_tie_lose(table, "ours", "theirs", 0.02)
    assert [found[k].value for k in ("win", "tie", "lose", "net")] == [0.25, 0.5, 0.25, 0.0]
    exact = study_ppo.win_tie_lose(table, "ours", "theirs")
    assert exact["win"].value == 0.5 and exact["net"].low >= -1


def test_planned_runs_share_the_start_and_ask_no_prompt_twice():
    grades = ["100 right labels", "300 right labels"]
    options = dict(measure=20, tested=50, config=CONFIG)
    ppo = study_ppo.planned("ppo", grades, 3, START, **options)
    rloo = study_ppo.planned("rloo", grades[:1], 3, START, **options)
    assert [(r.grade, r.seed) for r in ppo] == [(g, s) for g in grades for s in range(3)]
    assert all(r.job.needs["start"] is START for r in ppo + rloo)
    assert {r.job.settings["prompts"] for r in ppo} == {80}
    assert {r.job.settings["prompts"] for r in rloo} == {20}
    assert len({jobs.key(r.job) for r in ppo + rloo}) == 9
    with pytest.raises(ValueError, match="must be one of"):
        study_ppo.planned("dpo", grades, 1, START, **options)


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """Finished jobs of two grades and two seeds, one of which was stopped, and one run whose
    weights were no numbers; and of the start policy."""
    home = tmp_path / "jobs"
    monkeypatch.setattr(jobs, "_home", lambda: home)
    config = CONFIG | {"updates": 20}
    grades = ["100 right labels", "300 right labels"]
    made = study_ppo.planned("ppo", grades, 2, START, measure=4, tested=5, config=config)
    write(START, 0.0, gold_scores=[0.0, 0.0, 0.5, 1.0])
    for run, rise in zip(made, (1.0, 2.0, 3.0, 0.0)):
        stopped = "KL is 101" if run.seed and rise == 2.0 else ""
        broken = rise == 0.0
        write(run.job, rise, gold_scores=[rise] * 4, stopped=stopped, broken=broken)
    return made


def write(job, rise, *, gold_scores, stopped="", broken=False):
    where = jobs.folder(job)
    where.mkdir(parents=True)
    record = {"stopped": stopped, "measured": 0 if broken else 4, "training_s": 2.0}
    (where / "record.json").write_text(json.dumps(record))
    n = 8 if stopped else 20
    # Each run goes its whole way in four equal steps, then stays.
    level = rise * np.minimum(np.arange(n) / 4, 1)
    log = {"step": np.arange(n) + 1, "reward": level, "raw_reward": 10 + level}
    log |= {"gold": level / 2, "kl": 4 * level, "loss": 0.1, "length": 9.0, "eos_rate": 1.0}
    pd.DataFrame(log).to_csv(where / "history.csv", index=False)
    if broken:
        return
    said = pd.DataFrame({"pair_id": list("abcd"), "gold": gold_scores, "kl": 4 * rise})
    said = said.assign(length=9, finished=True, parses=True, subset=list(world.SUBSETS) * 2)
    said["response"] = [" i have no idea .", " it is red .", " it is red .", ""]
    said.to_json(where / "responses.jsonl", orient="records", lines=True)


def test_every_run_has_its_row_also_those_that_were_stopped_or_broken(runs):
    log, said = study_ppo.logs(runs), study_ppo.answers(runs, START)
    table = study_ppo.summary(runs, log, said, span=1)
    assert table[["grade", "seed"]].apply(tuple, axis=1).tolist() == [r[1:3] for r in runs]
    assert table["stopped"].tolist() == ["", "KL is 101", "", ""]
    assert table["updates"].tolist() == [20, 8, 20, 20]
    # Nine tenths of a way in four equal steps are reached at the fourth.
    assert table["plateau"].tolist() == [4, 4, 4, 20]
    assert table["rises"].tolist() == [True, True, True, False]
    assert table["gain"][0] == pytest.approx(1.0 - 0.375) and np.isnan(table["gold"][3])
    assert table["raw_reward"].tolist() == [11, 12, 13, 10]
    assert table["helpless"][:3].tolist() == [0.25] * 3
    assert set(said["seed"]) == {0, 1} and len(said) == 12


def test_of_a_reward_model_that_lost_a_run_there_is_no_mean_and_of_all_no_trend(runs):
    log, said = study_ppo.logs(runs), study_ppo.answers(runs, START)
    kept, lost = (run.grade for run in runs[::2])  # the last run's weights are no numbers
    found = study_ppo.by_grade(said, "gold", [kept, lost], 2)
    assert found[kept].value == pytest.approx(1.5) and found[lost] is None
    shares = study_ppo.by_grade(said, "helpless", [kept, lost], 2, share=True)
    assert shares[kept].value == 0.25 and shares[lost] is None
    parts = study_ppo.complete(said, [kept, lost, "never run"], 2)
    assert [len(part) for part in parts.values()] == [8, 0, 0]
    table = study_ppo.summary(runs, log, said, span=1)
    x, y, grade = planted(1.0)
    assert study_ppo.trend_of(x, y, grade, seed=0) is not None
    y[4] = table["gold"].iloc[-1]
    assert np.isnan(y[4]) and study_ppo.trend_of(x, y, grade, seed=0) is None


def test_a_trend_on_real_text_is_over_reward_models_and_needs_enough_of_them():
    accuracy = {f"m{i}": 0.5 + 0.1 * i for i in range(4)}
    rng = np.random.default_rng(0)
    judged = [
        [pd.DataFrame({"judge": 3 * a + rng.normal(scale=1e-3, size=5)}) for _ in range(3)]
        for a in accuracy.values()
    ]
    found = study_ppo.trend_of_judged(accuracy, judged, seed=0)
    assert found.slope.value == pytest.approx(3, abs=0.05) and found.slope.n == 4
    assert study_ppo.trend_of_judged(accuracy, [arm[:2] for arm in judged], seed=0) is None
    three = dict(list(accuracy.items())[:3])
    assert study_ppo.trend_of_judged(three, judged[:3], seed=0) is None


def test_matched_kl_compares_runs_where_the_nearest_of_them_is(runs):
    log = study_ppo.logs(runs[:3])
    at, found = study_ppo.at_matched_kl(log, "gold", span=1)
    # KL is eight times the gold score in every run: at one KL all have one gold score.
    assert at == 4.0 and found["gold"].tolist() == pytest.approx([0.5] * 3)
    assert study_ppo.at_matched_kl(study_ppo.logs(runs), "gold", span=1)[0] == 0.0


def test_curves_are_means_over_seeds_and_end_with_the_longest(runs):
    drawn = study_ppo.curves(study_ppo.logs(runs[:2]), "reward", span=1)
    assert drawn["n"].tolist() == [2] * 8 + [1] * 12
    assert drawn.loc[7, ["value", "low", "high"]].tolist() == [1.5, 1.0, 2.0]


def test_smoothing_starts_at_the_first_value_and_forgets_it():
    found = study_ppo.smoothed([1.0, *np.zeros(50)], span=9)
    # Weights of 0.8 each step back, their sum one.
    assert found[0] == 1 and found[1] == pytest.approx(0.8 / 1.8) and found[-1] < 1e-4


def test_helpless_responses_are_known_by_their_sentences():
    told = [" i am sorry , i do not understand .", " it is red . i have no idea .", " it is red ."]
    assert study_ppo.helpless(told) == [True, True, False]


def test_gold_is_always_right_on_every_subset_and_its_opposite_never():
    test = graded.labelled(graded.Grade(60), seed=3, test=True)
    right = rewards.Scorer("gold", "gold", "", frozenset(), frozenset(), gold.scores)
    wrong = right._replace(score=lambda p, r: -gold.scores(p, r))
    for scorer, share in ((right, 1.0), (wrong, 0.0)):
        found = study_ppo.accuracy(scorer, test, seed=0)
        assert list(found) == list(study_ppo.SUBSETS)
        assert all(estimate.value == share for estimate in found.values())
    assert found["mixed"].n == sum(found[s].n for s in world.SUBSETS)


def planted(slope, noise=0.01, n=6):
    rng = np.random.default_rng(0)
    x = np.repeat(np.linspace(0, 1, n), 3)
    grade = pd.Series(np.repeat([f"g{i}" for i in range(n)], 3))
    return pd.Series(x), pd.Series(slope * x + rng.normal(scale=noise, size=3 * n)), grade


def test_a_slope_is_equivalent_to_none_only_within_the_margin():
    found = study_ppo.trend_of(*planted(0.0), seed=0)
    assert study_ppo.equivalent(found, 0.1).equivalent
    assert not study_ppo.equivalent(found, 0.001).equivalent
    steep = study_ppo.equivalent(study_ppo.trend_of(*planted(1.0), seed=0), 0.1)
    assert not steep.equivalent and steep.effect.low > 1


def test_no_trend_where_it_cannot_be_had():
    assert study_ppo.trend_of(*planted(1.0, n=3), seed=0) is None
    x, _, grade = planted(1.0)
    assert study_ppo.trend_of(x, 0 * x, grade, seed=0) is None
    assert study_ppo.trend_of(0 * x, x, grade, seed=0) is None
    exact = study_ppo.trend_of(x, 0 * x + np.repeat([0, 1, 0, 0, 1, 0], 3), grade, seed=0)
    assert study_ppo.equivalent(exact._replace(standard_error=0.0), 1.0) is None


def test_units_of_a_deviation_take_the_scale_of_a_reward_away():
    x, _, grade = planted(1.0)
    table = pd.DataFrame({"grade": grade, "reward": x, "scaled": 7 * x})
    ours, scaled = (study_ppo.per_deviation(table, c) for c in ("reward", "scaled"))
    np.testing.assert_allclose(ours, scaled)
    assert ours.groupby(grade).mean().std(ddof=1) == pytest.approx(1)
    with pytest.raises(ValueError, match="nothing can follow"):
        study_ppo.per_deviation(table.assign(reward=1.0), "reward")


def test_a_prompt_that_the_start_policy_has_not_answered_is_an_error(runs):
    path = jobs.folder(START) / "responses.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="has not answered; it answered 3"):
        study_ppo.answers(runs, START)
