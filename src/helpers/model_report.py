"""`elephant audit-rm`: a reward model in, one HTML page and one JSON file out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from helpers import (
    accuracy,
    catalogue,
    checkpoints,
    formats,
    hh,
    model_audit,
    model_page,
    model_verdict,
    world,
)
from helpers.data_report import replace_text, sha256
from helpers.model_measures import Scope

PAGE = "audit-rm.html"
# Scores so far, for an audit that is killed; removed once the page is written.
CACHE = "scores.part.sqlite"
_TAKEN = {*world.SUBSETS, "all", accuracy.MIXTURE}


class Written(NamedTuple):
    """The two files and the verdict in sentences."""

    page: Path
    numbers: Path
    summary: list[str]


def write(
    model: str,
    files: Sequence[str],
    out: Path,
    *,
    pairs: int,
    seed: int,
    dtype: str = "float32",
    template: str | None = None,
    allow_pickle: bool = False,
    allow_remote_code: bool = False,
) -> Written:
    """Audit ``model`` (a folder, a name of the catalogue, a hub id) on ``files`` of pairs, one a
    subset; without any, or for "hh", on HH-RLHF's test sets; where these are not reachable and were
    not asked for, on the gold world.

    Files of an earlier audit in ``out`` are replaced. Raises FileNotFoundError or ValueError, each
    in one line, for a model or data that cannot be read or scored.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder for the page and the JSON")
    main, about = read(files, pairs, seed)
    few = min(pairs, model_audit.BESIDE)
    beside = None if main.truth is not None else model_audit.gold_scope(few, seed)
    options = dict(allow_pickle=allow_pickle, allow_remote_code=allow_remote_code)
    network = _load(model, dtype=dtype, template=template, **options)
    learned, licence = _origin(model)
    out.mkdir(parents=True, exist_ok=True)
    try:
        result = model_audit.audit(
            network, main, beside, learned=learned, seed=seed, cache=out / CACHE
        )
    except MemoryError as error:
        raise ValueError(f"{network.name}: memory ran out ({_line(error)})") from error
    said = model_verdict.summary(
        network.name, [model_verdict.Verdict(**v) for v in result["verdicts"]]
    )
    facts = checkpoints.as_scorer(
        network, learned=learned, pair_ids=frozenset(), prompts=frozenset(), licence=licence
    ).facts
    number = str(network.model.dtype).removeprefix("torch.")
    facts = dict(facts) | dict(name=network.name, learned=learned, dtype=number)
    result = dict(model=facts, read=about, summary=said) | result
    replace_text(out / PAGE, model_page.page(result, main.sample))
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    replace_text(out / model_page.NUMBERS, text + "\n")
    (out / CACHE).unlink(missing_ok=True)
    return Written(out / PAGE, out / model_page.NUMBERS, said)


def read(files: Sequence[str], pairs: int, seed: int) -> tuple[Scope, dict]:
    """``(scope, what was read)`` of preference files, of HH-RLHF's test sets, or of the gold world.

    Raises as the readers do, and ValueError where two files have the same name.
    """
    source = hh.locate()
    if list(files) == ["hh"]:
        if source.kind == "none":
            raise hh.Unreachable(hh.HELP)
        files = []
    if not files and source.kind == "none":
        scope = model_audit.gold_scope(pairs, seed)
        listed = [dict(file="gold world", records=len(scope.pairs), sha256="")]
        return scope, dict(name="the gold world", files=listed, repeated=0)
    if not files:
        keys = [key for key in hh.available(source) if key[1] == "test"]
        data, counts = hh.load(source, keys)
        listed = [
            dict(file=f"{subset}/{split}", records=int(lines))
            | {"sha256": sha256(path) if (path := source.files.get((subset, split))) else ""}
            for subset, split, lines in counts[["subset", "split", "lines"]].to_numpy()
        ]
        about = dict(name="HH-RLHF's test sets", files=listed)
        names, same = {subset: [subset] for subset in counts["subset"]}, set(counts["subset"])
    else:
        data, names, listed = _own(files)
        about = dict(name=", ".join(names), files=listed)
        same = _of_hh(data, source)
    told = dict(labels="original", names=names, hh=frozenset(same), truth=None)
    scope = model_audit.scope(data, pairs, seed, **told)
    return scope, about | dict(repeated=len(data) - len(scope.pairs))


def _own(files: Sequence[str]) -> tuple[pd.DataFrame, dict[str, list[str]], list[dict]]:
    paths = [Path(file) for file in files]
    names = {path.name.split(".")[0]: [path.name.split(".")[0], path.name] for path in paths}
    if len(names) < len(paths):
        raise ValueError("the files' names must differ: each file is one subset")
    if taken := sorted(set(names) & _TAKEN):
        raise ValueError(f"a file must not be named {taken[0]}: the page has a part of that name")
    frames = [formats.read(path, subset=name)[0] for path, name in zip(paths, names)]
    listed = [
        dict(file=path.name, records=len(frame), sha256=sha256(path))
        for path, frame in zip(paths, frames)
    ]
    return pd.concat(frames, ignore_index=True), names, listed


def _of_hh(data: pd.DataFrame, source: hh.Source) -> set[str]:
    """The subsets that hold a pair of HH-RLHF, as far as its files are here to tell."""
    if source.kind != "folder":
        return set()
    known = set(hh.load(source)[0]["pair_id"])
    return set(data.loc[data["pair_id"].isin(known), "subset"])


def _origin(model: str) -> tuple[str, str]:
    """``(what the model learned from, licence)`` by its folder or the catalogue; "" if unknown."""
    if Path(model).is_dir():
        said = checkpoints.described(model)
        return said.get("learned", ""), said.get("licence", "not stated")
    try:
        row = catalogue.row(model)
    except KeyError:
        return "", "not stated"
    named = f" ({', '.join(row.overlaps)})" if row.overlaps else ""
    return (row.training or "") + named, row.licence or "not stated"


def _load(model: str, **options):
    """The network; whatever a damaged checkpoint raises becomes one line."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return checkpoints.load(model, device=device, **options)
    except checkpoints.UNREADABLE as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{model} cannot be loaded: {_line(error)}") from error


def _line(error: Exception) -> str:
    """The first line of a message; the kind of error where there is none."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
