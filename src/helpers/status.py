"""The status page of the book: when each chapter last ran, what it took, what the nights found.

Everything here is made from executed notebooks and from the nights that were kept. The page holds
dates only; the reader's browser adds how long ago that is, so a book that nobody builds any more
still shows its age.
"""

import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from helpers import claims, tables
from helpers.history import Night

_NIGHTS = 14  # listed; the sparklines show all that are kept
_AGE = """<script>
for (const time of document.querySelectorAll("time.age")) {
  const days = Math.floor((Date.now() - new Date(time.dateTime)) / 86400000);
  time.append(days < 1 ? " (today)" : days === 1 ? " (1 day ago)" : ` (${days} days ago)`);
}
</script>"""


class Chapter(NamedTuple):
    """A chapter as the book shows it. ``stale``: what changed since it ran, or ""."""

    name: str
    title: str
    timing: Mapping
    rows: Sequence[Mapping]
    stale: str


def timing(executed) -> dict:
    """When an executed notebook ended, its seconds, and the seconds of each code cell by id."""
    run = executed.metadata.get("papermill", {})
    cells = {
        cell.id: round(cell.metadata["papermill"].get("duration") or 0.0, 2)
        for cell in executed.cells
        if cell.cell_type == "code" and "papermill" in cell.metadata
    }
    finished = str(run.get("end_time") or "")[:19]
    return dict(seconds=round(run.get("duration") or 0.0, 1), finished=finished, cells=cells)


def page(chapters: Sequence[Chapter], nights: Sequence[Night], profile: str) -> str:
    """The status page as Markdown. ``nights``: oldest first."""
    parts = [
        "# Status",
        f"Profile `{profile}`. When each chapter last ran to its end, and what the nightly runs "
        "found. A night fails where a notebook fails, and drifts where a number leaves its "
        "tolerance, creeps to one side, is lost, or where a verdict changes; each opens an alarm.",
        "## Chapters",
        _chapter_table(chapters, nights[-1] if nights else None),
        "## Nights",
        _nights(nights),
        "## Headline numbers over the nights",
        _headlines(chapters, nights),
        _AGE,
    ]
    return "\n\n".join(parts) + "\n"


def banner(stale: Mapping[str, str]) -> str:
    """Markdown that warns of numbers older than their code; ``stale``: chapter to what changed."""
    lines = [f"{name}: {what} changed since" for name, what in stale.items()]
    return (
        ":::{div} banner\n**Numbers older than their code.** "
        + "; ".join(lines)
        + ". They stand as they were until the chapter runs to its end again; see "
        "{doc}`/status`.\n:::"
    )


