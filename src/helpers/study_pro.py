"""Chapter 08: PRO, RRHF and CoH on rankings by the worst and the best of graded reward models.

A list of jobs out of the chapter's parameters; tables, duels and effects out of what they made. A
*run* is one training, and runs that differ in their seed alone repeat each other: they differ in
training prompts and in the order of the batches, not in reward model, start policy or test prompts.
"""

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import NamedTuple

import pandas as pd

from helpers import arms, crossed, gold, jobs, outcomes, rewards, splits, world
from helpers.stats import Estimate

POOLED = "both sets"
_PLACES = {1: "first", 0: "tie", -1: "second"}
# What tells the methods apart, as fields of align_pro.Config; the rest is the same for all. Two
# cannot take PRO's rate, see there. CoH makes four texts of a ranking: one pass over them is twice
# as many tokens as two passes over pairs.
METHODS: Mapping[str, Mapping[str, object]] = {
    "PRO": dict(method="pro"),
    "Eq. 3": dict(method="pro_printed", sft_weight=0.0, learning_rate=2e-4),
    "RRHF": dict(method="rrhf", sft_weight=1.0),
    "CoH": dict(method="coh", epochs=1, learning_rate=2e-4),
}


class Arm(NamedTuple):
    """A method (of ``METHODS``) on rankings of so many responses by the reward model ``grade``.
    The length is called ``ranking``, since that of a response is a column of the same tables."""

    method: str
    ranking: int
    grade: str

    def __str__(self) -> str:
        return f"{self.method}, {self.ranking} responses, {self.grade}"


Key = tuple[Arm, int]  # an arm and its seed


def extremes(accuracy: Mapping[str, float]) -> tuple[str, str]:
    """The names of the worst and of the best reward model by measured accuracy; of equal ones the
    first. ValueError where all are the same, since then there is nothing to compare."""
    if len(set(accuracy.values())) < 2:
        raise ValueError(f"accuracies {dict(accuracy)}: none is better than another")
    return min(accuracy, key=accuracy.get), max(accuracy, key=accuracy.get)


def plan(
    wanted: Iterable[Arm],
    seeds: int,
    *,
    start: jobs.Job,
    models: Mapping[str, jobs.Job],
    prompts: int,
    measure: int,
    config: Mapping[str, object],
) -> dict[Key, jobs.Job]:
    """One job of :func:`helpers.arms.ranked` for each arm and seed. ``models``: the reward model of
    each grade; ``config``: fields of align_pro.Config for all methods that do not set them."""
    found = {}
    standards = {grade: arms.standard_job(grade, start, model) for grade, model in models.items()}
    for arm in wanted:
        method = dict(config, **METHODS[arm.method])
        settings = dict(prompts=prompts, length=arm.ranking, measure=measure, config=method)
        needs = dict(start=start, proxy=models[arm.grade], standard=standards[arm.grade])
        for seed in range(seeds):
            one = dict(settings, seed=seed)
            found[arm, seed] = jobs.Job(f"{arm}, seed {seed}", "arms.ranked", one, needs)
    return found


def runs(planned: Mapping[Key, jobs.Job]) -> pd.DataFrame:
    """A row a finished run: method, ranking, grade, seed, why it was ``stopped``, ``seconds``, and
    what its rankings are worth: ``right`` (share of their ends that gold orders in the same way),
    ``labels_right`` (share of the labels that the reward model overrules) and ``lead`` (gold score
    of the top minus the bottom)."""
    rows = []
    for (arm, seed), job in planned.items():
        record = jobs.record(job)
        row = dict(arm._asdict(), seed=seed, stopped=record["stopped"])
        row |= {k: record["rankings"][k] for k in ("right", "labels_right", "lead")}
        rows.append(row | dict(seconds=record["training_s"]))
    return pd.DataFrame(rows)


def logs(planned: Mapping[Key, jobs.Job]) -> pd.DataFrame:
    """The training logs under each other, with method, ranking, grade and seed."""
    parts = []
    for (arm, seed), job in planned.items():
        log = pd.read_csv(jobs.folder(job) / "history.csv")
        parts.append(log.assign(**arm._asdict(), seed=seed))
    return pd.concat(parts, ignore_index=True)


def answers(planned: Mapping[Key, jobs.Job]) -> pd.DataFrame:
    """What the policies wrote on the test prompts (:func:`helpers.arms.measured`), with method,
    length, grade, seed and ``unit``, the hash of the prompt.

    A run whose weights are no numbers has written nothing and stays: its responses are empty ones.
    """
    parts = []
    for (arm, seed), job in planned.items():
        path = jobs.folder(job) / "responses.jsonl"
        table = arms.read(path) if path.is_file() else nothing(job.settings["measure"])
        parts.append(table.assign(**arm._asdict(), seed=seed))
    return of_prompts(pd.concat(parts, ignore_index=True))


def of_prompts(table: pd.DataFrame) -> pd.DataFrame:
    """The table with ``unit``, the hash of the prompt."""
    return table.assign(unit=table["prompt"].map(splits.prompt_hash))


def nothing(n: int) -> pd.DataFrame:
    """The rows of a policy that writes nothing on the first ``n`` test pairs; without ``kl``."""
    data = arms.tests(n).pairs
    prompts, empty = data["prompt"].tolist(), [""] * n
    found = data[["pair_id", "subset", "prompt", "chosen"]].assign(response="", length=0)
    return found.assign(gold=gold.scores(prompts, empty), parses=False, finished=False)


