"""The real-text arm of chapters 06 to 08, as jobs: SmolLM2 (or another policy) with LoRA on real
HH-RLHF, judged by a reward model that shares neither labels, prompts nor family with what taught
the policy.

Jobs as in :mod:`helpers.arms`. A policy's job writes ``policy.safetensors`` (its adapters),
``history.csv``, ``responses.jsonl`` (:func:`helpers.real_texts.measured`) and ``taught.json``: from
whose labels and which prompts it learned. :func:`judged` adds scores.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from helpers import (
    align_dpo,
    align_ppo,
    align_pro,
    align_sft,
    circularity,
    clean,
    jobs,
    mixes,
    panels,
    pitfalls,
    policies,
    policyfiles,
    real_texts,
    rewards,
    standardised,
    votes,
)
from helpers.real_texts import Text

# Seed of the responses that are measured: the same for all policies.
TEST_SEED = 4_000
# Rank 8, to save time: Dettmers et al. (2023) found that it matters little. Rates are those of
# helpers.align_sft and helpers.align_dpo for adapters. KL is measured once, at the end.
# One text or pair at a time: four at once took 4 GB a job. No warm-up: it would make the first of
# three steps one of rate 0, and adapters begin at nothing anyway.
_SHORT = dict(lora_rank=8, batch_size=1, accumulation=4, warmup=0.0)
SFT = align_sft.LORA._replace(**_SHORT)
DPO = align_dpo.LORA._replace(**_SHORT, kl_every=0)
# A batch of eight took 4.3 GB by RLOO and 5.7 GB by PPO, on a processor: half of it for two jobs at
# once. A batch costs such a processor half a minute, so it is learned from once.
RL = align_ppo.Config(
    learning_rate=2e-4, updates=3, batch_size=4, epochs=1, generations=2, lora_rank=8
)
PRO = align_pro.Config(
    batch_size=1, accumulation=4, epochs=1, lora_rank=8, logging_steps=1, kl_every=0
)
_NONE: Mapping = MappingProxyType({})
_METHODS = {"ppo": align_ppo.ppo, "rloo": align_ppo.rloo}


def start(folder: Path, *, where: dict, measure: int, pairs: int, config: dict) -> dict:
    text = real_texts.of(where)
    base = real_texts.policy(text)
    data = real_texts.part(text, "policy").head(0)
    if not pairs:
        done = align_sft.Trained(base, pd.DataFrame({"step": []}), 0.0, "")
    else:
        data = real_texts.fitting(base, real_texts.part(text, "policy"), pairs, seed=0)
        texts = data["prompt"].tolist(), data["chosen"].tolist()
        kept = jobs.checkpoints(folder)
        done = align_sft.train(base, *texts, SFT._replace(**config), 0, checkpoints=kept)
    return _finish(folder, done, base, text, measure, data, _NONE)


def judge(
    folder: Path,
    *,
    where: dict,
    candidates: list[str],
    labels: int | None,
    tested: int,
    seed: int,
) -> dict:
    text = real_texts.of(where)
    name, held = real_texts.best(text, candidates, "judge", labels, seed)
    own = dict(where=where, name=name, own="judge", labels=labels, seed=seed)
    return _reward_model(folder, text, own, tested) | {"held_back": held}


def signal(
    folder: Path, *, where: dict, learner: str, labels: int | None, seed: int, tested: int
) -> dict:
    own = dict(where=where, name=learner, own="panel", labels=labels, seed=seed)
    return _reward_model(folder, real_texts.of(where), own, tested)


def panel(folder: Path, *, where: dict, folds: int, seed: int) -> dict:
    """Cross-fitted on the parts ``panel`` and ``policy`` alone: a panel that had learned from the
    judge's labels would pass them on to the policy, and the judge would find its own again."""
    data = real_texts.part(real_texts.of(where), "panel", "policy")
    cast = panels.reward_panel(data, folds=folds, seed=seed)
    found = clean.categorise(data, cast, pitfalls.flag(data))
    kept = {"categories": found.to_dict(), "pair_ids": data["pair_id"].tolist()}
    kept["families"] = sorted({member.family for member in panels.MEMBERS.values()})
    (folder / "panel.json").write_text(json.dumps(kept), encoding="utf-8")
    own = found.loc[real_texts.part(real_texts.of(where), "policy")["pair_id"]]
    return {"stopped": "", "pairs": len(own), "categories": own.value_counts().to_dict()}


