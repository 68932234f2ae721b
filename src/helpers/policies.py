"""Policies: causal language models that answer, sampled in batches, and how likely they find what.

A response is known by its tokens, not by its text alone: text that is tokenised again may give
other tokens, and does not say whether the policy had come to an end. A policy's marker of the end
is part of its response.
"""

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from helpers import gold, graded, sequences, templates
from helpers.sequences import Tokens

# Where the response begins: with responses that share no first token, the tokens common to all are
# those of the prompt, whatever the tokenizer joins. The empty one serves closed vocabularies, to
# which both others are the same unknown word.
_PROBES = ("", "0", "Z")
# Of 2,000 pairs of the gold world the longest prompt has 46 tokens, the longest response 93.
MAX_TOKENS = 192


class Policy(NamedTuple):
    """A causal language model with its tokenizer and template. Prompt and response together have
    at most ``max_tokens``; a longer text loses its beginning."""

    name: str
    revision: str
    template: templates.Template
    tokenizer: Any
    model: Any
    max_tokens: int


class Responses(NamedTuple):
    """Sampled responses in the order of their prompts: ``texts``, beginning with a blank as in
    HH-RLHF; ``tokens`` with prompt and end marker; ``finished`` (n,) says which came to an end
    within the limit; ``lengths`` (n,) counts the response's tokens, end marker included."""

    texts: list[str]
    tokens: list[Tokens]
    finished: np.ndarray
    lengths: np.ndarray


def neox(seed: int) -> Policy:
    """An untrained GPT-NeoX of about a million parameters that knows the gold world's words."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    made = graded.tokenizer()
    config = GPTNeoXConfig(
        vocab_size=len(made),
        hidden_size=192,
        # Two wide layers: a token's cost in generation goes with the layers, not with the width.
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=768,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=made.eos_token_id,
        eos_token_id=made.eos_token_id,
        pad_token_id=made.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPTNeoXForCausalLM(config).eval().requires_grad_(False)
    template = templates.hh_raw(graded.END)
    return Policy("neox", f"made here, seed {seed}", template, made, model, MAX_TOKENS)


def duplicate(policy: Policy) -> Policy:
    """The same with weights of its own, ready to be trained."""
    return policy._replace(model=copy.deepcopy(policy.model).requires_grad_(True))


def merged(policy: Policy) -> Policy:
    """A copy whose LoRA adapters are part of its weights: faster to sample, and ready for the next
    stage, whose reference it then is. Without adapters, just a copy."""
    model = copy.deepcopy(policy.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    return policy._replace(model=model)


@contextmanager
def adapter_off(policy: Policy) -> Iterator[Policy]:
    """What the policy was before its LoRA adapters were trained: its reference. ValueError where
    it has none."""
    if not hasattr(policy.model, "disable_adapter"):
        raise ValueError(f"{policy.name} has no adapter; its reference is what it was copied from")
    with policy.model.disable_adapter():
        yield policy


def encode(policy: Policy, prompts: Sequence[str], responses: Sequence[str]) -> list[Tokens]:
    """Tokens of each text with its end marker, cut to the last ``max_tokens``.

    Shares the definition of a response's beginning with :mod:`helpers.implicit`.
    """
    found = []
    for prompt, response in zip(prompts, responses, strict=True):
        ids = policy.tokenizer(policy.template.render(prompt, response)).input_ids
        # The first token has nothing before it, so no model says how likely it is.
        begin = max(1, len(os.path.commonprefix([ids, _prompt_ids(policy, prompt)])))
        cut = max(0, len(ids) - policy.max_tokens)
        found.append(Tokens(ids[cut:], max(1, begin - cut)))
    return found


def prompt_tokens(policy: Policy, prompts: Sequence[str], room: int) -> list[list[int]]:
    """Tokens of each prompt, cut at the left to leave ``room`` for a response."""
    most = policy.max_tokens - room
    if most < 1:
        raise ValueError(f"{room} new tokens leave no room for a prompt in {policy.max_tokens}")
    return [_prompt_ids(policy, prompt)[-most:] for prompt in prompts]


def text(policy: Policy, ids: Sequence[int]) -> str:
    """The text of a response's tokens, up to its end marker, with a blank before it. Padding or
    unknown tokens within it stay visible: leaving them out would mend what the policy wrote."""
    ids = list(ids)
    end = policy.tokenizer.eos_token_id
    said = policy.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids).strip()
    return f" {said}" if said else ""


def sample(
    policy: Policy,
    prompts: Sequence[str],
    *,
    seed: int,
    temperature: float = 1.0,
    max_new_tokens: int = 96,
    batch_size: int = 64,
) -> Responses:
    """One response to each prompt; ``temperature`` 0 takes the likeliest token each time.

    Prompts of like length share a batch, padded at the left; one of 64 is faster on a processor
    than one of 128, whose growing cache is copied at each token. Same seed and same prompts, same
    responses; random numbers of the caller are left alone.
    """
    import torch
    from transformers import GenerationConfig

    end, pad = policy.tokenizer.eos_token_id, policy.tokenizer.pad_token_id
    how = dict(do_sample=True, temperature=temperature, top_k=0, top_p=1.0)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=end,
        pad_token_id=pad,
        **(how if temperature else dict(do_sample=False)),
    )
    known = prompt_tokens(policy, prompts, max_new_tokens)
    order = sorted(range(len(known)), key=lambda i: len(known[i]))
    found: dict[int, Tokens] = {}
    device = next(policy.model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.inference_mode(), _evaluating(policy.model):
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            ids, mask = sequences.padded([known[i] for i in rows], pad, "left", device)
            made = policy.model.generate(
                input_ids=ids, attention_mask=mask, generation_config=settings
            )
            for i, new in zip(rows, made[:, ids.shape[1] :].tolist()):
                # What follows the end marker is padding.
                new = new[: new.index(end) + 1] if end in new else new
                found[i] = Tokens(known[i] + new, len(known[i]))
    tokens = [found[i] for i in range(len(known))]
    new = [t.ids[t.begin :] for t in tokens]
    return Responses(
        texts=[text(policy, ids) for ids in new],
        tokens=tokens,
        finished=np.array([ids[-1] == end for ids in new], dtype=bool),
        lengths=np.array([len(ids) for ids in new]),
    )


def log_probabilities(
    policy: Policy,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    batch_size: int = 64,
    padding: str = "right",
) -> np.ndarray:
    """Summed log-probability of each response and its end marker, in nats, shape (n,)."""
    tokens = encode(policy, prompts, responses)
    parts = token_log_probabilities(policy, tokens, batch_size=batch_size, padding=padding)
    return np.array([part.sum() for part in parts])


def token_log_probabilities(
    policy: Policy, tokens: Sequence[Tokens], *, batch_size: int = 64, padding: str = "right"
) -> list[np.ndarray]:
    """Log-probability of each of a response's tokens, in nats: n arrays of their lengths."""
    found: list = [None] * len(tokens)
    for rows, (log_p,), targets in _log_softmax([policy], tokens, batch_size, padding):
        picked = log_p.gather(-1, targets[..., None]).squeeze(-1).double().cpu().numpy()
        for i, row, end in zip(rows, picked, sequences.ends(tokens, rows, padding)):
            found[i] = row[end - (len(tokens[i].ids) - tokens[i].begin) : end]
    return found


