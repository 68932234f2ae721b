"""The alarm: told once, told again only if telling failed, closed by a good night, and tested."""

import json

import pytest

from helpers import alarm


@pytest.fixture
def teller(tmp_path):
    """A command that writes what it is told; it fails while a file named ``broken`` lies there."""
    script = tmp_path / "tell.sh"
    script.write_text(
        "#!/bin/sh\n"
        f'[ -e {tmp_path}/broken ] && echo "no route" >&2 && exit 4\n'
        f"exec >> {tmp_path}/told\n"
        'echo "$ELEPHANT_ALARM_STATE $ELEPHANT_ALARM_PROFILE"; cat; env\n'
    )
    script.chmod(0o755)
    return str(script)


def said(tmp_path) -> str:
    path = tmp_path / "told"
    return path.read_text() if path.is_file() else ""


def test_two_bad_nights_are_one_alarm_and_a_good_one_closes_it(tmp_path, teller):
    where = tmp_path / "nights"
    assert "opened; told" in alarm.sound(where, "smoke", "n1", ["b.share moved"], teller)
    assert "still open, since n1; already told" in alarm.sound(where, "smoke", "n2", ["x"], teller)
    assert said(tmp_path).count("open smoke") == 1 and "b.share moved" in said(tmp_path)
    kept = alarm.current(where)
    assert (kept["since"], kept["last"], kept["nights"], kept["lines"]) == ("n1", "n2", 2, ["x"])
    assert alarm.close(where, "smoke", "n3", teller) == "alarm of n1 closed"
    assert alarm.current(where) is None and said(tmp_path).count("closed smoke") == 1
    assert alarm.close(where, "smoke", "n4", teller) == ""


def test_what_could_not_be_told_is_told_the_next_night(tmp_path, teller):
    (tmp_path / "broken").touch()
    first = alarm.sound(tmp_path, "smoke", "n1", ["x"], teller)
    assert "ended with status 4: no route" in first and not alarm.current(tmp_path)["told"]
    (tmp_path / "broken").unlink()
    assert alarm.sound(tmp_path, "smoke", "n2", ["x"], teller).endswith("; told")
    assert said(tmp_path).count("open smoke") == 1


def test_the_command_gets_no_key_and_no_shell(tmp_path, teller, monkeypatch):
    keys = ("ELEPHANT_JUDGE_API_KEY", "ELEPHANT_REWARD_API_KEY", "HF_TOKEN")
    for name in (*keys, "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, "planted-secret")
    alarm.sound(tmp_path, "smoke", "n1", ["x"], f"{teller} '; touch {tmp_path}/shell'")
    assert "open smoke" in said(tmp_path) and "planted-secret" not in said(tmp_path)
    assert not (tmp_path / "shell").exists()


def test_an_end_that_could_not_be_told_is_told_the_next_good_night(tmp_path, teller):
    alarm.sound(tmp_path, "smoke", "n1", ["x"], teller)
    (tmp_path / "broken").touch()
    assert "not closed: the alarm command ended with status 4" in alarm.close(
        tmp_path, "smoke", "n2", teller
    )
    assert alarm.current(tmp_path) is not None
    (tmp_path / "broken").unlink()
    assert alarm.close(tmp_path, "smoke", "n3", teller) == "alarm of n1 closed"
    assert said(tmp_path).count("closed smoke") == 1 and alarm.current(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{half", "[]", '{"since": "n1"}'])
def test_an_alarm_that_cannot_be_read_silences_nothing(tmp_path, teller, text):
    (tmp_path / "alarm.json").write_text(text)
    assert alarm.sound(tmp_path, "smoke", "n2", ["b.share moved"], teller).endswith("; told")
    assert "b.share moved" in said(tmp_path) and alarm.current(tmp_path)["told"]
    assert "closed" in alarm.close(tmp_path, "smoke", "n3", teller)
    assert not (tmp_path / "alarm.json").exists()


def test_an_alarm_that_cannot_be_written_is_told_all_the_same(tmp_path, teller):
    (tmp_path / "nights").write_text("a file where the folder should be")
    found = alarm.sound(tmp_path / "nights", "smoke", "n1", ["x"], teller)
    assert "told; it could not be written" in found and "open smoke" in said(tmp_path)


def test_the_self_test_proves_the_alarm_and_leaves_nothing(tmp_path, teller):
    where = tmp_path / "nights"
    seen = alarm.self_test(where, "smoke", teller)
    assert len(seen) == 3 and said(tmp_path).count("test smoke") == 1
    assert not list(where.iterdir())


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("", "no alarm command is set"),
        ("/no/such/command", "could not be run"),
        ("false", "status 1"),
    ],
)
def test_the_self_test_fails_where_a_bad_night_would_not_be_told(tmp_path, command, problem):
    with pytest.raises(alarm.AlarmError, match=problem):
        alarm.self_test(tmp_path, "smoke", command)


def test_the_self_test_leaves_an_open_alarm_alone(tmp_path, teller):
    alarm.sound(tmp_path, "smoke", "n1", ["x"], teller)
    before = (tmp_path / "alarm.json").read_text()
    alarm.self_test(tmp_path, "smoke", teller)
    assert json.loads((tmp_path / "alarm.json").read_text()) == json.loads(before)