def sparkline(values: Sequence[float], label: str) -> str:
    """A line over the nights as SVG with a text for screen readers; a dot is the last night."""
    width, height, edge = 180, 30, 4
    low, high = min(values), max(values)
    step = (width - 2 * edge) / max(len(values) - 1, 1)
    points = [
        # A number that never moved is a line through the middle.
        (edge + i * step, height - edge - (height - 2 * edge) * _share(value, low, high))
        for i, value in enumerate(values)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    return (
        f'<svg class="sparkline" role="img" aria-label="{html.escape(label)}" width="{width}" '
        f'height="{height}" viewBox="0 0 {width} {height}"><polyline points="{path}" fill="none" '
        f'stroke="currentColor" stroke-width="1.5"/><circle cx="{x:.1f}" cy="{y:.1f}" r="3" '
        'fill="currentColor"/></svg>'
    )


def _share(value: float, low: float, high: float) -> float:
    return 0.5 if high == low else (value - low) / (high - low)


def _chapter_table(chapters: Sequence[Chapter], last: Night | None) -> str:
    rows = []
    for chapter in chapters:
        first = chapter.rows[0] if chapter.rows else {}
        tonight = last.head["notebooks"].get(chapter.name, {}) if last else {}
        state = tonight.get("state", "no night yet")
        if tonight.get("problem"):
            state = f"failed: {tonight['problem']}"
        if chapter.stale:
            state += f"; older than its code: {chapter.stale}"
        link = f'<a href="notebooks/{chapter.name}.html">{html.escape(chapter.title)}</a>'
        cells = [
            link,
            _time(chapter.timing["finished"]),
            html.escape(first.get("profile", "–")),
            html.escape(first.get("device", "–")),
            _seconds(chapter.timing),
            _verdict_counts(chapter),
            html.escape(state),
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    titles = (
        "Chapter",
        "Last good run",
        "Profile",
        "Device",
        "Seconds",
        "Verdicts that rest on it",
        "Last night",
    )
    return tables.html_table(titles, rows)


def _seconds(timing: Mapping) -> str:
    cells = "".join(
        f"<tr><td>{html.escape(cell)}</td><td>{seconds:.1f}</td></tr>"
        for cell, seconds in timing["cells"].items()
    )
    return (
        f"{timing['seconds']:.0f}<details><summary>per cell</summary><table><tbody>{cells}"
        "</tbody></table></details>"
    )


def _verdict_counts(chapter: Chapter) -> str:
    """Of this chapter's rows alone; a verdict on rows of two chapters counts where they are."""
    found: dict[str, int] = {}
    for verdict in claims.verdicts({row["id"]: row for row in chapter.rows}):
        if verdict.rows:
            found[verdict.outcome] = found.get(verdict.outcome, 0) + 1
    counts = [f"{found[outcome]} {outcome}" for outcome in claims.OUTCOMES if outcome in found]
    return ", ".join(counts) or "none"


def _nights(nights: Sequence[Night]) -> str:
    if not nights:
        return "No night has been kept yet; `make nightly` makes one."
    rows = []
    for night in reversed(nights[-_NIGHTS:]):
        head = night.head
        words = [*head["problems"], *head["findings"]]
        shown = "".join(f"<li>{html.escape(word)}</li>" for word in words)
        what = f"<details><summary>{len(words)}</summary><ul>{shown}</ul></details>"
        state = head["state"] + (f", accepted: {head['accepted']}" if head["accepted"] else "")
        cells = [
            _time(head["started"][:19]),
            html.escape(state),
            f"{head['minutes']:.1f}",
            f"{len(night.rows):,}",
            what if words else "nothing",
            f"<code>{head['commit'][:10] or 'unknown'}</code>",
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return tables.html_table(("Night", "State", "Minutes", "Numbers", "Found", "Commit"), rows)


def _headlines(chapters: Sequence[Chapter], nights: Sequence[Night]) -> str:
    """Numbers that a claim rests on or that stand beside a printed one."""
    rows = []
    for row in (row for chapter in chapters for row in chapter.rows):
        if row["published"] is None and not row["id"].startswith("claims."):
            continue
        past = [night.rows.get(row["id"], {}).get("value") for night in nights]
        values = [value for value in past if value is not None]
        if not values:
            continue
        seen = f"{row['id']} over {len(values)} nights, from {min(values):.4g} to {max(values):.4g}"
        printed = "–" if row["published"] is None else f"{row['published']:g}"
        rows.append(
            f"<tr><td><code>{row['id']}</code></td><td>{values[-1]:.4g}</td><td>{printed}</td>"
            f"<td>{max(values) - min(values):.2g}</td><td>{sparkline(values, seen)}</td></tr>"
        )
    if not rows:
        return "No night has recorded any yet."
    lead = (
        "Every number that a claim rests on or that stands beside one which the paper prints. The "
        "line reaches from the least to the largest value of all nights kept."
    )
    return (
        lead
        + "\n\n"
        + tables.html_table(("Number", "Last night", "Published", "Range", "Nights"), rows)
    )


def _time(when: str) -> str:
    """A time in UTC, to which the browser adds its age."""
    if not when:
        return "never"
    return f'<time class="age" datetime="{when}Z">{when[:16].replace("T", " ")} UTC</time>'
