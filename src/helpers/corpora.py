"""Public data other than HH-RLHF: toxicity labels, MT-bench votes, PandaLM, best-of-16 results.

Each set is read from the folder in ``ELEPHANT_DATA`` (default: ``../shared/data`` beside the
checkout); else from an earlier download in ``build/cache/corpora``; else from its public source,
always at one fixed revision. WARNING: the toxicity sets hold offensive text.
"""

import gzip
import hashlib
import io
import json
import os
import threading
import urllib.request
import zlib
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from helpers import ledger

NAMES = ("toxicity", "mt_bench", "pandalm", "best_of_16")
# The folders of the sets in ELEPHANT_DATA.
FOLDERS = dict(
    zip(NAMES, ("toxicity", "mt_bench_human", "pandalm", "rewardbench_bon"), strict=True)
)
MT_BENCH_ID = "lmsys/mt_bench_human_judgments"
MT_BENCH_REVISION = "f7d2896d2cc5d80f8b55c2bbc722613555233c25"
# Seconds to wait for a sign of life of a public source, and for each read of a download.
PROBE_SECONDS = 2.5
DOWNLOAD_SECONDS = 20


class File(NamedTuple):
    """A file in the data folder, its public address, and its size and hash when unpacked (the
    files of the hub have neither: a hub revision fixes its content)."""

    name: str
    revision: str
    url: str = ""
    size: int = 0
    sha256: str = ""


def _github(name: str, repo: str, revision: str, path: str, size: int, sha256: str) -> File:
    url = f"https://raw.githubusercontent.com/{repo}/{revision}/{path}"
    return File(name, revision, url, size, sha256)


DAVIDSON = _github(
    "davidson_labeled_data.csv.gz",
    "t-davidson/hate-speech-and-offensive-language",
    "cb50f7e9eb855a99abc51423bf40df0e26d6fe30",
    "data/labeled_data.csv",
    2_546_446,
    "fcb8bc7c68120ae4af04a5b9acd58585513ede11e1548ebf36a5c2040b6f6281",
)
TOXIGEN = _github(
    "toxigen_human_safenlp.json.gz",
    "microsoft/SafeNLP",
    "e351b6cb892284cf843b88e363b1a6dbaded584e",
    "data/toxiGen.json",
    1_661_792,
    "42863b997f545833b8c9bfe7fc950aeaccc274d49f7386384db147face745fc3",
)
MT_HUMAN = File("human.jsonl", MT_BENCH_REVISION)
MT_GPT4 = File("gpt4_pair.jsonl", MT_BENCH_REVISION)
PANDALM = _github(
    "testset-v1.json.gz",
    "WeOpenML/PandaLM",
    "3871806e72b4832f815ecafd24d3503c73403f48",
    "data/testset-v1.json",
    937_899,
    "cc154f9067c7382d7ea86f8f246511a5e1ac87e1fddd845c5938d789505b07a4",
)
BEST_OF_16 = _github(
    "bon_eval_results.json",
    "allenai/reward-bench",
    "4319b3194d8772d0efb54c8b949ffdf87b4ccbd3",
    "bon_eval/bon_eval_results.json",
    3_599,
    "0346d778c9b648663c9fdfa114cf88aeabe1552254982c15c1c142da7c66f363",
)
FILES = {
    "toxicity": (DAVIDSON, TOXIGEN),
    "mt_bench": (MT_HUMAN, MT_GPT4),
    "pandalm": (PANDALM,),
    "best_of_16": (BEST_OF_16,),
}
MT_ROWS = {MT_HUMAN: 3355, MT_GPT4: 2400}
MT_COLUMNS = ["judge", "model_a", "model_b", "question_id", "turn", "winner"]


# Where the data are


def data_folder() -> Path | None:
    """The folder in ``ELEPHANT_DATA``, or ``../shared/data`` beside the checkout if it is there.

    Raises FileNotFoundError if ``ELEPHANT_DATA`` names no folder: a wrong setting must not turn
    into a download in silence.
    """
    setting = os.environ.get("ELEPHANT_DATA", "").strip()
    if setting:
        folder = Path(setting).expanduser().resolve()
        if not folder.is_dir():
            raise FileNotFoundError(
                f"ELEPHANT_DATA is {setting!r} ({folder}), which is no folder; correct it, or "
                "unset it to use the public sources"
            )
        return folder
    folder = ledger.project_root().parent / "shared" / "data"
    return folder if folder.is_dir() else None


