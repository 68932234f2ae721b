"""What a profile will cost before it runs: tokens, FLOPs, hours, memory of a card, disk.

The work of each chapter is data (``facts/work.yaml``). Speeds are taken from the ledgers of past
runs on the same kind of device; where there is none, from the peak of the card and a stated share
of it, and then the hours are called an estimate.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import papermill
import yaml

from helpers import catalogue, devices, ledger, notebooks, plan, recorded, runner

WEIGHT_BYTES = 2  # bf16
MEASURED, ESTIMATE = "measured", "estimate"


class Item(NamedTuple):
    """One piece of work: ``rate`` in tokens a second of the whole machine, ``gib`` on each card,
    ``disk`` in GiB of what it keeps; ``weights`` in GiB have to be fetched once a model."""

    what: str
    model: str
    tokens: float
    flops: float
    rate: float
    how: str
    gib: float
    weights: float
    disk: float

    @property
    def seconds(self) -> float:
        return self.tokens / self.rate


class Chapter(NamedTuple):
    """``seconds`` is None where nothing is known; ``how`` says where it comes from. A chapter that
    is ``planned`` has no notebook in this profile yet."""

    name: str
    planned: bool
    items: tuple[Item, ...]
    seconds: float | None
    how: str
    gib: float
    disk: float


def measured_rates(root: Path) -> list[dict]:
    """Rows in tokens a second of all runs under ``build/`` and of the recorded ones."""
    found = []
    for path in sorted(root.glob("build/*/ledger/*.jsonl")):
        found += ledger.read(path)
    for runs in recorded.read(root).values():
        found += [row for run in runs for row in run.rows]
    return [row for row in found if row["unit"] == "tokens/s"]


def chapters(root: Path, todo: dict, machine: devices.Machine) -> list[Chapter]:
    """One entry a chapter of the facts or notebook of the plan ``todo``, in order."""
    rates = measured_rates(root)
    names = {name[:2]: name for name in todo["notebooks"]}
    made = []
    for number in sorted(devices.facts()["chapters"].keys() | names.keys()):
        name = names.get(number)
        entry = todo["notebooks"].get(name)
        work = devices.facts()["chapters"].get(number)
        items = []
        for described in work or []:
            items += _items(described, todo["profile"], entry, machine, rates)
        seconds, how = _time(root, todo, name, entry, items, machine)
        if work is None:
            how += "; its network work is not described in facts/work.yaml"
        weights = {item.model: item.weights for item in items}
        made.append(
            Chapter(
                name=name or number,
                planned=name is None,
                items=tuple(items),
                seconds=seconds,
                how=how,
                gib=max((item.gib for item in items), default=0.0),
                disk=sum(weights.values()) + sum(item.disk for item in items),
            )
        )
    return made


def _time(root, todo, name, entry, items, machine) -> tuple[float | None, str]:
    """Seconds of a chapter, and how they are known: from a finished run of the same parameters on
    the same device, else from the network work and what an earlier run of the chapter took."""
    runs = _past_runs(root, name) if name else []
    for run in runs:
        if run["parameters"] == entry["parameters"] and run["device"] == machine.device:
            return run["seconds"], f"{MEASURED}: this profile's run of {run['date']}"
    network = sum(item.seconds for item in items)
    known = {item.how.split(":")[0] for item in items}
    how = [ESTIMATE if ESTIMATE in known else MEASURED] if items else []
    if runs:
        longest = max(runs, key=lambda run: run["seconds"])
        how.append(f"the rest as all of it took at {longest['profile']} on {longest['device']}")
        return network + longest["seconds"], "; ".join(how)
    if not items:
        return None, "no network work is described for this profile, and it was never run here"
    return network, f"{how[0]}; network work only"


def _past_runs(root: Path, name: str) -> list[dict]:
    """Finished runs of a notebook in any profile: seconds, device, date and parameters."""
    found = []
    for done in sorted(root.glob(f"build/*/done/{name}.json")):
        where = runner.paths(done.parents[1], name)
        if not (where["notebook"].is_file() and where["ledger"].is_file()):
            continue
        meta = notebooks.read(where["notebook"]).metadata.get("papermill", {})
        rows = ledger.read(where["ledger"])
        if rows and meta.get("duration"):
            found.append(
                dict(
                    profile=rows[0]["profile"],
                    seconds=meta["duration"],
                    device=rows[0]["device"],
                    date=rows[0]["date"][:10],
                    parameters=dict(meta["parameters"]),
                )
            )
    return found


def _items(
    described: dict, profile: str, entry, machine: devices.Machine, rates: list[dict]
) -> list[Item]:
    names = _of(described["model"], profile)
    if names == "catalogue":
        limit = machine.gib or math.inf
        names = [
            row.name
            for row in catalogue.rows()
            if row.status == "released" and _on_card(row.size_gib) <= limit
        ]
    count = _rows(described["rows"], profile, entry) * (
        _of(described.get("times", 1), profile) or 0
    )
    if not names or not count:
        return []
    names = [names] if isinstance(names, str) else names
    return [_item(described, name, count, profile, machine, rates) for name in names]


def _item(described, model, count, profile, machine, rates) -> Item:
    parameters, fetched = _parameters(model)
    stage = described["stage"]
    each = _of(described.get("flops", 2), profile) * parameters  # FLOPs a token
    rate, how = _rate(described["measured"], model, stage, each, machine, rates)
    weights = parameters * WEIGHT_BYTES / 2**30
    held = parameters * _of(described.get("bytes", WEIGHT_BYTES), profile) / 2**30
    # A training is spread over the cards, anything else is a copy on each.
    spread = max(machine.cards, 1) if stage == "train" else 1
    tokens = count * described["tokens"]
    return Item(
        what=described["what"],
        model=model,
        tokens=tokens,
        flops=tokens * each,
        rate=rate,
        how=how,
        gib=_on_card(held / spread),
        weights=weights if fetched else 0.0,
        disk=weights * (_of(described.get("keeps", 0), profile) or 0),
    )


def _rate(ids, model, stage, each, machine, rates) -> tuple[float, str]:
    """Tokens a second of all cards, and how they are known."""
    wanted = {id.format(model=re.sub(r"[^a-z0-9_-]+", "-", model.lower())) for id in ids}
    copies = max(machine.cards, 1)
    for row in reversed(sorted(rates, key=lambda row: row["date"])):
        # A processor's cores differ; a row speaks of one process, that is of one card.
        alike = machine.cards and machine.kind and devices.kind(row["device"]) == machine.kind
        same = row["device"] == machine.device or alike
        if row["id"] in wanted and same and row["value"]:
            return row["value"] * copies, f"{MEASURED}: {row['id']}, {row['date'][:10]}"
    assumed = devices.facts()["utilisation"][stage]
    rate = machine.tflops * 1e12 * assumed["share"] / each
    how = f"{ESTIMATE}: {machine.tflops:g} TFLOP/s at {assumed['share']:.0%}"
    if machine.cards and rate > assumed["most"]:
        rate, how = assumed["most"], f"{ESTIMATE}: at most {assumed['most']:,} tokens/s a card"
    return rate * copies, f"{how}; never measured on {machine.kind or machine.device}"


def _on_card(gib: float) -> float:
    room = devices.facts()["room"]
    return gib * (1 + room["share"]) + room["gib"]


def _parameters(model: str) -> tuple[float, bool]:
    """How many, and whether the weights have to be fetched."""
    base = devices.facts()["models"].get(model)
    if base:
        return base["parameters"], not base.get("bundled", False)
    return catalogue.row(model).size_gib * 2**30 / WEIGHT_BYTES, True


def _of(value, profile: str):
    return value.get(profile) if isinstance(value, Mapping) else value


def _rows(described, profile: str, entry) -> float:
    if isinstance(described, Mapping) and "parameter" in described:
        if entry is None:
            return 0
        value = _parameter(entry, described["parameter"])
        everything = described["all"]
        return everything if value is None else min(everything, value * described["sets"])
    return _of(described, profile) or 0


def _parameter(entry: dict, name: str):
    """Of the profile, else the notebook's own default."""
    if name in entry["parameters"]:
        return entry["parameters"][name]
    known = papermill.inspect_notebook(entry["source"])
    if name not in known:
        raise plan.PlanError(
            f"facts/work.yaml counts by the parameter {name!r} of {Path(entry['source']).name}, "
            "which it does not have"
        )
    text = known[name]["default"]
    return None if text == "None" else yaml.safe_load(text)
