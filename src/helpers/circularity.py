"""Who must not be tested on some labels: a model that had a part in them.

A judge that finds its own taste again looks good. Such a scorer is marked, and cannot win.
"""

from collections.abc import Collection
from typing import NamedTuple

import pandas as pd


class LabelSource(NamedTuple):
    """Where labels come from: a ``name`` (original, panel, ...), the ``families`` of models that
    voted, the ``pair_ids`` whose labels these models learned from, and the public ``data`` set that
    the labels are part of, as training data would name it (e.g. ``hh-rlhf``)."""

    name: str
    families: frozenset[str] = frozenset()
    pair_ids: frozenset[str] = frozenset()
    data: str = ""


def guard(scorer, labels: LabelSource) -> tuple[bool, str]:
    """``(circular, why)``: whether a scorer, or its like, has a part in the labels it is tested on.

    ``scorer`` is a :class:`helpers.rewards.Scorer` or :class:`helpers.trials.Origin` (``family``,
    ``pair_ids``, ``facts``). Circular where its family voted for the labels, where it learned from
    pairs that the voters learned from too, and where its named training data hold the test data.
    A scorer from elsewhere names them in the fact ``training_data``; an empty one says that nobody
    knows them, which counts as circular. That a scorer is never asked about its own training pairs
    is :mod:`helpers.trials`' duty.
    """
    reasons = []
    if scorer.family in labels.families:
        reasons.append(f"its family ({scorer.family}) voted for the {labels.name} labels")
    if shared := len(scorer.pair_ids & labels.pair_ids):
        reasons.append(f"it learned from {shared:,} pairs that the voters learned from too")
    training = scorer.facts.get("training_data")
    if labels.data and training is not None:
        if not training.strip():
            reasons.append(f"training data not known; overlap with {labels.data} is possible")
        elif _plain(labels.data) in _plain(training):
            reasons.append(f"its training data name {labels.data}; overlap cannot be ruled out")
    return bool(reasons), "; ".join(reasons)


def winner(values: pd.Series, circular: Collection[str]) -> str | None:
    """The name with the highest value among those that are not circular; None if all are."""
    eligible = values[~values.index.isin(list(circular))]
    return None if eligible.empty else str(eligible.idxmax())


def _plain(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())
