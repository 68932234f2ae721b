"""The gold world's arm of chapters 06 to 09, as jobs: a start policy, reward models of graded
quality, and policies aligned with them; each judged by gold on prompts that nothing has learned.

Each function is called by :mod:`helpers.jobs` in a process of its own. It writes into ``folder``
``policy.safetensors``, ``history.csv`` (the log) and ``responses.jsonl`` (:func:`measured`), as far
as it has them, and returns its record: whether the run was ``stopped``, and why.
"""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import (
    align_dpo,
    align_ppo,
    align_pro,
    align_sft,
    checkpoints,
    embeddings,
    gold,
    graded,
    hindsight,
    jobs,
    mixes,
    policies,
    policyfiles,
    rewards,
    standardised,
    world,
)

# World seeds that keep data of different use apart; runs add their own seed.
SFT_SEED, PAIRS_SEED, PROMPTS_SEED, TEST_SEED, PROXY_SEED = 1_000, 2_000, 3_000, 4_000, 5_000
REFERENCE_PROMPTS = 256  # responses on which each reward model is standardised


def start_job(responses: int, epochs: int) -> jobs.Job:
    """The start policy that all chapters share: one seed, since what is compared begins at it.
    Measured on 4,000 prompts, or on fewer (never below 40) after a short training."""
    # After two passes over 24,000 responses 95.5 % of 3,000 samples were well-formed with steps of
    # 16 at 2e-3, 96.3 % with steps of 8. At 3e-3 and 5e-3, or of 48,000 read once: 93 to 94 %.
    config = dict(epochs=epochs, batch_size=8, learning_rate=2e-3)
    # To show more than 95 % takes many. One that has learned little writes without an end: slow.
    measure = min(4000, max(40, responses // 6))
    settings = dict(responses=responses, seed=0, measure=measure, config=config)
    return jobs.Job("start policy", "arms.start", settings)


def proxy_job(name: str, seed: int = 0, tested: int = 600) -> jobs.Job:
    """The reward model of one of :data:`helpers.graded.GRADES`."""
    settings = dict(grade=list(graded.GRADES[name]), seed=seed, tested=tested)
    return jobs.Job(f"reward model, {name}, seed {seed}", "arms.proxy", settings)


def standard_job(name: str, start: jobs.Job, proxy: jobs.Job) -> jobs.Job:
    """What standardises ``proxy``, of the grade ``name``."""
    return jobs.Job(f"scale of {name}", "arms.standard", needs=dict(start=start, proxy=proxy))


def referee_job(labels: int = 3000, seed: int = 0, tested: int = 600) -> jobs.Job:
    """The reward model that judges in all chapters: of the best grade's size, other prompts."""
    settings = dict(labels=labels, seed=seed, tested=tested)
    return jobs.Job(f"referee, {labels:,} labels, seed {seed}", "arms.referee", settings)


def start(folder: Path, *, responses: int, seed: int, measure: int, config: dict) -> dict:
    """A policy out of nothing, by supervised fine-tuning on the better response of each pair."""
    data = mixes.drawn(responses, "policy", "panel", seed=SFT_SEED, label_error=0.0).pairs
    settings = align_sft.Config(**config)
    prompts, texts = data["prompt"].tolist(), data["chosen"].tolist()
    kept = jobs.checkpoints(folder)
    done = align_sft.train(policies.neox(seed), prompts, texts, settings, seed, checkpoints=kept)
    return finish(folder, done, None, measure)


def proxy(folder: Path, *, grade: list, seed: int, tested: int) -> dict:
    """A reward model that learned from labels of this grade (:class:`helpers.graded.Grade`), and
    its accuracy on ``tested`` right labels of the part ``test``. Same seed, same texts.

    It learns from prompts of the parts that the policies learn from: it is a signal here, never a
    judge."""
    labels, error, length, style = grade
    wrong = dict(label_error=error, length_bias=length, style_bias=style)
    drawn = mixes.drawn(labels, "policy", "panel", seed=PROXY_SEED + seed, **wrong)
    return _reward_model(folder, drawn.pairs, seed, tested)


def referee(folder: Path, *, labels: int, seed: int, tested: int) -> dict:
    """A reward model that judges: as :func:`proxy` with right labels, from prompts of the part
    ``judge``, from which nothing else learns."""
    drawn = mixes.drawn(labels, "judge", seed=PROXY_SEED + seed, label_error=0.0)
    return _reward_model(folder, drawn.pairs, seed, tested)


def dpo(folder: Path, *, data: dict, seed: int, measure: int, config: dict, start: Path) -> dict:
    """DPO (or cDPO, IPO, by ``config["loss"]``) on a training set of :mod:`helpers.mixes`."""
    base = load_policy(start)
    pairs = mixes.training_set(seed=PAIRS_SEED + seed, **data)
    done = align_dpo.train(
        base,
        pairs,
        align_dpo.Config(**config),
        seed,
        align_dpo.remembered_log_probabilities,
        checkpoints=jobs.checkpoints(folder),
    )
    return finish(folder, done, base, measure) | {"pairs": len(pairs)}


def reinforce(
    folder: Path,
    *,
    method: str,
    prompts: int,
    seed: int,
    measure: int,
    config: dict,
    start: Path,
    proxy: Path,
    standard: Path,
) -> dict:
    """PPO or RLOO (``method``) on the rewards of a reward model. The log has ``gold`` beside
    ``reward``: of the same responses, and seen by nobody in training."""
    base, scorer = load_policy(start), load_scorer(proxy)
    asked = prompts_of(prompts, "policy", seed=PROMPTS_SEED + seed)
    method_of = {"ppo": align_ppo.ppo, "rloo": align_ppo.rloo}[method]
    settings, scale = align_ppo.Config(**config), _scale(standard)
    done = method_of(base, scorer.score, scale, asked, settings, seed, gold=gold.scores)
    return finish(folder, done, base, measure)


def ranked(
    folder: Path,
    *,
    prompts: int,
    length: int,
    seed: int,
    measure: int,
    config: dict,
    start: Path,
    proxy: Path,
    standard: Path,
) -> dict:
    """PRO, RRHF or CoH (``config["method"]``) on rankings of ``length`` by a reward model: both
    responses of a pair and, beyond two, samples of the start policy. The pair's label is not used:
    the reward model ranks anew, as in PRO's published code."""
    base, scorer = load_policy(start), load_scorer(proxy)
    data = mixes.drawn(prompts, "policy", seed=PAIRS_SEED + seed).pairs
    asked = data["prompt"].tolist()
    columns = [data["chosen"].tolist(), data["rejected"].tolist()]
    for k in range(length - 2):
        columns.append(policies.sample(base, asked, seed=seed * 1_000 + k).texts)
    scale = _scale(standard)
    scores = np.stack([scorer.score(asked, texts) for texts in columns], axis=1)
    scores = (scores - scale.mean) / scale.deviation
    rankings = [align_pro.Ranking(*row) for row in zip(asked, zip(*columns), scores.tolist())]
    # What the rankings are worth: the share of their ends that gold orders in the same way, and
    # beside it the share of the labels that the reward model overrules.
    true = np.stack([gold.scores(asked, texts) for texts in columns], axis=1)
    rows = np.arange(len(asked))
    leads = {
        "right": true[rows, scores.argmax(1)] - true[rows, scores.argmin(1)],
        "labels_right": true[:, 0] - true[:, 1],
    }
    clear = {name: np.abs(lead) > world.NEAR_TIE for name, lead in leads.items()}
    found = {name: float((lead > 0)[clear[name]].mean()) for name, lead in leads.items()}
    found |= {"lead": float(leads["right"].mean()), "n": len(asked)}
    # The markers in words that the gold world's tokenizer knows; only CoH reads them.
    settings = align_pro.Config(**config)._replace(markers=hindsight.WORLD)
    kept = jobs.checkpoints(folder)
    done = align_pro.train(base, rankings, settings, seed, checkpoints=kept)
    return finish(folder, done, base, measure) | {"rankings": found}


def standard(folder: Path, *, start: Path, proxy: Path) -> dict:
    """What standardises a reward model (:func:`reference_of`), once for all of its runs."""
    return reference_of(load_policy(start), load_scorer(proxy))._asdict()


def _scale(standard: Path) -> standardised.Standard:
    known = json.loads((standard / "record.json").read_text(encoding="utf-8"))
    return standardised.Standard(known["mean"], known["deviation"])


def sampled(folder: Path, *, prompts: int, samples: int, seed: int, start: Path) -> dict:
    """``samples`` independent responses of a policy to each of ``prompts`` prompts of the part
    ``test``, with their gold scores: what best-of-n chooses from. Writes ``samples.jsonl``."""
    policy = load_policy(start)
    asked = prompts_of(prompts, "test", seed=TEST_SEED)
    repeated = [prompt for prompt in asked for _ in range(samples)]
    made = policies.sample(policy, repeated, seed=seed)
    table = pd.DataFrame({"prompt": repeated, "response": made.texts})
    table["gold"] = gold.scores(repeated, made.texts)
    _write(table, folder / "samples.jsonl")
    return {"prompts": prompts, "samples": samples}


def scored(folder: Path, *, samples: Path, proxy: Path) -> dict:
    """Scores of all samples by a reward model, in their order; writes ``scores.npy``."""
    table = read(samples / "samples.jsonl")
    found = load_scorer(proxy).score(table["prompt"].tolist(), table["response"].tolist())
    np.save(folder / "scores.npy", np.asarray(found, dtype=np.float64), allow_pickle=False)
    return {"n": len(table)}


def measured(policy: policies.Policy, reference: policies.Policy | None, n: int) -> pd.DataFrame:
    """One response to the prompt of each of ``n`` pairs of the part ``test``, a row each.

    Columns: ``pair_id``, ``subset``, ``prompt``, ``chosen`` (by right labels), ``response``,
    ``gold``, ``gold_chosen``, ``parses``, ``finished``, ``length`` (tokens), and ``kl`` from the
    reference in nats (0 without one). Same pairs and same random numbers for all policies.
    """
    data = tests(n).pairs
    prompts = data["prompt"].tolist()
    made = policies.sample(policy, prompts, seed=TEST_SEED)
    kl = policies.kl_of(policy, reference, made.tokens) if reference else np.zeros(n)
    return data[["pair_id", "subset", "prompt", "chosen"]].assign(
        response=made.texts,
        gold=gold.scores(prompts, made.texts),
        gold_chosen=gold.scores(prompts, data["chosen"].tolist()),
        parses=[policies.parses(text) for text in made.texts],
        finished=made.finished,
        length=made.lengths,
        kl=kl,
    )


def tests(n: int) -> world.World:
    """``n`` pairs of the part ``test`` with right labels and nothing planted."""
    planted = dict(toxic=0, empty=0, repetitive=0)
    return mixes.drawn(n, "test", seed=TEST_SEED, label_error=0.0, **planted)


@lru_cache(maxsize=16)  # runs of one seed ask for the same ones
def prompts_of(n: int, part: str, *, seed: int) -> tuple[str, ...]:
    """``n`` different prompts of a part."""
    found: dict[str, None] = {}
    for record, truth in world.stream(seed=seed):
        if truth["split"] == part:
            found[record["prompt"]] = None
        if len(found) == n:
            break
    return tuple(found)


def reference_of(base: policies.Policy, scorer: rewards.Scorer) -> standardised.Standard:
    """What standardises a reward model: its scores of the start policy's responses to prompts that
    it has not learned from."""
    asked = prompts_of(REFERENCE_PROMPTS, "judge", seed=PROMPTS_SEED)
    return standardised.standard(
        scorer.score, asked, policies.sample(base, asked, seed=PROMPTS_SEED).texts
    )


def load_policy(folder: Path) -> policies.Policy:
    """The policy that a job has written, where trainers will have its copy."""
    made = policyfiles.load(policies.neox(0), folder)
    return made._replace(model=made.model.to(policyfiles.device()))


def load_scorer(folder: Path) -> rewards.Scorer:
    """The reward model that :func:`proxy` or :func:`referee` has written."""
    from safetensors.torch import load_file

    known = json.loads((folder / "learned.json").read_text(encoding="utf-8"))
    network = graded.neox(0)
    network.model.load_state_dict(load_file(folder / "model.safetensors"))
    network.model.eval().requires_grad_(False)
    return checkpoints.as_scorer(
        network._replace(name=known["name"], revision=folder.name),
        learned=known["learned"],
        pair_ids=frozenset(known["pair_ids"]),
        prompts=frozenset(known["prompts"]),
        family="neox",
    )


def read(path: Path) -> pd.DataFrame:
    """A table that a job has written."""
    with open(path, encoding="utf-8") as lines:
        return pd.DataFrame([json.loads(line) for line in lines])


def _reward_model(folder: Path, data: pd.DataFrame, seed: int, tested: int) -> dict:
    from safetensors.torch import save_file

    trained = graded.train_neox(data, seed, checkpoints=jobs.checkpoints(folder))
    save_file(trained.network.model.state_dict(), folder / "model.safetensors")
    ids, prompts, learned = embeddings.origin(data)
    known = dict(
        name=f"neox, {len(data)} labels",
        learned=learned,
        pair_ids=sorted(ids),
        prompts=sorted(prompts),
    )
    (folder / "learned.json").write_text(json.dumps(known), encoding="utf-8")
    trained.history.to_csv(folder / "history.csv", index=False)
    test = mixes.drawn(
        tested, "test", seed=TEST_SEED, label_error=0.0, toxic=0, empty=0, repetitive=0
    )
    found = graded.accuracy(load_scorer(folder), test, seed=0)["gold"]
    return {"stopped": trained.stopped, "accuracy": found._asdict(), "labels": len(data)}


def finish(folder: Path, done, base: policies.Policy | None, measure: int) -> dict:
    """Write what a training made. A run that was stopped is measured as well, since leaving it out
    would flatter its method; only weights that are no numbers cannot be (``measured`` is 0)."""
    policyfiles.save(done.policy, folder)
    done.history.to_csv(folder / "history.csv", index=False)
    sound = all(bool(weights.isfinite().all()) for weights in done.policy.model.parameters())
    if sound:
        _write(measured(done.policy, base, measure), folder / "responses.jsonl")
    return {"stopped": done.stopped, "training_s": done.seconds, "measured": measure * sound}


def _write(table: pd.DataFrame, path: Path) -> None:
    table.to_json(path, orient="records", lines=True, force_ascii=False)
