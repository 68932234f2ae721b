"""Label Studio's JSON export: the answers in it, and what became of everything that is none."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from helpers import labelling

# What the table of excluded annotations says of each.
_EXCLUDED = ("pair_id", "annotator", "reason", "task", "annotation")


class Answer(NamedTuple):
    """What one annotator said of one task: a choice or a score by control."""

    key: str
    annotator: str
    said: dict[str, str | int]


class Report(NamedTuple):
    """What became of an export. ``found == used + len(excluded)``, always.

    ``found`` counts annotations, drafts and predictions; ``excluded`` has one row for each that
    is no vote, with its reason (columns pair_id, annotator, reason, task, annotation);
    ``unvoted`` counts tasks of these pairs without a vote, whether the export holds them or not.
    """

    found: int
    used: int
    excluded: pd.DataFrame
    unvoted: int


def read_export(path: Path) -> list[dict]:
    """The tasks of Label Studio's export in the format "JSON" (not "JSON-MIN", not CSV).

    Raises ValueError naming the file and what is wrong with it.
    """
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); export again in the format JSON") from None
    if not isinstance(tasks, list):
        raise ValueError(f"{path}: an export is a list of tasks, got {type(tasks).__name__}")
    for number, task in enumerate(tasks):
        if not _is_task(task):
            raise ValueError(
                f"{path}, task {number}: no 'data' and 'annotations' with results; export again in "
                "the format JSON (JSON-MIN leaves out what tells a skipped task from a vote)"
            )
    return tasks


def _is_task(task: object) -> bool:
    if not (isinstance(task, dict) and isinstance(task.get("data"), dict)):
        return False
    annotations = task.get("annotations")
    return isinstance(annotations, list) and all(map(_is_annotation, annotations))


def _is_annotation(annotation: object) -> bool:
    regions = annotation.get("result") if isinstance(annotation, dict) else 0
    # An annotation may be empty: null or a list of nothing.
    return regions is None or (isinstance(regions, list) and all(map(_is_region, regions)))


def _is_region(region: object) -> bool:
    return isinstance(region, dict) and isinstance(region.get("value", {}), dict)


def collect(tasks: list[dict], pair_ids: dict[str, str], task: str) -> tuple[list[Answer], Report]:
    """The answers of an export of ``task``, one a task and annotator, and what became of the rest.

    ``tasks`` comes from :func:`read_export`; ``pair_ids`` gives the pair of each task key that may
    occur. Where an annotator answered a task twice, the later answer counts. Raises ValueError for
    tasks of another configuration or of no such pair, and for answers that
    :func:`helpers.labelling.answers` refuses.
    """
    _check_tasks(tasks, pair_ids, task)
    rows: list[dict] = []
    problems: list[str] = []
    for entry, annotation, reason in _each_annotation(tasks):
        row = dict(
            key=entry["data"]["key"],
            annotator=_annotator(annotation),
            reason=reason or _unusable(annotation),
            task=str(entry.get("id")),
            annotation=str(annotation.get("id")),
            # The server's times are ISO 8601 in UTC: their order is that of the strings.
            when=str(annotation.get("updated_at")),
            said={},
        )
        rows.append(row)
        if row["reason"]:
            continue
        try:
            row["said"] = labelling.answers(annotation, task)
        except ValueError as error:
            problems.append(f"task {row['task']}, annotation {row['annotation']}: {error}")
            continue
        row["reason"] = _incomplete(row["said"], task)
    if problems:
        raise ValueError(
            f"{len(problems)} of {len(rows)} annotations cannot be read, the first: "
            f"{first(problems)}"
        )
    table = pd.DataFrame(rows, columns=["key", "annotator", "reason", "task", "annotation", "when"])
    table["pair_id"] = table["key"].map(pair_ids)
    # A stable sort: of two equal times the later in the file counts.
    usable = table[table["reason"] == ""].sort_values("when", kind="stable")
    replaced = usable.index[usable.duplicated(["key", "annotator"], keep="last")]
    table.loc[replaced, "reason"] = "replaced by a later one of the annotator"
    kept = table.index[table["reason"] == ""]
    used = [Answer(rows[n]["key"], rows[n]["annotator"], rows[n]["said"]) for n in kept]
    excluded = table.drop(index=kept)[list(_EXCLUDED)].astype("str").reset_index(drop=True)
    if len(rows) != len(used) + len(excluded):
        raise AssertionError(f"{len(rows)} annotations, but {len(used)} + {len(excluded)} told of")
    unvoted = len(pair_ids) - len({answer.key for answer in used})
    return used, Report(len(rows), len(used), excluded, unvoted)


def _check_tasks(tasks: list[dict], pair_ids: dict[str, str], task: str) -> None:
    other = [entry for entry in tasks if entry["data"].get("task") != task]
    if other:
        kinds = sorted({str(entry["data"].get("task")) for entry in other})
        raise ValueError(
            f"{len(other)} of {len(tasks)} tasks are of another labelling configuration: "
            f"task {', '.join(kinds)} instead of {task}; the first: {other[0].get('id')}"
        )
    unknown = [str(entry["data"].get("key")) for entry in tasks]
    unknown = [key for key in unknown if key not in pair_ids]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(tasks)} tasks belong to no pair of these data, the first: "
            f"{first(unknown)}; give the pairs, the seed and the generated responses that the "
            "tasks were exported with"
        )


def _each_annotation(tasks: list[dict]) -> Iterator[tuple[dict, dict, str]]:
    for entry in tasks:
        for annotation in entry["annotations"]:
            yield entry, annotation, ""
        for draft in entry.get("drafts") or []:
            yield entry, draft if isinstance(draft, dict) else {"id": draft}, "draft, not submitted"
        for made in entry.get("predictions") or []:
            yield entry, made if isinstance(made, dict) else {"id": made}, "prediction of a model"


def _annotator(annotation: dict) -> str:
    by = annotation.get("completed_by")
    by = by.get("id") if isinstance(by, dict) else by
    return "" if by is None else str(by)


def _unusable(annotation: dict) -> str:
    if annotation.get("was_cancelled"):
        return "skipped by the annotator"
    if not annotation.get("result"):
        return "empty"
    return "" if _annotator(annotation) else "no annotator"


def _incomplete(said: dict, task: str) -> str:
    if task == "score":
        lacking = [name for name in labelling.SCORING if name.lower() not in said]
        return f"no score of {', '.join(lacking)}" if lacking else ""
    return "" if "better" in said else "no choice of the better response"


def first(names: list[str]) -> str:
    """The first three of some names, for an error."""
    return "; ".join(names[:3])