def locate(name: str) -> Path | str | None:
    """Where the set ``name`` (one of ``NAMES``) would be read from; downloads nothing.

    A Path is a folder that holds all its files (the data folder, else an earlier download); a
    string is the address of its public source, which answered; None means neither, within three
    seconds. Raises KeyError for an unknown name.
    """
    files = FILES[name]
    folder = data_folder()
    if folder is not None and all((folder / FOLDERS[name] / file.name).is_file() for file in files):
        return folder / FOLDERS[name]
    if all((_cache(name) / file.name).is_file() for file in files):
        return _cache(name)
    address = files[0].url or _hub_address()
    return address if address and _answers(address) else None


def fingerprint(name: str) -> str:
    """What decides whether a chapter must run again: ``sha256:...`` of the files in the data
    folder, ``public:<revision>`` if they were or would be downloaded, else ``none``."""
    where = locate(name)
    if where is None:
        return "none"
    if isinstance(where, str) or where == _cache(name):
        return f"public:{_revision(name)}"
    digest = hashlib.sha256()
    for file in FILES[name]:
        with (where / file.name).open("rb") as data:
            digest.update(file.name.encode())
            digest.update(hashlib.file_digest(data, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:16]}"


def _revision(name: str) -> str:
    return "+".join(dict.fromkeys(file.revision for file in FILES[name]))


def _cache(name: str) -> Path:
    # The revision is part of the path, so that a new pin never reads an old download.
    key = hashlib.sha256(_revision(name).encode()).hexdigest()[:8]
    return ledger.project_root() / "build" / "cache" / "corpora" / f"{FOLDERS[name]}-{key}"


def _hub_address() -> str:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return ""
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{hub}/datasets/{MT_BENCH_ID}/resolve/{MT_BENCH_REVISION}/README.md"


@cache
def _answers(address: str) -> bool:
    """Whether the address answers in time. The look-up runs in a thread because resolving a name
    has no time limit of its own; urllib is asked, not a socket, because it knows the proxy."""
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
        except (OSError, HTTPException):
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answered.is_set()


def _path(name: str, file: File) -> Path:
    """The file on disk, downloaded first if need be. Raises FileNotFoundError with what helps."""
    where = locate(name)
    if isinstance(where, Path):
        return where / file.name
    layout = ", ".join(f"{FOLDERS[name]}/{each.name}" for each in FILES[name])
    host = "raw.githubusercontent.com" if file.url else "the Hugging Face hub"
    helps = (
        f"the data set {name!r} is not reachable. Either of two things would help: (1) set "
        f"ELEPHANT_DATA to a folder that holds {layout}; (2) allow network access to {host}"
        f"{'' if file.url else ' (unset HF_HUB_OFFLINE)'}, where it is read at {_revision(name)}."
    )
    if where is None:
        raise FileNotFoundError(helps)
    try:
        for each in FILES[name]:
            content = _download(each) if each.url else _hub_rows(each)
            _write(_cache(name) / each.name, content)
    except (OSError, HTTPException) as error:
        raise FileNotFoundError(f"{helps} The download failed: {error}") from error
    return _cache(name) / file.name


def _download(file: File) -> bytes:
    """The public file's bytes. Raises ValueError unless they are the known ones."""
    with urllib.request.urlopen(file.url, timeout=DOWNLOAD_SECONDS) as answer:
        content = answer.read(file.size + 1)
    digest = hashlib.sha256(content).hexdigest()
    if len(content) != file.size or digest != file.sha256:
        size = f"over {file.size}" if len(content) > file.size else len(content)
        raise ValueError(
            f"{file.url} is not the known file: {size} bytes, sha256 {digest}, expected "
            f"{file.size} bytes, sha256 {file.sha256}; nothing was kept. Try again; if it stays, "
            "set ELEPHANT_DATA to a folder with a good copy"
        )
    return content


