"""The RewardBench columns of Table 5, re-derived from public per-subset accuracies (I04, I05).

The leaderboard of March 2024 multiplied accuracies in alphabetical order of their columns with
counts in the order of the section, so most accuracies met another subset's count.
"""

from functools import cache
from importlib.resources import files
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import yaml

from helpers import paper

# Table 5's column → the leaderboard's name of it.
COLUMNS = {"safety": "Safety", "chat": "Chat", "avg": "Average"}


class Formula(NamedTuple):
    """How a leaderboard turns subset accuracies into section scores and an average.

    columns: the order of the accuracies when they meet the counts, which always stand in the
    section's order. xstest: the counts of the two XSTest subsets, right or swapped.
    prior_weight: weight of the prior preference sets in the average; each of the four sections
    has 1.
    """

    columns: Literal["section", "alphabetical"]
    xstest: Literal["right", "swapped"]
    prior_weight: float


# Before commits 95f80fc (2024-04-10) and 6552e93 (2024-09-10) of allenai/reward-bench, and after.
OLD = Formula("alphabetical", "swapped", 1.0)
CORRECTED = Formula("section", "right", 0.5)


@cache
def own_hh_accuracies() -> dict:
    """RewardBench's accuracies on HH with the original labels (facts/rewardbench_hh.yaml)."""
    text = files("helpers").joinpath("facts/rewardbench_hh.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def section_scores(model: str, formula: Formula, *, prior: float | None = None) -> dict[str, float]:
    """Scores of one model in percent: the four sections, ``Prior sets`` and ``Average``.

    ``prior`` replaces the mean of the model's prior-set accuracies (percent). Raises KeyError for
    a model without public accuracies.
    """
    facts = paper.rewardbench()
    counts = dict(facts["counts"])
    if formula.xstest == "swapped":
        counts |= facts["counts_swapped_upstream"]
    measured = facts["models"][model]
    accuracy = measured["subset_accuracies"]
    scores = {}
    for section, subsets in facts["sections"].items():
        columns = sorted(subsets) if formula.columns == "alphabetical" else subsets
        weights = [counts[subset] for subset in subsets]
        scores[section] = 100 * float(np.average([accuracy[c] for c in columns], weights=weights))
    sections = list(scores.values())
    scores["Prior sets"] = (
        100 * float(np.mean(measured["prior_set_accuracies"])) if prior is None else prior
    )
    total = sum(sections) + formula.prior_weight * scores["Prior sets"]
    scores["Average"] = total / (len(sections) + formula.prior_weight)
    return scores


def rounds_to(value: float, printed: float) -> bool:
    """Whether ``value`` is printed as ``printed`` with one decimal; a half may go either way."""
    return abs(value - printed) <= 0.05 + 1e-9


def compare_formulas() -> pd.DataFrame:
    """Every combination of column order, XSTest counts and prior weight against Table 5: how many
    of the four printed values each gives in Safety, Chat and Avg, and in all; best first."""
    rows = []
    for formula in map(
        Formula._make, product(("section", "alphabetical"), ("right", "swapped"), (0.0, 0.5, 1.0))
    ):
        row = formula._asdict() | dict.fromkeys(COLUMNS, 0)
        for model, printed in paper.table_5("acc_rewardbench").items():
            scores = section_scores(model, formula)
            for column, name in COLUMNS.items():
                row[column] += rounds_to(scores[name], printed[column])
        rows.append(row | {"all": sum(row[column] for column in COLUMNS)})
    table = pd.DataFrame(rows)
    return table.sort_values("all", ascending=False, kind="stable", ignore_index=True)


def prior_mean_needed(model: str, formula: Formula) -> tuple[float, float]:
    """The range of prior-set means (percent) with which ``formula`` gives the printed average.

    Raises ValueError where the formula does not use the prior sets.
    """
    if formula.prior_weight == 0:
        raise ValueError("the prior sets have no weight in this formula; no mean can be solved for")
    scores = section_scores(model, formula, prior=0.0)
    sections = sum(v for name, v in scores.items() if name not in ("Prior sets", "Average"))
    printed = paper.table_5("acc_rewardbench")[model]["avg"]
    low, high = (
        ((printed + half) * (4 + formula.prior_weight) - sections) / formula.prior_weight
        for half in (-0.05, 0.05)
    )
    return low, high
