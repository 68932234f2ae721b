"""Whole nights of a small project: drift, alarm, failures, kills, a full disk. Real kernels."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from filelock import FileLock
from night_project import CELL_B, NightProject
from small_project import A, B

from helpers import account, alarm, cli, history, ledger, machine, nightly


@pytest.fixture(autouse=True)
def _settings_of_our_own(monkeypatch):
    """The nights and the alarm of whoever runs these tests stay out of them."""
    for name in ("ELEPHANT_ALARM", "ELEPHANT_HISTORY", "ELEPHANT_CACHE"):
        monkeypatch.delenv(name, raising=False)


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("href", "src") and value]


def broken_links(book: Path) -> list[str]:
    """What the pages of a book name in the book and is not there, or half there."""
    problems = []
    for page in ("index", "status", f"notebooks/{A}", f"notebooks/{B}"):
        path = book / f"{page}.html"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if not text.rstrip().endswith("</html>"):
            problems.append(page)
        links = _Links()
        links.feed(text)
        for link in links.found:
            there = link.split("#")[0].split("?")[0]
            inside = there and ":" not in there and not there.startswith("//")
            if inside and not (path.parent / there).exists():
                problems.append(f"{page}: {link}")
    return problems


def test_a_planted_change_is_drift_by_code_with_one_alarm_until_it_is_mended(tmp_path):
    project = NightProject(tmp_path)
    first = project.night()
    assert first.returncode == 0, first.stderr
    assert "nothing to compare with" in first.stderr and "before: " in first.stderr
    assert broken_links(project.book) == []

    project.change_share("0.20", "0.21")
    for times in (1, 2):
        done = project.night()
        assert done.returncode == 3, done.stderr
        (finding,) = project.kept()[-1].head["findings"]
        assert finding == ("moved: b.share: 0.2 → 0.21 (tolerance 2.1e-07) [code: helpers.splits]")
        assert finding in done.stdout
        assert json.loads((project.where / "alarm.json").read_text())["nights"] == times
        assert project.told() == [f"open: {finding}"]
    status = (project.book / "status.html").read_text(encoding="utf-8")
    assert "drift" in status and "0.2 → 0.21" in status and "per cell" in status

    project.change_share("0.21", "0.20")
    done = project.night()
    assert done.returncode == 0, done.stderr
    assert not (project.where / "alarm.json").exists()
    assert [line.split(":")[0] for line in project.told()] == ["open", "closed"]
    states = [night.head["state"] for night in project.kept()]
    assert states == ["good", "drift", "drift", "good"]
    first, *_, last = project.kept()
    assert ledger.results_only(first.rows.values()) == ledger.results_only(last.rows.values())
    assert {row["id"] for row in last.rows.values()} == {"a.value", "b.value", "b.share"}
    assert not (project.root / "build" / "smoke" / "night-cache").exists()
    assert broken_links(project.book) == []


@pytest.mark.slow
def test_two_nights_in_a_row_do_not_drift_and_an_intended_change_is_accepted(tmp_path):
    project = NightProject(tmp_path)
    assert project.night().returncode == 0
    second = project.night("--keep", "2")
    assert second.returncode == 0 and project.kept()[-1].head["findings"] == []
    assert project.night("--accept", "no reason").returncode == 1
    project.change_share("0.20", "0.21")
    assert project.night("--keep", "2").returncode == 3
    accepted = project.night("--accept", "the share is now one in five and a bit")
    assert accepted.returncode == 0, accepted.stderr
    assert [line.split(":")[0] for line in project.told()] == ["open", "closed"]
    after = project.night("--keep", "2")
    assert after.returncode == 0, after.stdout + after.stderr
    assert len(project.kept()) == 2, "no more nights are kept than asked for"
    assert "accepted: the share" in (project.book / "status.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_failed_night_is_told_and_its_page_says_how_old_its_numbers_are(tmp_path):
    project = NightProject(tmp_path)
    assert project.night().returncode == 0
    project.write_notebook(B, [*CELL_B, "1 / 0"], words="# Second\n\nWords.")
    failed = project.night()
    assert failed.returncode == 1
    assert f"failed: {B}: ZeroDivisionError: division by zero (cell cell-5)" in failed.stdout
    assert "ZeroDivisionError" in project.told()[0]
    page = (project.book / "notebooks" / f"{B}.html").read_text(encoding="utf-8")
    assert "Numbers older than their code" in page and "its cells changed since" in page
    fresh = (project.book / "notebooks" / f"{A}.html").read_text(encoding="utf-8")
    assert "Numbers older" not in fresh
    assert "Numbers older" in (project.book / "index.html").read_text(encoding="utf-8")
    assert broken_links(project.book) == []
    # Mended: what failed is compared with the night before it, and the banner goes.
    project.write_notebook(B, CELL_B, words="# Second\n\nWords.")
    mended = project.night()
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert "Numbers older" not in (project.book / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A project with one good night, what it gave, and moments of a night to kill one at."""
    project = NightProject(tmp_path_factory.mktemp("killed"))
    began = time.monotonic()
    assert project.night().returncode == 0
    # A little longer than a night: some kills meet its last steps.
    whole = (time.monotonic() - began) * 1.05
    moments = random.Random(20261123)
    reference = ledger.results_only(project.kept()[0].rows.values())
    return project, reference, [moments.uniform(0.0, whole) for _ in range(10)]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_a_kill_at_a_random_moment_loses_and_breaks_nothing(killed, number):
    project, reference, moments = killed
    where = f"killed after {moments[number]:.1f} s"
    _kill_after(project, moments[number])
    assert broken_links(project.book) == [], where
    project.kept()  # every night that lies there can be read
    done = project.night()
    assert done.returncode == 0, f"{where}\n{done.stdout}{done.stderr}"
    assert ledger.results_only(project.kept()[-1].rows.values()) == reference, where
    assert project.results() == reference, where
    assert broken_links(project.book) == [], where
    assert project.told() == [] and not (project.where / "alarm.json").exists()
    assert len(list((project.root / "build" / "smoke" / "books").iterdir())) <= 2