def _hub_rows(file: File) -> bytes:
    """The label columns of one split on the hub as sorted JSON lines; its texts are not needed."""
    import datasets

    split = file.name.removesuffix(".jsonl")
    rows = datasets.load_dataset(MT_BENCH_ID, split=split, revision=MT_BENCH_REVISION)
    rows = rows.select_columns(MT_COLUMNS).to_list()
    if len(rows) != MT_ROWS[file]:
        raise ValueError(
            f"{MT_BENCH_ID} ({split}) at {MT_BENCH_REVISION} has {len(rows)} rows, expected "
            f"{MT_ROWS[file]}; nothing was kept"
        )
    keys = ("question_id", "turn", "model_a", "model_b", "judge")
    rows.sort(key=lambda row: [row[key] for key in keys])
    lines = (json.dumps(row, sort_keys=True, separators=(",", ":")) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    partial.replace(path)


# The sets


def davidson() -> pd.DataFrame:
    """Tweets with crowd votes (Davidson et al. 2017), one row each, text as published (with HTML
    entities such as ``&amp;``).

    Columns: text; votes (their number, 3 to 9), of which hate, offensive, neither; label, the
    majority's class: hate, offensive or neither. Public rows: 24,783.
    """
    path = _path("toxicity", DAVIDSON)
    try:
        # A tweet may read "null" or "NA": only dtype=str without NA words keeps it as it is.
        table = pd.read_csv(io.StringIO(_text(path)), dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path}: not a table of comma-separated values ({error})") from error
    # Trap: where the first row is longer than the header, pandas shifts all columns in silence.
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError(f"{path}, row 1: more values than the header has names")
    counts = ["count", "hate_speech", "offensive_language", "neither"]
    _columns(path, table, [*counts, "class", "tweet"])
    _texts(path, table, ["tweet"])
    for column in (*counts, "class"):
        table[column] = _whole(path, table[column])
    classes = table[counts[1:]].to_numpy()
    _check(path, table["count"].between(3, 9), "count must be 3 to 9", table["count"])
    _check(path, (classes >= 0).all(axis=1), "votes must not be negative", table[counts])
    total = classes.sum(axis=1) == table["count"]
    _check(path, total, "the votes of the three classes must add up to count", table[counts])
    _check(path, table["class"].between(0, 2), "class must be 0, 1 or 2", table["class"])
    majority = classes[np.arange(len(table)), table["class"]] == classes.max(axis=1)
    _check(path, majority, "class must be one with the most votes", table[[*counts, "class"]])
    return pd.DataFrame(
        {
            "text": table["tweet"],
            "votes": table["count"],
            "hate": table["hate_speech"],
            "offensive": table["offensive_language"],
            "neither": table["neither"],
            "label": table["class"].map({0: "hate", 1: "offensive", 2: "neither"}),
        }
    )


def toxigen() -> pd.DataFrame:
    """Statements about groups, rated by people (Hartvigsen et al. 2022; the selection of SafeNLP).

    Columns: text (as published: a line break stands as ``_x000D_`` in a few); toxicity_score, a
    mean rating of 1 to 5; label, ``hate`` or ``neutral``; target_groups, a tuple of names. Public
    rows: 6,514. SafeNLP's label is ``hate`` exactly where the score is above 3.
    """
    path = _path("toxicity", TOXIGEN)
    table = pd.DataFrame(_json_list(path))
    _columns(path, table, ["text", "toxicity_score", "label", "target_groups"])
    _texts(path, table, ["text"])
    score = pd.to_numeric(table["toxicity_score"], errors="coerce")
    _check(path, score.between(1, 5), "toxicity_score must be 1 to 5", table["toxicity_score"])
    known = table["label"].isin(["hate", "neutral"])
    _check(path, known, "label must be 'hate' or 'neutral'", table["label"])
    groups = table["target_groups"]
    good = groups.map(lambda g: isinstance(g, list) and all(isinstance(name, str) for name in g))
    _check(path, good, "target_groups must be a list of names", groups)
    return pd.DataFrame(
        {
            "text": table["text"],
            "toxicity_score": score.astype(float),
            "label": table["label"],
            "target_groups": groups.map(tuple),
        }
    )


def mt_bench() -> tuple[pd.DataFrame, pd.DataFrame]:
    """``(human, gpt4)``: MT-bench verdicts on pairs of answers (Zheng et al. 2023), one row each.

    Columns: judge (``expert_*``, ``author_*``; ``gpt4_pair``), model_a, model_b, question_id (81
    to 160), turn (1 or 2), winner (model_a, model_b, ``tie``; for GPT-4 also ``tie
    (inconsistent)``: another verdict with the answers swapped). Trap: the two frames may show the
    same two models in opposite order. Public rows: 3,355 and 2,400.
    """
    return _verdicts(_path("mt_bench", MT_HUMAN)), _verdicts(_path("mt_bench", MT_GPT4))


def _verdicts(path: Path) -> pd.DataFrame:
    records = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, row {number}: not a JSON object ({error})") from error
    table = pd.DataFrame(records)
    _columns(path, table, MT_COLUMNS)
    _texts(path, table, ["judge", "model_a", "model_b", "winner"])
    for column in ("question_id", "turn"):
        table[column] = _whole(path, table[column])
    known = table["judge"].str.match(r"(expert_|author_|gpt4_pair$)")
    _check(path, known, "judge must be expert_*, author_* or gpt4_pair", table["judge"])
    question = table["question_id"]
    _check(path, question.between(81, 160), "question_id must be 81 to 160", question)
    _check(path, table["turn"].isin([1, 2]), "turn must be 1 or 2", table["turn"])
    winners = ("model_a", "model_b", "tie", "tie (inconsistent)")
    _check(path, table["winner"].isin(winners), f"winner must be of {winners}", table["winner"])
    differ = table["model_a"] != table["model_b"]
    _check(path, differ, "model_a and model_b must differ", table[["model_a", "model_b"]])
    return table[MT_COLUMNS]


def pandalm() -> pd.DataFrame:
    """PandaLM's test set (Wang et al. 2023): two answers, three annotators; one row a comparison.

    Columns: idx, instruction, input, response1, response2, and annotator1 to annotator3: 0 a tie,
    1 or 2 the better response. An empty text is an empty string. Public rows: 999. Six responses
    stand in the file as the JSON value ``true`` (the answer "True"); they are given as text.
    """
    path = _path("pandalm", PANDALM)
    table = pd.DataFrame(_json_list(path))
    texts = ["instruction", "input", "response1", "response2"]
    votes = ["annotator1", "annotator2", "annotator3"]
    _columns(path, table, ["idx", *texts, *votes])
    for column in ("response1", "response2"):
        table[column] = table[column].map(lambda t: str(t) if isinstance(t, bool) else t)
    _texts(path, table, texts)
    for column in ("idx", *votes):
        table[column] = _whole(path, table[column])
    _check(path, ~table["idx"].duplicated(), "idx must not be repeated", table["idx"])
    known = table[votes].isin([0, 1, 2]).all(axis=1)
    _check(path, known, "an annotator's vote must be 0, 1 or 2", table[votes])
    return table[["idx", *texts, *votes]]


def best_of_16() -> pd.DataFrame:
    """Best-of-16 on AlpacaEval: each reward model picks one of 16 answers of Tulu-2-DPO-13B, and
    GPT-4 compares the pick with GPT-3.5-turbo's answer (RewardBench's repository, April 2024).

    Columns: name; kind (``reward model`` or ``single candidate``); win_rate, standard_error and
    length_controlled_winrate in percent; n_total prompts; avg_length of the picks in characters.
    Three rows are no reward models but always take one candidate: ``random_max``, ``_median`` and
    ``_min`` are named by their length-controlled win rate, and their win rates run the other way.

    The file of candidates is not usable: the gold preferences of candidates 11 to 15 are missing,
    and candidates are sorted by length, so what is missing is the longest answers, which win most.
    """
    path = _path("best_of_16", BEST_OF_16)
    entries = _json(path)
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        raise ValueError(f"{path}: not a JSON object of one object a reward model")
    table = pd.DataFrame([{"name": name, **entry} for name, entry in entries.items()])
    shares = ["win_rate", "standard_error", "length_controlled_winrate"]
    _columns(path, table, [*shares, "n_total", "avg_length"])
    for column in shares:
        value = pd.to_numeric(table[column], errors="coerce")
        _check(path, value.between(0, 100), f"{column} must be 0 to 100", table[column])
        table[column] = value.astype(float)
    for column in ("n_total", "avg_length"):
        table[column] = _whole(path, table[column])
        _check(path, table[column] > 0, f"{column} must be positive", table[column])
    single = table["name"].str.startswith("random_")
    table["kind"] = np.where(single, "single candidate", "reward model")
    return table[["name", "kind", *shares, "n_total", "avg_length"]]


# Reading and checking


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8")
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: damaged or not what its name says ({error}); replace it by a good copy"
        ) from error


