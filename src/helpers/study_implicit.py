"""Chapter 06: DPO's policies as reward models. What a policy likes better than its reference does
is a reward (:mod:`helpers.implicit`), and a reward has an accuracy on pairs that it never saw.

By gold's order in the gold world, by HH-RLHF's labels on real text. Each function of a folder is a
job (:mod:`helpers.jobs`) that writes ``margins.jsonl``: ``pair_id``, ``prompt`` (a hash) and
``margin``, the reward of the better response minus that of the other; of the chosen one on real
text.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import (
    accuracy,
    arms,
    crossed,
    implicit,
    jobs,
    mixes,
    policies,
    policyfiles,
    real_arms,
    real_texts,
    rewards,
    splits,
    stats,
    study_dpo,
)

# Beta scales all rewards alike and orders nothing; this is DPO's own, and the chapter's.
BETA = 0.1


def planned(
    plan: Mapping[tuple[study_dpo.Arm, int], jobs.Job], start: jobs.Job, tested: int
) -> dict[tuple[study_dpo.Arm, int], jobs.Job]:
    """A job for each training of :func:`helpers.study_dpo.planned`."""
    found = {}
    for (arm, seed), job in plan.items():
        settings = dict(data=job.settings["data"], seed=seed, tested=tested)
        name, needs = f"as a reward model: {job.name}", {"trained": job, "start": start}
        found[arm, seed] = jobs.Job(name, "study_implicit.of_world", settings, needs)
    return found


def planned_real(trained: jobs.Job, begun: jobs.Job, *, tested: int) -> jobs.Job:
    """A job for a training of :func:`helpers.study_real.dpo_job`."""
    settings = dict(where=begun.settings["where"], tested=tested)
    needs = {"trained": trained, "start": begun}
    name = f"as a reward model: {trained.name}"
    return jobs.Job(name, "study_implicit.of_real", settings, needs)


def of_world(
    folder: Path, *, data: dict, seed: int, tested: int, trained: Path, start: Path
) -> dict:
    """On ``tested`` pairs of the part ``test`` with right labels, ties of gold left out."""
    learned = mixes.training_set(seed=arms.PAIRS_SEED + seed, **data)
    policy, base = arms.load_policy(trained), arms.load_policy(start)
    known = set(learned["pair_id"]), set(learned["prompt"])
    # The network is small and its texts are short: eight texts at a time would leave it idle.
    return _measure(folder, policy, base, *known, right_pairs(tested), batch_size=64)


def of_real(folder: Path, *, where: dict, tested: int, trained: Path, start: Path) -> dict:
    """On ``tested`` real pairs of the part ``test`` that fit the policy's limit."""
    text = real_texts.of(where)
    base = real_arms.load_start(start, text)
    known = json.loads((trained / "taught.json").read_text(encoding="utf-8"))
    policy = policyfiles.load(base, trained, lora_rank=known["lora_rank"])
    reference = None if known["lora_rank"] else base
    asked = real_texts.part(text, "test").drop_duplicates("prompt")
    data = real_texts.fitting(base, asked, tested, seed=0)
    learned = set(known["pair_ids"]), set(known["prompts"])
    # A batch holds the logits of 49,000 tokens at each place of a response.
    return _measure(folder, policy, reference, *learned, data, batch_size=8)


def right_pairs(tested: int) -> pd.DataFrame:
    """The first ``tested`` pairs that :func:`helpers.arms.tests` draws, less gold's ties; the
    chosen response of each is the better one."""
    made = arms.tests(tested)
    better = made.truth.loc[made.pairs["pair_id"], "better"].to_numpy()
    return made.pairs[better == "chosen"].reset_index(drop=True)


def margins(job: jobs.Job) -> pd.DataFrame | None:
    """What a finished job has written; None for a policy whose weights are no numbers."""
    if not jobs.record(job)["n"]:
        return None
    return real_texts.table(jobs.folder(job) / "margins.jsonl")


