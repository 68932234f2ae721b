"""How far a long computation is: lines of its bar, from a job to its notebook to the terminal.

A bar is drawn over itself by carriage returns, and only its last state is worth passing on.
"""

import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Set in processes whose error stream is a file that someone looks into.
SETTING = "ELEPHANT_PROGRESS"
# A training's bar there: no drawing of a bar, which would be one inside another.
BAR = "{n_fmt}/{total_fmt} steps{postfix}"
_TAIL = 2_000  # bytes: more than a line of a bar


def wanted() -> bool:
    """Whether anybody sees a bar on the error stream."""
    return sys.stderr.isatty() or bool(os.environ.get(SETTING))


def latest(text: str) -> str:
    """The last line that is not empty, a bar drawn over itself being several; "" without any."""
    lines = [line.strip() for line in re.split(r"[\r\n]", text)]
    return next(filter(None, reversed(lines)), "")


def of_log(path: Path) -> str:
    """The steps and numbers that a training's bar has last written to its log, "" before any."""
    try:
        with open(path, "rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - _TAIL))
            line = latest(log.read().decode("utf-8", errors="replace"))
    except OSError:
        return ""
    return line if re.match(r"\d+/\d+ steps", line) else ""


class Teller:
    """A file for a notebook's error stream: says the last state of a bar, at most so often."""

    def __init__(self, say: Callable[[str], None], every: float = 30.0):
        self.say, self.every, self.last = say, every, time.monotonic()

    def write(self, text: str) -> None:
        line = latest(text)
        # Of other lines nobody knows what is in them; they stand on the page.
        if re.search(r"\d%\|", line) and time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            self.say(line)

    def flush(self) -> None:
        pass
