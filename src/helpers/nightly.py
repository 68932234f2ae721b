"""One night: run everything, compare, keep, build the book, tell.

A night ends ``good``, with ``drift`` or ``failed``; only a good one is what the next is compared
with. The book that is served stays in place until a new one is complete. A night that was killed
left a mark; the next goes on from what it had finished.
"""

import json
import os
import shutil
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from helpers import (
    account,
    alarm,
    book,
    dag,
    drift,
    history,
    jobs,
    ledger,
    machine,
    plan,
    runner,
)
from helpers.history import DRIFT, FAILED, GOOD, Night

# 1 is also what any other command ends with where it fails; 2 is a wrong argument.
EXIT = {GOOD: 0, FAILED: 1, DRIFT: 3}
_SHOWN = 40  # findings printed; the history file has all
# Trainings that no run has asked for in so many days (or nights kept, if more) are deleted: other
# profiles share the cache, and are not run every night.
_LEAST_DAYS = 60


class NightError(RuntimeError):
    """A night cannot start, or there is nothing to accept; the message says what to do."""


def run(profile: str, *, cores: int, keep: int, reuse: bool, command: str) -> int:
    """A whole night; the exit status (0 good, 1 failed, 3 drift).

    ``keep`` nights are kept; ``reuse`` takes features and finished jobs of earlier runs from the
    cache instead of computing them anew; ``command`` tells the alarm.
    """
    root = ledger.project_root()
    where = history.folder(root, profile)
    began = time.monotonic()
    id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    try:
        with _one_night(root):
            night = _night(root, profile, id, began, cores, keep, reuse)
            _tell(where, profile, night, command)
            # Last: until it has been told, a kill leaves a mark that `--check` finds.
            _mark(plan.build_folder(root, profile)).unlink(missing_ok=True)
    except NightError:  # another night's, which tells of itself
        raise
    except Exception as error:
        # Nobody watches a night: whatever ended it has to be told, also a lock that has no place.
        line = f"{type(error).__name__}: {error}"
        _keep_failure(where, profile, id, began, line)
        _say(alarm.sound(where, profile, id, [line], command))
        if isinstance(error, OSError | ValueError | book.BookError | history.HistoryError):
            _say(f"FAILED: {line}; the last good book stays")
            return EXIT[FAILED]
        raise
    return EXIT[night.head["state"]]


def _tell(where: Path, profile: str, night: Night, command: str) -> None:
    """Print what was found; open, keep or close the alarm."""
    id, state = night.head["id"], night.head["state"]
    lines = [*night.head["problems"], *night.head["findings"]]
    for line in lines[:_SHOWN]:
        print(line)
    if len(lines) > _SHOWN:
        print(f"and {len(lines) - _SHOWN} more: all are in {where / id}.jsonl.gz")
    if state == GOOD:
        told = alarm.close(where, profile, id, command)
    else:
        told = alarm.sound(where, profile, id, lines, command)
    if told:
        _say(told)
    _say(f"{state}: {len(night.rows):,} rows, {night.head['minutes']:.1f} minutes")


def accept(profile: str, reason: str, command: str) -> str:
    """Take the drift of the last night as the new truth, for a stated reason; what was done.

    Raises NightError where the last night did not drift.
    """
    root = ledger.project_root()
    where = history.folder(root, profile)
    with _one_night(root):
        past = history.nights(where)
        if not past or past[-1].head["state"] != DRIFT:
            state = past[-1].head["state"] if past else "not there"
            raise NightError(f"nothing to accept: the last night of {profile!r} is {state}")
        night = past[-1]
        night.head.update(state=GOOD, accepted=reason)
        history.write(where, night)
        id = night.head["id"]
        return "; ".join(filter(None, [f"{id} accepted", alarm.close(where, profile, id, command)]))


