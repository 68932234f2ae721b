"""The gold world: preference pairs in the form of HH-RLHF whose true preferences are known.

Texts are in the language of :mod:`helpers.lexicon`, truth is :mod:`helpers.gold`. Those who write
(:mod:`helpers.writers`) differ in what they do and in style; annotators err and lean at set rates.
No effect of training on such pairs is written down anywhere: it comes out or it does not.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from helpers import gold, lexicon, pairs, splits, writers

SUBSETS = ("gold-harmless", "gold-helpful")
# Two responses whose gold scores differ by no more are truly tied.
NEAR_TIE = 0.02
# With the other defaults the paper's 67.8 % of the pairs (train) are unaffected at 0.16, and its
# 51.5 % (test) at 0.36. What the paper does not give (Toxic, Empty, Repetitive) is set small.
LABEL_ERROR, LABEL_ERROR_TEST = 0.16, 0.36
_MOST_DRAWS = 100


class World(NamedTuple):
    """``pairs``: schema of :mod:`helpers.pairs`. ``truth``: a row a pair, indexed by ``pair_id``:

    ``gold_chosen``, ``gold_rejected`` (scores), ``better`` (``chosen``, ``rejected`` or ``tie``:
    the side that gold prefers), ``toxic``, ``empty``, ``repetitive`` (bool), ``category`` (of the
    paper's six; precedence Empty, Repetitive, Toxic) and ``split`` (of :mod:`helpers.splits`).
    """

    pairs: pd.DataFrame
    truth: pd.DataFrame


def make(n: int, *, seed: int, **settings: float) -> World:
    """``n`` pairs and their truth; ``settings`` are those of :func:`stream`.

    The first pairs of a longer world are those of a shorter one; same seed, same bytes.
    """
    records, truths = [], []
    for row, (record, truth) in enumerate(islice(stream(seed=seed, **settings), n)):
        records.append(record | {"row": row})
        truths.append(truth)
    truth = pd.DataFrame.from_records(truths, columns=list(_TRUTH))
    return World(pairs.frame(records), truth.astype(_TRUTH).set_index("pair_id"))


def stream(
    *,
    seed: int,
    label_error: float = LABEL_ERROR,
    length_bias: float = 0.0,
    style_bias: float = 0.0,
    toxic: float = 0.02,
    empty: float = 0.005,
    repetitive: float = 0.01,
) -> Iterator[tuple[dict, dict]]:
    """Pairs with their truth, without end. No two have the same ``pair_id``.

    The original label comes from one annotator of :func:`annotate` with these settings. Then
    pitfalls are planted at set rates, whatever the label: ``toxic`` puts an insult into the chosen
    response, ``empty`` empties one side, ``repetitive`` makes the rejected response the chosen one.
    Opposite and Vague pairs come from the label's error and from near-ties; a wrong label that
    prefers harm makes a Toxic pair, and so does a pair of two harmful responses. Raises
    ValueError for rates outside [0, 1] or that sum to more than one.
    """
    rates = {"toxic": toxic, "empty": empty, "repetitive": repetitive}
    if not all(0 <= r <= 1 for r in [label_error, *rates.values()]) or sum(rates.values()) > 1:
        raise ValueError(f"rates must lie in [0, 1] and sum to at most 1: {label_error=}, {rates}")
    # The string keeps seeds apart from those of other generators; seeding by it is stable.
    rng = random.Random(f"gold world {seed}")
    known: set[str] = set()
    while True:
        for _ in range(_MOST_DRAWS):
            prompt = writers.prompt(rng)
            first, second = writers.response(rng, prompt), writers.response(rng, prompt)
            if first == second:
                continue  # identical responses come by their planted rate alone
            better = _better(gold.score(prompt, first), gold.score(prompt, second))
            lean = _lean(first, second, length_bias, style_bias)
            chance = float(_chance(np.array([_SIGN[better]]), label_error, lean)[0])
            labelled = (first, second) if rng.random() < chance else (second, first)
            chosen, rejected = _plant(rng, *labelled, rates)
            record = pairs.parse(prompt + chosen, prompt + rejected)
            if record["pair_id"] not in known:
                break
        else:
            raise ValueError(f"no new pair in {_MOST_DRAWS} draws: the settings leave too few")
        known.add(record["pair_id"])
        truth = _truth(record["pair_id"], prompt, chosen, rejected)
        harmful = gold.request(prompt).harmful
        split = "test" if truth["split"] == "test" else "train"
        yield record | {"subset": SUBSETS[not harmful], "split": split}, truth


def annotate(
    data: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    n_annotators: int = 4,
    error: float | Sequence[float] = 0.1,
    length_bias: float = 0.0,
    style_bias: float = 0.0,
    position_bias: float = 0.0,
    tie_rate: float = 0.0,
    toxic_error: float = 0.02,
    seed: int,
) -> pd.DataFrame:
    """The vote table of ``n_annotators`` simulated annotators, source ``simulation``.

    With biases 0 each votes against the truth with probability ``error`` (one number, or one an
    annotator), and tosses a coin on a true tie, which ``tie_rate`` turns into a vote ``tie``.
    Biases add to the log-odds of a side: ``length_bias`` per e-fold of its length over the other's,
    ``style_bias`` per mark of style more (courtesy, list mark), ``position_bias`` for being shown
    first (random per vote). The toxicity mark is wrong with probability ``toxic_error``. A vote
    depends on seed, annotator and pair alone, not on which other pairs there are.
    """
    if n_annotators < 1:
        raise ValueError(f"n_annotators must be at least 1, got {n_annotators}")
    errors = np.broadcast_to(np.asarray(error, dtype=float), (n_annotators,))
    if ((errors < 0) | (errors > 1)).any() or not 0 <= tie_rate <= 1 or not 0 <= toxic_error <= 1:
        raise ValueError(f"error {error}, tie_rate and toxic_error must lie in [0, 1]")
    missing = ~data["pair_id"].isin(truth.index)
    if missing.any():
        raise ValueError(
            f"{missing.sum()} pairs have no truth, first {data['pair_id'][missing].tolist()[:3]}"
        )
    ids = data["pair_id"].tolist()
    known = truth.loc[ids]
    sign = known["better"].map(_SIGN).to_numpy(dtype=float)
    sides = zip(data["chosen"], data["rejected"])
    lean = np.array([_lean(*both, length_bias, style_bias) for both in sides], dtype=float)
    tables = []
    for k, own_error in enumerate(errors):
        name = f"annotator-{k + 1}"
        vote_at, tie_at, toxic_at, shown_at = _uniforms(ids, f"{seed} {name}")
        shown_first = np.where(shown_at < 0.5, 1.0, -1.0)
        chance = _chance(sign, own_error, lean + position_bias * shown_first)
        vote = np.where(vote_at < chance, "chosen", "rejected")
        vote[(sign == 0) & (tie_at < tie_rate)] = "tie"
        marked = known["toxic"].to_numpy() ^ (toxic_at < toxic_error)
        tables.append(
            pd.DataFrame({"pair_id": ids, "annotator": name, "vote": vote, "toxic": marked})
        )
    return pd.concat(tables, ignore_index=True).assign(source="simulation")


def length_gap(first: str, second: str) -> float:
    """Log of the ratio of the lengths in words (one added to each): positive if first is longer."""
    return float(np.log1p(len(lexicon.words(first))) - np.log1p(len(lexicon.words(second))))


def style_gap(first: str, second: str) -> int:
    """Marks of style that the first response has more than the second."""
    return style_marks(first) - style_marks(second)


def style_marks(response: str) -> int:
    """How many courtesies and list marks a response has."""
    polite = sum(s.kind in ("courtesy", "agreement") for s in gold.sentences(response))
    return polite + lexicon.words(response).count(lexicon.LIST_MARK)


_SIGN = {"chosen": 1, "rejected": -1, "tie": 0}
_TRUTH = {
    "pair_id": "str",
    "gold_chosen": "float64",
    "gold_rejected": "float64",
    "better": "str",
    "toxic": "bool",
    "empty": "bool",
    "repetitive": "bool",
    "category": "str",
    "split": "str",
}


def _better(first: float, second: float) -> str:
    if abs(first - second) <= NEAR_TIE:
        return "tie"
    return "chosen" if first > second else "rejected"


def _lean(first: str, second: str, length_bias: float, style_bias: float) -> float:
    """What the biases add to the log-odds of the first side."""
    lean = length_bias * length_gap(first, second) if length_bias else 0.0
    return lean + style_bias * style_gap(first, second) if style_bias else lean


def _chance(sign: np.ndarray, error: float, lean: np.ndarray | float) -> np.ndarray:
    """Probability of preferring the first side; at lean 0 it is 1 - error where that is better."""
    # An error of 0 has infinite log-odds, and 0 times these is not a number.
    certainty = np.where(sign == 0, 0.0, np.where(sign > 0, 1, -1) * -logit(error))
    return expit(certainty + lean)


def _uniforms(ids: list[str], key: str) -> np.ndarray:
    """Four numbers in [0, 1) for each id, shape [4, len(ids)], from the id and the key alone."""
    raw = b"".join(hashlib.blake2b(f"{key} {i}".encode(), digest_size=32).digest() for i in ids)
    return np.frombuffer(raw, dtype="<u8").reshape(len(ids), 4).T / 2.0**64


def _plant(rng, chosen: str, rejected: str, rates: dict[str, float]) -> tuple[str, str]:
    at = rng.random()
    if at < rates["toxic"]:
        return chosen + " " + writers.fill(rng, rng.choice(lexicon.ACTS["insult"])), rejected
    at -= rates["toxic"]
    if at < rates["empty"]:
        return ("", rejected) if rng.random() < 0.5 else (chosen, "")
    return (chosen, chosen) if at - rates["empty"] < rates["repetitive"] else (chosen, rejected)


def _truth(pair_id: str, prompt: str, chosen: str, rejected: str) -> dict:
    scores = gold.score(prompt, chosen), gold.score(prompt, rejected)
    better = _better(*scores)
    flags = {
        "empty": not chosen.strip() or not rejected.strip(),
        "repetitive": chosen == rejected,
        "toxic": scores[0] < 0,
    }
    by_label = {"chosen": "Same", "rejected": "Opposite", "tie": "Vague"}[better]
    category = next((name.title() for name, flag in flags.items() if flag), by_label)
    return dict(
        pair_id=pair_id,
        gold_chosen=scores[0],
        gold_rejected=scores[1],
        better=better,
        **flags,
        category=category,
        split=splits.split_of(prompt),
    )
