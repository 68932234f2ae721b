"""Deterministic pitfalls of preference pairs: no model, no votes, the same flags for everybody.

``empty`` and ``repetitive`` are the paper's own (section 3.1); the rest are ours. Toxic pairs need
a detector (:mod:`helpers.toxicity`), duplicates need the whole data set (:mod:`helpers.duplicates`)
and the remaining categories of the paper need votes.
"""

import math
import re
import unicodedata
from collections.abc import Callable

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
# Where a new piece starts: at a single space between two printable characters.
_PIECE = re.compile(r"(?<=[!-~])(?= [!-~])")
_PLAIN_TOKENS = dict(add_special_tokens=False)


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
    agreed = None if tokenizer is None else agreed_tokens(tokenizer, least=min(limits))
    parts = [
        _flag_chunk(data.iloc[start : start + _CHUNK_ROWS], tokenizer, limits, agreed)
        for start in range(0, max(len(data), 1), _CHUNK_ROWS)
    ]
    return pd.concat(parts)


def _flag_chunk(data: pd.DataFrame, tokenizer, limits: tuple[int, ...], agreed) -> pd.DataFrame:
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
        cut = identical_after_truncation(chosen_full, rejected_full, tokenizer, limits, agreed)
        columns |= {f"truncated_{limit}": cut[limit] for limit in limits}
    return pd.DataFrame(columns, index=data.index, dtype=bool)


def identical_after_truncation(
    chosen: list[str],
    rejected: list[str],
    tokenizer,
    limits: tuple[int, ...],
    agreed: Callable[[str, str], tuple[float, float]] | None = None,
) -> dict[int, np.ndarray]:
    """Which pairs of dialogues differ as texts but not in their first ``limit`` tokens, per limit.

    A trainer that keeps the start of a sequence learns nothing from such a pair. The answer is that
    of tokenising both texts in full; most pairs are decided by bounds instead, which takes much
    less time. ``agreed`` is what :func:`agreed_tokens` gives, where several calls share it. Raises
    ValueError for a tokenizer that cuts or pads by itself.
    """
    if tokenizer.truncation is not None or tokenizer.padding is not None:
        raise ValueError(
            "the tokenizer cuts or pads by itself, so its first tokens are not the text's; call "
            "no_truncation() and no_padding() on it first"
        )
    out = {limit: np.zeros(len(chosen), dtype=bool) for limit in limits}
    agreed = agreed or agreed_tokens(tokenizer, least=min(limits))
    for i, (a, b) in enumerate(zip(chosen, rejected)):
        if a == b:
            continue
        low, high = agreed(a, b)
        open_limits = []
        for limit in limits:
            out[limit][i] = limit <= low
            if low < limit <= high:
                open_limits.append(limit)
        if open_limits:
            one, other = (t.ids for t in tokenizer.encode_batch_fast([a, b], **_PLAIN_TOKENS))
            for limit in open_limits:
                out[limit][i] = one[:limit] == other[:limit]
    return out


def agreed_tokens(tokenizer, *, least: int) -> Callable[[str, str], tuple[float, float]]:
    """A function of two different texts: bounds ``(low, high)`` of how many first tokens agree.

    Where ``high`` would be below ``least`` it may be any number below ``least``. The bounds rest on
    three facts: no normaliser changes the text; a piece that starts with a space after a printable
    character is tokenised on its own; and no token covers less than one byte. The first two are
    asked of the tokenizer; where one fails, the bounds are 0 and infinity.
    """
    unknown = (0, math.inf)
    if not _takes_pieces(tokenizer):
        return lambda a, b: unknown
    # Words repeat: to encode each of them once is what makes this fast.
    lengths = _Memory(lambda piece: len(tokenizer.encode(piece, **_PLAIN_TOKENS)))
    # Trap: a vocabulary may lack some bytes (SmolLM2's: six control characters). They leave no
    # token, so texts that differ in them alone are the same text to the model.
    kept = _Memory(lambda c: tokenizer.decode(tokenizer.encode(c, **_PLAIN_TOKENS).ids, False) == c)

    def bounds(a: str, b: str) -> tuple[float, float]:
        data = a.encode()
        size = shared_bytes(data, b.encode())
        shared = data[:size].decode(errors="ignore")
        n = len(shared)
        if not all(kept[c] for c in (a[n : n + 1], b[n : n + 1])):
            return unknown
        # An automatic space before the text may be a token of its own.
        high = size + 1
        if high < least:
            return 0, high
        *pieces, rest = _PIECE.split(shared)
        low = sum(map(lengths.__getitem__, pieces))
        return low, low + high - len(shared.encode()) + len(rest.encode())

    return bounds


class _Memory(dict):
    """A dictionary that computes what it is asked for first, and forgets all when it is full."""

    SIZE = 1_000_000

    def __init__(self, compute: Callable):
        super().__init__()
        self.compute = compute

    def __missing__(self, key):
        if len(self) >= self.SIZE:
            self.clear()
        self[key] = value = self.compute(key)
        return value


def _takes_pieces(tokenizer) -> bool:
    if tokenizer.normalizer is not None or tokenizer.pre_tokenizer is None:
        return False
    added = tokenizer.get_added_tokens_decoder().values()
    if any(t.lstrip or t.rstrip or t.single_word or _PIECE.search(t.content) for t in added):
        return False
    spans = [span for _, span in tokenizer.pre_tokenizer.pre_tokenize_str("a b.c d")]
    return {1, 5} <= {start for start, _ in spans}


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
