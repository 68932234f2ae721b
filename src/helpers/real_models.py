"""Which reward models the real-text arms have: those that drive policies, and the judge.

A *signal* learns from the part ``panel`` of the prompts, the judge from the part ``judge``; a
published reward model has learned already (:func:`helpers.real_texts.learned`).
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from helpers import catalogue, jobs, real_texts, stats
from helpers.real_texts import Text


def judge_job(
    where: Text,
    *,
    candidates: Collection[str] = ("minilm", "minilm-prompt"),
    labels: int | None = None,
    tested: int = 300,
) -> jobs.Job:
    """The judge: the best of ``candidates`` (:data:`helpers.real_texts.LEARNERS`, or published
    reward models by name) after learning from ``labels`` pairs of the part ``judge``."""
    settings = dict(where=who(where), candidates=list(candidates), labels=labels, tested=tested)
    return jobs.Job("real text, judge", "real_arms.judge", settings | dict(seed=0))


def signal_job(
    where: Text, learner: str, *, labels: int | None = None, seed: int = 0, tested: int = 300
) -> jobs.Job:
    """A reward model that drives policies: ``labels`` pairs of the part ``panel`` (None: all)."""
    settings = dict(where=who(where), learner=learner, labels=labels, seed=seed, tested=tested)
    return jobs.Job(f"real text, {learner}, {labels} labels", "real_arms.signal", settings)


def possible(names: Collection[str], where: Text) -> tuple[list[str], dict[str, str]]:
    """Those of the candidates, for the judge or a signal, that can be had here, and why the others
    cannot: a learner on the policy's own network is no stranger to it, a published model may be out
    of reach."""
    reasons = {}
    for name in names:
        if name == where.policy:
            reasons[name] = "it reads with the policy's own network"
        elif name not in real_texts.LEARNERS and not Path(name).is_dir():
            reachable, why = catalogue.reach(catalogue.row(name))
            if not reachable:
                reasons[name] = why
    return [name for name in names if name not in reasons], reasons


def signals(
    wanted: Mapping[str, tuple[str | Sequence[str], int | None]], where: Text, *, seed: int = 0
) -> tuple[dict[str, jobs.Job], dict[str, str]]:
    """A :func:`signal_job` for each name of ``wanted``, in its order, and why the others are left
    out. A value is what reads the texts (a learner or a published reward model, or several of which
    the first that can be had is taken) and the labels that it learns from (None: all; a published
    one learns from none). ValueError where fewer than two are left: there is nothing to compare."""
    found, left_out = {}, {}
    for name, (readers, labels) in wanted.items():
        candidates = [readers] if isinstance(readers, str) else list(readers)
        here, reasons = possible(candidates, where)
        if here:
            found[name] = signal_job(where, here[0], labels=labels, seed=seed)
        else:
            left_out[name] = "; ".join(f"{one}: {why}" for one, why in reasons.items())
    if len(found) < 2:
        raise ValueError(f"{len(found)} reward models to learn from, give two; not had: {left_out}")
    return found, left_out


def described(found: Mapping[str, jobs.Job]) -> pd.DataFrame:
    """A row a finished signal: ``name``, ``read by``, ``labels`` learned from, ``accuracy`` (an
    Estimate)."""
    rows = []
    for name, job in found.items():
        known = jobs.record(job)
        rows.append((name, known["learner"], known["labels"], accuracy(job)))
    return pd.DataFrame(rows, columns=["name", "read by", "labels", "accuracy"])


def tested(job: jobs.Job) -> pd.DataFrame:
    """A reward model's scores of real pairs (:func:`helpers.real_texts.tested`)."""
    return real_texts.table(jobs.folder(job) / "tested.jsonl")


def accuracy(job: jobs.Job) -> stats.Estimate:
    """How often a :func:`judge_job` or :func:`signal_job` is right on real pairs it never saw."""
    return stats.Estimate(**jobs.record(job)["accuracy"])


def more_accurate(a: pd.DataFrame, b: pd.DataFrame, *, seed: int) -> stats.Estimate:
    """Accuracy of one reward model minus that of another on the same pairs (:func:`tested`)."""
    if a["pair_id"].tolist() != b["pair_id"].tolist():
        raise ValueError("the two were not tested on the same pairs")
    right = [(t["chosen"] > t["rejected"]).to_numpy(float) for t in (a, b)]
    return stats.paired_bootstrap(*right, a["prompt"].to_numpy(), seed=seed)


def who(where: Text) -> dict:
    """A reward model does not depend on the policy nor on its limits: one job for all of them."""
    fields = ("fingerprint", "subsets", "splits")
    return {k: v for k, v in where._asdict().items() if k in fields}
