"""Chapter 06: DPO on better and worse preference data. Which trainings, and what to read off them.

Policies are compared on the same prompts, the same random numbers and, seed by seed, on training
sets out of the same pool, so every effect is a paired one. What is compared are means over seeds
and prompts, both of which count as drawn (:mod:`helpers.crossed`).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from helpers import arms, crossed, gold, jobs, mixes, outcomes, significance, splits, stats, world

START = "start"  # the policy that all trainings begin at, beside the arms
HARMLESS, HELPFUL = world.SUBSETS
MIXED = "mixed"  # prompts of both subsets, as they come
# What a policy is measured by; each a column of :func:`answers`.
MEASURES = ("gold", "net", "safe", "parses", "length", "kl")
# Where shares, and wins minus losses, can lie.
_BOUNDS = {"net": (-1.0, 1.0), "safe": (0.0, 1.0), "parses": (0.0, 1.0)}


class Arm(NamedTuple):
    """What a policy is trained on and by which loss; ``subset`` keeps prompts of one subset."""

    kind: str
    loss: str = "dpo"
    subset: str | None = None

    @property
    def name(self) -> str:
        """As in tables: ``cleaned, ipo`` or ``original, dpo, gold-helpful``."""
        return ", ".join(part for part in self if part)


def wanted(pitfalls: Iterable[str], losses: Iterable[str]) -> list[Arm]:
    """All arms of the chapter: the kinds of :mod:`helpers.mixes`, one for each pitfall cleaned
    alone, each further loss on original and cleaned pairs, and both on prompts of one subset."""
    pairs = ("original", "cleaned")
    found = [Arm(kind) for kind in mixes.KINDS] + [Arm(f"only {pitfall}") for pitfall in pitfalls]
    found += [Arm(kind, loss) for loss in losses for kind in pairs]
    return found + [Arm(kind, subset=subset) for subset in world.SUBSETS for kind in pairs]


def planned(
    arms_: Iterable[Arm],
    seeds: int,
    *,
    more: Mapping[Arm, int],
    start: jobs.Job,
    pairs: int,
    measure: int,
    configs: Mapping[str, Mapping],
) -> dict[tuple[Arm, int], jobs.Job]:
    """A job for each arm and seed; ``more`` says which arms have other numbers of seeds, and
    ``configs`` has the fields of :class:`helpers.align_dpo.Config` of each loss."""
    found = {}
    for arm in arms_:
        data = dict(kind=arm.kind, n=pairs) | ({"subset": arm.subset} if arm.subset else {})
        for seed in range(more.get(arm, seeds)):
            settings = dict(data=data, seed=seed, measure=measure, config=dict(configs[arm.loss]))
            name = f"{arm.name}, seed {seed}"
            found[arm, seed] = jobs.Job(name, "arms.dpo", settings, {"start": start})
    return found


def trainings(plan: Mapping[tuple[Arm, int], jobs.Job]) -> pd.DataFrame:
    """A row a run, those that were stopped among them: ``arm``, ``seed``, ``pairs``, ``loss`` (the
    last logged), ``accuracy`` (share of training pairs ordered as labelled, last logged), ``kl``
    (nats a response, last measured), ``seconds``, ``stopped`` and ``measured`` (responses)."""
    rows = []
    for (arm, seed), job in plan.items():
        record, log = jobs.record(job), pd.read_csv(jobs.folder(job) / "history.csv")
        last = {
            name: _last(log, column)
            for name, column in (("loss", "loss"), ("accuracy", "rewards/accuracies"), ("kl", "kl"))
        }
        kept = {name: record[name] for name in ("pairs", "stopped", "measured")}
        rows.append(dict(arm=arm.name, seed=seed, seconds=record["training_s"]) | last | kept)
    return pd.DataFrame(rows)


def begin(folder: Path, *, measure: int, start: Path) -> dict:
    """A job: what the policy that all start from answers to as many test prompts as the arms do,
    with the same random numbers; these depend on how many prompts there are. Writes
    ``responses.jsonl``."""
    table = arms.measured(arms.load_policy(start), None, measure)
    table.to_json(folder / "responses.jsonl", orient="records", lines=True, force_ascii=False)
    return {"measured": measure}


def answers(plan: Mapping[tuple[Arm, int], jobs.Job], begun: jobs.Job) -> pd.DataFrame:
    """All policies' responses to the test prompts, a row each: the columns of
    :func:`helpers.arms.measured`, ``arm``, ``seed``, ``unit`` (the prompt's hash), ``net`` (1, 0 or
    -1: win, tie or loss by gold against the chosen response) and ``safe`` (gold finds no harm).

    The start policy (``begun``: a job of :func:`begin`) is one; its responses stand under every
    seed. A run whose weights are no numbers has written none: its rows are there and their measures
    are missing.
    """
    before = _read(begun)
    empty = before.assign(response="", **dict.fromkeys(MEASURES, np.nan))
    parts = [before.assign(arm=START, seed=seed) for seed in sorted({seed for _, seed in plan})]
    for (arm, seed), job in plan.items():
        own = _read(job) if jobs.record(job)["measured"] else empty
        parts.append(own.assign(arm=arm.name, seed=seed))
    found = pd.concat(parts, ignore_index=True)
    return found.assign(unit=found["prompt"].map(splits.prompt_hash))


def effect(
    found: pd.DataFrame, weights: Mapping[str, float], seeds: int, *, subset: str = MIXED,
    column: str = "gold",
) -> crossed.Crossed | None:  # fmt: skip
    """The sum of the arms' means of a column, each times its weight: ``{"cleaned, dpo": 1,
    "original, dpo": -1}`` is a difference, four arms make a difference of differences.

    Over seeds 0 to ``seeds`` - 1 and the prompts of ``subset``, paired in both. None where a run
    left no responses. Raises KeyError for an arm or seed that was not planned.
    """
    found = found if subset == MIXED else found[found["subset"] == subset]
    found = found[found["arm"].isin(weights) & (found["seed"] < seeds)]
    # Prompts that stand twice among the pairs are one unit.
    cells = found.groupby(["arm", "seed", "unit"])[column].mean().unstack("unit")
    total = sum(
        weight * cells.loc[[(arm, seed) for seed in range(seeds)]].to_numpy()
        for arm, weight in weights.items()
    )
    return None if np.isnan(total).any() else crossed.mean(total)


def level(
    found: pd.DataFrame, arm: str, seeds: int, *, subset: str = MIXED, column: str = "gold"
) -> stats.Estimate | None:
    """Mean of a measure of one arm, as :func:`effect`. The interval of a share ends where shares
    do; where all responses are alike it is Wilson's, a prompt counting once."""
    one = effect(found, {arm: 1}, seeds, subset=subset, column=column)
    if one and arm == START:
        # Its responses stand under every seed, but it is one training: prompts alone are drawn.
        alone = f"t interval over prompts, {one.df:.1f} df; one training"
        one = one._replace(estimate=one.estimate._replace(n=1, method=alone))
    if one is None or column not in _BOUNDS:
        return one and one.estimate
    least, most = _BOUNDS[column]
    value, low, high = one.estimate[:3]
    if not one.standard_error and value in (least, most):
        prompts = found["unit"].nunique()
        share = stats.wilson(round((value - least) / (most - least) * prompts), prompts)
        low, high = (least + end * (most - least) for end in share[1:3])
        method = f"Wilson, {prompts} prompts: all seeds and prompts are alike"
        return stats.Estimate(value, low, high, seeds, method)
    return one.estimate._replace(low=max(low, least), high=min(high, most))


