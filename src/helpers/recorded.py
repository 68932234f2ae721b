"""Runs on a GPU that are kept: their ledger rows in the repository, beside which fresh ones stand.

``results/recorded/<profile>/<notebook>.json``: the provenance that all rows share, once, and the
rows. Committed, so a reader without a GPU sees what one gave, on which card and when.
"""

import html
import json
from pathlib import Path
from typing import NamedTuple

from helpers import claims, ledger, plan, runner, tables

# What may move a number and is not in the code: written beside it.
PACKAGES = ("torch", "transformers", "trl", "peft", "tokenizers", "numpy", "scikit-learn", "pandas")
SHARED = ("profile", "notebook", "commit", "data", "code", "seed", "device")


class Recording(NamedTuple):
    """One recorded notebook: what its rows share, the environment, and the rows as the ledger has
    them."""

    notebook: str
    profile: str
    device: str
    date: str
    commit: str
    parameters: dict
    environment: dict
    rows: list[dict]


def folder(root: Path, profile: str) -> Path:
    """Where the recordings of a profile lie."""
    return root / "results" / "recorded" / profile


def record(root: Path, profile: str, names: list[str] | None = None) -> list[Path]:
    """Copy the rows of finished notebooks (all, or ``names``) from ``build/`` into the recordings.

    Kept are result rows and measured speeds (tokens/s), beside the environment that the run noted:
    a cluster's node is not this machine, and packages may have been upgraded since. Raises
    ValueError where nothing or a named notebook is not finished, what it made or its code was
    changed since, or it ran without a GPU: such numbers everybody makes afresh.
    """
    build = plan.build_folder(root, profile)
    finished = {path.stem: path for path in sorted((build / "done").glob("*.json"))}
    lacking = [name for name in names or () if name not in finished]
    if lacking or not finished:
        raise ValueError(
            f"not finished at the profile {profile!r}: {', '.join(lacking) or 'any notebook'}; run "
            f"`elephant run --profile {profile}` first"
        )
    written = []
    for name in names or finished:
        done = json.loads(finished[name].read_text(encoding="utf-8"))
        problem = runner.why_run(build, name, done.get("inputs", {})) or _other(root, name, done)
        if problem:
            raise ValueError(f"{name}: {problem}; run it again before it is recorded")
        rows = ledger.read(runner.paths(build, name)["ledger"])
        kept = [row for row in rows if row["kind"] == "result" or row["unit"] == "tokens/s"]
        if not kept:
            continue
        if kept[0]["device"].startswith("cpu"):
            raise ValueError(
                f"{name} ran on {kept[0]['device']}; only runs on a GPU are recorded, the others "
                "are made afresh by `elephant book`"
            )
        where = folder(root, profile) / f"{name}.json"
        runner.write_text(where, _text(kept, done))
        written.append(where)
    return written


def _other(root: Path, name: str, done: dict) -> str:
    """Why a finished run is not that of this checkout's code, or cannot say where it ran."""
    source = root / "notebooks" / f"{name}.ipynb"
    if not source.is_file():
        return f"there is no notebooks/{name}.ipynb any more"
    now = runner.code_now(source)
    words = {"code": "its cells", "helpers": "helpers that it uses"}
    changed = [word for field, word in words.items() if done["inputs"][field] != now[field]]
    if changed:
        return f"{' and '.join(changed)} changed since it ran"
    return "" if "environment" in done else "its run did not note its environment"


def _text(rows: list[dict], done: dict) -> str:
    """Small and readable as a diff: shared fields once, empty fields not at all, a row a line."""
    head = {field: rows[0][field] for field in SHARED}
    odd = [row["id"] for row in rows if {field: row[field] for field in SHARED} != head]
    if odd:
        raise ValueError(f"rows of one notebook with different provenance: {', '.join(odd[:3])}")
    inputs = done["inputs"]
    head |= {"parameters": inputs["parameters"], "cells": inputs["code"]}
    head |= {"environment": _environment(done["environment"])}
    own = [
        {k: v for k, v in row.items() if k not in SHARED and v not in (None, "")} for row in rows
    ]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in own)
    text = json.dumps(head, ensure_ascii=False, indent=1, sort_keys=True)
    return f'{{"run": {text},\n"rows": [\n{lines}\n]}}\n'


def _environment(noted: dict) -> dict:
    """Of all packages that the run noted those that numbers come from."""
    found = {field: value for field, value in noted.items() if field != "packages"}
    packages = noted["packages"]
    return found | {name: packages.get(name, "missing") for name in PACKAGES}


def read(root: Path) -> dict[str, list[Recording]]:
    """All recordings by profile, in the order of the profiles.

    Raises ValueError naming the file that is no recording, or two that hold one id.
    """
    found: dict[str, list[Recording]] = {}
    for profile in plan.PROFILES:
        owner: dict[str, str] = {}
        for path in sorted(folder(root, profile).glob("*.json")):
            recording = _recording(path)
            for row in recording.rows:
                if row["id"] in owner:
                    raise ValueError(f"{row['id']} is recorded in {owner[row['id']]} and {path}")
                owner[row["id"]] = path.name
            found.setdefault(profile, []).append(recording)
    return found


