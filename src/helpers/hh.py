"""HH-RLHF: four subsets, two splits, from a folder, from the Hugging Face hub, or from nowhere.

The order is fixed: the folder in ``HH_RLHF_DIR``, then ``Anthropic/hh-rlhf`` on the hub at a pinned
revision, then nothing, said at once and with what would help.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from helpers import downloads, pairs
from helpers.pairs import Counts

SUBSETS = ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")
SPLITS = ("train", "test")
HUB_ID = "Anthropic/hh-rlhf"
# The revision that public work pins; a moved branch would change every number without a word.
HUB_REVISION = "09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa"
# Footnote 4 of the paper: a cleaned re-split of HH-RLHF. Read where the hub is reachable; its
# revision could not be checked, so the one that was read is recorded instead of pinned.
RM_STATIC_ID = "Dahoas/rm-static"
# Seconds to wait for the hub: with start-up, a missing source is reported within three seconds.
HUB_TIMEOUT = 2.0

HELP = (
    "HH-RLHF is not reachable. Either of two things would help: (1) set HH_RLHF_DIR to a folder "
    "that holds <subset>/<split>.jsonl[.gz] or <subset>-<split>.jsonl[.gz]; (2) allow network "
    f"access to the Hugging Face hub (unset HF_HUB_OFFLINE), from which {HUB_ID} is read."
)


class Source(NamedTuple):
    """Where HH-RLHF comes from: ``kind`` is ``folder``, ``hub`` or ``none``."""

    kind: str
    where: str
    files: dict[tuple[str, str], Path]


class Unreachable(FileNotFoundError):
    """No source of HH-RLHF; the message names the two things that would help."""


def locate() -> Source:
    """The first source that is there. Raises FileNotFoundError if ``HH_RLHF_DIR`` is set but
    holds no HH-RLHF: a wrong setting must not turn into other data in silence."""
    folder = os.environ.get("HH_RLHF_DIR", "").strip()
    if folder:
        path = Path(folder).expanduser().resolve()
        files = folder_files(path)
        if not files:
            names = ", ".join(f"{SUBSETS[0]}{sep}test.jsonl.gz" for sep in ("/", "-"))
            raise FileNotFoundError(
                f"HH_RLHF_DIR is {folder!r} ({path}), which holds no file such as {names}; "
                "correct it, or unset it to use the hub"
            )
        return Source("folder", str(path), files)
    if hub_reachable():
        return Source("hub", f"{HUB_ID}@{HUB_REVISION}", {})
    # What an earlier run read from the hub, and only that: a half-filled cache is half the data.
    if kept := folder_files(_kept()):
        return Source("folder", str(_kept()), kept)
    return Source("none", "", {})


def folder_files(folder: Path) -> dict[tuple[str, str], Path]:
    """``(subset, split)`` → file, for the hub's layout and for ``<subset>-<split>`` names."""
    found = {}
    for subset in SUBSETS:
        for split in SPLITS:
            for name in (f"{subset}/{split}", f"{subset}-{split}"):
                for suffix in (".jsonl", ".jsonl.gz"):
                    path = folder / (name + suffix)
                    if path.is_file():
                        found.setdefault((subset, split), path)
    return found


def hub_reachable() -> bool:
    """Whether the hub answers within ``HUB_TIMEOUT``."""
    return not downloads.hub_offline() and downloads.answers(downloads.hub_address(), HUB_TIMEOUT)


