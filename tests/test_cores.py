"""Cores that computations share: with real processes, as a run has them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from helpers import cores

# Holds a core until its input ends; says so when it has one.
HOLD = """
import sys
from helpers import cores
with cores.one():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def two_cores(tmp_path, monkeypatch):
    monkeypatch.setenv("ELEPHANT_CACHE", str(tmp_path))
    monkeypatch.setenv(cores.SETTING, "2")


def _hold() -> subprocess.Popen:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", HOLD], stdin=pipe, stdout=pipe, text=True)


def _free(seconds: float = 1.0) -> bool:
    """Whether a core can be had within that time."""
    until = time.monotonic() + seconds
    try:
        with cores.one(lambda: time.monotonic() > until):
            return True
    except cores.Abandoned:
        return False


def test_as_many_computations_as_cores_and_the_next_waits(two_cores):
    first, second = _hold(), _hold()
    try:
        assert first.stdout.readline() == second.stdout.readline() == "held\n"
        assert not _free()
        first.communicate()  # ends it
        assert _free()
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def test_a_killed_process_leaves_its_core(two_cores):
    holders = [_hold(), _hold()]
    try:
        assert [process.stdout.readline() for process in holders] == ["held\n"] * 2
        os.kill(holders[0].pid, signal.SIGKILL)
        holders[0].wait()
        assert _free()
    finally:
        for process in holders:
            process.kill()
            process.communicate()


def test_a_process_holds_as_many_as_it_takes(two_cores):
    with cores.one(), cores.one():
        assert not _free()
    assert _free()


def test_without_a_number_of_cores_nobody_waits(tmp_path, monkeypatch):
    monkeypatch.setenv("ELEPHANT_CACHE", str(tmp_path))
    monkeypatch.delenv(cores.SETTING, raising=False)
    with cores.one(), cores.one(), cores.one():
        assert not list(tmp_path.iterdir())
