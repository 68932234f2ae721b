"""Exact, swapped and near duplicates within and across splits.

Equal texts are found by hash. Near duplicates are found by MinHash (Broder 1997) over five-word
shingles; signatures come from ``rensa``, candidates from banding, and every candidate is checked by
the exact Jaccard similarity of its shingles, so a reported link is never a hash accident.
"""

import hashlib
import re

import numpy as np
import pandas as pd
from rensa import RMinHash
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from helpers.pitfalls import normalise

SHINGLE_WORDS = 5
PERMUTATIONS = 128
# 32 bands of 4 rows: two texts of Jaccard similarity 0.8 meet in a band with p > 0.9999.
BANDS = 32
_WORD = re.compile(r"\w+")
_CHUNK_ROWS = 20_000


def keys(data: pd.DataFrame) -> pd.DataFrame:
    """Hashes of normalised text: ``prompt``, ``pair`` (prompt, chosen, rejected in order) and
    ``unordered`` (the same with the two responses in either order). Unsigned 64 bit."""
    columns: dict[str, list[int]] = {"prompt": [], "pair": [], "unordered": []}
    for start in range(0, len(data), _CHUNK_ROWS):
        chunk = data.iloc[start : start + _CHUNK_ROWS]
        for texts in zip(*(chunk[c].tolist() for c in ("prompt", "chosen", "rejected"))):
            prompt, chosen, rejected = (normalise(text) for text in texts)
            columns["prompt"].append(_hash(prompt))
            columns["pair"].append(_hash(prompt, chosen, rejected))
            columns["unordered"].append(_hash(prompt, *sorted((chosen, rejected))))
    return pd.DataFrame(columns, index=data.index, dtype="uint64")


def flag(data: pd.DataFrame, *, threshold: float = 0.8, seed: int = 0) -> pd.DataFrame:
    """Boolean columns, same index as ``data``; every member of a group is flagged:

    ``duplicate_prompt`` another pair has the same prompt; ``duplicate_pair`` another pair has the
    same prompt and responses in the same order; ``swapped_pair`` another pair has them in the
    opposite order, so that the two labels contradict each other; ``near_duplicate`` another pair's
    dialogue is similar (Jaccard of shingles >= ``threshold``) but not the same text.
    ``near_group`` numbers the near-duplicate groups (-1: none).
    """
    hashed = keys(data)
    swapped = hashed.groupby("unordered")["pair"].transform("nunique") > 1
    same_pair = hashed["pair"].duplicated(keep=False)
    group = near_groups(data, threshold=threshold, seed=seed)
    # A group that holds one text only is an exact duplicate, reported as such.
    texts = hashed["unordered"].groupby(group).transform("nunique")
    near = (group >= 0) & (texts > 1)
    return pd.DataFrame(
        {
            "duplicate_prompt": hashed["prompt"].duplicated(keep=False),
            "duplicate_pair": same_pair,
            "swapped_pair": swapped,
            "near_duplicate": near,
            "near_group": group.where(near, -1),
        }
    )


def shared_between(hashed: pd.Series, place: pd.Series) -> pd.DataFrame:
    """How many distinct hashes two places (splits) share: a symmetric table, own size on the
    diagonal."""
    pairs = pd.DataFrame({"hash": hashed, "place": place}).drop_duplicates()
    table = pd.crosstab(pairs["hash"], pairs["place"]).astype("int64")
    return table.T @ table


def near_groups(data: pd.DataFrame, *, threshold: float, seed: int) -> pd.Series:
    """Group number of each pair whose dialogue has a near (or equal) twin, -1 for the rest.

    A bucket's members are compared with their neighbours only, which keeps the cost linear where
    one text occurs thousands of times; groups are the connected components of the confirmed links.
    """
    signatures = _signatures(data, seed)
    links = sorted(_candidates(signatures))
    confirmed = [pair for pair in links if _jaccard(data, *pair) >= threshold]
    n = len(data)
    if not confirmed:
        return pd.Series(-1, index=data.index)
    rows, columns = np.array(confirmed).T
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    linked = np.zeros(n, dtype=bool)
    linked[np.concatenate([rows, columns])] = True
    return pd.Series(np.where(linked, label, -1), index=data.index)


def shingles(text: str) -> set[str]:
    """Sets of five consecutive words (the whole text where it has fewer)."""
    words = _WORD.findall(text.casefold())
    last = max(1, len(words) - SHINGLE_WORDS + 1)
    return {" ".join(words[i : i + SHINGLE_WORDS]) for i in range(last)}


def _dialogue_shingles(data: pd.DataFrame, i: int) -> set[str]:
    row = data.iloc[i]
    return shingles(f"{row['prompt']} {row['chosen']} {row['rejected']}")


def _jaccard(data: pd.DataFrame, i: int, j: int) -> float:
    a, b = _dialogue_shingles(data, i), _dialogue_shingles(data, j)
    return len(a & b) / len(a | b)


def _signatures(data: pd.DataFrame, seed: int) -> np.ndarray:
    """MinHash signatures, shape (pairs, PERMUTATIONS), unsigned 32 bit."""
    out = np.empty((len(data), PERMUTATIONS), dtype=np.uint32)
    for start in range(0, len(data), _CHUNK_ROWS):
        chunk = data.iloc[start : start + _CHUNK_ROWS]
        columns = (chunk[c].tolist() for c in ("prompt", "chosen", "rejected"))
        for i, texts in enumerate(zip(*columns), start):
            sketch = RMinHash(num_perm=PERMUTATIONS, seed=seed)
            sketch.update(list(shingles(" ".join(texts))))
            out[i] = sketch.digest()
    return out


def _candidates(signatures: np.ndarray) -> set[tuple[int, int]]:
    """Neighbours (i < j) in the buckets of any band."""
    rows = PERMUTATIONS // BANDS
    found: set[tuple[int, int]] = set()
    for band in range(BANDS):
        part = np.ascontiguousarray(signatures[:, band * rows : (band + 1) * rows])
        bucket = part.view(np.dtype((np.void, part.dtype.itemsize * rows))).ravel()
        order = np.argsort(bucket, kind="stable")
        same = bucket[order[1:]] == bucket[order[:-1]]
        found.update(zip(order[:-1][same].tolist(), order[1:][same].tolist()))
    return found


def _hash(*texts: str) -> int:
    digest = hashlib.blake2b("\0".join(texts).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
