"""The steps behind `elephant annotate` and `elephant clean`: files in, files out, all counted."""

from pathlib import Path

import pandas as pd

from helpers import annotate, clean, formats, hh, labelstudio, pitfalls, votes


def read_pairs(data: str) -> pd.DataFrame:
    """Pairs of a user's file, or for ``hh`` those of all reachable HH-RLHF test sets.

    Pairs that stand twice with the same text have one id and one set of votes; the first is kept.
    Raises :class:`helpers.hh.Unreachable` or ValueError as the readers do.
    """
    if data == "hh":
        source = hh.locate()
        if source.kind == "none":
            raise hh.Unreachable(hh.HELP)
        keys = [key for key in hh.available(source) if key[1] == "test"]
        pairs = hh.load(source, keys)[0]
    else:
        pairs, _ = formats.read(Path(data))
    return pairs.drop_duplicates("pair_id").reset_index(drop=True)


def read_votes(path: Path) -> pd.DataFrame:
    """A vote table from Parquet, CSV or JSON lines (columns: see :mod:`helpers.votes`)."""
    readers = {".parquet": pd.read_parquet, ".csv": _read_csv, ".jsonl": _read_json_lines}
    if path.suffix not in readers:
        raise ValueError(f"{path}: votes are read from {', '.join(readers)} files")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a file of votes")
    return readers[path.suffix](path)


def _read_csv(path: Path) -> pd.DataFrame:
    # Ids and annotators may look like numbers; they are names.
    return pd.read_csv(path, dtype={"pair_id": "str", "annotator": "str"})


def _read_json_lines(path: Path) -> pd.DataFrame:
    return pd.read_json(path, lines=True, dtype={"pair_id": "str", "annotator": "str"})


def clean_data(votes_file: Path, data: str, out: Path) -> pd.DataFrame:
    """Write the cleaned data set of ``data`` under these votes; returns its Table 7.

    Every pair is kept, swapped, or named with its category in ``dropped.jsonl``.
    """
    pairs = read_pairs(data)
    cast = votes.check(read_votes(votes_file), pairs["pair_id"])
    source = ", ".join(sorted(cast["source"].unique()))
    categories = clean.categorise(pairs, cast, pitfalls.flag(pairs))
    cleaned = clean.clean(pairs, categories, votes.counts(cast, pairs["pair_id"]), source)
    dropped = clean.left_out(pairs, categories)
    if len(cleaned) + len(dropped) != len(pairs):
        raise AssertionError(f"{len(cleaned)} kept + {len(dropped)} dropped != {len(pairs)} pairs")
    about = (
        f"Cleaned by the votes of: {source} ({len(cast):,} votes on {cast['pair_id'].nunique():,} "
        f"of {len(pairs):,} pairs). Same labels are kept, Opposite ones swapped, the rest dropped."
    )
    clean.write(cleaned, dropped, out, title=f"Cleaned {Path(data).stem}", about=about)
    return clean.table_7(pairs, categories)


def export_tasks(data: str, task: str, seed: int, out: Path) -> annotate.Exported:
    """Write Label Studio's tasks and labelling configuration for ``data``."""
    return annotate.export_tasks(read_pairs(data), task=task, seed=seed, out=out)


def import_votes(export: Path, data: str, seed: int, out: Path) -> labelstudio.Report:
    """Write the votes of a Label Studio export as Parquet; returns what became of the rest."""
    tasks = labelstudio.read_export(export)
    cast, report = annotate.import_votes(tasks, read_pairs(data), seed=seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    cast.to_parquet(out, index=False)
    return report
