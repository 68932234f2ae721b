"""Chapter 07: policies that learn from reward models of graded quality, and what becomes of them.

From the files of finished jobs (:mod:`helpers.arms`) to tables: a row an update, a response, a run.
The reward model is the unit of every trend; seeds are nested in it. A seed also draws the prompts
that a run trains on, the same for all reward models.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from helpers import (
    arms,
    crossed,
    gold,
    goodhart,
    graded,
    jobs,
    outcomes,
    rewards,
    significance,
    stats,
    study_real,
    trend,
    world,
)
from helpers.stats import Estimate

METHODS = ("ppo", "rloo")
# Test sets, named as the columns of Table 5: by subset, and all together.
SUBSETS = (*world.SUBSETS, "mixed")
KINDS = {1: "win", 0: "tie", -1: "lose"}


class Run(NamedTuple):
    """One training: the method, the grade of its reward model, its seed, and its job."""

    method: str
    grade: str
    seed: int
    job: jobs.Job


def planned(
    method: str,
    grades: Sequence[str],
    seeds: int,
    start: jobs.Job,
    *,
    measure: int,
    tested: int,
    config: Mapping[str, float],
) -> list[Run]:
    """A run for each grade and seed, all with one ``config`` (of :class:`helpers.align_ppo.Config`,
    with ``updates``, ``batch_size`` and, for RLOO, ``generations``). Each has as many prompts as it
    asks, so none is asked twice. ``tested`` pairs measure each reward model."""
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; it must be one of {METHODS}")
    group = config["generations"] if method == "rloo" else 1
    prompts = config["updates"] * config["batch_size"] // group
    settings = dict(method=method, prompts=prompts, measure=measure, config=dict(config))
    found = []
    for grade in grades:
        proxy = arms.proxy_job(grade, tested=tested)
        scale = arms.standard_job(grade, start, proxy)
        needs = {"start": start, "proxy": proxy, "standard": scale}
        for seed in range(seeds):
            name = f"{method}, {grade}, seed {seed}"
            job = jobs.Job(name, "arms.reinforce", settings | {"seed": seed}, needs)
            found.append(Run(method, grade, seed, job))
    return found


def logs(runs: Sequence[Run]) -> pd.DataFrame:
    """The logs of all runs, a row an update: ``method``, ``grade``, ``seed`` and the columns of
    :class:`helpers.align_ppo.Trained`, ``gold`` of the training's responses among them."""
    tables = [pd.read_csv(jobs.folder(run.job) / "history.csv") for run in runs]
    return pd.concat([_named(t, run) for t, run in zip(tables, runs)], ignore_index=True)


def answers(runs: Sequence[Run], start: jobs.Job) -> pd.DataFrame:
    """The measured responses of all runs, a row each: the columns of :func:`helpers.arms.measured`,
    with ``helpless``, and ``gain``: gold less that of the start policy's response to the prompt.

    A run whose weights are no numbers has no responses, and no rows here. ValueError where the
    start policy has not answered all of the prompts.
    """
    before = arms.read(jobs.folder(start) / "responses.jsonl").set_index("pair_id")["gold"]
    found = []
    for run in runs:
        if not jobs.record(run.job)["measured"]:
            continue
        table = _named(arms.read(jobs.folder(run.job) / "responses.jsonl"), run)
        table["helpless"] = helpless(table["response"])
        table["gain"] = table["gold"] - table["pair_id"].map(before)
        found.append(table)
    found = pd.concat(found, ignore_index=True)
    if alone := int((~found["pair_id"].isin(before.index)).sum()):
        raise ValueError(
            f"{alone} responses are to prompts that the start policy has not answered; it answered "
            f"{len(before)}: `measure` must not be larger"
        )
    return found


def helpless(responses: Sequence[str]) -> list[bool]:
    """Whether each response claims, in some sentence, not to understand or to have no idea."""
    return [any(s.kind == "helpless" for s in gold.sentences(text)) for text in responses]


