"""kill -9 in the middle of a chapter's trainings: what is finished is not trained again, and the
results are those of a run that nobody disturbed. The real chapter, of the profile ``smoke``."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from small_project import ROOT

from helpers import ledger

CHAPTER = "07_ppo_and_reward_model_quality"
pytestmark = pytest.mark.slow


def start(clone: Path) -> subprocess.Popen:
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    return begin(clone)


def begin(clone: Path) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k != "ELEPHANT_CACHE"}
    environment |= {"PYTHONPATH": str(clone / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "helpers", "run", "--profile", "smoke", CHAPTER]
    with open(clone.parent / f"{clone.name}.log", "a") as log:
        return subprocess.Popen(command, cwd=clone, env=environment, stdout=log, stderr=log)


def finished(clone: Path) -> dict[str, tuple[int, str]]:
    """When each finished job's record was written, and what the job is called."""
    found = {}
    for path in clone.glob("build/cache/jobs/*/record.json"):
        name = json.loads((path.parent / "job.json").read_text(encoding="utf-8"))["name"]
        found[path.parent.name] = (path.stat().st_mtime_ns, name)
    return found


def kill_all(clone: Path) -> int:
    """kill -9 for all processes in this folder: the command, the kernel, the trainings."""
    killed = 0
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(clone):
                process.send_signal(signal.SIGKILL)
                killed += 1
        except (psutil.Error, OSError):
            continue
    return killed


def results(clone: Path) -> list[dict]:
    return ledger.results_only(ledger.read(clone / "build" / "smoke" / "ledger"))


def test_a_killed_chapter_trains_nothing_twice_and_ends_with_the_same_rows(tmp_path):
    whole = start(tmp_path / "whole")
    assert whole.wait(900) == 0, (tmp_path / "whole.log").read_text()
    clone = tmp_path / "killed"
    process = start(clone)
    deadline = time.monotonic() + 600
    while sum(name.startswith("ppo") for _, name in finished(clone).values()) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    assert kill_all(clone) >= 3, "the command, the kernel and the trainings were to be killed"
    process.wait()
    before = finished(clone)
    assert len(before) < len(finished(tmp_path / "whole")), "something must be left to do"
    assert not (clone / "build" / "smoke" / "ledger" / f"{CHAPTER}.jsonl").exists()
    assert begin(clone).wait(900) == 0, (tmp_path / "killed.log").read_text()
    after = finished(clone)
    assert {key: after[key] for key in before} == before, "finished jobs were run again"
    assert after.keys() == finished(tmp_path / "whole").keys()
    assert results(clone) == results(tmp_path / "whole")
