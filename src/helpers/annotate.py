"""Human votes through Label Studio: tasks out, its export back in (see :mod:`helpers.labelling`).

A task holds texts and one key. The key is a hash of what the task shows, keyed by the seed, and so
is the side on which a text stands. The pair id itself must not be shown: it is a hash of chosen and
rejected in this order, so whoever holds the texts could try both orders and know the label. It also
binds an export to its pairs and its seed: read with another seed, no key is known, where a plain id
would have turned half of the votes around without a word. The seed is the secret of whoever runs
the annotation.

In Label Studio: a new project takes ``config.xml`` as its labelling interface and ``tasks.json`` as
its data. Its ``maximum_annotations`` (settable through its HTTP API) must be the number of
annotators: the default of 1 takes a task as done after its first vote. The export to read back is
the one named JSON.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from helpers import labelling, labelstudio
from helpers import pairs as schema
from helpers.labelling import SCORING, SIDES, TIE
from helpers.labelstudio import Report, first

_DATA = {
    "relabel": ("prompt", "response_a", "response_b"),
    "compare": ("prompt", "response_a", "response_b"),
    "score": ("prompt", "response"),
}


class Exported(NamedTuple):
    """What was written: the two files, the number of tasks, and of rows whose pair was there
    before (one pair is shown once, however often the data holds it)."""

    tasks_file: Path
    config_file: Path
    tasks: int
    repeated_pairs: int


class _Item(NamedTuple):
    """One task as it is outside Label Studio: named texts, in the order of their sides."""

    key: str
    pair_id: str
    prompt: str
    texts: dict[str, str]


# Export


def export_tasks(
    pairs: pd.DataFrame,
    *,
    task: str,
    seed: int,
    out: Path,
    generated: Mapping[str, str] | None = None,
) -> Exported:
    """Write ``tasks.json`` and ``config.xml`` of one task to the folder ``out``.

    ``relabel`` shows the chosen and the rejected response of a pair. ``compare`` shows the chosen
    and a generated one and needs ``generated``, pair id → text. ``score`` shows one response a
    task: the generated one where ``generated`` is given, else both of the pair. Tasks stand in the
    order of their keys, which is random by ``seed``. Raises ValueError for an unknown task or for
    pairs without a generated response.
    """
    items = _items(pairs, task, seed, generated)
    tasks = [{"data": _data(item, task)} for _, item in sorted(items.items())]
    out.mkdir(parents=True, exist_ok=True)
    tasks_file, config_file = out / "tasks.json", out / "config.xml"
    tasks_file.write_text(json.dumps(tasks, ensure_ascii=False, indent=1), encoding="utf-8")
    config_file.write_text(labelling.configuration(task), encoding="utf-8")
    repeated = int(pairs["pair_id"].duplicated().sum())
    return Exported(tasks_file, config_file, len(tasks), repeated)


def _data(item: _Item, task: str) -> dict[str, str]:
    shown = dict(zip(_DATA[task], (item.prompt, *item.texts.values()), strict=True))
    return {"key": item.key, "task": task} | shown


def _items(
    pairs: pd.DataFrame, task: str, seed: int, generated: Mapping[str, str] | None
) -> dict[str, _Item]:
    labelling.check_task(task)
    schema.check(pairs)
    if pairs.empty:
        raise ValueError("there are no pairs to annotate")
    if task == "relabel" and generated is not None:
        raise ValueError("task 'relabel' shows the pair's own responses; leave out generated=")
    if task == "compare" and generated is None:
        raise ValueError("task 'compare' needs generated=, the generated response of each pair")
    once = pairs.drop_duplicates("pair_id")
    if generated is not None:
        lacking = [pair for pair in once["pair_id"] if pair not in generated]
        if lacking:
            raise ValueError(
                f"{len(lacking)} of {len(once)} pairs have no generated response, the first: "
                f"{first(lacking)}; leave them out of the pairs"
            )
    return {item.key: item for item in _each_item(once, task, seed, generated)}


def _each_item(
    pairs: pd.DataFrame, task: str, seed: int, generated: Mapping[str, str] | None
) -> Iterator[_Item]:
    for pair in pairs.itertuples():
        if task == "score":
            for name, prompt, text in _single(pair, generated):
                key = _key(seed, task, pair.pair_id, name, text)
                yield _Item(key, pair.pair_id, prompt, {name: text})
            continue
        prompt, texts = _beside(pair, generated)
        key = _key(seed, task, pair.pair_id, *texts.values())
        # The side comes from a hash of its own: a bit of the key, which is shown, would tell it.
        if int(_key(seed, "side", key), 16) % 2:
            texts = dict(reversed(texts.items()))
        yield _Item(key, pair.pair_id, prompt, texts)


def _single(pair, generated: Mapping[str, str] | None) -> list[tuple[str, str, str]]:
    """``(name, prompt, response)`` of each response to score, each under its own prompt."""
    if generated is not None:
        return [("generated", pair.prompt, generated[pair.pair_id])]
    other = pair.prompt if pd.isna(pair.rejected_prompt) else pair.rejected_prompt
    return [("chosen", pair.prompt, pair.chosen), ("rejected", other, pair.rejected)]


def _beside(pair, generated: Mapping[str, str] | None) -> tuple[str, dict[str, str]]:
    """The prompt and the two responses to compare. Where the two dialogues part before the last
    answer, the prompt is the turns that they share, and all that follows is compared."""
    if generated is not None:
        return pair.prompt, {"generated": generated[pair.pair_id], "chosen": pair.chosen}
    if pd.isna(pair.rejected_prompt):
        return pair.prompt, {"chosen": pair.chosen, "rejected": pair.rejected}
    sides = (pair.prompt + pair.chosen, pair.rejected_prompt + pair.rejected)
    left, right = (schema.split_turns(side) for side in sides)
    shared = 0
    while shared < min(len(left), len(right)) and left[shared] == right[shared]:
        shared += 1
    turns = ((f"\n\n{role}:" if role else "") + text for role, text in left[:shared])
    prompt = "".join(turns)
    return prompt, dict(zip(("chosen", "rejected"), (side[len(prompt) :] for side in sides)))


def _key(seed: int, *parts: str) -> str:
    message = json.dumps(parts).encode()
    return hashlib.blake2b(message, key=str(int(seed)).encode(), digest_size=12).hexdigest()


# Import


def import_votes(
    tasks: list[dict], pairs: pd.DataFrame, *, seed: int
) -> tuple[pd.DataFrame, Report]:
    """The vote table of a ``relabel`` export, relative to the original labels, and the report.

    ``tasks`` comes from :func:`helpers.labelstudio.read_export`; ``pairs`` and ``seed`` are those
    that the tasks were exported with. Columns: pair_id, annotator (Label Studio's user id), vote,
    toxic (the original chosen response is marked), source ``humans``, toxic_rejected.

    Raises ValueError for another labelling configuration, unknown tasks and answers outside the
    scale. Excluded and counted: skipped and empty annotations, those without an annotator, drafts,
    predictions, and what an annotator replaced by a later annotation of the same task.
    """
    items = _items(pairs, "relabel", seed, None)
    used, report = _answers(tasks, items, "relabel")
    rows = []
    for item, annotator, said in used:
        names = list(item.texts)
        marked = {name: f"toxic_{letter}" in said for name, letter in zip(names, "ab", strict=True)}
        rows.append(
            dict(
                pair_id=item.pair_id,
                annotator=annotator,
                vote=_winner(said["better"], names),
                toxic=marked["chosen"],
                source="humans",
                toxic_rejected=marked["rejected"],
            )
        )
    kinds = dict(pair_id="str", annotator="str", vote="str", toxic=bool, source="str")
    return _frame(rows, kinds | {"toxic_rejected": bool}), report


def import_comparisons(
    tasks: list[dict], pairs: pd.DataFrame, *, seed: int, generated: Mapping[str, str]
) -> tuple[pd.DataFrame, Report]:
    """Of a ``compare`` export: pair_id, annotator, better (generated, chosen or tie), source.

    As :func:`import_votes`, with the ``generated`` responses of the export of the tasks.
    """
    items = _items(pairs, "compare", seed, generated)
    used, report = _answers(tasks, items, "compare")
    rows = [
        dict(
            pair_id=item.pair_id,
            annotator=annotator,
            better=_winner(said["better"], list(item.texts)),
            source="humans",
        )
        for item, annotator, said in used
    ]
    return _frame(rows, dict.fromkeys(("pair_id", "annotator", "better", "source"), "str")), report


def import_scores(
    tasks: list[dict],
    pairs: pd.DataFrame,
    *,
    seed: int,
    generated: Mapping[str, str] | None = None,
) -> tuple[pd.DataFrame, Report]:
    """Of a ``score`` export, one row a criterion: pair_id, response (chosen, rejected, generated),
    annotator, criterion, score (1 to 5), reviewed (the review step is confirmed), source.

    As :func:`import_votes`. The paper takes the mean over annotators.
    """
    items = _items(pairs, "score", seed, generated)
    used, report = _answers(tasks, items, "score")
    rows = [
        dict(
            pair_id=item.pair_id,
            response=next(iter(item.texts)),
            annotator=annotator,
            criterion=name,
            score=said[name.lower()],
            reviewed="review" in said,
            source="humans",
        )
        for item, annotator, said in used
        for name in SCORING
    ]
    text = dict.fromkeys(("pair_id", "response", "annotator", "criterion"), "str")
    return _frame(rows, text | dict(score="int64", reviewed=bool, source="str")), report


def _answers(
    tasks: list[dict], items: dict[str, _Item], task: str
) -> tuple[list[tuple[_Item, str, dict]], Report]:
    pair_ids = {key: item.pair_id for key, item in items.items()}
    used, report = labelstudio.collect(tasks, pair_ids, task)
    return [(items[answer.key], answer.annotator, answer.said) for answer in used], report


def _winner(choice: str, names: list[str]) -> str:
    return dict(zip((*SIDES, TIE), (*names, "tie"), strict=True))[choice]


def _frame(rows: list[dict], kinds: dict) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(kinds)).astype(kinds)
    return frame.sort_values(list(kinds), ignore_index=True)
