"""Reward models on frozen features: a Bradley-Terry head on what a pretrained model sees in a text.

Two bundled models give features: a sentence encoder (MiniLM) and a small language model (SmolLM2).
Only the head is fitted, which takes a second or two once the features are there.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import GroupKFold

from helpers import bundled, checkpoints, minilm, pairs, rewards, scoring, smollm2, splits

Features = Callable[[Sequence[str], Sequence[str]], np.ndarray]
Learner = Callable[[pd.DataFrame, int], rewards.Scorer]

# Candidates for the inverse penalty C on features of mean square 1. There are as many features as
# pairs or more, so strong penalties are the right region.
PENALTIES = np.logspace(-4, 0, 5)
FOLDS = 4
NO_LABELS = "no preference labels: a pretrained model as it is"


class Head(NamedTuple):
    """The score function ``features(prompts, responses) @ weights``.

    ``features`` gives shape (n, d), ``weights`` has shape (d,), ``penalty`` is the inverse penalty
    C that cross-validation chose.
    """

    features: Features
    weights: np.ndarray
    penalty: float

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        return self.features(prompts, responses) @ self.weights


def minilm_bt(data: pd.DataFrame, seed: int) -> rewards.Scorer:
    """Bradley-Terry on the sentence embedding of the response alone."""
    return _bradley_terry("minilm", "minilm", data, minilm.of_response, _minilm_facts("response"))


def minilm_prompt_bt(data: pd.DataFrame, seed: int) -> rewards.Scorer:
    """Bradley-Terry on the response's embedding and its product with the prompt's, entry by entry.

    The product lets the head weigh in which respects a response is about what was asked.
    """
    facts = _minilm_facts("response, and response times prompt")
    return _bradley_terry("minilm-prompt", "minilm", data, minilm.of_both, facts)


def smollm2_bt(data: pd.DataFrame, seed: int) -> rewards.Scorer:
    """Bradley-Terry on SmolLM2's hidden state at the last token of prompt and response.

    The first 20 layers and the final norm are frozen, so with the head this is a stock sequence
    classifier: see :func:`save_reward_model`.
    """
    return _bradley_terry("smollm2", "smollm2", data, smollm2.hidden_states, _smollm2_facts())


def smollm2_loglik(data: pd.DataFrame | None = None, seed: int = 0) -> rewards.Scorer:
    """Mean log-probability (nats a token) of the response given the prompt: no label is seen.

    In SmolLM2's own chat format, its end-of-turn marker counted. ``data`` and ``seed`` are not
    used; they are there so that all learners are called alike.
    """
    facts = {
        "base": bundled.SMOLLM2_NAME,
        "revision": smollm2.REVISION,
        "template": smollm2.chat_name(),
        "pooling": "mean log-probability of the response's tokens",
        "truncation": "left",
        "max_tokens": str(smollm2.TOKENS),
        "licence": smollm2.LICENCE,
    }

    def score(prompts, responses) -> np.ndarray:
        return smollm2.log_likelihood(prompts, responses)[:, 0].astype(float)

    none = frozenset()
    return rewards.Scorer("smollm2-loglik", "smollm2", NO_LABELS, none, none, score, facts)


def ensemble_bt(
    data: pd.DataFrame, seed: int, members: Mapping[str, Learner] | None = None
) -> rewards.Scorer:
    """The mean of the members' scores, each divided by the standard deviation of its margins.

    That deviation is taken on margins of training pairs whose prompts the member had not seen
    (four folds): on its own training pairs a member with many features looks too sure. The default
    members are ``ENSEMBLE``.
    """
    members = ENSEMBLE if members is None else members
    folds = _folds(_groups(data))
    parts = []
    for fit in members.values():
        held = [rewards.margins(fit(data.iloc[a], seed), data.iloc[b]) for a, b in folds]
        parts.append((fit(data, seed), float(np.concatenate(held).std())))
    if flat := [scorer.name for scorer, deviation in parts if deviation == 0]:
        raise ValueError(f"{flat} score both sides of every training pair alike; leave them out")

    def score(prompts, responses) -> np.ndarray:
        return np.mean([s.score(prompts, responses) / sd for s, sd in parts], axis=0)

    facts = {"base": ", ".join(scorer.name for scorer, _ in parts), "pooling": "mean of members"}
    return _learned("ensemble", "ensemble", data, score, facts)


ENSEMBLE: Mapping[str, Learner] = {
    "tfidf-words": rewards.tfidf_bt,
    "minilm": minilm_bt,
    "smollm2": smollm2_bt,
}


def warm(data: pd.DataFrame, features: Features, *, progress: bool = True) -> None:
    """Compute and keep features of both sides of all pairs, those of a pair together.

    ``features`` is ``minilm.of_response``, ``minilm.of_both``, ``smollm2.hidden_states`` or
    ``smollm2.log_likelihood``. Scorers would do it too, but ask for one side of a pair at a time,
    so that a prompt would be computed twice.
    """
    pairs.check(data)
    other = data["rejected_prompt"].fillna(data["prompt"])
    prompts, responses = [*data["prompt"], *other], [*data["chosen"], *data["rejected"]]
    features(prompts, responses, progress=progress)


def as_network(scorer: rewards.Scorer, dtype: str) -> scoring.Network:
    """A fitted ``smollm2_bt`` as a network that :mod:`helpers.scoring` can score with.

    The layers are in ``dtype`` ("float32" or "bfloat16"), the head in float32. Raises TypeError for
    any other scorer.
    """
    head = scorer.score
    if not isinstance(head, Head) or head.features is not smollm2.hidden_states:
        raise TypeError(f"{scorer.name} is no head on SmolLM2; give what smollm2_bt returned")
    import torch

    made = smollm2.load(getattr(torch, dtype))
    made.model.score.float().weight.data = torch.tensor(
        head.weights[None], dtype=torch.float32, device=made.model.device
    )
    return made


def save_reward_model(scorer: rewards.Scorer, folder: Path) -> Path:
    """Write a fitted ``smollm2_bt`` as a stock ``LlamaForSequenceClassification``; returns it.

    The folder holds the weights of 20 layers and the head (safetensors, 199 MB), the tokenizer, and
    ``reward_model.json`` with template, limits and training data: what ``elephant audit-rm`` and
    :func:`helpers.checkpoints.load` read. The layers are in bfloat16 as they came, the head in
    float32, so a float32 load loses nothing. Raises TypeError for any other scorer.
    """
    made = as_network(scorer, "bfloat16")
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    checkpoints.describe(
        folder,
        template=made.template.name,
        max_tokens=made.max_tokens,
        truncation=made.truncation,
        learned=scorer.learned,
        licence=smollm2.LICENCE,
    )
    return Path(folder)


def _bradley_terry(
    name: str, family: str, data: pd.DataFrame, features: Features, facts: Mapping[str, str]
) -> rewards.Scorer:
    """P(chosen beats rejected) = sigmoid(w · (f(chosen) - f(rejected))).

    Logistic regression without an intercept. Each pair stands in it twice, once turned round:
    both classes are needed, and so no place is preferred and no coin is tossed. C is the candidate
    with the best log-loss over folds in which no prompt is on both sides.
    Raises ValueError for pairs of fewer than two prompts.
    """
    pairs.check(data)
    groups = _groups(data)
    other = data["rejected_prompt"].fillna(data["prompt"])
    both = features([*data["prompt"], *other], [*data["chosen"], *data["rejected"]])
    differences = (both[: len(data)] - both[len(data) :]).astype(float)
    scale = np.sqrt((differences**2).mean(axis=0))
    scale[scale == 0] = 1.0  # equal on both sides of every pair: its weight stays 0
    scaled = differences / scale
    n = len(data)
    model = LogisticRegressionCV(
        Cs=PENALTIES,
        cv=[(np.r_[a, n + a], np.r_[b, n + b]) for a, b in _folds(groups)],
        fit_intercept=False,
        scoring="neg_log_loss",
        max_iter=1000,
        use_legacy_attributes=False,
        l1_ratios=(0,),
    ).fit(np.vstack([scaled, -scaled]), np.repeat([1, 0], n))
    head = Head(features, model.coef_.ravel() / scale, float(model.C_))
    return _learned(name, family, data, head, facts)


def origin(data: pd.DataFrame) -> tuple[frozenset[str], frozenset[str], str]:
    """``(pair_ids, prompts, learned)`` of a scorer that learned from these pairs."""
    where = ", ".join(sorted({f"{s}/{t}" for s, t in zip(data["subset"], data["split"])}))
    prompts = frozenset({*data["prompt"], *data["rejected_prompt"].dropna()})
    return frozenset(data["pair_id"]), prompts, f"original labels of {where}"


def _learned(name, family, data, score, facts) -> rewards.Scorer:
    ids, prompts, learned = origin(data)
    return rewards.Scorer(name, family, learned, ids, prompts, score, facts)


def _groups(data: pd.DataFrame) -> list[str]:
    return [splits.prompt_hash(prompt) for prompt in data["prompt"]]


def _folds(groups: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """``(rows to learn from, rows held back)`` of each fold; no prompt is on both sides."""
    n = min(FOLDS, len(set(groups)))
    if n < 2:
        raise ValueError(f"{len(groups)} pairs of {n} prompts; give pairs of at least 2 prompts")
    return list(GroupKFold(n).split(groups, groups=groups))


def _minilm_facts(what: str) -> dict[str, str]:
    return {
        "base": bundled.MINILM_NAME,
        "revision": "0.1.0",
        "template": "none",
        "pooling": f"mean over tokens, length 1: {what}",
        "truncation": "right (prompt: left)",
        "max_tokens": str(minilm.TOKENS),
        "licence": smollm2.LICENCE,
    }


def _smollm2_facts() -> dict[str, str]:
    made = smollm2.network()
    return {
        "base": f"{bundled.SMOLLM2_NAME}, first {smollm2.LAYERS} layers and final norm",
        "revision": smollm2.REVISION,
        "template": f"{made.template.name} {made.template.hash}",
        "pooling": "last token",
        "truncation": made.truncation,
        "max_tokens": str(made.max_tokens),
        "licence": smollm2.LICENCE,
    }
