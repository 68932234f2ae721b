"""The machine that is here and the one that a profile is made for: cards, their peak, their memory.

What is known of cards stands in ``facts/work.yaml``.
"""

import os
import subprocess
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import yaml

from helpers import ledger


class Machine(NamedTuple):
    """``kind`` is a name of ``devices`` in the facts ("" for an unknown card), ``tflops`` a card's
    peak (of all cores, where there are no ``cards``), ``gib`` its memory."""

    device: str
    kind: str
    cards: int
    tflops: float
    gib: float | None


@cache
def facts() -> dict:
    """``facts/work.yaml``."""
    return yaml.safe_load(files("helpers").joinpath("facts/work.yaml").read_text(encoding="utf-8"))


def made_for(profile: str, device: str | None = None, cards: int | None = None) -> Machine:
    """The machine that a profile is made for, or ``cards`` of ``device`` instead of it.

    Raises ValueError for a device that the facts do not know.
    """
    wanted = facts()["machines"][profile]
    name = device or wanted["device"]
    known = kind(name)
    if not known:
        names = ", ".join(facts()["devices"])
        raise ValueError(f"no peak is known of the device {name!r}; known are {names}")
    if known == "cpu":
        found = ledger.device()
        # The cores of this machine, also where it has a card that the profile does not need.
        return _cores(found if found.startswith("cpu") else f"cpu, {os.cpu_count()} cores")
    count = cards or wanted["cards"] or 1
    peak = facts()["devices"][known]
    return Machine(f"{count} x {name}", known, count, peak["tflops"], peak["gib"])


def here() -> Machine:
    """This machine: its cards as the driver names them, else its processor."""
    device = ledger.device()
    if device.startswith("cpu"):
        return _cores(device)
    count = int(device.split(" x ")[0])
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    sizes = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    known = kind(device)
    # Of an unknown card no more is assumed than of the slowest known one.
    cards = [peak["tflops"] for name, peak in facts()["devices"].items() if name != "cpu"]
    tflops = facts()["devices"][known]["tflops"] if known else min(cards)
    return Machine(device, known, count, tflops, min(map(int, sizes)) / 1024)


def _cores(device: str) -> Machine:
    each = facts()["devices"]["cpu"]["tflops"]
    return Machine(device, "cpu", 0, each * (os.cpu_count() or 1), None)


def kind(device: str) -> str:
    """The name in the facts of a device as its driver or the ledger names it; "" if unknown."""
    words = device.lower()
    return next((name for name in facts()["devices"] if name.lower() in words), "")
