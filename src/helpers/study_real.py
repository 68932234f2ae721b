"""The real-text arm of chapters 06 to 08: its jobs (:mod:`helpers.real_arms`), and what can be
read from so few responses and so poor a judge."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from helpers import (
    crossed,
    jobs,
    launch,
    ledger,
    outcomes,
    real_models,
    real_texts,
    significance,
    stats,
)
from helpers.real_texts import Text

_NONE: Mapping = MappingProxyType({})
# Units of :func:`readings`.
READINGS = {
    "judge": "share",
    "difference": "judge's SD",
    "win": "share",
    "tie": "share",
    "lose": "share",
    "net": "share",
    "detectable": "share",
    "visible": "share",
    "needed": "prompts",
}
# Three wins in five: what ``needed`` is reckoned for.
CLEAR = 0.2
# Fewer trainings an arm say nothing of what another training would give.
FEWEST_SEEDS = 3
# On fewer differing prompts no sign test reaches five percent, and a bootstrap of nearly constant
# values has an interval that is far too short (of constant ones: none at all).
FEWEST_DIFFERING = 6


def start_job(where: Text, *, measure: int, pairs: int = 0, config: Mapping = _NONE) -> jobs.Job:
    """The policy that all begin with: as it comes, or tuned on the chosen responses of ``pairs``
    pairs first, which a model without instructions needs. ``config`` changes
    :data:`helpers.real_arms.SFT`."""
    settings = dict(where=where._asdict(), measure=measure, pairs=pairs, config=dict(config))
    return jobs.Job("real text, start", "real_arms.start", settings)


def panel_job(where: Text, *, folds: int = 3) -> jobs.Job:
    """Categories by chapter 02's panel of all pairs that policies may learn from."""
    settings = dict(where=real_models.who(where), folds=folds, seed=0)
    return jobs.Job("real text, panel", "real_arms.panel", settings)


def dpo_job(
    where: Text,
    kind: str,
    seed: int,
    *,
    pairs: int,
    measure: int,
    start: jobs.Job,
    panel: jobs.Job,
    config: Mapping = _NONE,
    processes: int = 1,
) -> jobs.Job:
    """DPO on ``original`` or ``cleaned`` pairs, by so many ``processes`` (:mod:`helpers.launch`),
    as the other trainings. ``config`` changes :data:`helpers.real_arms.DPO`."""
    settings = dict(where=where._asdict(), kind=kind, seed=seed, pairs=pairs, measure=measure)
    settings["config"], needs = dict(config), {"start": start, "panel": panel}
    return _by(processes, f"DPO, {kind}, seed {seed}", "real_arms.dpo", settings, needs)


def reinforce_job(
    where: Text,
    method: str,
    seed: int,
    *,
    prompts: int,
    measure: int,
    start: jobs.Job,
    signal: jobs.Job,
    config: Mapping = _NONE,
    processes: int = 1,
) -> jobs.Job:
    """``ppo`` or ``rloo`` on the rewards of a signal (:mod:`helpers.real_models`). ``config``
    changes :data:`helpers.real_arms.RL`."""
    settings = dict(where=where._asdict(), method=method, seed=seed, prompts=prompts)
    settings |= dict(measure=measure, config=dict(config))
    name, needs = _driven(method.upper(), start, signal, seed)
    return _by(processes, name, "real_arms.reinforce", settings, needs)


def ranked_job(
    where: Text,
    seed: int,
    *,
    pairs: int,
    measure: int,
    start: jobs.Job,
    signal: jobs.Job,
    config: Mapping = _NONE,
    processes: int = 1,
) -> jobs.Job:
    """PRO (or ``config["method"]``) on pairs that a signal ranks anew: length 2. ``config``
    changes :data:`helpers.real_arms.PRO`."""
    settings = dict(where=where._asdict(), seed=seed, pairs=pairs, measure=measure)
    name, needs = _driven("PRO", start, signal, seed)
    return _by(processes, name, "real_arms.ranked", settings | dict(config=dict(config)), needs)


def _driven(method: str, start: jobs.Job, signal: jobs.Job, seed: int) -> tuple[str, dict]:
    name = f"{method}, {signal.settings['learner']}, seed {seed}"
    return name, {"start": start, "signal": signal}


def _by(processes: int, name: str, *job) -> jobs.Job:
    made = jobs.Job(f"real text, {name}", *job)
    return made if processes == 1 else launch.spread(made, processes)


def judged_job(trained: jobs.Job, judge: jobs.Job) -> jobs.Job:
    """The judge's scores of what a policy of any of these jobs has written."""
    needs = {"trained": trained, "judge": judge}
    return jobs.Job(f"judged: {trained.name}", "real_arms.judged", {}, needs)


class Contest(NamedTuple):
    """Two arms on the same prompts before the judge.

    ``difference`` of the mean scores, in standard deviations of the judge's scores of HH-RLHF's
    responses; ``outcomes`` of the first against the second, all seeds together; ``prompts`` and
    ``seeds``; ``differing``, on how many prompts any scores differ; ``detectable``: the smallest
    true difference of wins and losses (share) that as many prompts show with power 0.8, None where
    none is large enough."""

    difference: stats.Estimate
    outcomes: outcomes.Summary
    prompts: int
    seeds: int
    differing: int
    detectable: float | None


