"""The one schema of a preference pair, checked where data enters.

A frame of pairs has one row a pair and these columns:

===================  =====  ====================================================================
``pair_id``          str    16 hex digits of a hash of both full dialogues: same text, same id
``subset``           str    e.g. ``harmless-base``
``split``            str    ``train`` or ``test``
``row``              int    0-based line in its file, so that a pair can be found again
``prompt``           str    chosen side up to and including its last ``\\n\\nAssistant:``
``rejected_prompt``  str    the same of the rejected side, null where it equals ``prompt``
``chosen``           str    what follows in the chosen dialogue, exactly as in the file
``rejected``         str    what follows in the rejected dialogue, exactly as in the file
``turns``            int    turns of the chosen dialogue, the last answer included
===================  =====  ====================================================================

Each side is parsed on its own: taking the rejected prompt from the chosen side would hide the pairs
whose prompts differ, and splitting at blank lines would lose all but a turn's first paragraph.
"""

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

COLUMNS = (
    "pair_id",
    "subset",
    "split",
    "row",
    "prompt",
    "rejected_prompt",
    "chosen",
    "rejected",
    "turns",
)
ASSISTANT = "\n\nAssistant:"
HUMAN = "\n\nHuman:"
_TURN = re.compile(r"\n\n(Human|Assistant):")


class BadLine(ValueError):
    """A line that is no preference pair; the message names file, line and reason."""


class Line(NamedTuple):
    """One line of a file: its 1-based number, and either its bytes or why it cannot be read."""

    number: int
    data: bytes
    problem: str = ""


class Counts(NamedTuple):
    """What became of the lines of a file. ``lines == pairs + quarantined``, always."""

    lines: int
    pairs: int
    quarantined: int


def split_turns(dialogue: str) -> list[tuple[str, str]]:
    """The turns of a dialogue as ``[(role, text)]``, multi-paragraph turns whole.

    Text before the first turn marker, if any, is kept as a turn with the role ``""``.
    """
    marks = list(_TURN.finditer(dialogue))
    turns = []
    if not marks or marks[0].start() > 0:
        turns.append(("", dialogue[: marks[0].start()] if marks else dialogue))
    ends = [mark.start() for mark in marks[1:]] + [len(dialogue)]
    for mark, end in zip(marks, ends):
        turns.append((mark.group(1), dialogue[mark.end() : end]))
    return turns


def split_dialogue(dialogue: str) -> tuple[str, str]:
    """``(prompt, response)`` at the last ``\\n\\nAssistant:``; the marker stays with the prompt.

    Raises ValueError where there is no such marker. ``prompt + response == dialogue``.
    """
    at = dialogue.rfind(ASSISTANT)
    if at < 0:
        raise ValueError("no turn marker '\\n\\nAssistant:'")
    cut = at + len(ASSISTANT)
    return dialogue[:cut], dialogue[cut:]


def pair_id(chosen_dialogue: str, rejected_dialogue: str) -> str:
    """16 hex digits that depend on the two full dialogues and on nothing else."""
    digest = hashlib.blake2b(digest_size=8)
    for text in (chosen_dialogue, rejected_dialogue):
        data = text.encode("utf-8")
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def parse(chosen_dialogue: str, rejected_dialogue: str) -> dict:
    """The text columns, id and turns of one pair. Raises ValueError naming the side at fault."""
    parts = {}
    for side, text in (("chosen", chosen_dialogue), ("rejected", rejected_dialogue)):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            # JSON may escape half a surrogate pair; no tokenizer and no file takes such text.
            raise ValueError(f"lone surrogate at character {error.start} in '{side}'") from None
        try:
            parts[side] = split_dialogue(text)
        except ValueError as error:
            raise ValueError(f"{error} in '{side}'") from None
    (prompt, chosen), (other, rejected) = parts["chosen"], parts["rejected"]
    return dict(
        pair_id=pair_id(chosen_dialogue, rejected_dialogue),
        prompt=prompt,
        rejected_prompt=None if other == prompt else other,
        chosen=chosen,
        rejected=rejected,
        turns=len(_TURN.findall(prompt)),
    )


def frame(records: list[dict]) -> pd.DataFrame:
    """Records as a frame of the schema (also for no records at all)."""
    data = pd.DataFrame.from_records(records, columns=list(COLUMNS))
    text = {c: "str" for c in COLUMNS if c not in ("row", "turns")}
    return check(data.astype(text | {"row": "int64", "turns": "int64"}))


