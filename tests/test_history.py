"""The nights kept: read back as written, in one step, bounded, and clear where they cannot be."""

import errno
import gzip
import os

import pytest

from helpers import history
from helpers.history import DRIFT, FAILED, GOOD, Night


def night(id: str, state: str = GOOD, accepted: str = "", **rows) -> Night:
    kept = {name: dict(id=name, kind="result", value=value) for name, value in rows.items()}
    return Night(dict(id=id, state=state, accepted=accepted), kept)


def test_a_night_is_read_back_as_written_and_replaced_by_its_id(tmp_path):
    history.write(tmp_path, night("20260101T000000Z", x=1.5))
    path = history.write(tmp_path, night("20260101T000000Z", DRIFT, x=2.5, y="ü"))
    assert history.nights(tmp_path) == [night("20260101T000000Z", DRIFT, x=2.5, y="ü")]
    before = path.read_bytes()
    history.write(tmp_path, night("20260101T000000Z", DRIFT, x=2.5, y="ü"))
    assert path.read_bytes() == before, "the same night gives the same bytes"


def test_a_kill_while_writing_leaves_no_night_and_is_swept(tmp_path):
    history.write(tmp_path, night("20260101T000000Z"))
    (tmp_path / ".20260102T000000Z.jsonl.gz.77").write_bytes(b"half")
    assert len(history.nights(tmp_path)) == 1
    history.prune(tmp_path, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["20260101T000000Z.jsonl.gz"]


def test_retention_keeps_the_last_good_night_however_old(tmp_path):
    states = [GOOD, GOOD, DRIFT, FAILED, FAILED]
    for day, state in enumerate(states, 1):
        history.write(tmp_path, night(f"2026010{day}T000000Z", state))
    gone = history.prune(tmp_path, 2)
    assert gone == ["20260101T000000Z", "20260103T000000Z"]
    assert [one.head["state"] for one in history.nights(tmp_path)] == [GOOD, FAILED, FAILED]
    assert history.prune(tmp_path, 2) == []


def test_only_good_nights_since_the_last_acceptance_are_compared_with():
    nights = [night("1"), night("2", accepted="new data"), night("3", FAILED), night("4")]
    assert [one.head["id"] for one in history.comparable(nights)] == ["2", "4"]
    assert history.comparable([]) == []


def test_a_broken_night_is_named(tmp_path):
    path = history.write(tmp_path, night("20260101T000000Z", x=1))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(history.HistoryError, match=r"20260101T000000Z.*move it away"):
        history.nights(tmp_path)
    row = '{"id": "x"}\n'
    path.write_bytes(gzip.compress(f'{{"id": "1"}}\n{row}{row}'.encode()))
    with pytest.raises(history.HistoryError, match=r"1 row\(s\) twice"):
        history.nights(tmp_path)


def test_a_full_disk_leaves_the_old_night_and_says_what_to_do(tmp_path, monkeypatch):
    path = history.write(tmp_path, night("20260101T000000Z", x=1))
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(history.HistoryError, match=r"No space left on device.*ELEPHANT_HISTORY"):
        history.write(tmp_path, night("20260101T000000Z", x=2))
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(history.HistoryError, match="cannot be written"):
        history.check_writable(tmp_path / "file" / "smoke")
    history.check_writable(tmp_path / "new" / "smoke")
    assert list((tmp_path / "new" / "smoke").iterdir()) == []


def test_the_folder_can_be_named(tmp_path, monkeypatch):
    assert history.folder(tmp_path, "cpu") == tmp_path / "history" / "cpu"
    monkeypatch.setenv("ELEPHANT_HISTORY", str(tmp_path / "kept"))
    assert history.folder(tmp_path, "cpu") == tmp_path / "kept" / "cpu"
