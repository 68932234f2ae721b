"""Deterministic pitfalls of preference pairs: no model, no votes, the same flags for everybody.

``empty`` and ``repetitive`` are the paper's own (section 3.1); the rest are ours. Toxic pairs need
a detector (:mod:`helpers.toxicity`), duplicates need the whole data set (:mod:`helpers.duplicates`)
and the remaining categories of the paper need votes.
"""

import re
import unicodedata

import numpy as np
import pandas as pd

# What each flag says, in the order in which the chapter shows them.
FLAGS = {
    "empty": "one of the two responses is empty (the paper's Empty)",
    "repetitive": "the two responses are identical (the paper's Repetitive)",
    "identical_normalised": "identical after case, spacing and punctuation are folded, not before",
    "prompts_differ": "the two sides answer different prompts",
    "turn_marker": "a response holds 'Human:' or 'Assistant:'; generation and parsing stop there",
    "pro_loses_text": "PRO's parser drops every paragraph of a turn but the first",
    "truncated_512": "identical once both dialogues are cut to their first 512 tokens",
    "truncated_1024": "identical once both dialogues are cut to their first 1,024 tokens",
}
LIMITS = (512, 1024)

_MARKER = re.compile(r"\b(?:Human|Assistant):")
_NOT_WORD = re.compile(r"\W+")
_CHUNK_ROWS = 20_000
# Tokens in which a cut inside a word can differ from the whole word's; the exact check follows.
_BOUNDARY_TOKENS = 32


def normalise(text: str) -> str:
    """Text reduced to its words: NFKC, lower case, no punctuation, single spaces.

    A text without any word character is kept as it is (only stripped), so that an answer of
    symbols is not taken for an empty one.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _NOT_WORD.sub(" ", folded).strip() or text.strip()


def pro_loses_text(dialogue: str) -> bool:
    """Whether PRO's and OpenAssistant's ``_split_dialogue`` would drop text of this dialogue.

    It splits at blank lines and keeps only pieces that start with a turn marker.
    """
    pieces = dialogue.split("\n\n")
    return any(piece.strip() and not piece.startswith(("Human:", "Assistant:")) for piece in pieces)


def dialogues(data: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Full chosen and rejected dialogues of a frame of pairs (see :mod:`helpers.pairs`)."""
    other = data["rejected_prompt"].where(data["rejected_prompt"].notna(), data["prompt"])
    return (data["prompt"] + data["chosen"]).tolist(), (other + data["rejected"]).tolist()


def flag(data: pd.DataFrame, tokenizer=None, limits: tuple[int, ...] = LIMITS) -> pd.DataFrame:
    """One boolean column a flag, same index as ``data``; works through it in chunks.

    ``tokenizer`` is a ``tokenizers.Tokenizer``; without one the ``truncated_*`` columns are left
    out, not set to false.
    """
    parts = [
        _flag_chunk(data.iloc[start : start + _CHUNK_ROWS], tokenizer, limits)
        for start in range(0, max(len(data), 1), _CHUNK_ROWS)
    ]
    return pd.concat(parts)


def _flag_chunk(data: pd.DataFrame, tokenizer, limits: tuple[int, ...]) -> pd.DataFrame:
    chosen, rejected = data["chosen"].tolist(), data["rejected"].tolist()
    chosen_full, rejected_full = dialogues(data)
    same = [a == b for a, b in zip(chosen, rejected)]
    columns = {
        "empty": [not a.strip() or not b.strip() for a, b in zip(chosen, rejected)],
        "repetitive": same,
        "identical_normalised": [
            not equal and normalise(a) == normalise(b)
            for a, b, equal in zip(chosen, rejected, same)
        ],
        "prompts_differ": data["rejected_prompt"].notna().tolist(),
        "turn_marker": [
            bool(_MARKER.search(a) or _MARKER.search(b)) for a, b in zip(chosen, rejected)
        ],
        "pro_loses_text": [
            pro_loses_text(a) or pro_loses_text(b) for a, b in zip(chosen_full, rejected_full)
        ],
    }
    if tokenizer is not None:
        cut = identical_after_truncation(chosen_full, rejected_full, tokenizer, limits)
        columns |= {f"truncated_{limit}": cut[limit] for limit in limits}
    return pd.DataFrame(columns, index=data.index, dtype=bool)


def identical_after_truncation(
    chosen: list[str], rejected: list[str], tokenizer, limits: tuple[int, ...]
) -> dict[int, np.ndarray]:
    """Which pairs of dialogues differ as texts but not in their first ``limit`` tokens, per limit.

    A trainer that keeps the start of a sequence learns nothing from such a pair. A byte-level token
    covers at least one byte, so only pairs that share their first ``limit`` bytes are tokenised.
    """
    least = min(limits)
    shared = {}
    for i, (a, b) in enumerate(zip(chosen, rejected)):
        # A cheap look at the first quarter comes first: a character has at most four bytes.
        if a != b and a[: least // 4] == b[: least // 4]:
            size = shared_bytes(a.encode(), b.encode())
            if size >= least:
                shared[i] = size
    # One text a pair instead of two: the shared part must itself be about `limit` tokens long.
    prefixes = [chosen[i].encode()[:size].decode(errors="ignore") for i, size in shared.items()]
    encoded = tokenizer.encode_batch_fast(prefixes, add_special_tokens=False)
    lengths = {i: len(tokens) for i, tokens in zip(shared, encoded)}
    out = {}
    for limit in limits:
        likely = [i for i, length in lengths.items() if length >= limit - _BOUNDARY_TOKENS]
        texts = [side[i] for i in likely for side in (chosen, rejected)]
        encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        out[limit] = np.zeros(len(chosen), dtype=bool)
        for i, a, b in zip(likely, encoded[::2], encoded[1::2]):
            out[limit][i] = a.ids[:limit] == b.ids[:limit]
    return out


def shared_bytes(a: bytes, b: bytes) -> int:
    """Length of the common prefix, by bisection on slices: a loop over bytes takes minutes."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