def check(data: pd.DataFrame) -> pd.DataFrame:
    """The frame itself if it follows the schema; else ValueError naming what is wrong."""
    if tuple(data.columns) != COLUMNS:
        missing, extra = set(COLUMNS) - set(data.columns), set(data.columns) - set(COLUMNS)
        raise ValueError(f"not a frame of pairs: missing {sorted(missing)}, extra {sorted(extra)}")
    required = [c for c in COLUMNS if c != "rejected_prompt"]
    nulls = data[required].isna().any()
    if nulls.any():
        raise ValueError(f"null values in {list(nulls[nulls].index)}; a pair needs both sides")
    return data


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a plain or gzipped file, recognised by content, not by name.

    A stream that ends early or is damaged yields a last :class:`Line` with its problem: what had
    been read before it is kept.
    """
    with path.open("rb") as raw:
        gzipped = raw.read(2) == b"\x1f\x8b"
    number = 0
    with gzip.open(path, "rb") if gzipped else path.open("rb") as lines:
        while True:
            try:
                data = lines.readline()
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                yield Line(number + 1, b"", f"gzip stream is damaged: {error}")
                return
            if not data:
                return
            number += 1
            yield Line(number, data.rstrip(b"\r\n"))


def parse_line(line: Line) -> dict:
    """One JSON line ``{"chosen": …, "rejected": …}`` as a parsed pair; ValueError says why not."""
    if line.problem:
        raise ValueError(line.problem)
    if not line.data.strip():
        raise ValueError("the line is blank")
    try:
        text = line.data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error})") from None
    except RecursionError:
        raise ValueError("not JSON (nested too deeply)") from None
    return parse_record(record)


def parse_record(record: object) -> dict:
    """A ``{"chosen": …, "rejected": …}`` mapping as a parsed pair; ValueError says why not."""
    if not isinstance(record, dict):
        raise ValueError(f"a pair must be a JSON object, got {type(record).__name__}")
    for field in ("chosen", "rejected"):
        if field not in record:
            raise ValueError(f"field '{field}' is missing")
        if not isinstance(record[field], str):
            kind = type(record[field]).__name__
            raise ValueError(f"field '{field}' must be a string, got {kind}")
    return parse(record["chosen"], record["rejected"])


def read_pairs(
    path: Path,
    subset: str,
    split: str,
    *,
    on_bad: str = "raise",
    quarantine: Path | None = None,
    chunk_rows: int = 20_000,
) -> Iterator[tuple[pd.DataFrame, Counts]]:
    """Frames of at most ``chunk_rows`` pairs with the counts so far, so that memory stays bounded.

    ``on_bad="raise"`` stops at the first bad line with :class:`BadLine`; ``on_bad="quarantine"``
    writes it to ``quarantine`` (JSON lines: file, line, reason, the text as far as it can be shown)
    and goes on. An empty file is bad input as well. The last frame may be empty.
    """
    if on_bad not in ("raise", "quarantine"):
        raise ValueError(f"on_bad must be 'raise' or 'quarantine', got {on_bad!r}")
    if on_bad == "quarantine" and quarantine is None:
        raise ValueError("on_bad='quarantine' needs quarantine=, the file that bad lines go to")
    lines = pairs = 0
    bad: list[dict] = []
    records: list[dict] = []
    for line in read_lines(path):
        lines += 1
        try:
            record = parse_line(line)
        except ValueError as error:
            if on_bad == "raise":
                raise BadLine(f"{path}, line {line.number}: {error}") from error
            bad.append(_quarantined(path, line, str(error)))
            continue
        pairs += 1
        records.append(dict(record, subset=subset, split=split, row=line.number - 1))
        if len(records) == chunk_rows:
            yield frame(records), Counts(lines, pairs, len(bad))
            records = []
    if lines == 0:
        if on_bad == "raise":
            raise BadLine(f"{path}, line 0: the file is empty; download it again")
        bad.append(_quarantined(path, Line(0, b""), "the file is empty"))
    if bad:
        _append_json_lines(quarantine, bad)
    # An empty file is a bad file, not a bad line: it stands in the quarantine as line 0.
    quarantined = sum(entry["line"] > 0 for entry in bad)
    if lines != pairs + quarantined:
        raise AssertionError(
            f"{path}: {lines} lines, but {pairs} pairs + {quarantined} quarantined"
        )
    yield frame(records), Counts(lines, pairs, quarantined)


def _quarantined(path: Path, line: Line, reason: str) -> dict:
    text = line.data.decode("utf-8", "backslashreplace")
    return dict(file=str(path), line=line.number, reason=reason, text=text)


def _append_json_lines(path: Path, entries: Iterable[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as out:
        for entry in entries:
            out.write(json.dumps(entry, ensure_ascii=False) + "\n")
