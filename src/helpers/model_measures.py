"""What `elephant audit-rm` measures on a set of pairs: accuracy, nulls, calibration and probes of a
score function, as findings of plain values (:mod:`helpers.data_checks` says what a finding is).
"""

from typing import NamedTuple

import pandas as pd

from helpers import (
    accuracy,
    calibration,
    model_verdict,
    probes,
    rewards,
    splits,
    stats,
    suites,
    trials,
    world,
)
from helpers.data_checks import finding

MODEL = "model"
FOLDS = 5
# Pairs a subset on which probes are made and prompts swapped: most of the time, since a base has up
# to eight probes. Of 60 probes one may flip before the interval leaves the verdict's 10 %.
PROBED = 60
BEST_NULL = "best null, chosen on training folds"
BLIND = "with the prompts of other pairs"


class Scope(NamedTuple):
    """Pairs to audit on. ``pairs``: all of them, of which nulls learn; ``sample``: those that the
    model scores; ``truth``: of the gold world, else None; ``labels``: whose they are ("original" or
    "simulation"); ``names``: of each subset, as training data would name it; ``hh``: the subsets
    that hold pairs of HH-RLHF."""

    pairs: pd.DataFrame
    sample: pd.DataFrame
    truth: pd.DataFrame | None
    labels: str
    names: dict[str, list[str]]
    hh: frozenset[str]


class Measured(NamedTuple):
    """Findings of a scope, its evidence a subset without flips and overlap, margins by pair, and
    what could not be told."""

    findings: list[dict]
    evidence: list[model_verdict.Evidence]
    margins: pd.Series
    not_told: list[str]


def draw(data: pd.DataFrame, pairs: int, seed: int) -> pd.DataFrame:
    """At most ``pairs`` pairs of each subset, seeded, in file order."""
    groups = data.groupby("subset", sort=False)
    picked = [g.sample(min(pairs, len(g)), random_state=seed).index for _, g in groups]
    return data.loc[sorted(i for index in picked for i in index)].reset_index(drop=True)


def measure(part: Scope, score: rewards.Score, seed: int) -> Measured:
    """Accuracy, nulls, calibration and probes of ``score`` on the sample of a scope.

    Raises ValueError for a score that is not finite.
    """
    data, labels = part.sample, part.labels
    # Both sides in one call, so that a prompt is computed once; a score function that remembers
    # then answers every further question.
    score(*texts(data))
    scorer = rewards.Scorer(MODEL, MODEL, "", frozenset(), frozenset(), score)
    margins = pd.Series(rewards.margins(scorer, data), index=data["pair_id"].to_numpy())
    findings, not_told = _probes(part, score, seed)
    evidence, folded = [], []
    for subset, group in data.groupby("subset", sort=False):
        own, clusters = _table(group, margins), group["prompt"].map(splits.prompt_hash).nunique()
        found, lift, disagree = _accuracy(own, group, subset, labels, seed), None, None
        if clusters < model_verdict.LEAST_PROMPTS:
            need = f"{clusters} distinct prompts, {model_verdict.LEAST_PROMPTS} are needed"
            not_told.append(f"Lift over null baselines and calibration on {subset}: {need}")
        else:
            everything = part.pairs[part.pairs["subset"] == subset]
            try:
                nulls, lift, disagree = _nulls(own, everything, group, labels, seed)
                found += nulls
            except ValueError as error:
                not_told.append(f"Lift over null baselines on {subset}: {error}")
            try:
                folded.append(trials.run(group, {}, {MODEL: scorer}, folds=FOLDS, seed=seed))
            except ValueError as error:
                not_told.append(f"Calibration on {subset}: {error}")
        if draw(group, PROBED, seed)["prompt"].nunique() > 1:
            found.append(_blind(scorer, draw(group, PROBED, seed), labels, seed))
        findings += found
        own_accuracy = {f["name"]: _estimate(f) for f in found if f["check"] == "accuracy"}
        evidence.append(
            model_verdict.Evidence(
                subset=subset,
                pairs=len(group),
                prompts=clusters,
                labels=labels,
                accuracy=[e for name, e in own_accuracy.items() if name in ("strict", "wilson")],
                half=own_accuracy.get("half"),
                lift=lift,
                flips=None,
                overlap="",
                beaten={
                    f["name"]: _estimate(f)
                    for f in findings
                    if f["check"] == "beaten" and f["part"] == subset
                },
                disagree=disagree,
            )
        )
    if data["subset"].nunique() > 1:
        name = accuracy.MIXTURE if part.truth is None else f"gold {accuracy.MIXTURE}"
        findings += _accuracy(_table(data, margins), data, name, labels, seed)
    if folded:
        findings += _calibration(folded, data, labels, seed)
    return Measured(findings, evidence, margins, not_told)


def _estimate(found: dict) -> stats.Estimate:
    return stats.Estimate(*(found[field] for field in stats.Estimate._fields))


def _blind(scorer: rewards.Scorer, group: pd.DataFrame, labels: str, seed: int) -> dict:
    """What the model still gets right where each pair has the prompt of another one."""
    blind = trials.swap_prompts(group, seed)
    scorer.score(*texts(blind))
    margins = pd.Series(rewards.margins(scorer, blind), index=blind["pair_id"].to_numpy())
    half = accuracy.measures(_table(blind, margins), _prompts(group), seed=seed)["half"]
    return finding("null", BLIND, half, labels, part=group["subset"].iloc[0])