def dpo(
    folder: Path,
    *,
    where: dict,
    kind: str,
    seed: int,
    pairs: int,
    measure: int,
    config: dict,
    start: Path,
    panel: Path,
) -> dict:
    if kind not in ("original", "cleaned"):
        raise ValueError(f"kind is {kind!r}; it must be original or cleaned")
    text = real_texts.of(where)
    base = load_start(start, text)
    data, taught = real_texts.part(text, "policy"), {}
    if kind == "cleaned":
        taught = json.loads((panel / "panel.json").read_text(encoding="utf-8"))
        found = pd.Series(taught.pop("categories"))
        data = mixes.cleaned(data, found, votes.CATEGORIES)
    data = real_texts.fitting(base, data, pairs, seed=seed)
    settings, kept = DPO._replace(**config), jobs.checkpoints(folder)
    known = align_dpo.remembered_log_probabilities
    done = align_dpo.train(base, data, settings, seed, known, checkpoints=kept)
    record = _finish(folder, done, base, text, measure, data, taught)
    record["tokens"] = settings.epochs * _tokens(base, data)
    if kind == "cleaned":
        record["swapped"] = int(found[data["pair_id"]].eq("Opposite").sum())
    return record


def reinforce(
    folder: Path,
    *,
    where: dict,
    method: str,
    seed: int,
    prompts: int,
    measure: int,
    config: dict,
    start: Path,
    signal: Path,
) -> dict:
    text = real_texts.of(where)
    base, scorer = load_start(start, text), load_scorer(signal)
    data = real_texts.part(text, "policy").drop_duplicates("prompt")
    data = real_texts.fitting(base, data, prompts, seed=seed)
    settings = RL._replace(response_length=text.new_tokens)._replace(**config)
    asked, standard = data["prompt"].tolist(), load_standard(signal)
    done = _METHODS[method](base, scorer.score, standard, asked, settings, seed)
    return _finish(folder, done, base, text, measure, data, _taught_by(scorer))


def ranked(
    folder: Path,
    *,
    where: dict,
    seed: int,
    pairs: int,
    measure: int,
    config: dict,
    start: Path,
    signal: Path,
) -> dict:
    text = real_texts.of(where)
    base, scorer, standard = load_start(start, text), load_scorer(signal), load_standard(signal)
    data = real_texts.fitting(base, real_texts.part(text, "policy"), pairs, seed=seed)
    prompts, both = data["prompt"].tolist(), data[["chosen", "rejected"]]
    raw = np.stack([scorer.score(prompts, both[side].tolist()) for side in both], axis=1)
    scores = (raw - standard.mean) / standard.deviation
    rankings = [
        align_pro.Ranking(prompt, tuple(texts), tuple(row))
        for prompt, texts, row in zip(prompts, both.to_numpy(), scores.tolist())
    ]
    kept, settings = jobs.checkpoints(folder), PRO._replace(**config)
    done = align_pro.train(base, rankings, settings, seed, checkpoints=kept)
    # 1 where the reward model ranks as the label does.
    order = {"as_labelled": (scores[:, 0] > scores[:, 1]).astype(int).tolist()}
    order["tokens"] = settings.epochs * _tokens(base, data)
    return _finish(folder, done, base, text, measure, data, _taught_by(scorer)) | order


def judged(folder: Path, *, trained: Path, judge: Path) -> dict:
    """Writes ``judged.jsonl``: the responses with ``judge`` and ``judge_chosen``, the scores of the
    policy's and of HH-RLHF's response in standard deviations of HH-RLHF's.

    Raises ValueError where judge and policy learned from the same, or the judge's family had a part
    in the policy, or the judge knows the test's prompts."""
    scorer, standard = load_scorer(judge), load_standard(judge)
    taught = json.loads((trained / "taught.json").read_text(encoding="utf-8"))
    check(scorer, taught)
    table = real_texts.table(trained / "responses.jsonl")
    if seen := scorer.prompts & set(table["prompt"]):
        raise ValueError(f"{scorer.name} has learned from {len(seen)} of the test's prompts")
    prompts = table["prompt"].tolist()
    for column, texts in {"judge": "response", "judge_chosen": "chosen"}.items():
        raw = np.asarray(scorer.score(prompts, table[texts].tolist()), dtype=float)
        table[column] = (raw - standard.mean) / standard.deviation
    real_texts.write(table, folder / "judged.jsonl")
    return {"stopped": "", "n": len(table), "judge": scorer.name}


