"""Features of texts on disk, by content: what has been computed once is not computed again.

One SQLite file in the cache folder. A chunk is committed as soon as it is computed, so a killed
run goes on where it stopped. Deleting the file costs time and nothing else.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from tqdm import tqdm

from helpers.ledger import cache_folder

# Texts between two commits: some seconds of work for a small language model on a CPU.
CHUNK = 128
_SELECT = 500  # SQLite takes at least 999 parameters in one query
_SCHEMA = "CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID"


def path() -> Path:
    """Where the features are kept."""
    return cache_folder() / "features.sqlite"


def features(
    kind: str,
    prompts: Sequence[str],
    responses: Sequence[str],
    compute: Callable[[list[str], list[str]], np.ndarray],
    *,
    progress: bool = False,
) -> np.ndarray:
    """Features of n texts, shape (n, d), float32: read where they are known, else computed.

    ``kind`` names all that decides a feature besides the text: model, revision, number type,
    template, limits. ``compute(prompts, responses) -> (m, d)`` is called on chunks in which the
    responses to one prompt stand together and lengths are alike. Equal texts are computed once and
    so get equal features. Raises ValueError where a feature is not finite, naming the text.
    """
    texts = list(zip(prompts, responses, strict=True))
    keys = {text: _key(kind, *text) for text in texts}
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may write: each waits for the other's commit, and the same key means the same.
    with closing(sqlite3.connect(file, timeout=60)) as database:
        database.execute(_SCHEMA)
        known = _read(database, list(keys.values()))
        missing = [text for text, key in keys.items() if key not in known]
        missing.sort(key=lambda text: (len(text[0]), *text))
        with tqdm(total=len(missing), unit="text", disable=not (progress and missing)) as bar:
            for start in range(0, len(missing), CHUNK):
                chunk = missing[start : start + CHUNK]
                rows = compute([p for p, _ in chunk], [r for _, r in chunk]).astype("<f4")
                _check(rows, chunk)
                entries = [(keys[text], row.tobytes()) for text, row in zip(chunk, rows)]
                with database:
                    database.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", entries)
                known.update(entries)
                bar.update(len(chunk))
    return np.stack([np.frombuffer(known[keys[text]], dtype="<f4") for text in texts])


def _key(kind: str, prompt: str, response: str) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for text in (kind, prompt, response):
        data = text.encode("utf-8", "surrogatepass")
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


def _read(database: sqlite3.Connection, keys: list[bytes]) -> dict[bytes, bytes]:
    known: dict[bytes, bytes] = {}
    for start in range(0, len(keys), _SELECT):
        asked = keys[start : start + _SELECT]
        marks = ",".join("?" * len(asked))
        known.update(database.execute(f"SELECT * FROM features WHERE key IN ({marks})", asked))
    return known


def _check(rows: np.ndarray, chunk: list[tuple[str, str]]) -> None:
    if len(rows) != len(chunk):
        raise ValueError(f"{len(rows)} features for {len(chunk)} texts")
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        response = chunk[int(np.argmax(bad))][1]
        raise ValueError(f"a feature of the response {response[:80]!r} is not a finite number")