_EMPTY = dict(value=None, low=None, high=None, n=None, published=None, tolerance=None)
_EMPTY |= dict(method="", beside="", model="", revision="", note="", cell=None)


def _recording(path: Path) -> Recording:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        run, rows = data["run"], data["rows"]
        shared = {field: run[field] for field in SHARED}
        return Recording(
            notebook=run["notebook"],
            profile=run["profile"],
            device=run["device"],
            date=max(row["date"] for row in rows)[:10],
            commit=run["commit"],
            parameters=run["parameters"],
            environment=run["environment"],
            rows=[_EMPTY | row | shared for row in rows],
        )
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no recorded run ({error!r}); write it by `elephant record`"
        ) from error


def page(recordings: dict[str, list[Recording]], fresh: list[dict], profile: str) -> str:
    """The page of recorded runs as Markdown: every number that a verdict rests on, fresh beside
    recorded, then all other numbers of the chapters that are recorded. ``fresh``: ledger rows."""
    # Of the book's own profile the fresh numbers are shown, not what was kept of it once.
    recordings = {name: found for name, found in recordings.items() if name != profile}
    profiles = list(dict.fromkeys([*[p for p in ("gpu", "paper") if p != profile], *recordings]))
    parts = [
        "# Recorded runs",
        "Numbers of this book are made afresh. What a run on a GPU gave is kept with its device "
        f"and date, and stands beside them. Column `{profile}` is this book's run; “not run” means "
        "that no run of that profile has been recorded, or that it left the number out.",
    ]
    none = (
        ":::{note}\nNo run on a GPU has been recorded yet. `elephant record --profile gpu` records "
        "one (see the README).\n:::"
    )
    parts.append(_runs_table(recordings) if recordings else none)
    columns = {profile: fresh} | {
        name: [row for recording in recordings.get(name, []) for row in recording.rows]
        for name in profiles
        if name != profile
    }
    parts += ["## Claims and table cells", _verdict_table(columns, recordings)]
    for notebook in sorted({r.notebook for found in recordings.values() for r in found}):
        parts += [f"## All numbers of {notebook}", _numbers_table(columns, recordings, notebook)]
    return "\n\n".join(parts) + "\n"


def _runs_table(recordings: dict[str, list[Recording]]) -> str:
    lines = []
    for found in recordings.values():
        for run in found:
            versions = ", ".join(f"{k} {v}" for k, v in run.environment.items() if k != "device")
            cells = (run.profile, run.notebook, run.device, run.date, run.commit[:10] or "unknown")
            cells += (f"{len(run.rows):,}", versions)
            lines.append(_line(cells))
    titles = ("Profile", "Chapter", "Device", "Date", "Commit", "Numbers", "Environment")
    return tables.html_table(titles, lines)


def _titles(columns: dict, recordings: dict) -> list[str]:
    """A column's name, with the devices and dates of what is recorded in it."""
    titles = []
    for name in columns:
        runs = recordings.get(name, [])
        said = "; ".join(dict.fromkeys(f"{run.device}, {run.date}" for run in runs))
        titles.append(f"{name}<br><small>{html.escape(said)}</small>" if said else name)
    return titles


def _verdict_table(columns: dict[str, list[dict]], recordings: dict) -> str:
    """One line a claim or cell and scope in which any column has a number."""
    judged = {name: claims.verdicts(ledger.by_id(rows)) for name, rows in columns.items()}
    lines = []
    for verdicts in zip(*judged.values(), strict=True):
        first = verdicts[0]
        if all(verdict.outcome == claims.NOT_RUN for verdict in verdicts):
            continue
        cells = [html.escape(first.id), html.escape(tables.clip(first.what, 70)), first.published]
        cells.append(claims.SCOPES[first.scope])
        for verdict in verdicts:
            value = html.escape(claims.value_text(verdict))
            cells.append(f"{value}<br>{verdict.outcome}" if value else verdict.outcome)
        lines.append(_line(cells, escape=False))
    titles = ("", "Claim or cell", "Published", "Scope", *_titles(columns, recordings))
    return (
        tables.html_table(titles, lines) if lines else "No number behind any verdict has been run."
    )


def _numbers_table(columns: dict[str, list[dict]], recordings: dict, notebook: str) -> str:
    by_id = {
        name: ledger.by_id(row for row in rows if row["notebook"] == notebook)
        for name, rows in columns.items()
    }
    ids = dict.fromkeys(id for name in recordings for id in by_id[name])
    lines = [
        _line([id, *(_number(rows.get(id)) for rows in by_id.values())], escape=False) for id in ids
    ]
    return tables.html_table(("", *_titles(columns, recordings)), lines)


def _number(row: dict | None) -> str:
    if row is None or row["value"] is None:
        return claims.NOT_RUN
    text = f"{row['value']:.4g}"
    if row["low"] is not None:
        text += f" [{row['low']:.4g}, {row['high']:.4g}]"
    return html.escape(f"{text} {row['unit']}")


def _line(cells, escape: bool = True) -> str:
    shown = (html.escape(cell) if escape else cell for cell in cells)
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in shown) + "</tr>"