def _accuracy(own: pd.DataFrame, data, part: str, labels: str, seed: int) -> list[dict]:
    if data["prompt"].map(splits.prompt_hash).nunique() > 1:
        measures = accuracy.measures(own, _prompts(data), seed=seed)
    else:
        right = accuracy.per_pair(own)
        measures = {"wilson": stats.wilson(int(right.sum()), len(right))}
    texts = {
        "strict": "Eq. 2: a tie is wrong",
        "wilson": "Eq. 2",
        "half": "",
        "ties": "",
    }
    return [
        finding("accuracy", name, estimate, labels, part=part, text=texts.get(name, ""))
        for name, estimate in measures.items()
    ]


def _nulls(
    own, everything, sample, labels: str, seed: int
) -> tuple[list[dict], stats.Estimate, float]:
    """``(findings, lift, disagree)``: nulls are cross-fitted on all pairs of the subset, which
    makes them stronger than on the sample, and shown on the sample."""
    learners, fixed = trials.null_learners(), trials.null_rules(seed)
    trial = trials.run(
        everything, learners, fixed, nulls=[*learners, *fixed], folds=FOLDS, seed=seed
    )
    picked = accuracy.pick(trial.held_back, everything, tie=accuracy.HALF)
    best = accuracy.choose(trial.margins, picked, everything)
    best = best[best["pair_id"].isin(sample["pair_id"])]
    lift = accuracy.lift(own, best, everything, seed=seed, tie=accuracy.HALF)
    subset, chosen = sample["subset"].iloc[0], ", ".join(dict.fromkeys(picked["scorer"]))
    groups = dict(list(trial.margins.groupby("scorer", sort=False))) | {BEST_NULL: best}
    found = []
    for name, group in groups.items():
        here = group[group["pair_id"].isin(sample["pair_id"])]
        half = accuracy.measures(here, _prompts(sample), seed=seed)["half"]
        text = chosen if name == BEST_NULL else ""
        found.append(finding("null", name, half, labels, part=subset, text=text))
    found.append(finding("lift", BEST_NULL, lift, labels, part=subset, text=chosen))
    credits = [accuracy.per_pair(table, accuracy.HALF) for table in (own, best)]
    disagree = float((credits[0] - credits[1].loc[credits[0].index]).abs().mean())
    return found, lift, disagree


def _calibration(runs: list[trials.Trial], data, labels: str, seed: int) -> list[dict]:
    margins = pd.concat([run.margins for run in runs], ignore_index=True)
    held = pd.concat([run.held_back for run in runs], ignore_index=True)
    chance = calibration.probabilities(margins, held, data)
    part = "all" if labels != "simulation" else "gold world"
    beyond = calibration.excess(chance.to_numpy(), seed=seed)
    # The error is never 0, and no bootstrap knows how far it lies above it: the floor says.
    error = stats.Estimate(beyond.error, None, None, beyond.floor.n, "equally full bins")
    texts = f"p = {beyond.p_value:.3g} that the model is one", "what such a model shows by chance"
    found = [
        finding("calibration", name, estimate, labels, part=part, text=text)
        for name, estimate, text in zip(
            ("expected error", "of right confidences"), (error, beyond.floor), texts
        )
    ]
    for row in calibration.by_margin(margins["margin"]).itertuples():
        estimate = stats.Estimate(row.value, row.low, row.high, row.n, row.method)
        name = f"{row.low_margin:.4g} to {row.high_margin:.4g}"
        found.append(finding("by margin", name, estimate, labels, part=part))
    return found


def _probes(part: Scope, score: rewards.Score, seed: int) -> tuple[list[dict], list[str]]:
    """How often each probe beats its base (of all and by subset), and by how much it loses."""
    few = draw(part.sample, PROBED, seed)
    try:
        if part.truth is None:
            suite = suites.of_pairs(few, seed=seed)
        else:
            suite = suites.of_world(world.World(few, part.truth), seed=seed)
    except ValueError as error:
        return [], [f"Probes: {error}"]
    scores = probes.scored(suite, score)
    unit = probes.spread(score, part.sample)
    whole = "all" if part.truth is None else "gold world"
    groups = {whole: scores} | dict(list(scores.groupby("subset", sort=False)))
    found = []
    for name, group in groups.items():
        for result in probes.results(group, unit, seed=seed):
            about = dict(part=name, text=suites.PROBES[result.probe].why)
            if result.probe == "harmful":
                about["text"] = group.loc[group["probe"] == "harmful", "why"].iloc[0]
            kind = "beaten" if result.expects == "base" else "same"
            found.append(finding(kind, result.probe, result.flip, part.labels, **about))
            if result.sensitivity is not None:
                found.append(
                    finding("sensitivity", result.probe, result.sensitivity, part.labels, **about)
                )
    return found, []


def _table(data: pd.DataFrame, margins: pd.Series) -> pd.DataFrame:
    ids = data["pair_id"].to_numpy()
    head = dict(scorer=MODEL, kind="model", repeat=0, fold=0)
    return pd.DataFrame(head | dict(pair_id=ids, margin=margins.loc[ids].to_numpy()))


def _prompts(data: pd.DataFrame) -> pd.Series:
    return data.set_index("pair_id")["prompt"]


def texts(data: pd.DataFrame) -> tuple[list[str], list[str]]:
    other = data["rejected_prompt"].fillna(data["prompt"])
    return [*data["prompt"], *other], [*data["chosen"], *data["rejected"]]
