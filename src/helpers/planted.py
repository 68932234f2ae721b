"""Pairs whose pitfalls are known because they were planted: the truth to try every flag on.

Dialogues have the form of HH-RLHF and a small closed vocabulary. Every pair is clean by
construction until one pitfall is planted in it, so a flag's precision and recall can be counted.
"""

import numpy as np
import pandas as pd

from helpers import pairs
from helpers.pairs import ASSISTANT, HUMAN

SUBSET = "planted"
# Pitfalls that can be planted; the names are those of the flags that should find them.
PITFALLS = (
    "empty",
    "repetitive",
    "identical_normalised",
    "prompts_differ",
    "turn_marker",
    "pro_loses_text",
    "truncated_512",
    "truncated_1024",
    "duplicate_pair",
    "swapped_pair",
    "near_duplicate",
)
_NOUNS = (
    "garden kettle bicycle violin letter window harbour recipe camera blanket ladder market river "
    "puzzle library engine candle pillow basket compass lantern mirror bridge orchard"
).split()
_VERBS = (
    "paint repair clean sell borrow lift photograph describe measure wrap carry polish choose "
    "replace heat store count fold label compare"
).split()
_ADJECTIVES = (
    "old heavy bright narrow quiet wooden broken tiny rusty gentle modern distant soft empty "
    "striped golden frozen dusty simple round"
).split()
_LINKS = "because while although when since before after until so and".split()


def planted_pairs(n: int, *, seed: int, rate: float = 0.04) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``(pairs, truth)``: ``n`` pairs in the schema of :mod:`helpers.pairs`, and one boolean column
    a pitfall with the same index.

    Each pitfall is planted in ``round(rate * n)`` pairs, no two in the same pair; a duplicate, a
    swapped or a near-duplicate pair also marks the pair that it repeats. Same seed, same bytes.
    Raises ValueError where the pitfalls do not fit into ``n`` pairs.
    """
    rng = np.random.default_rng(seed)
    each = round(rate * n)
    # The copies need an untouched original each, as many again.
    if rate < 0 or each * (len(PITFALLS) + len(_COPIES)) > n:
        raise ValueError(f"{len(PITFALLS)} pitfalls at rate {rate} do not fit into {n} pairs")
    texts = [_clean(rng) for _ in range(n)]
    order = iter(rng.permutation(n).tolist())
    truth = {name: np.zeros(n, dtype=bool) for name in PITFALLS}
    for name in PITFALLS:
        for _ in range(each):
            i = next(order)
            truth[name][i] = True
            if name in _COPIES:
                j = next(order)
                truth[name][j] = True
                texts[i] = _COPIES[name](*texts[j], rng)
            else:
                texts[i] = _PLANTS[name](*texts[i], rng)
    # What is identical in its first 1,024 tokens is so in its first 512.
    truth["truncated_512"] |= truth["truncated_1024"]
    records = [
        dict(pairs.parse(chosen, rejected), subset=SUBSET, split="test", row=row)
        for row, (chosen, rejected) in enumerate(texts)
    ]
    return pairs.frame(records), pd.DataFrame(truth)


def _pick(rng, words: list[str]) -> str:
    """One of the words; ``rng.choice`` would turn the list into an array each time."""
    return words[int(rng.integers(len(words)))]


def _sentence(rng) -> str:
    adjective, noun, verb = _pick(rng, _ADJECTIVES), _pick(rng, _NOUNS), _pick(rng, _VERBS)
    link, other, thing = _pick(rng, _LINKS), _pick(rng, _ADJECTIVES), _pick(rng, _NOUNS)
    return f"You can {verb} the {adjective} {noun} {link} the {other} {thing} is there."


def _answer(rng, sentences: int = 5) -> str:
    return " " + " ".join(_sentence(rng) for _ in range(sentences))


def _question(rng) -> str:
    return f" How do I {_pick(rng, _VERBS)} a {_pick(rng, _ADJECTIVES)} {_pick(rng, _NOUNS)}?"


def _clean(rng) -> tuple[str, str]:
    """A pair of one or two exchanges without any pitfall."""
    prompt = HUMAN + _question(rng) + ASSISTANT
    if rng.random() < 0.5:
        prompt += _answer(rng, 2) + HUMAN + _question(rng) + ASSISTANT
    return prompt + _answer(rng), prompt + _answer(rng)


def _prompt(dialogue: str) -> str:
    return pairs.split_dialogue(dialogue)[0]


def _empty(chosen: str, rejected: str, rng) -> tuple[str, str]:
    gap = _prompt(chosen) + _pick(rng, ["", " ", "\n"])
    return (gap, rejected) if rng.random() < 0.5 else (chosen, gap)


def _identical_normalised(chosen: str, _rejected: str, _rng) -> tuple[str, str]:
    prompt, answer = pairs.split_dialogue(chosen)
    return chosen, prompt + answer.upper().replace(".", " !")


def _prompts_differ(chosen: str, rejected: str, rng) -> tuple[str, str]:
    answer = pairs.split_dialogue(rejected)[1]
    # A question can be drawn twice.
    while (prompt := _prompt(_clean(rng)[0])) == _prompt(chosen):
        pass
    return chosen, prompt + answer


def _turn_marker(chosen: str, rejected: str, rng) -> tuple[str, str]:
    return chosen, rejected + " Human:" + _question(rng)


def _pro_loses_text(chosen: str, rejected: str, rng) -> tuple[str, str]:
    return chosen + "\n\n" + _sentence(rng), rejected


def _truncated(limit: int):
    # A sentence here has about 13 tokens; the question stays the same for `limit` of them.
    def plant(_chosen: str, _rejected: str, rng) -> tuple[str, str]:
        prompt = HUMAN + _answer(rng, limit // 10) + ASSISTANT
        return prompt + _answer(rng), prompt + _answer(rng)

    return plant


def _near(chosen: str, rejected: str, rng) -> tuple[str, str]:
    """The same pair with one word at the end of the rejected answer changed."""
    return chosen, rejected.removesuffix("there.") + _pick(rng, ["here.", "gone.", "new."])


_PLANTS = {
    "empty": _empty,
    "repetitive": lambda chosen, _rejected, _rng: (chosen, chosen),
    "identical_normalised": _identical_normalised,
    "prompts_differ": _prompts_differ,
    "turn_marker": _turn_marker,
    "pro_loses_text": _pro_loses_text,
    "truncated_512": _truncated(512),
    "truncated_1024": _truncated(1024),
}
_COPIES = {
    "duplicate_pair": lambda chosen, rejected, _rng: (chosen, rejected),
    "swapped_pair": lambda chosen, rejected, _rng: (rejected, chosen),
    "near_duplicate": _near,
}