def _json(path: Path):
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); replace it by a good copy") from error


def _json_list(path: Path) -> list[dict]:
    entries = _json(path)
    if not isinstance(entries, list):
        raise ValueError(f"{path}: not a JSON list of objects")
    for row, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise ValueError(f"{path}, row {row}: not a JSON object")
    return entries


def _columns(path: Path, table: pd.DataFrame, names: list[str]) -> None:
    missing = [name for name in names if name not in table]
    if missing:
        raise ValueError(f"{path}: column(s) {missing} missing; it has {list(table)}")


def _texts(path: Path, table: pd.DataFrame, columns: list[str]) -> None:
    for column in columns:
        good = table[column].map(lambda value: isinstance(value, str)).astype(bool)
        _check(path, good, f"{column} must be a text", table[column])


def _whole(path: Path, column: pd.Series) -> pd.Series:
    number = pd.to_numeric(column, errors="coerce")
    _check(path, number.mod(1) == 0, f"{column.name} must be a whole number", column)
    return number.astype("int64")


def _check(path: Path, good, rule: str, shown: pd.Series | pd.DataFrame) -> None:
    """Raises ValueError with file and row (1 = the first record) where ``good`` is first False."""
    good = np.asarray(good)
    if not good.all():
        row = int(np.argmin(good))
        entry = shown.iloc[[row]]
        found = entry.tolist() if isinstance(entry, pd.Series) else entry.to_dict("records")
        raise ValueError(f"{path}, row {row + 1}: {rule}, found {found[0]!r}")