def _kill_after(project: NightProject, seconds: float) -> None:
    """Kill -9 a night after so long, reading the served book all the while."""
    process = subprocess.Popen(
        project.command("nightly", "--profile", "smoke"),
        cwd=project.root,
        env=project.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until and process.poll() is None:
            text = (project.book / "index.html").read_text(encoding="utf-8")
            assert text.rstrip().endswith("</html>"), "the served book was broken"
            time.sleep(0.01)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A project with one good night, for tests that must leave its book as it is."""
    project = NightProject(tmp_path_factory.mktemp("served"))
    done = project.night()
    assert done.returncode == 0, done.stderr
    return project


FULL = """
import errno, io, os, builtins
_open = io.open
def _full(file, mode="r", *args, **kwargs):
    path = os.fspath(file) if not isinstance(file, int) else ""
    if os.environ["FULL_DISK"] in str(path) and set(mode) & set("wax+"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return _open(file, mode, *args, **kwargs)
io.open = builtins.open = _full
"""


@pytest.mark.slow
@pytest.mark.parametrize("full", [".jsonl.gz", "/src.partial/"])
def test_a_full_disk_is_a_clear_failure_and_the_old_book_stays(served, tmp_path, full):
    (tmp_path / "sitecustomize.py").write_text(FULL)
    before, page = served.book.resolve(), (served.book / "index.html").read_bytes()
    nights = [night.head["id"] for night in served.kept() if night.head["state"] == "good"]
    paths = os.pathsep.join([str(tmp_path), str(served.package.parent)])
    done = served.night(PYTHONPATH=paths, FULL_DISK=full)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert os.strerror(errno.ENOSPC) in said and "the last good book stays" in said
    assert "Traceback" not in said
    assert served.book.resolve() == before and (served.book / "index.html").read_bytes() == page
    assert [n.head["id"] for n in served.kept() if n.head["state"] == "good"] == nights
    assert served.told()[-1].startswith("open:")
    assert served.night().returncode == 0 and served.told()[-1].startswith("closed:")


@pytest.mark.slow
def test_a_read_only_history_stops_the_night_before_its_work(served, tmp_path):
    locked = tmp_path / "history"
    locked.mkdir(mode=0o555)
    before = served.book.resolve()
    command = served.command("nightly", "--profile", "smoke")
    if os.geteuid() == 0:
        # Root may write anywhere, unless it gives up that very right.
        if shutil.which("setpriv") is None:
            pytest.skip("root without setpriv: nothing is read-only to it")
        command = ["setpriv", "--bounding-set", "-dac_override", *command]
    done = subprocess.run(
        command,
        cwd=served.root,
        env=served.environment() | {"ELEPHANT_HISTORY": str(locked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"the history folder {locked / 'smoke'} cannot be written" in done.stderr
    assert "ELEPHANT_HISTORY" in done.stderr and "Traceback" not in done.stderr
    assert "start (" not in done.stderr and served.book.resolve() == before
    assert "cannot be written" in served.told()[-1], "the alarm is told though it cannot be kept"


@pytest.mark.slow
def test_nights_do_not_overlap_and_a_night_cut_off_is_noticed(served):
    mark = served.root / "build" / "smoke" / "night.json"
    with FileLock(served.root / "build" / ".nightly.lock"):
        done = served.night()
        assert done.returncode == 1 and "another night is under way" in done.stderr
        assert served.night("--check", "1000").returncode == 0
    assert served.night("--check", "1000").returncode == 0
    mark.write_text(json.dumps(dict(id="20260101T000000Z", environment={})))
    done = served.night("--check", "1000")
    assert done.returncode == 1 and "20260101T000000Z was cut off" in done.stderr
    assert "was cut off" in served.told()[-1]
    mark.unlink()
    (served.where / "alarm.json").unlink()


def test_check_tells_of_a_night_that_never_was(tmp_path, monkeypatch, capsys):
    (tmp_path / "Snakefile").touch()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["nightly", "--profile", "smoke", "--check", "30"]) == 1
    assert "no night of 'smoke' has ended in 30 hours" in capsys.readouterr().err
    assert (tmp_path / "history" / "smoke" / "alarm.json").is_file()


def test_the_alarm_is_proved_by_its_command(tmp_path, monkeypatch):
    (tmp_path / "Snakefile").touch()
    monkeypatch.chdir(tmp_path)
    for teller, status in ((f"touch {tmp_path}/rang", 0), ("false", 1), ("", 1)):
        monkeypatch.setenv("ELEPHANT_ALARM", teller)
        assert cli.main(["nightly", "--profile", "smoke", "--test-alarm"]) == status
    assert (tmp_path / "rang").is_file()


def test_a_cut_off_night_is_gone_on_with_only_where_it_was_and_before_its_end(tmp_path):
    build, fresh = tmp_path / "build", tmp_path / "build" / "night-cache"
    entry = dict(parameters={}, data={}, code="c", helpers="h")
    todo = dict(notebooks={A: entry})
    record = build / "done" / f"{A}.json"

    def begin(id: str, environment: dict, kept: set[str]) -> str:
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(dict(inputs={}, made={})))
        fresh.mkdir(exist_ok=True)
        return nightly._begin(build, todo, id, environment, fresh, kept)

    here = dict(python="3.11")
    assert begin("n1", here, set()) == "" and not record.exists() and not fresh.exists()
    assert begin("n2", here, {"n0"}) == "n1" and record.exists() and fresh.exists()
    assert begin("n3", dict(python="3.12"), set()) == "" and not record.exists()
    assert begin("n4", dict(python="3.12"), {"n3"}) == "" and not record.exists(), "n3 was kept"
    # A night that goes on from another is itself the one that was cut off, if it is.
    assert begin("n5", dict(python="3.12"), set()) == "n4"
    assert begin("n6", dict(python="3.12"), {"n5"}) == "" and not fresh.exists()


def test_whatever_ends_a_night_is_told_and_kept_with_what_was_found(tmp_path, monkeypatch, capsys):
    (tmp_path / "Snakefile").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELEPHANT_ALARM", f"tee -a {tmp_path}/told")
    where = tmp_path / "history" / "smoke"

    def breaks(root, profile, id, began, *_):
        empty = dict(commit="c", environment={}, modules={}, notebooks={}, verdicts={}, problems=[])
        head = account.head(id, profile, began) | empty | dict(state="good")
        history.write(where, history.Night(head, {"x": dict(id="x")}))
        raise error

    monkeypatch.setattr(nightly, "_night", breaks)
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert cli.main(["nightly", "--profile", "smoke"]) == 1
    assert "No space left on device; the last good book stays" in capsys.readouterr().err
    assert "No space left" in (tmp_path / "told").read_text()
    (night,) = history.nights(where)
    assert night.head["state"] == "failed" and set(night.rows) == {"x"}
    # What nobody foresaw is told as well, and shows where it broke.
    error = ZeroDivisionError("unforeseen")
    (tmp_path / "told").unlink()
    (where / "alarm.json").unlink()
    with pytest.raises(ZeroDivisionError):
        cli.main(["nightly", "--profile", "smoke"])
    assert "ZeroDivisionError: unforeseen" in (tmp_path / "told").read_text()


def test_a_lock_that_has_no_place_is_told_too(tmp_path, monkeypatch, capsys):
    (tmp_path / "Snakefile").touch()
    (tmp_path / "build").write_text("a file where the folder should be")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELEPHANT_ALARM", f"tee -a {tmp_path}/told")
    assert cli.main(["nightly", "--profile", "smoke"]) == 1
    assert "FileExistsError" in (tmp_path / "told").read_text()
    assert "the last good book stays" in capsys.readouterr().err


def test_a_night_that_is_killed_before_it_has_told_leaves_a_mark(tmp_path, monkeypatch):
    """Its numbers are kept, its alarm is not: `--check` must find that."""
    (tmp_path / "Snakefile").touch()
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "build" / "smoke" / "night.json"

    def night(root, profile, id, began, *_):
        mark.parent.mkdir(parents=True)
        mark.write_text(json.dumps(dict(id=id, environment={})))
        found = dict(commit="", environment={}, modules={}, notebooks={}, verdicts={})
        found |= dict(state="drift", problems=[], findings=["moved: x"])
        kept = history.Night(account.head(id, profile, began) | found, {})
        history.write(tmp_path / "history" / "smoke", kept)
        return kept

    def killed(*_):
        raise SystemExit(137)

    monkeypatch.setattr(nightly, "_night", night)
    with monkeypatch.context() as patch:
        patch.setattr(alarm, "sound", killed)
        with pytest.raises(SystemExit):
            cli.main(["nightly", "--profile", "smoke"])
    assert mark.is_file()
    assert cli.main(["nightly", "--profile", "smoke", "--check", "30"]) == 1
    assert "was cut off" in (tmp_path / "history" / "smoke" / "alarm.json").read_text()


def test_check_tells_what_could_not_be_told(tmp_path, monkeypatch):
    (tmp_path / "Snakefile").touch()
    monkeypatch.chdir(tmp_path)
    where = tmp_path / "history" / "smoke"
    found = dict(commit="", environment={}, modules={}, notebooks={}, verdicts={}, problems=[])
    head = account.head("20260101T000000Z", "smoke", 0.0) | found | dict(state="drift")
    history.write(where, history.Night(head, {}))
    alarm.sound(where, "smoke", "20260101T000000Z", ["moved: x"], "false")
    monkeypatch.setenv("ELEPHANT_ALARM", f"tee -a {tmp_path}/told")
    check = ["nightly", "--profile", "smoke", "--check", "100000"]
    assert cli.main(check) == 1 and "moved: x" in (tmp_path / "told").read_text()
    assert cli.main(check) == 0, "told once"


def test_free_gpu_memory_and_driver_are_read_from_the_tool_of_the_card(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        '#!/bin/sh\ncase "$1" in *driver*) echo 570.86;; *) echo "80000, 81920";; esac\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert machine.gpu_memory() == "GPU memory 78.1 of 80.0 GiB free"
    assert machine.environment("1 x card")["driver"] == "570.86"
    packages = machine.environment("1 x card")["packages"]
    assert {"numpy", "papermill"} <= set(packages) and all(packages.values())
