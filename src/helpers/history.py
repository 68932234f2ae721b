"""The nights that were: what each nightly run found, one compact file a night.

``history/<profile>/<night>.jsonl.gz``: the first line is the head (state, provenance, seconds a
cell, verdicts, findings), each further line a ledger row as the night made it. A file is written in
one step, and the next night reads it to say what changed.
"""

import contextlib
import gzip
import json
import os
from pathlib import Path
from typing import NamedTuple

from helpers import ledger

GOOD, DRIFT, FAILED = "good", "drift", "failed"
_SUFFIX = ".jsonl.gz"


class HistoryError(RuntimeError):
    """A night cannot be kept or read back; the message says where and what to do."""


class Night(NamedTuple):
    """One night. ``head`` holds ``id`` (its start in UTC, so that names sort by time), ``state``,
    ``accepted`` (why a drift was taken as the new truth, or ""), ``notebooks``, ``environment``,
    ``modules``, ``verdicts``, ``findings`` and ``problems``; ``rows`` its ledger by id."""

    head: dict
    rows: dict[str, dict]


def folder(root: Path, profile: str) -> Path:
    """Where a profile's nights lie: under ``ELEPHANT_HISTORY``, or else ``history/``."""
    return Path(os.environ.get("ELEPHANT_HISTORY") or root / "history") / profile


def check_writable(where: Path) -> None:
    """Raise HistoryError before hours of work where its result could not be kept."""
    try:
        where.mkdir(parents=True, exist_ok=True)
        probe = where / f".probe.{os.getpid()}"
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
    except OSError as error:
        raise HistoryError(
            f"the history folder {where} cannot be written ({error.strerror}): free space there, "
            "mend its permissions, or name another folder by ELEPHANT_HISTORY"
        ) from error


def write(where: Path, night: Night) -> Path:
    """Keep a night, in one step; the night of the same id is replaced."""
    target = where / (night.head["id"] + _SUFFIX)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    lines = [json.dumps(part, ensure_ascii=False) for part in (night.head, *night.rows.values())]
    try:
        where.mkdir(parents=True, exist_ok=True)
        # mtime=0: the same night gives the same bytes.
        data = gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0)
        with partial.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise HistoryError(
            f"the night could not be kept in {where} ({error.strerror}): free space there, or name "
            "another folder by ELEPHANT_HISTORY"
        ) from error
    return target


def read(path: Path) -> Night:
    """One night. Raises HistoryError naming the file where it is none."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            head, *rows = (json.loads(line) for line in file)
    except (OSError, EOFError, ValueError) as error:
        raise HistoryError(f"{path} is no night ({error}); move it away") from error
    by_id = ledger.by_id(rows)
    if len(by_id) != len(rows):
        raise HistoryError(f"{path} holds {len(rows) - len(by_id)} row(s) twice; move it away")
    return Night(head, by_id)


def nights(where: Path) -> list[Night]:
    """All nights, oldest first; none where nothing was kept yet."""
    return [read(path) for path in _files(where)]


def comparable(past: list[Night]) -> list[Night]:
    """The good nights since a drift was last accepted, that one included, oldest first."""
    good = [night for night in past if night.head["state"] == GOOD]
    accepted = [i for i, night in enumerate(good) if night.head["accepted"]]
    return good[accepted[-1] :] if accepted else good


def prune(where: Path, keep: int) -> list[str]:
    """Delete all but the last ``keep`` nights, never the last good one, and what killed writes
    left; the ids deleted."""
    for path in where.glob(f".*{_SUFFIX}.*"):
        path.unlink(missing_ok=True)
    old = _files(where)[: -max(keep, 1)]
    if old and not any(read(path).head["state"] == GOOD for path in _files(where)[-keep:]):
        good = [path for path in old if read(path).head["state"] == GOOD]
        old = [path for path in old if path not in good[-1:]]
    for path in old:
        path.unlink()
    return [path.name.removesuffix(_SUFFIX) for path in old]


def _files(where: Path) -> list[Path]:
    return sorted(path for path in where.glob(f"*{_SUFFIX}") if not path.name.startswith("."))