def _kept() -> Path:
    """Where splits that were read from the hub are kept as JSON lines, by revision."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    return home / "elephant" / HUB_REVISION


def available(source: Source) -> list[tuple[str, str]]:
    """The ``(subset, split)`` combinations of a source, test sets first (they are small)."""
    if source.kind == "none":
        return []
    keys = [(subset, split) for split in reversed(SPLITS) for subset in SUBSETS]
    return keys if source.kind == "hub" else [key for key in keys if key in source.files]


def iter_pairs(
    source: Source,
    subset: str,
    split: str,
    *,
    on_bad: str = "raise",
    quarantine: Path | None = None,
    chunk_rows: int = 20_000,
) -> Iterator[tuple[pd.DataFrame, Counts]]:
    """Chunks of one split with running counts (see :func:`helpers.pairs.read_pairs`).

    Raises :class:`Unreachable` without a source, KeyError for a split that the source lacks.
    """
    if source.kind == "none":
        raise Unreachable(HELP)
    if (subset, split) not in available(source):
        have = ", ".join("/".join(key) for key in available(source))
        raise KeyError(f"{source.where} has no {subset}/{split}; it has {have}")
    if source.kind == "folder":
        path = source.files[subset, split]
        yield from pairs.read_pairs(
            path, subset, split, on_bad=on_bad, quarantine=quarantine, chunk_rows=chunk_rows
        )
    else:
        yield from _hub_pairs(subset, split, on_bad, quarantine, chunk_rows)


def _hub_pairs(subset: str, split: str, on_bad: str, quarantine, chunk_rows: int):
    """One split from the hub through ``datasets``, written once as JSON lines, then read by the
    same parser as a local file: one path to test, the same line numbers in its errors."""
    path = _kept() / f"{subset}-{split}.jsonl"
    if not path.is_file():
        try:
            data = _dataset(HUB_ID, data_dir=subset, split=split, revision=HUB_REVISION)
        except OSError as error:
            # The hub answered, or another split is cached, but this split cannot be had.
            raise Unreachable(f"{HELP} Reading {subset}/{split} failed: {error}") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        data.to_json(partial, lines=True, force_ascii=False)
        partial.replace(path)
    yield from pairs.read_pairs(
        path, subset, split, on_bad=on_bad, quarantine=quarantine, chunk_rows=chunk_rows
    )


def _dataset(name: str, **options):
    import datasets

    # Progress bars would stay in the page as an error stream.
    datasets.disable_progress_bars()
    return datasets.load_dataset(name, **options)


def load(
    source: Source,
    keys: list[tuple[str, str]] | None = None,
    *,
    on_bad: str = "raise",
    quarantine: Path | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``(pairs, counts)``: all pairs of the given splits (default: all that the source has), and
    one row a split with ``lines``, ``pairs`` and ``quarantined``."""
    keys = available(source) if keys is None else keys
    frames, counts = [], []
    for subset, split in keys:
        chunks = list(iter_pairs(source, subset, split, on_bad=on_bad, quarantine=quarantine))
        frames += [chunk for chunk, _ in chunks]
        # The counts run on, so the last chunk's are those of the whole file.
        counts.append(dict(subset=subset, split=split, **chunks[-1][1]._asdict()))
    data = pd.concat(frames, ignore_index=True) if frames else pairs.frame([])
    columns = ["subset", "split", *Counts._fields]
    return data, pd.DataFrame(counts, columns=columns)


def sample(data: pd.DataFrame, per_split: int | None, seed: int) -> pd.DataFrame:
    """At most ``per_split`` pairs of each split, seeded, in file order; all of them for None."""
    if per_split is None:
        return data
    groups = data.groupby(["subset", "split"], sort=False)
    picked = [g.sample(min(per_split, len(g)), random_state=seed).index for _, g in groups]
    return data.loc[sorted(i for index in picked for i in index)].reset_index(drop=True)


def rm_static() -> tuple[pd.DataFrame, str]:
    """``(pairs, revision)`` of footnote 4's ``Dahoas/rm-static``, both splits, from the hub.

    Raises :class:`Unreachable` where the hub does not answer, and
    :class:`helpers.pairs.BadLine` naming split and row where a row is no pair.
    """
    if not hub_reachable():
        raise Unreachable(f"{RM_STATIC_ID} is read from the Hugging Face hub, which did not answer")
    from huggingface_hub import dataset_info

    revision = dataset_info(RM_STATIC_ID).sha
    records = []
    for split in SPLITS:
        data = _dataset(RM_STATIC_ID, split=split, revision=revision)
        for row, entry in enumerate(data):
            dialogues = {
                side: entry["prompt"].removesuffix("Assistant:") + "Assistant:" + entry[side]
                for side in ("chosen", "rejected")
            }
            try:
                record = pairs.parse_record(dialogues)
            except ValueError as error:
                where = f"{RM_STATIC_ID}@{revision}, {split}, row {row}"
                raise pairs.BadLine(f"{where}: {error}") from error
            records.append(dict(record, subset="rm-static", split=split, row=row))
    return pairs.frame(records), revision


def fingerprint(source: Source) -> str:
    """What decides whether a chapter must run again: the hash of the files, the hub's revision, or
    ``none``. Files are hashed by content, so a copy elsewhere is the same data."""
    if source.kind != "folder":
        return source.where or "none"
    return downloads.content_hash({"/".join(key): path for key, path in source.files.items()})