def check(judge: rewards.Scorer, taught: Mapping) -> None:
    """Raises ValueError where a judge may not judge a policy that was taught so."""
    source = circularity.LabelSource(
        "policy's", frozenset(taught["families"]), frozenset(taught["pair_ids"]), "hh-rlhf"
    )
    circular, why = circularity.guard(judge, source)
    if shared := len(judge.prompts.intersection(taught["prompts"])):
        circular, why = True, f"{why}; it learned from {shared} of the policy's prompts".strip("; ")
    if circular:
        raise ValueError(f"{judge.name} must not judge this policy: {why}")


def load_start(folder: Path, where: Text) -> policies.Policy:
    """The policy that :func:`start` has written, adapters merged."""
    base = real_texts.policy(where)
    if not (folder / policyfiles.WEIGHTS).is_file():
        return base
    rank = json.loads((folder / "taught.json").read_text(encoding="utf-8"))["lora_rank"]
    tuned = policyfiles.load(base, folder, lora_rank=rank)
    made = policies.merged(tuned)
    return made._replace(model=made.model.eval().requires_grad_(False))


def load_scorer(folder: Path) -> rewards.Scorer:
    """The reward model of a job :func:`signal` or :func:`judge`, learned once more."""
    own = json.loads((folder / "learned.json").read_text(encoding="utf-8"))["own"]
    return real_texts.learned(**own | {"where": real_texts.of(own["where"])})


def load_standard(folder: Path) -> standardised.Standard:
    """What standardises its scores: those of HH-RLHF's responses to prompts of the part ``test``,
    from which nothing learns."""
    known = json.loads((folder / "learned.json").read_text(encoding="utf-8"))
    return standardised.Standard(*known["standard"])


def _reward_model(folder: Path, where: Text, own: dict, tested: int) -> dict:
    scorer = real_texts.learned(**own | {"where": where})
    data = real_texts.part(where, "test").sample(frac=1, random_state=0).head(tested)
    found = real_texts.tested(scorer, data)
    real_texts.write(found, folder / "tested.jsonl")
    both = np.concatenate([found["chosen"], found["rejected"]])
    known = {"own": own, "standard": [float(both.mean()), float(both.std())]}
    (folder / "learned.json").write_text(json.dumps(known), encoding="utf-8")
    right = real_texts.right(found, seed=0)._asdict()
    about = dict(learner=own["name"], family=scorer.family, labels=len(scorer.pair_ids))
    return {"stopped": "", "accuracy": right, "learned": scorer.learned} | about


def _tokens(base: policies.Policy, data: pd.DataFrame) -> int:
    """Of both texts of the pairs, prompts included: what one pass goes over."""
    prompts = data["prompt"].tolist()
    sides = (policies.encode(base, prompts, data[s].tolist()) for s in ("chosen", "rejected"))
    return sum(len(tokens.ids) for side in sides for tokens in side)


def _taught_by(scorer: rewards.Scorer) -> dict:
    return {"families": [scorer.family], "pair_ids": sorted(scorer.pair_ids)}


def _finish(
    folder: Path, done, base: policies.Policy, where: Text, measure: int, data, taught: Mapping
) -> dict:
    """Write what a training made; a run that was stopped is measured as well, unless its weights
    are no numbers (``measured`` is 0)."""
    adapted = hasattr(done.policy.model, "disable_adapter")
    if done.policy.model is not base.model:
        policyfiles.save(done.policy, folder)
    done.history.to_csv(folder / "history.csv", index=False)
    # A judge on the policy's own network would be no stranger to it.
    families = sorted({where.policy, *taught.get("families", ())})
    rank = done.policy.model.peft_config["default"].r if adapted else None
    known = dict(families=families, prompts=sorted(set(data["prompt"])), lora_rank=rank)
    known["pair_ids"] = sorted({*data["pair_id"], *taught.get("pair_ids", ())})
    (folder / "taught.json").write_text(json.dumps(known), encoding="utf-8")
    sound = all(bool(weights.isfinite().all()) for weights in done.policy.model.parameters())
    if sound:
        reference = None if adapted else base
        found = real_texts.measured(done.policy, reference, where, measure, seed=TEST_SEED)
        real_texts.write(found, folder / "responses.jsonl")
    record = dict(stopped=done.stopped, training_s=done.seconds, measured=measure * sound)
    record |= dict(policy=base.name, revision=base.revision, pairs=len(data))
    return record | {"kl": float(found["kl"].mean()) if sound else None}