def check(profile: str, hours: float, command: str) -> int:
    """Sound the alarm where a night was cut off or none ended within ``hours``; exit status.

    For what a night cannot tell itself: a kill, a timer that never rang.
    """
    root = ledger.project_root()
    where = history.folder(root, profile)
    problem = ""
    past = history.nights(where)
    last = past[-1].head["finished"] if past else ""
    age = (datetime.now(UTC) - datetime.fromisoformat(last)).total_seconds() / 3600 if last else 0
    untold = alarm.current(where)
    if untold and command and not untold["told"]:
        problem = f"the alarm of {untold['since']} was not told: {untold['lines'][:1]}"
    if not past or age > hours:
        problem = f"no night of {profile!r} has ended in {hours:g} hours (the last: {last or '–'})"
    try:
        with _one_night(root):
            mark = _mark(plan.build_folder(root, profile))
            if mark.is_file():
                id = json.loads(mark.read_text(encoding="utf-8"))["id"]
                problem = f"the night {id} was cut off before its end"
    except NightError:
        _say("a night is under way")
    if not problem:
        return 0
    _say(problem)
    _say(alarm.sound(where, profile, f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}", [problem], command))
    return EXIT[FAILED]


def _night(
    root: Path, profile: str, id: str, began: float, cores: int, keep: int, reuse: bool
) -> Night:
    where = history.folder(root, profile)
    history.check_writable(where)
    past = history.nights(where)
    root, todo = dag.make_plan(profile)
    build = Path(todo["build"])
    with dag.alone(build):
        dag.check_fits(root, todo)
        facts = machine.environment(todo["device"])
        fresh = build / "night-cache"
        kept = {one.head["id"] for one in past}
        cut_off = _begin(build, todo, id, facts | {"reuse": str(reuse)}, fresh, kept)
        _say(f"{id}: {len(todo['notebooks'])} notebook(s), profile {profile}")
        _say(f"before: {machine.gpu_memory()}")
        with _results_in(None if reuse else fresh):
            dag.execute(root, todo, cores)
        _say(f"after: {machine.gpu_memory()}")
        night = account.gather(todo, id, began, facts)
        night.head["cut_off"] = cut_off
        before = history.comparable(past)
        findings = drift.compare(night, before)
        night.head["findings"] = [finding.text() for finding in findings]
        if any(one["state"] != "done" for one in night.head["notebooks"].values()):
            night.head["state"] = FAILED
        elif any(finding.drifts for finding in findings):
            night.head["state"] = DRIFT
        if not before:
            _say("no good night before this one: nothing to compare with")
        # Before the book, whose status page shows this night too.
        history.write(where, night)
        _build_book(root, todo, where, night)
        history.prune(where, keep)
        jobs.sweep(max(keep, _LEAST_DAYS))
        shutil.rmtree(fresh, ignore_errors=True)
        _say(f"disk: {_megabytes(where)} in {where.name} nights, {_megabytes(build)} in its build")
    return night


def _begin(build: Path, todo: dict, id: str, facts: dict, fresh: Path, kept: set[str]) -> str:
    """Make everything run again, or go on from a night that was cut off; that night's id or "".

    It is gone on from only in the same environment (``facts``, also whether the cache was reused),
    for one night's numbers come from one machine in one way, and only if it was not ``kept``: then
    it was cut off after its numbers, which count once.
    """
    mark = _mark(build)
    text = json.dumps(dict(id=id, environment=facts), indent=1)
    if mark.is_file():
        before = json.loads(mark.read_text(encoding="utf-8"))
        if before["environment"] == facts and before["id"] not in kept:
            _say(f"the night {before['id']} was cut off; going on from what it had finished")
            runner.write_text(mark, text)
            return before["id"]
        mark.unlink()
    shutil.rmtree(fresh, ignore_errors=True)
    # What failed on an earlier night is no reason for this one.
    shutil.rmtree(build / "failed", ignore_errors=True)
    for name, entry in todo["notebooks"].items():
        runner.drop_stale_receipt(build, name, entry, force=True)
    # Last: with it, whatever is done counts as done tonight.
    runner.write_text(mark, text)
    return ""


def _build_book(root: Path, todo: dict, where: Path, night: Night) -> None:
    """Build the book; where that cannot be done, the night failed and the old book stays."""
    try:
        book.build(root, todo)
    except (book.BookError, OSError, ValueError) as error:
        night.head["problems"].append(f"failed: the book: {error}")
        night.head["state"] = FAILED
        history.write(where, night)
        _say(f"the book was not built, the last good book stays: {error}")


def _keep_failure(where: Path, profile: str, id: str, began: float, line: str) -> None:
    """A night that never came to its numbers is kept too, where there is a place for it."""
    empty = dict(commit="", environment={}, modules={}, notebooks={}, verdicts={}, problems=[])
    night = Night(account.head(id, profile, began) | empty, {})
    try:
        # What it found before it broke stays found.
        night = next((one for one in history.nights(where) if one.head["id"] == id), night)
        night.head.update(state=FAILED, problems=[*night.head["problems"], line])
        history.write(where, night)
    except history.HistoryError as error:
        _say(str(error))


@contextmanager
def _results_in(folder: Path | None):
    """Let features and jobs of this night be kept in ``folder``; None: where they always are."""
    if folder is None:
        yield
        return
    before = os.environ.get("ELEPHANT_CACHE")
    os.environ["ELEPHANT_CACHE"] = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        del os.environ["ELEPHANT_CACHE"]
        if before is not None:
            os.environ["ELEPHANT_CACHE"] = before


@contextmanager
def _one_night(root: Path):
    """One night at a time on a machine, whatever its profile: two would share one card."""
    path = root / "build" / ".nightly.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise NightError("another night is under way; wait for its end") from None
    try:
        yield
    finally:
        lock.release()


def _mark(build: Path) -> Path:
    return build / "night.json"


def _megabytes(folder: Path) -> str:
    size = sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return f"{size / 2**20:.1f} MiB"


def _say(text: str) -> None:
    print(f"nightly: {text}", file=sys.stderr, flush=True)
