"""One alarm a profile: opened by a bad night, told once, closed by the next good one.

It is a file, ``alarm.json`` beside the nights, and a command that the user sets by
``ELEPHANT_ALARM``. The command is run without a shell and without this project's keys; it gets the
text on its standard input and ``ELEPHANT_ALARM_STATE`` (``open``, ``closed`` or ``test``) and
``ELEPHANT_ALARM_PROFILE`` in its environment.
"""

import json
import os
import shlex
import subprocess
from pathlib import Path

from helpers import runner

_PATIENCE = 60  # seconds that a command may take: a hanging mail server must not hold the night


class AlarmError(RuntimeError):
    """The alarm cannot be told; the message says why."""


def current(where: Path) -> dict | None:
    """The open alarm of the folder of nights, or None. One that cannot be read is open and was not
    told: it must not silence those after it."""
    path = where / "alarm.json"
    if not path.is_file():
        return None
    unread = dict(profile="", since="unknown", nights=1, told=False, lines=[f"unreadable: {path}"])
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return unread
    return found if isinstance(found, dict) and found.keys() >= unread.keys() else unread


def sound(where: Path, profile: str, night: str, lines: list[str], command: str) -> str:
    """Open the alarm, or count one more night on the one that is open; what came of it, in words.

    The command runs once an alarm. It runs again on a later night only if it failed before.
    """
    alarm = current(where) or dict(profile=profile, since=night, nights=0, told=False)
    first = not alarm["nights"]
    alarm |= dict(profile=profile, last=night, nights=alarm["nights"] + 1, lines=lines)
    told = "no command is set (ELEPHANT_ALARM)"
    if command and alarm["told"]:
        told = "already told"
    elif command:
        problem = _tell(command, "open", profile, _text(alarm))
        alarm["told"] = not problem
        told = problem or "told"
    try:
        _write(where / "alarm.json", alarm)
    except OSError as error:
        told += f"; it could not be written to {where} ({error.strerror})"
    return f"alarm {'opened' if first else 'still open, since ' + alarm['since']}; {told}"


def close(where: Path, profile: str, night: str, command: str) -> str:
    """Close the open alarm, if there is one; what was done, in words, or "".

    Where the command fails the alarm stays, told as open: the next good night tries again.
    """
    alarm = current(where)
    if alarm is None:
        return ""
    if command:
        text = f"{profile}: good again in the night {night}; the alarm was open since "
        text += f"{alarm['since']}, {alarm['nights']} night(s)\n"
        if problem := _tell(command, "closed", profile, text):
            return f"alarm of {alarm['since']} not closed: {problem}"
    (where / "alarm.json").unlink()
    return f"alarm of {alarm['since']} closed"


def self_test(where: Path, profile: str, command: str) -> list[str]:
    """Open, repeat and close an alarm of its own under ``where`` with the real command; what was
    seen. Raises AlarmError where any step does not do what a bad night would need.
    """
    if not command:
        raise AlarmError(
            "no alarm command is set: a bad night would only be written to a file. Set "
            "ELEPHANT_ALARM to a command, e.g. ELEPHANT_ALARM='mail -s nightly you@example.org'"
        )
    aside = where / "alarm-test"
    (aside / "alarm.json").unlink(missing_ok=True)
    lines = ["This is a test of the alarm; nothing is wrong."]
    problem = _tell(command, "test", profile, f"{profile}: {lines[0]}\n")
    if problem:
        raise AlarmError(problem)
    seen = ["the command was run and ended with status 0: look whether its message has arrived"]
    # What follows is told to nobody: one message a test is enough.
    for nights, silent in ((1, ""), (2, "")):
        sound(aside, profile, f"test-{nights}", lines, silent)
        found = current(aside)
        if found is None or found["nights"] != nights or found["since"] != "test-1":
            raise AlarmError(f"the alarm file {aside / 'alarm.json'} was not kept: {found}")
    seen.append("two bad nights made one alarm in a file")
    close(aside, profile, "test-3", "")
    if current(aside) is not None:
        raise AlarmError(f"a good night did not close the alarm {aside / 'alarm.json'}")
    aside.rmdir()
    return [*seen, "a good night closed it"]


def _tell(command: str, state: str, profile: str, text: str) -> str:
    """Run the user's command; what went wrong, or ""."""
    environment = {k: v for k, v in os.environ.items() if not _is_key(k)}
    environment |= {"ELEPHANT_ALARM_STATE": state, "ELEPHANT_ALARM_PROFILE": profile}
    try:
        done = subprocess.run(
            shlex.split(command),
            input=text,
            text=True,
            env=environment,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return f"the alarm command could not be run: {error}"
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        return f"the alarm command ended with status {done.returncode}: {(said or [''])[-1]}"
    return ""


def _is_key(variable: str) -> bool:
    own = ("ELEPHANT", "HF", "HUGGING")
    return variable.endswith(("_KEY", "_TOKEN")) and variable.startswith(own)


def _text(alarm: dict) -> str:
    shown = alarm["lines"][:20]
    more = len(alarm["lines"]) - len(shown)
    tail = [f"and {more} more"] if more else []
    return "\n".join([f"{alarm['profile']}: bad night {alarm['last']}", *shown, *tail]) + "\n"


def _write(path: Path, alarm: dict) -> None:
    runner.write_text(path, json.dumps(alarm, indent=1, ensure_ascii=False) + "\n")