def summary(runs: Sequence[Run], log: pd.DataFrame, said: pd.DataFrame, span: int) -> pd.DataFrame:
    """One row a run, also of those that were stopped: ``stopped`` (why), ``updates`` made, means of
    its responses (NaN where there are none), ``reward`` and ``raw_reward`` of the last fifth of its
    training, and ``plateau``: updates to nine tenths of the way of its smoothed reward to its own
    plateau. A run that does not rise has no such way (``rises`` False) and counts with all of its
    updates, the latest at which it could have arrived."""
    by = ["method", "grade", "seed"]
    means = said.groupby(by)[["gold", "gain", "kl", "length", "finished", "parses", "helpless"]]
    means = means.mean()
    rows = []
    for run in runs:
        own = log[(log[by] == pd.Series(run[:3], by)).all(axis=1)]
        last = own.tail(max(1, round(0.2 * len(own))))
        at = arrival(smoothed(own["reward"], span))
        rows.append(
            dict(zip(by, run[:3]))
            | {"stopped": jobs.record(run.job)["stopped"], "updates": len(own)}
            | {c: float(last[c].mean()) for c in ("reward", "raw_reward")}
            | {"rises": at is not None, "plateau": len(own) if at is None else at}
            | {"seconds": jobs.record(run.job)["training_s"]}
            | (dict(means.loc[run[:3]]) if run[:3] in means.index else {})
        )
    return pd.DataFrame(rows)


def arrival(rewards_: ArrayLike) -> int | None:
    """:func:`helpers.trend.updates_to_plateau`; None also for a run too short to have one."""
    return trend.updates_to_plateau(rewards_) if len(rewards_) >= 5 else None


def smoothed(values: ArrayLike, span: int) -> np.ndarray:
    """Exponential moving average, the newest value weighing 2 / (span + 1), as in Figure 5."""
    return pd.Series(np.asarray(values, dtype=float)).ewm(span=span).mean().to_numpy()


def curves(log: pd.DataFrame, column: str, span: int) -> pd.DataFrame:
    """Smoothed ``column`` by grade and update, over seeds: ``value`` (mean), ``low`` and ``high``
    (of the seeds, no interval), ``n`` seeds that came so far."""
    own = log[["grade", "seed", "step"]].copy()
    own["value"] = log.groupby(["method", "grade", "seed"])[column].transform(
        lambda v: smoothed(v, span)
    )
    # TRL's PPO counts optimiser steps in some versions; updates are counted here.
    own["update"] = own.groupby(["grade", "seed"]).cumcount() + 1
    table = own.groupby(["grade", "update"])["value"].agg(["mean", "min", "max", "size"])
    return table.set_axis(["value", "low", "high", "n"], axis=1).reset_index()


def at_matched_kl(log: pd.DataFrame, column: str, span: int) -> tuple[float, pd.DataFrame]:
    """The largest KL that every run has reached, and each run's ``column`` there, both smoothed, by
    a straight line between updates. Policies that went further for other reasons than a better
    reward model are thereby compared where they are equally far from the start."""
    found = {}
    for key, own in log.groupby(["method", "grade", "seed"], sort=False):
        found[key] = pd.DataFrame({c: smoothed(own[c], span) for c in ("kl", column)})
    at = min(own["kl"].max() for own in found.values())
    rows = [
        (*key, float(goodhart.along([own], "kl", column, [at])[0, 0])) for key, own in found.items()
    ]
    return float(at), pd.DataFrame(rows, columns=["method", "grade", "seed", column])


def mean_of(table: pd.DataFrame, column: str, *, share: bool = False) -> Estimate:
    """:func:`helpers.crossed.mean` of ``column`` over ``seed`` and ``pair_id``, one row each: the
    interval holds for other seeds and other prompts. With ``share`` its ends stay in [0, 1], and
    where all values are alike it is Wilson's for one value a prompt. Raises ValueError for a gap.
    """
    grid = table.pivot(index="seed", columns="pair_id", values=column).astype(float).to_numpy()
    found = crossed.mean(grid)
    if not share:
        return found.estimate
    if not found.standard_error:
        of = stats.wilson(round(grid[0].sum()), grid.shape[1])
        return of._replace(method="Wilson, one value a prompt: all are alike", n=len(grid))
    low, high = max(0.0, found.estimate.low), min(1.0, found.estimate.high)
    return found.estimate._replace(low=low, high=high)


def complete(said: pd.DataFrame, grades: Sequence[str], seeds: int) -> dict[str, pd.DataFrame]:
    """The responses of each grade of whose ``seeds`` runs every one has left a policy that answers;
    of the others none: a mean over the remaining seeds would look better than the method is."""
    parts = {grade: said[said["grade"] == grade] for grade in grades}
    return {grade: t if t["seed"].nunique() == seeds else t.head(0) for grade, t in parts.items()}


def by_grade(
    said: pd.DataFrame,
    column: str,
    grades: Sequence[str],
    seeds: int,
    subset: str = "mixed",
    **options,
) -> dict[str, Estimate | None]:
    """:func:`mean_of` of ``column`` for each grade, on one of :data:`SUBSETS`; None for a grade
    that is not :func:`complete`."""
    own = said if subset == "mixed" else said[said["subset"] == subset]
    parts = complete(own, grades, seeds)
    return {g: mean_of(t, column, **options) if len(t) else None for g, t in parts.items()}