def refereed(table: pd.DataFrame, scorer: rewards.Scorer) -> pd.DataFrame:
    """The table with the column ``referee``: the scorer's score of each response. ValueError where
    the scorer learned from one of the prompts."""
    if seen := scorer.prompts & set(table["prompt"]):
        raise ValueError(f"{scorer.name} has learned from {len(seen)} of the test's prompts")
    found = scorer.score(table["prompt"].tolist(), table["response"].tolist())
    return table.assign(referee=found)


def of(table: pd.DataFrame, arm: Arm) -> pd.DataFrame:
    """The rows of one arm. ValueError where it has none."""
    found = table[(table[list(Arm._fields)] == [*arm]).all(axis=1)]
    if found.empty:
        raise ValueError(f"no rows of {arm}")
    return found


def duel(first: pd.DataFrame, second: pd.DataFrame, column: str, near_tie: float) -> pd.DataFrame:
    """The responses of two arms to the same prompts, seed by seed: a row each with ``seed``,
    ``pair_id``, ``subset``, ``unit``, and ``outcome``, 1 where the first is better, 0 where their
    scores in ``column`` differ by no more than ``near_tie``, -1 where the second is."""
    both = _paired(first, second, column)
    found = outcomes.from_scores(both[f"{column}_1"], both[f"{column}_2"], near_tie)
    return both[["seed", "pair_id", "subset", "unit"]].assign(outcome=found)


def near_tie(table: pd.DataFrame, column: str) -> float:
    """What counts as a tie: the gold world's own limit for ``gold``; for another judge, which has
    no unit, so much in standard deviations of its scores as that is in gold's."""
    scale = float(table[column].std() / table["gold"].std())
    return world.NEAR_TIE * scale


def shares(found: pd.DataFrame, *, seed: int) -> dict[str, Estimate]:
    """``win``, ``tie`` and ``lose`` of a duel, shares with a bootstrap by prompt (which several
    answers share), and ``net``, wins minus losses, for which seeds count as well."""
    one = outcomes.summarise(found["outcome"].to_numpy(), found["unit"].to_numpy(), seed=seed)
    return dict(win=one.win, tie=one.tie, lose=one.lose, net=mean(found, "outcome").estimate)


def by_set(found: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each test set, and those of both together."""
    return {name: part for name, part in found.groupby("subset")} | {POOLED: found}


def mean(found: pd.DataFrame, column: str) -> crossed.Crossed:
    """Mean of ``column`` over seeds crossed with prompts. Prompts that stand twice among the test
    pairs are one unit. ValueError where a seed has not answered a prompt."""
    cells = found.groupby(["seed", "unit"])[column].mean().unstack("unit")
    return crossed.mean(cells.to_numpy(float))


def difference(first: pd.DataFrame, second: pd.DataFrame, column: str = "gold") -> crossed.Crossed:
    """Mean of ``column`` in one arm minus that in another on the same prompts and seeds. A
    ``second`` without seeds, the start policy's, stands beside every seed of the first."""
    both = _paired(first, second, column)
    return mean(both.assign(difference=both[f"{column}_1"] - both[f"{column}_2"]), "difference")


def strengths(table: pd.DataFrame, column: str, wanted: Iterable[Arm]) -> outcomes.Strengths:
    """All arms on one scale: Bradley-Terry strengths with ties (:func:`helpers.outcomes.davidson`)
    from the duels of every two of them on the seeds that all have. Items are prompts, so that the
    intervals hold for other prompts and not for other trainings. Raises its ValueErrors."""
    limit, parts = near_tie(table, column), {str(arm): of(table, arm) for arm in wanted}
    seeds = set.intersection(*(set(part["seed"]) for part in parts.values()))
    games = []
    for first, second in combinations(parts, 2):
        two = (parts[name][parts[name]["seed"].isin(seeds)] for name in (first, second))
        found = duel(*two, column, limit).assign(first=first, second=second)
        games.append(found.assign(outcome=found["outcome"].map(_PLACES)))
    return outcomes.davidson(pd.concat(games).rename(columns={"unit": "item"}))


def weakest(leads: Mapping[str, Estimate]) -> tuple[str, Estimate]:
    """The test set where a lead is least sure, and that lead: a claim about *all* test sets holds
    if it holds there (an intersection-union test, which needs no correction; Berger 1982).

    Least sure is the lowest lower end, not the smallest lead: a larger one on fewer prompts may be
    the one that is not shown. Where a lead is shown to be below zero somewhere, that one counts."""
    against = {k: lead for k, lead in leads.items() if lead.high < 0}
    name = min(against or leads, key=lambda k: leads[k].low)
    return name, leads[name]


def _paired(first: pd.DataFrame, second: pd.DataFrame, column: str) -> pd.DataFrame:
    keys = ["seed", "pair_id"] if "seed" in second else ["pair_id"]
    both = first.merge(second[[*keys, column]], on=keys, suffixes=("_1", "_2"))
    if len(both) != len(first):
        raise ValueError(
            f"{len(first)} answers of one arm meet {len(both)} of the other; both must have "
            "answered the same prompts with the same seeds"
        )
    return both