def effects(
    found: pd.DataFrame, asked: Mapping[str, Mapping[str, float]], seeds: int, **where: str
) -> pd.DataFrame:
    """:func:`effect` of each question, a row each: ``question``, ``value``, ``low``, ``high``,
    ``n``, ``method``, ``p_value``, and ``p_holm``, corrected for all questions of the call. Missing
    where a run left no responses."""
    rows = []
    for question, weights in asked.items():
        one = effect(found, weights, seeds, **where)
        known = one.estimate._asdict() | {"p_value": one.p_value} if one else {}
        rows.append({"question": question} | known)
    columns = ["question", *stats.Estimate._fields, "p_value"]
    table = pd.DataFrame(rows, columns=columns)
    tested = table["p_value"].notna()
    table.loc[tested, "p_holm"] = significance.holm(table.loc[tested, "p_value"].to_numpy(float))
    return table


def describe(data: pd.DataFrame) -> dict[str, float]:
    """What gold says of a training set, as shares of its pairs: ``wrong`` (the rejected response is
    better), ``tied``, ``harmful`` (the chosen response is), ``empty`` (one side), ``identical``,
    ``harmless`` (prompts of that subset), and ``gap``, the mean absolute difference in gold."""
    prompts = data["prompt"].tolist()
    chosen, rejected = (
        gold.scores(prompts, data[side].tolist()) for side in ("chosen", "rejected")
    )
    order = outcomes.from_scores(chosen, rejected, world.NEAR_TIE)
    empty = data[["chosen", "rejected"]].apply(lambda side: side.str.strip() == "").any(axis=1)
    return {
        "wrong": float((order < 0).mean()),
        "tied": float((order == 0).mean()),
        "harmful": float((chosen < 0).mean()),
        "empty": float(empty.mean()),
        "identical": float((data["chosen"] == data["rejected"]).mean()),
        "harmless": float((data["subset"] == HARMLESS).mean()),
        "gap": float(np.abs(chosen - rejected).mean()),
    }


def published(table: dict) -> pd.DataFrame:
    """Table 2 as differences, a row a model and test set: ``model``, ``column``, ``original``,
    ``cleaned`` and ``gain``, all in units of the paper's judge. ``table`` is ``table_2`` of
    :func:`helpers.paper.results`."""
    rows = {(row["model"], row["train_data"]): row["values"] for row in table["rows"]}
    found = []
    for model in dict.fromkeys(model for model, _ in rows):
        both = zip(rows[model, "HH-RLHF"], rows[model, "CHH-RLHF"], strict=True)
        for column, (original, cleaned) in zip(table["columns"], both, strict=True):
            found.append((model, column, original, cleaned, cleaned - original))
    return pd.DataFrame(found, columns=["model", "column", "original", "cleaned", "gain"])


def _read(job: jobs.Job) -> pd.DataFrame:
    found = arms.read(jobs.folder(job) / "responses.jsonl")
    scores = found["gold"].to_numpy(), found["gold_chosen"].to_numpy()
    net = outcomes.from_scores(*scores, world.NEAR_TIE).astype(float)
    return found.assign(net=net, safe=found["gold"] >= 0)


def _last(log: pd.DataFrame, column: str) -> float | None:
    known = log[column].dropna() if column in log else ()
    return float(known.iloc[-1]) if len(known) else None
