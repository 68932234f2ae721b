"""What changed from one night to another, and why: nights in, findings out.

Only ``result`` rows are compared; seconds and rates may change. The rule for a number is in
:func:`tolerance`, the rule for a number that creeps inside its tolerance in :func:`one_sided`.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from math import comb
from typing import NamedTuple

from helpers.history import Night

# Seeded work on a processor gives the same numbers up to the order of sums.
CPU = 1e-6
# A GPU adds in another order at each run: a quarter of what sampling alone leaves open, or a
# thousandth of a number that has no interval.
GPU_INTERVAL, GPU = 0.25, 1e-3
# False alarms of one-sidedness: one night in a hundred, over all numbers together.
ALPHA = 0.01
# A row that differs in one of these is another number under an old name.
DEFINITION = ("n", "method", "unit", "scope", "labels")
CAUSES = ("code", "data", "model revision", "environment")
UNEXPLAINED = "unexplained"


class Finding(NamedTuple):
    """One thing that changed. ``kind``: moved, redefined, one-sided, lost, new or verdict;
    ``causes``: those of ``CAUSES`` whose provenance differs, or ``("unexplained",)``."""

    kind: str
    id: str
    notebook: str
    what: str
    causes: tuple[str, ...]
    why: str

    @property
    def drifts(self) -> bool:
        """A number that is new is worth a word and no alarm."""
        return self.kind != "new"

    def text(self) -> str:
        return f"{self.kind}: {self.id}: {self.what} [{', '.join(self.causes)}: {self.why}]"


def compare(now: Night, past: Sequence[Night]) -> list[Finding]:
    """What differs tonight from the last of ``past``, the good nights that are comparable, oldest
    first. Rows of a notebook that did not finish are not lost: that failure is told by itself.
    """
    if not past:
        return []
    then = past[-1]
    old, new = _results(then), _results(now)
    why = cache(lambda notebook, since: causes(notebook, past[since], now))

    def finding(kind: str, row: Mapping, what: str, since: int = -1) -> Finding:
        return Finding(kind, row["id"], row["notebook"], what, *why(row["notebook"], since))

    failed = {name for name, one in now.head["notebooks"].items() if one["state"] != "done"}
    found = []
    for id in sorted(old.keys() | new.keys()):
        if id not in new:
            if old[id]["notebook"] not in failed:
                found.append(finding("lost", old[id], "no row tonight"))
        elif id not in old:
            found.append(finding("new", new[id], _value(new[id])))
        elif what := _redefined(old[id], new[id]):
            found.append(finding("redefined", new[id], what))
        elif what := _moved(old[id], new[id]):
            found.append(finding("moved", new[id], what))
    told = {finding.id for finding in found}
    series = {
        id: values
        for id, row in new.items()
        if id not in told and (values := _values(id, row, [*past, now]))
    }
    for id, (k, p) in one_sided(series).items():
        what = f"each of the last {k} nights on one side of the {k} before (p = {p:.2g})"
        found.append(finding("one-sided", new[id], what, -k))
    return found + _verdicts(then, now, new, failed)


def tolerance(row: Mapping) -> float:
    """How far a number may be from the last good night's.

    What its own row declares (``tolerance``, in the number's unit); else on a processor 1e-6 of its
    size; on a GPU a quarter of its interval's half-width, or 1e-3 of its size without one. Never
    below 1e-9, where only rounding lives.
    """
    if row.get("tolerance") is not None:
        return row["tolerance"]
    size = max(abs(row[field] or 0.0) for field in ("value", "low", "high"))
    if row["device"].startswith("cpu"):
        return max(CPU * size, 1e-9)
    if row["low"] is not None:
        return max(GPU_INTERVAL * (row["high"] - row["low"]) / 2, CPU * size, 1e-9)
    return max(GPU * size, 1e-9)


def one_sided(series: Mapping[str, Sequence[float]]) -> dict[str, tuple[int, float]]:
    """Numbers whose residuals over the last nights have one sign: ``{id: (k, p)}``.

    ``series``: each number's values, oldest night first. A number is one-sided if each of its last
    k values lies on the same side of each of the k before. Where nothing changed, nights are
    exchangeable and that has probability ``2 / C(2k, k)``; k is the smallest that keeps the chance
    of any such finding among all numbers that vary at all below ``ALPHA`` (Bonferroni). So no
    number is judged before it has 2k nights: 10 for one that varies alone, 22 among a thousand.
    """
    # Twelve digits: what differs in the last places only is a tie.
    digits = {id: [float(f"{value:.12g}") for value in values] for id, values in series.items()}
    varying = {id: values for id, values in digits.items() if len(set(values)) > 1}
    if not varying:
        return {}
    k = half_window(len(varying))
    found = {}
    for id, values in varying.items():
        early, late = values[-2 * k : -k], values[-k:]
        if len(early) == k and (min(late) > max(early) or max(late) < min(early)):
            found[id] = (k, len(varying) * 2 / comb(2 * k, k))
    return found


def half_window(numbers: int) -> int:
    """The k of :func:`one_sided` among so many numbers that vary."""
    k = 2
    while numbers * 2 / comb(2 * k, k) > ALPHA:
        k += 1
    return k


def causes(notebook: str, then: Night, now: Night) -> tuple[tuple[str, ...], str]:
    """What of a notebook's provenance differs between two nights: classes of ``CAUSES`` and words.

    Code is its own cells, parameters and helpers; what stands upstream of it counts too.
    """
    found: dict[str, list[str]] = {}
    for name in _with_upstream(notebook, then, now):
        old, new = then.head["notebooks"].get(name), now.head["notebooks"].get(name)
        if old is None or new is None:
            there = "new" if old is None else "no longer there"
            found.setdefault("code", []).append(f"{name} is {there}")
            continue
        changed = [field for field in ("code", "parameters") if old[field] != new[field]]
        words = {"code": "cells", "parameters": "parameters"}
        if changed:
            found.setdefault("code", []).extend(f"{words[field]} of {name}" for field in changed)
        if old["helpers"] != new["helpers"]:
            found.setdefault("code", []).extend(_changed_modules(old, new, then, now))
        if old["data"] != new["data"]:
            pairs = _changes(old["data"], new["data"])
            found.setdefault("data", []).extend(pairs)
        if models := _changed_models(name, then, now):
            found.setdefault("model revision", []).extend(models)
    if environment := _changes(_flat(then), _flat(now)):
        found["environment"] = environment
    if not found:
        return (UNEXPLAINED,), "code, data, models and environment are the same: not deterministic"
    parts = [word for cause in CAUSES for word in dict.fromkeys(found.get(cause, []))]
    shown = "; ".join(parts[:6]) + (f"; and {len(parts) - 6} more" if len(parts) > 6 else "")
    return tuple(cause for cause in CAUSES if cause in found), shown


def _results(night: Night) -> dict[str, dict]:
    return {id: row for id, row in night.rows.items() if row["kind"] == "result"}


def _redefined(old: Mapping, new: Mapping) -> str:
    changed = [field for field in DEFINITION if old[field] != new[field]]
    return "; ".join(f"{field} {old[field]!r} → {new[field]!r}" for field in changed)


def _moved(old: Mapping, new: Mapping) -> str:
    # That of the good night: a tolerance that was widened with the number must not hide it. Devices
    # differ in theirs, and a change of device is no change of the rule.
    same = old["tolerance"] == new["tolerance"]
    allowed = max(tolerance(old), tolerance(new)) if same else tolerance(old)
    for field in ("value", "low", "high"):
        before, after = old[field], new[field]
        if before is None and after is None:
            continue
        if before is None or after is None:
            return f"{field} {before} → {after}"
        if abs(after - before) > allowed:
            what = "" if field == "value" else f"{field} end of the interval "
            return f"{what}{before:.6g} → {after:.6g} (tolerance {allowed:.2g})"
    return ""


def _value(row: Mapping) -> str:
    return "no value" if row["value"] is None else f"{row['value']:.6g}"


def _values(id: str, row: Mapping, nights: Sequence[Night]) -> list[float]:
    """The number's values over the last nights in which it was defined as it is tonight."""
    values: list[float] = []
    for night in reversed(nights):
        then = night.rows.get(id)
        if then is None or then["value"] is None or _redefined(then, row):
            break
        values.append(then["value"])
    return values[::-1]


def _verdicts(then: Night, now: Night, rows: Mapping[str, dict], failed: set[str]) -> list[Finding]:
    """Verdicts that changed, but for those whose rows a failed notebook owes."""
    found = []
    # A night of an older version does not say by what rules it judged.
    rules = then.head.get("judging") not in (None, now.head.get("judging"))
    for id, old in then.head["verdicts"].items():
        new = now.head["verdicts"].get(id, dict(outcome="no longer judged", notebooks=[]))
        names = sorted({*old["notebooks"], *new["notebooks"]})
        if old["outcome"] == new["outcome"] or failed & set(names):
            continue
        sure = [causes(name, then, now) for name in names] or [((UNEXPLAINED,), "no notebook")]
        if rules:
            sure = [one for one in sure if one[0] != (UNEXPLAINED,)]
            sure.append((("code",), "helpers.claims or what it rests on"))
        classes = {cause for some, _ in sure for cause in some}
        ordered = tuple(c for c in CAUSES if c in classes) or (UNEXPLAINED,)
        why = "; ".join(dict.fromkeys(text for _, text in sure))
        what = f"{old['outcome']} → {new['outcome']}"
        found.append(Finding("verdict", id, ", ".join(names), what, ordered, why))
    return found


def _with_upstream(notebook: str, then: Night, now: Night) -> list[str]:
    todo, seen = [notebook], []
    while todo:
        name = todo.pop(0)
        if name in seen:
            continue
        seen.append(name)
        for night in (then, now):
            todo += night.head["notebooks"].get(name, {}).get("upstream", [])
    return seen


def _changed_modules(old: Mapping, new: Mapping, then: Night, now: Night) -> list[str]:
    names = sorted({*old["modules"], *new["modules"]})
    before, after = then.head["modules"], now.head["modules"]
    changed = [f"helpers.{name}" for name in names if before.get(name) != after.get(name)]
    return changed or ["a fact file of the helpers"]


def _changed_models(notebook: str, then: Night, now: Night) -> list[str]:
    found = {}
    for id, row in now.rows.items():
        before = then.rows.get(id)
        if row["notebook"] != notebook or before is None:
            continue
        was, is_now = [f"{r['model']} {r['revision']}".strip() for r in (before, row)]
        if was != is_now:
            found[f"model {was or 'none'} → {is_now or 'none'}"] = None
    return list(found)


def _flat(night: Night) -> dict[str, str]:
    """The environment as one level of names: device, python, system, driver and each package."""
    environment = dict(night.head["environment"])
    return environment.pop("packages") | environment


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    names = sorted(old.keys() | new.keys())
    changed = [name for name in names if old.get(name) != new.get(name)]
    return [f"{name} {old.get(name, 'none')} → {new.get(name, 'none')}" for name in changed]
