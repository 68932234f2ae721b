"""Public data other than HH-RLHF: toxicity labels, MT-bench votes, PandaLM, best-of-16 results.

Where the files come from is said in :mod:`helpers.downloads`; here they are read and checked.
WARNING: the toxicity sets hold offensive text.
"""

import gzip
import io
import json
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import downloads
from helpers.downloads import Bundle, HubFile

MT_BENCH_ID = "lmsys/mt_bench_human_judgments"
MT_BENCH_REVISION = "f7d2896d2cc5d80f8b55c2bbc722613555233c25"
MT_COLUMNS = ["judge", "model_a", "model_b", "question_id", "turn", "winner"]

DAVIDSON = downloads.github(
    "davidson_labeled_data.csv.gz",
    "t-davidson/hate-speech-and-offensive-language",
    "cb50f7e9eb855a99abc51423bf40df0e26d6fe30",
    "data/labeled_data.csv",
    2_546_446,
    "fcb8bc7c68120ae4af04a5b9acd58585513ede11e1548ebf36a5c2040b6f6281",
)
TOXIGEN = downloads.github(
    "toxigen_human_safenlp.json.gz",
    "microsoft/SafeNLP",
    "e351b6cb892284cf843b88e363b1a6dbaded584e",
    "data/toxiGen.json",
    1_661_792,
    "42863b997f545833b8c9bfe7fc950aeaccc274d49f7386384db147face745fc3",
)


def _mt_bench_file(name: str, split: str, rows: int) -> HubFile:
    # The label columns only: the texts are large and not needed.
    order = ("question_id", "turn", "model_a", "model_b", "judge")
    columns = tuple(MT_COLUMNS)
    return HubFile(name, MT_BENCH_REVISION, MT_BENCH_ID, split, rows, columns, order)


MT_HUMAN = _mt_bench_file("human.jsonl", "human", 3355)
MT_GPT4 = _mt_bench_file("gpt4_pair.jsonl", "gpt4_pair", 2400)
PANDALM = downloads.github(
    "testset-v1.json.gz",
    "WeOpenML/PandaLM",
    "3871806e72b4832f815ecafd24d3503c73403f48",
    "data/testset-v1.json",
    937_899,
    "cc154f9067c7382d7ea86f8f246511a5e1ac87e1fddd845c5938d789505b07a4",
)
BEST_OF_16 = downloads.github(
    "bon_eval_results.json",
    "allenai/reward-bench",
    "4319b3194d8772d0efb54c8b949ffdf87b4ccbd3",
    "bon_eval/bon_eval_results.json",
    3_599,
    "0346d778c9b648663c9fdfa114cf88aeabe1552254982c15c1c142da7c66f363",
)
SETS = {
    "toxicity": Bundle("toxicity", "toxicity", (DAVIDSON, TOXIGEN)),
    "mt_bench": Bundle("mt_bench", "mt_bench_human", (MT_HUMAN, MT_GPT4)),
    "pandalm": Bundle("pandalm", "pandalm", (PANDALM,)),
    "best_of_16": Bundle("best_of_16", "rewardbench_bon", (BEST_OF_16,)),
}
NAMES = tuple(SETS)


def locate(name: str) -> Path | str | None:
    """Where the set ``name`` (one of ``NAMES``) would be read from: a folder, the address of its
    public source, or None (:func:`helpers.downloads.locate`). Raises KeyError for another name."""
    return downloads.locate(SETS[name])


def fingerprint(name: str) -> str:
    """What decides whether a chapter must run again (:func:`helpers.downloads.fingerprint`)."""
    return downloads.fingerprint(SETS[name])


def _path(name: str, file: downloads.File | HubFile) -> Path:
    return downloads.fetch(SETS[name]) / file.name


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