def win_tie_lose(
    table: pd.DataFrame, ours: str, theirs: str, near_tie: float = 0.0
) -> dict[str, Estimate]:
    """Shares of ``win``, ``tie`` and ``lose`` of column ``ours`` against ``theirs``, and ``net``,
    wins minus losses, each by :func:`mean_of`."""
    found = outcomes.from_scores(table[ours], table[theirs], near_tie)
    return shares(table[["seed", "pair_id"]].assign(outcome=found))


def shares(table: pd.DataFrame) -> dict[str, Estimate]:
    """As :func:`win_tie_lose`, from the column ``outcome`` of 1, 0 and -1."""
    each = table.assign(**{name: table["outcome"] == kind for kind, name in KINDS.items()})
    found = {name: mean_of(each, name, share=True) for name in KINDS.values()}
    net = mean_of(each, "outcome")
    return found | {"net": net._replace(low=max(-1.0, net.low), high=min(1.0, net.high))}


def accuracy(scorer: rewards.Scorer, test: world.World, *, seed: int) -> dict[str, Estimate]:
    """:func:`helpers.graded.accuracy` by gold on each of :data:`SUBSETS`."""
    found = {}
    for subset in SUBSETS:
        own = test.pairs if subset == "mixed" else test.pairs[test.pairs["subset"] == subset]
        made = world.World(own.reset_index(drop=True), test.truth.loc[own["pair_id"]])
        found[subset] = graded.accuracy(scorer, made, seed=seed)["gold"]
    return found


def per_deviation(table: pd.DataFrame, column: str) -> pd.Series:
    """``column`` in standard deviations of its means by reward model: a slope on it is the effect
    of a difference as is usual between these reward models, whatever the unit."""
    spread = table.groupby("grade")[column].mean().std(ddof=1)
    if not spread > 0:
        raise ValueError(f"{column} is the same for all reward models; nothing can follow from it")
    return table[column] / spread


def trend_of(x: pd.Series, y: pd.Series, grade: pd.Series, *, seed: int) -> trend.Trend | None:
    """:func:`helpers.trend.trend` over reward models; None for fewer than the four that it needs,
    where the means of x or y are all alike, which leaves no error to test a slope by, and where a
    run has no value: it is not left out, since no seed is dropped."""
    both = pd.DataFrame({"x": np.asarray(x, dtype=float), "y": np.asarray(y, dtype=float)})
    means = both.groupby(np.asarray(grade)).mean()
    if len(means) < 4 or (means.nunique() == 1).any() or both.isna().any(axis=None):
        return None
    return trend.trend(x, y, grade, seed=seed)


def trend_of_judged(
    accuracy: Mapping[str, float], judged: Sequence[Sequence[pd.DataFrame]], *, seed: int
) -> trend.Trend | None:
    """:func:`trend_of` on real text: the mean judge score of each policy against the accuracy of
    its reward model. ``judged``: a list a reward model, in the order of ``accuracy``, with a frame
    of :func:`helpers.study_real.answers` a seed. None with fewer seeds than a verdict takes."""
    if any(len(arm) < study_real.FEWEST_SEEDS for arm in judged):
        return None
    rows = [
        (name, accuracy[name], float(one["judge"].mean()))
        for name, arm in zip(accuracy, judged, strict=True)
        for one in arm
    ]
    table = pd.DataFrame(rows, columns=["name", "accuracy", "judge"])
    return trend_of(table["accuracy"], table["judge"], table["name"], seed=seed)


def equivalent(found: trend.Trend, margin: float) -> significance.Equivalence | None:
    """The slope in units of the margin, by :func:`helpers.significance.equivalence`; None where the
    means lie on a line to the last digit (all runs alike, say), which leaves no error to test by.

    Each of the two one-sided tests is at 2.5 %, so that ``equivalent`` says what the verdict says:
    that the 95 % interval lies within the margin.
    """
    if not found.standard_error > 0:
        return None
    slope, alpha = found.slope, (1 - stats.LEVEL) / 2
    return significance.equivalence(
        slope.value, found.standard_error, found.df, margin, slope.n, alpha=alpha
    )


def _named(table: pd.DataFrame, run: Run) -> pd.DataFrame:
    return table.assign(method=run.method, grade=run.grade, seed=run.seed)
