"""The reward models that this supplement knows, what is known of each, and whether it can be had.

The table stands in ``facts/reward_models.yaml``; its head explains the columns. A model that cannot
be had stays in the table as a row that says why.
"""

import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import NamedTuple

import psutil
import yaml

from helpers import downloads, hh, ledger, paper
from helpers.stats import Estimate

# Beside the weights: activations of one batch, the runtime, and whatever else runs here.
ROOM = 1.25


class Row(NamedTuple):
    """One reward model. A fact that is not known is None; ``known_by`` says how each other one is
    known: ``verified``, ``searched`` or ``memory``. Sizes are GiB of weights in bf16; ``overlaps``
    names the data sets in its training data on which it cannot win."""

    name: str
    kind: str
    status: str
    paper: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    tokenizer: str | None = None
    reference: str | None = None
    architecture: str | None = None
    config: Mapping = MappingProxyType({})
    remap: str | None = None
    template: str | None = None
    pooling: str | None = None
    truncation: str | None = None
    max_tokens: int | None = None
    size_gib: float | None = None
    licence: str | None = None
    gated: bool | None = None
    needs_remote_code: bool | None = None
    needs_pickle: bool | None = None
    training: str | None = None
    overlaps: tuple[str, ...] = ()
    note: str = ""
    known_by: Mapping[str, str] = MappingProxyType({})


@cache
def rows() -> tuple[Row, ...]:
    """All models, those of Table 4 first and in its order."""
    text = files("helpers").joinpath("facts/reward_models.yaml").read_text(encoding="utf-8")
    return tuple(_row(entry) for entry in yaml.safe_load(text)["models"])


def row(name: str) -> Row:
    """The model of that name: ours, the paper's or the hub's. KeyError, with the names there are,
    for another."""
    for known in rows():
        if name in (known.name, known.paper, known.hub_id):
            return known
    names = ", ".join(known.name for known in rows())
    raise KeyError(f"no reward model {name!r} in the catalogue; there are {names}")


def reach(model: Row) -> tuple[bool, str]:
    """``(whether it can be loaded here, why or why not)``. Never raises; asks the hub at most once
    a model and process, and not at all where it does not answer."""
    if model.status == "unidentified":
        return False, "unidentified: the paper does not say which checkpoint it used"
    if model.status != "released":
        return False, "not released by the authors"
    need, have = model.size_gib * ROOM, memory_gib()
    if need > have:
        return False, f"too big: needs about {need:.0f} GiB of memory, this machine has {have:.0f}"
    wanted = [name for name in (model.hub_id, model.reference, model.tokenizer) if name]
    # The revision is a commit of the model's own repository, and of no other.
    commits = {model.hub_id: model.revision}
    missing = [name for name in wanted if not _cached(name, commits.get(name))]
    if missing:
        if downloads.hub_offline():
            return False, "not in the local cache, and HF_HUB_OFFLINE forbids to ask the hub"
        if not hh.hub_reachable():
            return False, "not in the local cache, and the Hugging Face hub does not answer"
        for name in missing:
            if problem := _refusal(name):
                return False, f"{name}: {problem}"
    by_name = [
        what
        for what, needed in (
            ("pickled weights", model.needs_pickle),
            ("remote code", model.needs_remote_code),
        )
        if needed
    ]
    where = "on the hub" if missing else "in the local cache"
    allow = f"; needs {' and '.join(by_name)}, to be allowed by name" if by_name else ""
    return True, where + allow


def table_4(measured: Mapping[str, dict]) -> list[tuple[paper.Cell, Row, Estimate | None]]:
    """Every cell of Table 4, its model, and what was measured of that model in its place.

    ``measured`` are ledger rows by id. The measured accuracy is that on the same test set's
    original labels (row ``rm.<test set>.<model>.accuracy``), in percent as the paper prints it; it
    stands beside the cell and never in it. None where there is no such row.
    """
    models = {model.paper: model for model in rows() if model.paper}
    sets = {paper.slug(key): subset for key, subset in paper.HH_SUBSET.items()}
    sets[paper.slug("test_mixed")] = "mixture"
    found = []
    for cell in (cell for cell in paper.cells() if cell.table == 4):
        model = models[cell.row]
        row = measured.get(f"rm.{sets[paper.slug(cell.column)]}.{ledger.slug(model.name)}.accuracy")
        estimate = None
        if row is not None and row["value"] is not None:
            ends = (None if row[k] is None else 100 * row[k] for k in ("low", "high"))
            estimate = Estimate(100 * row["value"], *ends, row["n"], row["method"])
        found.append((cell, model, estimate))
    return found


def memory_gib() -> float:
    """GiB of this machine's memory, or of its largest accelerator's if that has more."""
    total, limit = psutil.virtual_memory().total, _container_limit()
    return max(min(total, limit or total) / 2**30, _accelerator_gib())


def _row(entry: dict) -> Row:
    tags = ("verified", "searched", "memory")
    known_by = {fact: tag for tag in tags for fact in entry.get(tag, ())}
    fields = {key: value for key, value in entry.items() if key not in tags}
    fields["overlaps"] = tuple(fields.get("overlaps", ()))
    fields["config"] = MappingProxyType(fields.get("config", {}))
    return Row(**fields, known_by=MappingProxyType(known_by))


def _container_limit() -> int | None:
    """Bytes that the container allows, where it says so."""
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


@cache
def _accelerator_gib() -> float:
    # Importing torch takes seconds: not where no driver is there.
    if not os.path.exists("/proc/driver/nvidia"):
        return 0.0
    import torch

    cards = range(torch.cuda.device_count())
    sizes = (torch.cuda.get_device_properties(card).total_memory for card in cards)
    return max(sizes, default=0) / 2**30


def _cached(hub_id: str, revision: str | None) -> bool:
    """Whether a snapshot with weights or a tokenizer is in the hub's local cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(hub_id, revision=revision, local_files_only=True)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
        return False
    ends = (".safetensors", ".bin", ".pt", "tokenizer.json", "tokenizer.model")
    return any(name.endswith(ends) for name in os.listdir(folder))


@cache
def _refusal(hub_id: str) -> str:
    """Why the hub would not hand out the repository; empty where it would."""
    from huggingface_hub import auth_check
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        auth_check(hub_id)
    except GatedRepoError:
        return "gated: its licence has to be accepted on the hub, with an account"
    except RepositoryNotFoundError:
        return "not on the hub, or private"
    except Exception as error:  # any network library's error: the row must say why, not crash
        return f"the hub did not say whether it may be read ({type(error).__name__})"
    return ""
