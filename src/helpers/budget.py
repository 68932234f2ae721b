"""The table of `elephant plan`, why a profile does not fit, and what a cluster is asked for."""

import math
import shutil
from pathlib import Path

from helpers import cost, devices
from helpers.cost import Chapter
from helpers.devices import Machine


def table(found: list[Chapter], machine: Machine) -> str:
    """The chapters with tokens, FLOPs, hours, GiB of a card and of disk, and how the hours are
    known; then each piece of network work with its speed."""
    titles = ("chapter", "tokens", "FLOPs", "hours", "card GiB", "disk GiB", "hours are")
    lines = [titles]
    for chapter in found:
        tokens = sum(item.tokens for item in chapter.items)
        flops = sum(item.flops for item in chapter.items)
        how = f"planned, no notebook yet; {chapter.how}" if chapter.planned else chapter.how
        lines.append((*_numbers(chapter.name, tokens, flops, chapter, machine.cards), how))
    built = [chapter for chapter in found if not chapter.planned]
    for name, part in (("all notebooks", built), ("with planned ones", found)):
        known = [chapter.seconds for chapter in part if chapter.seconds is not None]
        lacking = (
            f"without {len(part) - len(known)} of unknown time" if len(known) < len(part) else ""
        )
        total = Chapter(name, False, (), sum(known), "", 0.0, 0.0)._replace(
            gib=max((chapter.gib for chapter in part), default=0.0),
            disk=sum(chapter.disk for chapter in part) + devices.facts()["disk_gib"],
        )
        items = [item for chapter in part for item in chapter.items]
        sums = sum(item.tokens for item in items), sum(item.flops for item in items)
        lines.append((*_numbers(name, *sums, total, machine.cards), lacking))
    parts = [f"On {machine.device}:", "", _columns(lines)]
    work = [_work_line(chapter, what) for chapter in found for what in _kinds(chapter)]
    if work:
        heads = ("", "network work", "model", "tokens/s", "hours", "speed is")
        parts += ["", _columns([heads, *work])]
    return "\n".join(parts)


def _kinds(chapter: Chapter) -> list[str]:
    return list(dict.fromkeys(item.what for item in chapter.items))


def _work_line(chapter: Chapter, what: str) -> tuple[str, ...]:
    """One line for work of one kind, though it may go over many models."""
    items = [item for item in chapter.items if item.what == what]
    seconds = sum(item.seconds for item in items)
    names = items[0].model if len(items) == 1 else f"{len(items)} models"
    speed = f"{sum(item.tokens for item in items) / seconds:,.0f}"
    hows = "; ".join(dict.fromkeys(item.how for item in items))
    return chapter.name[:2], what, names, speed, _hours(seconds), hows


def _numbers(
    name: str, tokens: float, flops: float, chapter: Chapter, cards: int
) -> tuple[str, ...]:
    return (
        name,
        f"{tokens:.2g}" if tokens else "–",
        f"{flops:.2g}" if flops else "–",
        "unknown" if chapter.seconds is None else _hours(chapter.seconds),
        f"{chapter.gib:.0f}" if chapter.gib and cards else "–",
        f"{chapter.disk:.0f}" if chapter.disk else "–",
    )


def _hours(seconds: float) -> str:
    if seconds < 36:
        return "<0.01"
    return f"{seconds / 3600:.2f}" if seconds < 36_000 else f"{seconds / 3600:,.0f}"


def _columns(lines: list[tuple[str, ...]]) -> str:
    """Left-aligned columns; the last one is as wide as it likes."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]) - 1)]
    rows = ["  ".join([*(c.ljust(w) for c, w in zip(line, widths)), line[-1]]) for line in lines]
    return "\n".join(row.rstrip() for row in rows)


def refusals(found: list[Chapter], machine: Machine, cards: int, free_gib: float) -> list[str]:
    """Why these chapters cannot run on ``machine``, in words; empty where they fit.

    ``cards`` is what the profile is made for.
    """
    reasons = []
    needy = [chapter for chapter in found if chapter.items]
    if cards > machine.cards and needy:
        names = ", ".join(chapter.name for chapter in needy)
        reasons.append(f"made for {cards} GPU(s), here are {machine.cards} (for {names})")
    if machine.cards:
        for chapter in needy:
            if chapter.gib > machine.gib:
                reasons.append(
                    f"{chapter.name} needs {chapter.gib:.0f} GiB of a card, which has "
                    f"{machine.gib:.0f}"
                )
    disk = sum(chapter.disk for chapter in found) + devices.facts()["disk_gib"]
    if disk > free_gib:
        reasons.append(f"needs {disk:.0f} GiB of disk, {free_gib:.0f} are free")
    return reasons


def why_not(root: Path, todo: dict) -> list[str]:
    """Why this plan cannot run on this machine; empty where it can."""
    here = devices.here()
    found = [c for c in cost.chapters(root, todo, here) if not c.planned]
    return refusals(found, here, devices.made_for(todo["profile"]).cards, free_gib(root))


def free_gib(root: Path) -> float:
    """Of the disk that the checkout lies on."""
    return shutil.disk_usage(root).free / 2**30


def resources(root: Path, todo: dict) -> dict[str, dict[str, int]]:
    """What each notebook of the plan asks a cluster for: ``gpu`` (cards), ``mem_mb`` of memory and
    ``runtime`` in minutes, three times the estimate, since a job that outlives its time is killed:
    at least half an hour, or four where no run of this profile was timed on such a device."""
    machine = devices.made_for(todo["profile"])
    asked = {}
    for chapter in cost.chapters(root, todo, machine):
        if chapter.planned:
            continue
        largest = max((item.gib for item in chapter.items), default=0.0)
        # Network work alone, or what a smaller profile took beside it, may be minutes of a chapter
        # whose trainings in the gold world take the processor hours.
        timed = chapter.how.startswith(f"{cost.MEASURED}:")
        asked[chapter.name] = dict(
            gpu=machine.cards if chapter.items else 0,
            # The cpu book peaks at 7.3 GiB with two computations at once; and weights pass through
            # memory on their way to the card.
            mem_mb=math.ceil(8192 + 1024 * largest),
            runtime=max(30 if timed else 240, math.ceil((chapter.seconds or 0.0) / 20)),
        )
    return asked