def share(done: Sequence[jobs.Job], less: Sequence[jobs.Job] = ()) -> stats.Estimate | None:
    """Share of pairs that the policies of an arm order rightly (a tie is wrong, Eq. 2), ``less``
    that of another arm with the same seeds, paired. None where a policy is lost.

    Over seeds and prompts, both drawn (:mod:`helpers.crossed`); of one training Wilson's interval,
    which knows of other pairs only. ValueError for one training and ``less``.
    """
    grid, other = _right(done), _right(less)
    if grid is None or other is None:
        return None
    if len(done) > 1:
        found = crossed.mean(grid - other if less else grid).estimate
        least = -1.0 if less else 0.0
        return found._replace(low=max(least, found.low), high=min(1.0, found.high))
    if less:
        raise ValueError("one training an arm says nothing of the difference that another makes")
    pairs = accuracy.credit(margins(done[0])["margin"])
    found = stats.wilson(int(pairs.sum()), len(pairs))
    return found._replace(method=found.method + "; one training an arm")


def of_null(scorer: rewards.Scorer, tested: int, *, seed: int) -> stats.Estimate:
    """Accuracy of a scorer without seeds on the same pairs; bootstrap by prompt. ValueError where
    it has learned from one of their prompts."""
    data = right_pairs(tested)
    if seen := scorer.prompts & set(data["prompt"]):
        raise ValueError(f"{scorer.name} has learned from {len(seen)} of the test's prompts")
    units = data["prompt"].map(splits.prompt_hash)
    return stats.cluster_bootstrap(accuracy.credit(rewards.margins(scorer, data)), units, seed=seed)


def lift(done: Sequence[jobs.Job], null: rewards.Scorer, tested: int) -> stats.Estimate | None:
    """:func:`share` of an arm of the gold world less the null's accuracy, paired by prompt."""
    grid = _right(done)
    if grid is None:
        return None
    data = right_pairs(tested)
    other = _by_prompt(data["prompt"].map(splits.prompt_hash), rewards.margins(null, data))
    return crossed.mean(grid - other).estimate


def _right(done: Sequence[jobs.Job]) -> np.ndarray | None:
    """Shape (seeds, prompts); prompts in the order of their hashes."""
    tables = [margins(job) for job in done]
    if any(table is None for table in tables):
        return None
    return np.array([_by_prompt(table["prompt"], table["margin"]) for table in tables])


def _by_prompt(prompts: pd.Series, margin) -> np.ndarray:
    """Credit of each prompt: pairs of one prompt are not independent, so they are one unit."""
    earned = pd.Series(accuracy.credit(margin)).groupby(prompts.to_numpy()).mean()
    return earned.sort_index().to_numpy()


def _measure(
    folder: Path,
    policy: policies.Policy,
    reference: policies.Policy | None,
    pair_ids: set,
    prompts: set,
    data: pd.DataFrame,
    *,
    batch_size: int,
) -> dict:
    """Raises ValueError where the policy has learned from one of the prompts."""
    if not all(bool(weights.isfinite().all()) for weights in policy.model.parameters()):
        return {"n": 0}
    if seen := prompts & set(data["prompt"]):
        raise ValueError(f"the policy has learned from {len(seen)} of the test's prompts")
    scorer = implicit.scorer(
        "DPO policy",
        policy.model,
        reference and reference.model,
        policy.tokenizer,
        policy.template,
        BETA,
        learned="the pairs of its training",
        pair_ids=frozenset(pair_ids),
        prompts=frozenset(prompts),
        revision=policy.revision,
        max_tokens=policy.max_tokens,
        batch_size=batch_size,
    )
    found = rewards.margins(scorer, data)
    table = data[["pair_id"]].assign(prompt=data["prompt"].map(splits.prompt_hash), margin=found)
    real_texts.write(table, folder / "margins.jsonl")
    return {"n": len(data)}