def kl(
    policy: Policy,
    reference: Policy | None,
    prompts: Sequence[str],
    *,
    seed: int,
    max_new_tokens: int = 96,
    batch_size: int = 64,
) -> np.ndarray:
    """KL divergence of the policy from its reference in nats a response, shape (n,).

    At each token of a response sampled at temperature 1, the divergence of the two distributions
    over the vocabulary; summed over the response. The mean over n has the same expectation as that
    of log pi(y|x) - log pi_ref(y|x), but much less noise, and no term is negative. With
    ``reference`` None it is the policy with its adapter off.
    """
    sampled = sample(policy, prompts, seed=seed, max_new_tokens=max_new_tokens)
    return kl_of(policy, reference, sampled.tokens, batch_size=batch_size)


def kl_of(
    policy: Policy, reference: Policy | None, tokens: Sequence[Tokens], *, batch_size: int = 64
) -> np.ndarray:
    """As :func:`kl`, of responses that the policy has been sampled for at temperature 1."""
    found = np.zeros(len(tokens))
    both = [policy, reference]
    for rows, (log_p, log_q), _ in _log_softmax(both, tokens, batch_size, "right"):
        each = (log_p.exp() * (log_p - log_q)).sum(-1).double().cpu().numpy()
        for i, row, end in zip(rows, each, sequences.ends(tokens, rows, "right")):
            found[i] = row[end - (len(tokens[i].ids) - tokens[i].begin) : end].sum()
    # Rounding leaves a little below zero where the two are alike.
    return np.maximum(found, 0.0)


def parses(response: str) -> bool:
    """Whether a response is in the language of the gold world: at least one sentence, and all of
    them well formed."""
    told = gold.sentences(response)
    return bool(told) and all(sentence.formed for sentence in told)


@lru_cache(maxsize=65_536)
def _prefix(tokenizer, template: templates.Template, prompt: str) -> tuple[int, ...]:
    probes = [tokenizer(template.render(prompt, probe)).input_ids for probe in _PROBES]
    return tuple(os.path.commonprefix(probes))


def _prompt_ids(policy: Policy, prompt: str) -> list[int]:
    return list(_prefix(policy.tokenizer, policy.template, prompt))


def _log_softmax(both, tokens: Sequence[Tokens], batch_size: int, padding: str):
    """For each batch: row numbers, log-probabilities over the vocabulary of each model (None: the
    first one's adapter off) before each token that may count, and those tokens."""
    import torch

    if padding not in ("left", "right"):
        raise ValueError(f"padding is {padding!r}; it must be left or right")
    model = both[0].model
    device = next(model.parameters()).device
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i].ids))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        # Token 0 is as good as any: no real token sees the padding.
        ids, mask = sequences.padded([tokens[i].ids for i in rows], 0, padding, device)
        shape = dict(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            # Only what a response needs goes through the vocabulary, the largest matrix.
            logits_to_keep=sequences.kept(tokens, rows, padding),
            use_cache=False,
        )
        found = []
        with torch.inference_mode():
            for other in both:
                now = adapter_off(both[0]) if other is None else nullcontext(other)
                with now as used, _evaluating(used.model):
                    logits = used.model(**shape).logits[:, :-1]
                found.append(logits.float().log_softmax(-1))
        yield rows, found, ids[:, 1 - shape["logits_to_keep"] :]


@contextmanager
def _evaluating(model):
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)
