"""Toxicity detectors and their precision and recall on text that people have labelled.

A detector is named by a string: ``profanity`` (a word-count proxy that needs no download: it sees
swearing, not polite harm), ``detoxify``, or ``hf:<org/model>[@revision]``.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from helpers import corpora, stats

# Labelled sets that a detector was trained on, by its authors' word (the description of
# alt-profanity-check): precision and recall there are in-sample, not what other text would give.
IN_SAMPLE = {"profanity": ("davidson_hate_or_offensive", "davidson_hate")}
# Texts in one forward pass of a transformer: 16 texts of 512 tokens keep a base-size model in
# about 1 GiB of working memory.
PASS = 16


def scores(
    texts: Sequence[str],
    detector: str = "profanity",
    *,
    batch_size: int = 256,
    toxic_label: str | None = None,
) -> np.ndarray:
    """Probability in 0..1 that each text is toxic, shape ``(len(texts),)``.

    ``batch_size`` texts are scored at a time, which bounds memory and changes no score beyond
    rounding. A transformer reads a long text only up to its limit (512 tokens for most).
    ``toxic_label`` names the label of an ``hf:`` model whose probability is meant; it is needed
    unless exactly one of its labels is called toxic or toxicity. The probability is the sigmoid of
    the label's logit for multi-label and one-label models, else the softmax.

    Raises TypeError for anything but a sequence of strings, ValueError for an unknown detector, an
    ambiguous label or a model without a trained classifier, ImportError where detoxify is missing.
    """
    if isinstance(texts, str):
        raise TypeError("texts is one string; give a list of strings")
    texts = list(texts)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{position}] is {text!r}, not a string")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    predict = _predictor(detector, toxic_label)
    starts = range(0, len(texts), batch_size)
    chunks = [predict(texts[start : start + batch_size]) for start in starts]
    probabilities = np.concatenate([np.empty(0), *chunks])
    bad = ~((probabilities >= 0) & (probabilities <= 1))
    if bad.any():
        position = int(np.argmax(bad))
        raise ValueError(
            f"{detector} gives texts[{position}] the score {probabilities[position]}, which is no "
            "probability; choose a classifier (a regression model has none)"
        )
    return probabilities


def describe(detector: str) -> str:
    """One line on the detector for tables; loads no model."""
    if detector == "profanity":
        release = version("alt-profanity-check")
        return f"profanity proxy: alt-profanity-check {release}, linear SVM on word counts"
    if detector == "detoxify":
        _import_detoxify()
        return f"detoxify {version('detoxify')}, model 'original', output 'toxicity'"
    model, revision = _hub_name(detector)
    if Path(model).is_dir():
        return f"{Path(model).name}, text classifier from a local folder"
    return f"{model}, text classifier, revision {revision or 'not pinned'}"


def precision_recall(
    scores: ArrayLike, truth: ArrayLike, threshold: float
) -> tuple[stats.Estimate, stats.Estimate]:
    """``(precision, recall)`` of flagging scores at or above ``threshold``, Wilson intervals.

    ``scores`` and ``truth`` (boolean) have shape (n,). The precision's n is what was flagged, the
    recall's n is what is true. Raises ValueError where either is nothing (the share does not
    exist), and for misshapen input or scores that are not numbers.
    """
    scores, truth = np.asarray(scores, dtype=float), np.asarray(truth)
    if scores.ndim != 1 or scores.shape != truth.shape:
        raise ValueError(
            f"scores {scores.shape} and truth {truth.shape} must be equally long lists"
        )
    if truth.dtype != bool:
        raise ValueError(f"truth must be boolean, not {truth.dtype}")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores[{int(np.argmin(np.isfinite(scores)))}] is not a finite number")
    flagged = scores >= threshold
    if not flagged.any():
        raise ValueError(
            f"nothing is flagged at threshold {threshold} (n = {len(scores)}), so there is no "
            "precision; lower the threshold"
        )
    if not truth.any():
        raise ValueError(f"nothing is true (n = {len(truth)}), so there is no recall")
    hits = int((flagged & truth).sum())
    return stats.wilson(hits, int(flagged.sum())), stats.wilson(hits, int(truth.sum()))


def labelled_sets() -> dict[str, pd.DataFrame]:
    """Text with people's verdict, columns ``text`` and ``toxic`` (boolean), under three readings.

    ``davidson_hate_or_offensive``: hate or offensive is toxic. ``davidson_hate``: only hate is,
    so swearing without hate counts against a detector. ``toxigen``: the label hate.

    Two traps. Davidson's tweets were collected by a lexicon of hate words, so most are toxic and
    precision does not carry over to other text. And the profanity proxy was trained on them (see
    ``IN_SAMPLE``): only toxigen is new text to it.
    Raises FileNotFoundError where the data are not reachable.
    """
    tweets, statements = corpora.davidson(), corpora.toxigen()
    return {
        "davidson_hate_or_offensive": _labelled(tweets, tweets["label"] != "neither"),
        "davidson_hate": _labelled(tweets, tweets["label"] == "hate"),
        "toxigen": _labelled(statements, statements["label"] == "hate"),
    }


def _labelled(data: pd.DataFrame, toxic: pd.Series) -> pd.DataFrame:
    return pd.DataFrame({"text": data["text"], "toxic": toxic.astype(bool)})


def _predictor(detector: str, toxic_label: str | None) -> Callable[[list[str]], np.ndarray]:
    """A function from a non-empty list of texts to their probabilities."""
    if detector == "profanity":
        # Its models are unpickled on import: only where it is asked for.
        import profanity_check

        return profanity_check.predict_prob
    if detector == "detoxify":
        model = _detoxify()

        def predict(texts: list[str]) -> np.ndarray:
            passes = [texts[i : i + PASS] for i in range(0, len(texts), PASS)]
            # Trap: for a list of one text detoxify returns a bare number.
            return np.concatenate([np.atleast_1d(model.predict(p)["toxicity"]) for p in passes])

        return predict
    return _classify(*_hub_name(detector), toxic_label)


def _import_detoxify():
    try:
        import detoxify
    except ImportError as error:
        raise ImportError(
            "the detector 'detoxify' needs the package detoxify: pip install detoxify (its first "
            "use downloads a checkpoint from GitHub and unpickles it); or use 'profanity'"
        ) from error
    return detoxify


@lru_cache(maxsize=1)
def _detoxify():
    return _import_detoxify().Detoxify("original")


def _hub_name(detector: str) -> tuple[str, str | None]:
    """``(model or folder, revision)`` of ``hf:<org/model>[@revision]``."""
    name = detector.removeprefix("hf:")
    if name == detector or not name:
        raise ValueError(
            f"unknown detector {detector!r}; known are 'profanity', 'detoxify' and "
            "'hf:<org/model>[@revision]'"
        )
    if Path(name).is_dir():
        return name, None
    model, _, revision = name.partition("@")
    return model, revision or None


@lru_cache(maxsize=1)
def _classifier(model: str, revision: str | None):
    """``(pipeline, token limit)`` of a stock classifier: safetensors only, no remote code."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=False)
    network, info = AutoModelForSequenceClassification.from_pretrained(
        model,
        revision=revision,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    # Trap: a checkpoint without a classifier gets a random one, with no more than a warning.
    if info["missing_keys"]:
        raise ValueError(
            f"{model} lacks the weights {sorted(info['missing_keys'])}: it is not a trained text "
            "classifier, and random weights would score; choose another model"
        )
    limit = tokenizer.model_max_length
    if limit > 1_000_000:  # the tokenizer does not say
        # RoBERTa's first two positions are reserved, so two less is safe for every family.
        limit = getattr(network.config, "max_position_embeddings", 514) - 2
    return pipeline("text-classification", model=network, tokenizer=tokenizer), limit


def _classify(
    model: str, revision: str | None, toxic_label: str | None
) -> Callable[[list[str]], np.ndarray]:
    classify, limit = _classifier(model, revision)
    labels = list(classify.model.config.id2label.values())
    if toxic_label is None:
        named = [label for label in labels if label.lower() in ("toxic", "toxicity")]
        if len(named) != 1:
            raise ValueError(f"{model} has the labels {labels}; say by toxic_label which is meant")
        toxic_label = named[0]
    if toxic_label not in labels:
        raise ValueError(f"{model} has the labels {labels}, none is {toxic_label!r}")

    def predict(texts: list[str]) -> np.ndarray:
        verdicts = classify(texts, batch_size=PASS, top_k=None, truncation=True, max_length=limit)
        return np.array([{v["label"]: v["score"] for v in row}[toxic_label] for row in verdicts])

    return predict