def answers(trained: Sequence[jobs.Job], judge: jobs.Job) -> list[pd.DataFrame]:
    """What the policies of one arm have written, judged: one frame a seed."""
    return [
        real_texts.table(jobs.folder(judged_job(job, judge)) / "judged.jsonl") for job in trained
    ]


def speed(trained: Sequence[jobs.Job], processes: int = 1) -> float:
    """Tokens that the runs learned from, a second and process."""
    known = [jobs.record(job) for job in trained]
    seconds = sum(record["training_s"] for record in known)
    return sum(record["tokens"] for record in known) / seconds / processes


def written_by(job: jobs.Job) -> dict[str, str]:
    """``model`` and ``revision`` of the pretrained policy, as a ledger row has them."""
    known = jobs.record(job)
    return {"model": known["policy"], "revision": known["revision"]}


def model_name(policy: str) -> str:
    """A policy's name in ``facts/work.yaml``, as ledger ids of speeds have it."""
    return "smollm2-135m" if policy == real_texts.SMOLLM2 else ledger.slug(Path(policy).name)


def contest(
    a: Sequence[pd.DataFrame], b: Sequence[pd.DataFrame], *, seed: int, other: str = "judge"
) -> Contest:
    """The arm ``a`` against the arm ``b``, one frame of :func:`answers` a seed, in the same order.

    ``other="judge_chosen"`` sets ``a`` against HH-RLHF's responses (then ``b`` is ``a``). With two
    seeds or more the interval of the difference counts seeds and prompts (:mod:`helpers.crossed`);
    with one it counts prompts only, and its method says so. Raises ValueError where the prompts of
    two frames differ.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"{len(a)} and {len(b)} seeds; give both arms the same seeds")
    ids = [frame["pair_id"].tolist() for frame in [*a, *b]]
    if any(one != ids[0] for one in ids):
        raise ValueError("the arms have not answered the same prompts in the same order")
    first = np.array([frame["judge"] for frame in a])
    second = np.array([frame[other] for frame in b])
    n = len(ids[0])
    if len(a) > 1:
        difference = crossed.mean(first - second).estimate
    else:
        difference = stats.paired_bootstrap(first[0], second[0], seed=seed)
        difference = difference._replace(method=difference.method + "; one training an arm")
    found = outcomes.summarise(
        outcomes.from_scores(first.ravel(), second.ravel()),
        None if len(a) == 1 else np.tile(np.arange(n), len(a)),
        seed=seed,
    )
    differing = int((first != second).any(axis=0).sum())
    return Contest(
        difference, found, n, len(a), differing, significance.detectable(n, found.tie.value)
    )


def readings(found: Contest, judge: stats.Estimate) -> dict[str, stats.Estimate | float | None]:
    """What a chapter writes down of a contest, by the names of :data:`READINGS`.

    ``judge`` is its measured accuracy; ``visible`` the largest difference of wins and losses that
    it can show; ``needed`` the prompts on which it would show a true difference of :data:`CLEAR`
    (None: a judge at or below one half never does). ``difference`` and ``net`` are None where the
    arms differ on fewer prompts than :data:`FEWEST_DIFFERING`."""
    needed = significance.prompts_needed(judge.value, CLEAR)
    enough = found.differing >= FEWEST_DIFFERING
    return {
        "judge": judge,
        "difference": found.difference if enough else None,
        **{name: getattr(found.outcomes, name) for name in ("win", "tie", "lose")},
        "net": found.outcomes.net if enough else None,
        "detectable": found.detectable,
        "visible": significance.visible(judge.value),
        "needed": needed if np.isfinite(needed) else None,
    }


def claim(found: Contest, estimate: stats.Estimate) -> tuple[stats.Estimate | None, str]:
    """``(value, note)`` of a claim's ledger row: no value below :data:`FEWEST_SEEDS` trainings or
    :data:`FEWEST_DIFFERING` prompts on which the arms differ."""
    if found.seeds >= FEWEST_SEEDS:
        if found.differing >= FEWEST_DIFFERING:
            return estimate, ""
        return None, f"the arms differ on {found.differing} of {found.prompts} prompts only"
    trainings = "one training" if found.seeds == 1 else f"{found.seeds} trainings"
    return None, (
        f"{trainings} an arm and {found.prompts} prompts on real text: shown in the chapter, too "
        "little for a verdict"
    )


def summary(arms: Mapping[str, Sequence[jobs.Job]], judge: jobs.Job) -> pd.DataFrame:
    """One row a policy: ``arm``, ``seed`` (its place), ``pairs`` learned from, ``stopped``,
    ``training_s``, ``kl`` (nats a response), ``length``, ``finished`` (share), ``judge`` (mean)."""
    rows = []
    for arm, trained in arms.items():
        for place, (job, said) in enumerate(zip(trained, answers(trained, judge))):
            known = jobs.record(job)
            row = {key: known[key] for key in ("pairs", "stopped", "training_s")}
            means = said[["kl", "length", "finished", "judge"]].astype(float).mean()
            rows.append(dict(arm=arm, seed=place) | row | means.to_dict())
    return pd.DataFrame(rows)
