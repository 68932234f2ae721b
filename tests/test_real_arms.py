import importlib
import json

import numpy as np
import pandas as pd
import pytest
from test_policies import byte_policy

from helpers import (
    bundled,
    hh,
    jobs,
    pairs,
    policies,
    policyfiles,
    real_arms,
    real_models,
    real_texts,
    rewards,
    significance,
    splits,
    study_implicit,
    study_real,
)

WORDS = "rain tea dogs maps songs glass bread shoes night rivers".split()


def _pairs(n: int) -> list[dict]:
    """Real-looking pairs: the chosen response is polite, the rejected one is not."""
    made = []
    for i in range(n):
        prompt = f"\n\nHuman: What about {WORDS[i % 10]}, number {i}?\n\nAssistant:"
        chosen = f" Sure, {WORDS[(i * 3) % 10]} please."
        made.append({"chosen": prompt + chosen, "rejected": prompt + f" No {WORDS[i % 7]}."})
    return made


@pytest.fixture
def where(tmp_path, monkeypatch):
    """A small HH-RLHF on disk, a tiny policy in SmolLM2's place, and a word model as judge's."""
    lines = [json.dumps(pair) for pair in _pairs(240)]
    two_prompts = json.dumps({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": _EMPTY})
    empty = json.dumps({"chosen": "\n\nHuman: a\n\nAssistant:", "rejected": _EMPTY})
    text = "\n".join([*lines, two_prompts, empty, lines[0]])
    (tmp_path / "harmless-base-test.jsonl").write_text(text + "\n")
    monkeypatch.setenv("HH_RLHF_DIR", str(tmp_path))
    tiny = byte_policy("llama")._replace(max_tokens=120)
    monkeypatch.setattr(real_texts, "policy", lambda where: tiny)
    # The panel and the signals have all families but one that needs no network.
    stranger = {"stranger": lambda data, seed: rewards.features_bt(data, seed)._replace(family="x")}
    # The policy writes noise, in which no reward model of words tells one response from another.
    letters = lambda _, texts: np.array([sum(map(ord, t)) for t in texts], dtype=float)  # noqa: E731
    stranger["letters"] = lambda data, seed: rewards.tfidf_bt(data, seed)._replace(score=letters)
    monkeypatch.setattr(real_texts, "LEARNERS", dict(real_texts.LEARNERS) | stranger)
    real_texts.read.cache_clear()
    yield real_texts.text(hh.locate(), max_tokens=120, new_tokens=6)
    real_texts.read.cache_clear()


_EMPTY = "\n\nHuman: other\n\nAssistant: c"
CONFIG = {"lora_rank": 2, "learning_rate": 1e-2}
JUDGE = dict(candidates=("stranger",), tested=20)


def _do(tmp_path, job: jobs.Job, done: dict) -> dict:
    """The job and what it needs, in this process, each in a folder of its name."""
    needs = {}
    for name, need in job.needs.items():
        if need.name not in done:
            _do(tmp_path, need, done)
        needs[name] = tmp_path / "jobs" / need.name
    folder = tmp_path / "jobs" / job.name
    folder.mkdir(parents=True)
    settings = json.loads(json.dumps(dict(job.settings)))
    module, function = job.call.split(".")
    call = getattr(importlib.import_module(f"helpers.{module}"), function)
    done[job.name] = call(folder, **settings, **needs)
    json.dumps(done[job.name], allow_nan=False)
    return done[job.name]


def test_parts_share_no_prompt_and_pairs_of_two_prompts_or_no_text_are_out(where):
    data = real_texts.read(where)
    assert len(data) == 240 and data["pair_id"].is_unique
    parts = {name: real_texts.part(where, name) for name in splits.SHARES}
    assert sum(map(len, parts.values())) == 240
    for name, part in parts.items():
        pairs.check(part)
        assert len(part) and set(part["prompt"].map(splits.split_of)) == {name}


def test_other_data_than_named_are_refused(where):
    with pytest.raises(ValueError, match="not sha256:x"):
        real_texts.read(where._replace(fingerprint="sha256:x"))


def test_pairs_that_do_not_fit_are_left_out_and_too_few_are_an_error(where):
    policy, data = byte_policy("llama"), real_texts.part(where, "policy")
    rendered = [policy.template.render(p, r) for p, r in zip(data["prompt"], data["chosen"])]
    limit = int(np.median([len(policy.tokenizer(text).input_ids) for text in rendered]))
    policy = policy._replace(max_tokens=limit)
    found = real_texts.fitting(policy, data, 5, seed=0)
    for side in ("chosen", "rejected"):
        whole = [policy.template.render(p, r) for p, r in zip(found["prompt"], found[side])]
        assert all(len(policy.tokenizer(text).input_ids) <= limit for text in whole)
    with pytest.raises(ValueError, match=f"of {len(data)} pairs have at most {limit} tokens"):
        real_texts.fitting(policy, data, len(data), seed=0)


@pytest.mark.parametrize("arm", ["start", "original", "cleaned", "ranked", "ppo", "rloo"])
def test_an_arm_runs_is_measured_on_the_part_test_and_judged(where, tmp_path, arm):
    start = study_real.start_job(where, measure=4)
    judge, panel = real_models.judge_job(where, **JUDGE), study_real.panel_job(where)
    signal = real_models.signal_job(where, "letters", labels=30, tested=20)
    sizes = dict(measure=4, start=start)
    if arm == "start":
        job = start
    elif arm in ("original", "cleaned"):
        job = study_real.dpo_job(where, arm, 0, pairs=6, panel=panel, config=CONFIG, **sizes)
    elif arm == "ranked":
        job = study_real.ranked_job(where, 0, pairs=6, signal=signal, config=CONFIG, **sizes)
    else:
        config = dict(updates=1, batch_size=4, **CONFIG)
        job = study_real.reinforce_job(
            where, arm, 0, prompts=4, signal=signal, config=config, **sizes
        )
    done: dict = {}
    verdict = study_real.judged_job(job, judge)
    assert _do(tmp_path, verdict, done)["n"] == 4
    table = real_texts.table(tmp_path / "jobs" / verdict.name / "judged.jsonl")
    asked = real_texts.fitting(
        real_texts.policy(where), real_texts.part(where, "test"), 4, seed=0
    )  # the same for all arms
    assert table["prompt"].tolist() == asked["prompt"].tolist()
    assert np.isfinite(table["judge"]).all() and done[judge.name]["learner"] in JUDGE["candidates"]
    assert (table["kl"] == 0).all() if arm == "start" else (table["kl"] > 0).all()
    record = done[job.name]
    assert record["stopped"] == "" and record["measured"] == 4
    taught = json.loads((tmp_path / "jobs" / job.name / "taught.json").read_text())
    assert {splits.split_of(prompt) for prompt in taught["prompts"]} <= {"policy"}
    assert "smollm2" in taught["families"], "a judge on the policy's network is no stranger"
    assert ("hand-made" in taught["families"]) == (arm == "cleaned")
    if arm == "ranked":
        assert done[signal.name]["labels"] == 30 and "tfidf" in taught["families"]
        assert len(record["as_labelled"]) == 6 and set(record["as_labelled"]) <= {0, 1}


def test_a_tuned_start_is_what_the_next_stage_begins_with(where, tmp_path):
    done: dict = {}
    start = study_real.start_job(where, measure=2, pairs=4, config=CONFIG)
    assert _do(tmp_path, start, done)["kl"] > 0
    folder = tmp_path / "jobs" / start.name
    tuned, plain = real_arms.load_start(folder, where), real_texts.policy(where)
    texts = real_texts.table(folder / "responses.jsonl")
    likely = [
        policies.log_probabilities(p, texts["prompt"], texts["chosen"]) for p in (tuned, plain)
    ]
    assert not hasattr(tuned.model, "disable_adapter")
    assert np.abs(likely[0] - likely[1]).max() > 0.1


def test_cleaned_data_are_the_panels_and_the_original_ones_are_not_touched(where, tmp_path):
    done: dict = {}
    start, panel = study_real.start_job(where, measure=2), study_real.panel_job(where)
    found = _do(tmp_path, panel, done)
    own = real_texts.part(where, "policy")
    assert found["pairs"] == len(own) == sum(found["categories"].values())
    known = json.loads((tmp_path / "jobs" / panel.name / "panel.json").read_text())
    learned = {splits.split_of(p) for p in real_texts.part(where, "panel", "policy")["prompt"]}
    assert learned == {"panel", "policy"} and len(known["categories"]) == len(known["pair_ids"])
    job = study_real.dpo_job(
        where, "worse", 0, pairs=2, measure=2, start=start, panel=panel, config=CONFIG
    )
    with pytest.raises(ValueError, match="original or cleaned"):
        _do(tmp_path, job, done)


def test_the_judge_must_be_a_stranger_to_what_taught_the_policy(where):
    own = real_texts.learned(where, "features", "judge", None, 0)
    stranger = dict(families=["smollm2", "tfidf"], pair_ids=["x"], prompts=["y"])
    real_arms.check(own, stranger)
    for key, shared in (
        ("families", [own.family]),
        ("pair_ids", sorted(own.pair_ids)[:1]),
        ("prompts", sorted(own.prompts)[:1]),
    ):
        with pytest.raises(ValueError, match="must not judge"):
            real_arms.check(own, stranger | {key: shared})
    published = own._replace(pair_ids=frozenset(), facts={"training_data": "hh-rlhf"})
    with pytest.raises(ValueError, match="training data name hh-rlhf"):
        real_arms.check(published, stranger)


def test_the_best_judge_is_chosen_without_the_test_part(where, monkeypatch):
    asked = set()

    def spy(of):
        def learner(data, seed):
            scorer = of(data, seed)

            def score(prompts, responses):
                asked.update(map(splits.split_of, prompts))
                return scorer.score(prompts, responses)

            return scorer._replace(score=score)

        return learner

    def coward(data, seed):
        return rewards.length_bt(data, seed)._replace(score=lambda p, r: np.zeros(len(p)))

    # Every chosen response of this file holds a comma, no rejected one does.
    chooses = {"words": spy(rewards.tfidf_bt), "ties": coward}
    monkeypatch.setattr(real_texts, "LEARNERS", chooses)
    name, shares = real_texts.best(where, ("ties", "words"), "judge", None, 0)
    assert name == "words" and shares["ties"] == 0 and shares["words"] > 0.9
    assert asked == {"judge"}


def test_nobody_is_tested_on_what_it_learned_from(where):
    scorer = real_texts.learned(where, "features", "judge", 10, 0)
    assert len(scorer.pair_ids) == 10
    with pytest.raises(ValueError, match="has learned from"):
        real_texts.tested(scorer, real_texts.part(where, "judge"))


def _answers(scores, chosen=0.0) -> pd.DataFrame:
    ids = [f"p{i}" for i in range(len(scores))]
    return pd.DataFrame({"pair_id": ids, "judge": scores, "judge_chosen": chosen})


def test_contests_count_wins_and_pair_prompts():
    a, b = _answers([1.0, 2.0, 3.0, 4.0] * 5), _answers([0.0, 2.0, 4.0, 3.0] * 5)
    one = study_real.contest([a], [b], seed=0)
    assert one.difference.value == pytest.approx(0.25) and one.difference.n == 20
    assert "one training" in one.difference.method
    shares = [getattr(one.outcomes, name).value for name in ("win", "tie", "lose")]
    assert shares == [0.5, 0.25, 0.25]
    two = study_real.contest([a, a], [b, b], seed=0)
    assert two.difference.value == pytest.approx(0.25) and two.seeds == 2 and two.prompts == 20
    assert two.detectable == one.detectable, "a second training brings no new prompts"
    against = study_real.contest([a], [a], seed=0, other="judge_chosen")
    assert against.outcomes.win.value == 1
    with pytest.raises(ValueError, match="same prompts"):
        study_real.contest([a], [b.iloc[::-1]], seed=0)
    with pytest.raises(ValueError, match="seeds"):
        study_real.contest([a, a], [b], seed=0)


def test_arms_that_hardly_differ_have_no_interval_and_make_no_claim():
    same, other = _answers([1.0] * 20), _answers([1.0] * 15 + [0.0] * 5)
    judge = study_real.stats.wilson(60, 100)
    for b, differing in ((same, 0), (other, 5)):
        found = study_real.contest([same] * 3, [b] * 3, seed=0)
        assert found.differing == differing
        read = study_real.readings(found, judge)
        assert read["difference"] is read["net"] is None and read["tie"].n == 60
        value, note = study_real.claim(found, found.difference)
        assert value is None and f"differ on {differing} of 20" in note


def test_too_few_trainings_make_no_claim():
    a, b = _answers([1.0, 2.0, 0.5] * 3), _answers([0.0, 1.0, 1.0] * 3)
    for k in (1, 2, 3):
        found = study_real.contest([a] * k, [b] * k, seed=0)
        value, note = study_real.claim(found, found.difference)
        assert (value is None) == (k < 3) == bool(note)
    assert significance.detectable(3) is None, "three prompts show nothing at all"


def test_what_a_poor_judge_can_show():
    assert significance.visible(1.0, 0.3) == 0.3 and significance.visible(0.5) == 0
    assert significance.visible(0.6) == pytest.approx(0.2)
    assert significance.prompts_needed(0.5, 0.2) == np.inf
    # Connor's equation turned round: so many prompts detect just this difference.
    for accuracy, difference in ((1.0, 0.2), (0.6, 0.5), (0.6, 1.0)):
        n = int(significance.prompts_needed(accuracy, difference))
        seen = significance.visible(accuracy, difference)
        assert significance.detectable(n) <= seen < significance.detectable(n - 1)
    read = study_real.readings(
        study_real.contest([_answers([1.0, 0.0])], [_answers([0.0, 0.0])], seed=0),
        study_real.stats.wilson(4, 10),
    )
    assert set(read) == set(study_real.READINGS) and read["needed"] is None


def test_reward_models_do_not_depend_on_the_policy_and_policies_do(where):
    other = where._replace(policy="elsewhere", max_tokens=64)
    same = real_models.judge_job, study_real.panel_job
    assert all(jobs.key(of(where)) == jobs.key(of(other)) for of in same)
    keys = {jobs.key(study_real.start_job(w, measure=2)) for w in (where, other)}
    assert len(keys) == 2


def test_policies_are_looked_for_in_order(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not real_texts.reachable("EleutherAI/pythia-1.4b")
    assert real_texts.first_reachable(["EleutherAI/pythia-1.4b", str(tmp_path)]) == str(tmp_path)
    with pytest.raises(FileNotFoundError, match="none of"):
        real_texts.first_reachable(["EleutherAI/pythia-1.4b"])


def test_judges_that_cannot_be_had_are_named_with_the_reason(where, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    of_smollm2 = where._replace(policy="smollm2")
    names = ("minilm", "smollm2", "starling-34b")
    found, reasons = real_models.possible(names, of_smollm2)
    assert found == ["minilm"] and set(reasons) == {"smollm2", "starling-34b"}
    assert "own network" in reasons["smollm2"] and reasons["starling-34b"]
    assert "smollm2" in real_models.possible(names, where._replace(policy="other"))[0]


def test_signals_are_the_first_to_be_had_and_the_others_are_named(where, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    wanted = {
        "published": ("starling-34b", None),
        "all": (["starling-34b", "letters"], None),
        "few": ("tfidf-words", 30),
    }
    found, left_out = real_models.signals(wanted, where)
    assert list(found) == ["all", "few"] and "starling-34b" in left_out["published"]
    assert found["all"].settings["learner"] == "letters"
    assert found["few"] == real_models.signal_job(where, "tfidf-words", labels=30)
    with pytest.raises(ValueError, match="give two; not had: .*starling-34b"):
        real_models.signals(dict(list(wanted.items())[:2]), where)


@pytest.mark.slow
def test_smollm2_takes_two_steps_and_is_judged(hh_test_sets, tmp_path, monkeypatch):
    if bundled.smollm2_folder() is None or bundled.minilm_folder() is None:
        pytest.fail("the bundled weights are missing; run `make setup`")
    source, _ = hh_test_sets
    monkeypatch.setenv("HH_RLHF_DIR", source.where)
    real_texts.read.cache_clear()
    where = real_texts.text(source, max_tokens=96, new_tokens=8)
    policy = real_texts.policy(where)
    made = policy.tokenizer
    assert made.pad_token_id not in (None, made.eos_token_id)
    (tokens,) = policies.encode(policy, ["\n\nHuman: Hi\n\nAssistant:"], [" Hello."])
    assert tokens.ids[-1] == made.eos_token_id == made.convert_tokens_to_ids("<|im_end|>")
    assert made.decode(tokens.ids[tokens.begin :]) == "Hello.<|im_end|>"
    done: dict = {}
    judge = real_models.judge_job(where, candidates=("minilm",), labels=24, tested=10)
    signal = real_models.signal_job(where, "tfidf-words", labels=60, tested=20)
    start = study_real.start_job(where, measure=2)
    job = study_real.ranked_job(
        where, 0, pairs=4, measure=2, start=start, signal=signal, config=dict(accumulation=2)
    )
    assert _do(tmp_path, study_real.judged_job(job, judge), done)["n"] == 2
    history = pd.read_csv(tmp_path / "jobs" / job.name / "history.csv")
    assert history["step"].tolist() == [1, 2] and np.isfinite(history["loss"]).all()
    assert done[job.name]["kl"] > 0


def test_a_trained_policy_is_a_reward_model_of_unseen_pairs(where, tmp_path):
    start, panel = study_real.start_job(where, measure=4), study_real.panel_job(where)
    options = dict(pairs=6, measure=4, start=start, panel=panel, config=CONFIG)
    job = study_real.dpo_job(where, "original", 0, **options)
    done: dict = {}
    asked = study_implicit.planned_real(job, start, tested=5)
    assert _do(tmp_path, asked, done) == {"n": 5}
    found = real_texts.table(tmp_path / "jobs" / asked.name / "margins.jsonl")
    # By another module's sums: the adapter on, less the adapter off.
    base = real_texts.policy(where)
    tuned = policyfiles.load(base, tmp_path / "jobs" / job.name, lora_rank=CONFIG["lora_rank"])
    data = real_texts.fitting(base, real_texts.part(where, "test"), 5, seed=0)
    assert found["pair_id"].tolist() == data["pair_id"].tolist()
    rewards_ = []
    for side in ("chosen", "rejected"):
        texts = data["prompt"].tolist(), data[side].tolist()
        ratio = policies.log_probabilities(tuned, *texts) - policies.log_probabilities(base, *texts)
        rewards_.append(study_implicit.BETA * ratio)
    assert found["margin"].tolist() == pytest.approx(rewards_[0] - rewards_[1], abs=1e-4)
    assert found["margin"].abs().max() > 1e-3


def test_why_an_arm_cannot_run(where, monkeypatch):
    source = hh.locate()
    assert real_texts.missing(source, 4, ["harmless-base"], ["test"]) == ""
    assert "left out" in real_texts.missing(source, 0, ["harmless-base"], ["test"])
    lost = real_texts.missing(source, 4, ["harmless-base", "helpful-base"], ["train"])
    assert lost == "not reachable: harmless-base train, helpful-base train"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HH_RLHF_DIR")
    assert "no HH-RLHF" in real_texts.missing(hh.locate(), 4, ["harmless-base"], ["test"])


@pytest.mark.slow
def test_two_processes_train_smollm2_together(hh_test_sets, tmp_path, monkeypatch):
    if bundled.smollm2_folder() is None:
        pytest.fail("the bundled weights are missing; run `make setup`")
    source, _ = hh_test_sets
    monkeypatch.setenv("HH_RLHF_DIR", source.where)
    monkeypatch.setenv("ELEPHANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    real_texts.read.cache_clear()
    where = real_texts.text(source, max_tokens=96, new_tokens=8)
    signal = real_models.signal_job(where, "tfidf-words", labels=60, tested=20)
    options = dict(measure=2, start=study_real.start_job(where, measure=2), signal=signal)
    # Four rankings a step in either case.
    one = study_real.ranked_job(where, 0, pairs=8, config=dict(accumulation=4), **options)
    two = study_real.ranked_job(
        where, 0, pairs=8, config=dict(accumulation=2), processes=2, **options
    )
    alone, both = jobs.run([one, two], workers=1)
    assert both["processes"] == 2 and both["measured"] == 2 and both["stopped"] == ""
    assert both["as_labelled"] == alone["as_labelled"]
    losses = [pd.read_csv(jobs.folder(job) / "history.csv")["loss"] for job in (one, two)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)
    said = [real_texts.table(jobs.folder(job) / "responses.jsonl") for job in (one, two)]
    assert said[0]["prompt"].tolist() == said[1]["prompt"].tolist()
