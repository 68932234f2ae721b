"""Exact, swapped and near duplicates within and across splits.

Equal texts are found by hash. Near duplicates are found by MinHash (Broder 1997) over five-word
shingles; signatures come from ``rensa``, candidates from banding, and every candidate is checked by
the exact Jaccard similarity of its shingles, so a reported link is never a hash accident.
"""

import hashlib
import re
from collections.abc import Iterator

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
# How many of those that follow in its bucket a text is compared with: all in small buckets, and a
# bucket of thousands still costs no more than linear time.
NEIGHBOURS = 16
_WORD = re.compile(r"\w+")
_TEXTS = ["prompt", "chosen", "rejected"]
# Shingles take a hundred times the memory of a pair's signature; few pairs hold them at a time.
_CHUNK_ROWS = 1_000


def keys(data: pd.DataFrame) -> pd.DataFrame:
    """Hashes of normalised text: ``prompt``, ``pair`` (prompt, chosen, rejected in order) and
    ``unordered`` (the same with the two responses in either order). Unsigned 64 bit."""
    out = np.empty((len(data), 3), dtype=np.uint64)
    for i, texts in enumerate(_rows(data)):
        prompt, chosen, rejected = (normalise(text) for text in texts)
        out[i] = (
            _hash(prompt),
            _hash(prompt, chosen, rejected),
            _hash(prompt, *sorted((chosen, rejected))),
        )
    return pd.DataFrame(out, index=data.index, columns=["prompt", "pair", "unordered"])


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

    Groups are the connected components of the confirmed links; they do not depend on the order of
    the rows. Raises ValueError unless 0 < threshold <= 1. Below 0.6 the banding misses more than
    one link in a hundred.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold} must lie above 0 and at most at 1")
    words, bands = _signatures(data, seed)
    # Pairs of the same words stand for one text: thousands of copies would fill every bucket.
    # Sorting by content makes what follows independent of the order of the rows.
    _, first, text, copies = np.unique(
        words, return_index=True, return_inverse=True, return_counts=True
    )
    bands = bands[first]
    n = len(first)
    label = np.arange(n)
    seen, links = np.empty(0, dtype=np.int64), np.empty((0, 2), dtype=np.int64)
    for band in range(BANDS):
        new = np.setdiff1d(_neighbours(bands, band), seen)
        seen = np.union1d(seen, new)
        pairs = np.stack(np.divmod(new, n), axis=1)
        # What is connected already needs no other link: this keeps large families cheap.
        pairs = pairs[label[pairs[:, 0]] != label[pairs[:, 1]]]
        pairs = pairs[_jaccard(data, first[pairs]) >= threshold]
        if len(pairs):
            links = np.concatenate([links, pairs])
            graph = coo_matrix((np.ones(len(links)), links.T), shape=(n, n))
            _, label = connected_components(graph, directed=False)
    linked = copies > 1
    linked[links] = True
    return pd.Series(np.where(linked, label, -1)[text], index=data.index)


def shingles(text: str) -> set[str]:
    """Sets of five consecutive words (the whole text where it has fewer)."""
    return set(_shingles(_WORD.findall(text.casefold())))


def _shingles(words: list[str]) -> list[str]:
    if len(words) < SHINGLE_WORDS:
        return [" ".join(words)]
    return list(map(" ".join, zip(*(words[i:] for i in range(SHINGLE_WORDS)))))


def _rows(data: pd.DataFrame, wanted: np.ndarray | None = None) -> Iterator[tuple[str, str, str]]:
    """The three texts of each pair, or of the ``wanted`` row numbers (sorted), as Python strings
    for few pairs at a time."""
    for start in range(0, len(data), _CHUNK_ROWS):
        stop = start + _CHUNK_ROWS
        if wanted is None:
            chunk = data[_TEXTS].iloc[start:stop]
        else:
            first, last = np.searchsorted(wanted, [start, stop])
            if first == last:
                continue
            # Trap: to take single rows of a large text column, Arrow copies the whole column; the
            # slice comes first.
            chunk = data[_TEXTS].iloc[start:stop].iloc[wanted[first:last] - start]
        yield from zip(*(chunk[column].tolist() for column in _TEXTS))


def _signatures(data: pd.DataFrame, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of each dialogue's words, shape (pairs,), unsigned 64 bit, and of the bands of its
    MinHash signature, shape (pairs, BANDS), unsigned 32 bit."""
    words = np.empty(len(data), dtype=np.uint64)
    # A band of four values as one number of 32 bits, which saves memory: two bands that meet by
    # accident cost one comparison and do no other harm.
    bands = np.empty((len(data), BANDS), dtype=np.uint32)
    factors = np.random.default_rng(seed).integers(
        1, 1 << 63, size=PERMUTATIONS // BANDS, dtype=np.uint64
    )
    for i, texts in enumerate(_rows(data)):
        found = _WORD.findall(" ".join(texts).casefold())
        words[i] = _hash(" ".join(found))
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=seed)
        sketch.update(_shingles(found))
        signature = np.array(sketch.digest(), dtype=np.uint64)
        bands[i] = signature.reshape(BANDS, -1) @ factors >> np.uint64(32)
    return words, bands


def _neighbours(bands: np.ndarray, band: int) -> np.ndarray:
    """Rows i < j that meet in a bucket of the band, each pair once, as ``i * len(bands) + j``."""
    # The next band as second key brings those together that agree in more than one.
    order = np.lexsort((bands[:, (band + 1) % BANDS], bands[:, band]))
    bucket = bands[order, band]
    found = [np.empty(0, dtype=np.int64)]
    for step in range(1, NEIGHBOURS + 1):
        same = np.flatnonzero(bucket[step:] == bucket[:-step])
        if not len(same):
            break
        i, j = np.sort([order[same], order[same + step]], axis=0)
        found.append(i * len(bands) + j)
    return np.unique(np.concatenate(found))


def _jaccard(data: pd.DataFrame, links: np.ndarray) -> np.ndarray:
    """Exact Jaccard similarity of the shingles of pairs of rows; links has shape (links, 2)."""
    out = np.empty(len(links))
    for start in range(0, len(links), 4 * _CHUNK_ROWS):
        part = links[start : start + 4 * _CHUNK_ROWS]
        rows = np.unique(part)
        texts = map(" ".join, _rows(data, rows))
        sets = dict(zip(rows.tolist(), map(shingles, texts)))
        for k, (i, j) in enumerate(part.tolist(), start):
            both = len(sets[i] & sets[j])
            out[k] = both / (len(sets[i]) + len(sets[j]) - both)
    return out


def _hash(*texts: str) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        data = text.encode()
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little")
