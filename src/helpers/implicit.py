"""Rewards that a DPO policy implies: beta times how much likelier it finds a response than its
reference does.

DPO (Rafailov et al. 2023, equation 5): r(x, y) = beta · log(pi(y|x) / pi_ref(y|x)) + beta · log
Z(x). The last term is the same for all responses to one prompt and is left out, so rewards of
different prompts do not compare.
"""

import os
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np

from helpers import rewards, templates

# Where the response begins: with two responses that share no first token, the tokens common to all
# are those of the prompt, whatever the tokenizer joins.
_PROBES = ("0", "Z")


def scorer(
    name: str,
    policy,
    reference,
    tokenizer,
    template: templates.Template,
    beta: float,
    *,
    learned: str,
    pair_ids: frozenset[str],
    prompts: frozenset[str],
    revision: str = "not stated",
    licence: str = "not stated",
    max_tokens: int = 1024,
    batch_size: int = 8,
) -> rewards.Scorer:
    """beta · (log pi(y|x) - log pi_ref(y|x)), summed over the response's tokens, in nats.

    ``policy`` and ``reference`` are causal language models with one tokenizer; with ``reference``
    None the policy is a PEFT model, and the reference is the same model with its adapter off. Use
    float32: bfloat16 alone moves a sum by half a nat. Raises ValueError for ``beta`` <= 0.
    """
    if not beta > 0:
        raise ValueError(f"beta is {beta}; DPO's is positive, 0.1 for instance")
    how = (tokenizer, template, max_tokens, batch_size)

    def score(prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        chosen = log_probabilities(policy, prompts, responses, *how)
        with policy.disable_adapter() if reference is None else nullcontext():
            base = log_probabilities(reference or policy, prompts, responses, *how)
        return beta * (chosen - base)

    facts = {
        "base": f"{type(policy).__name__}, {policy.num_parameters():,} parameters; beta {beta:g}",
        "revision": revision,
        "template": f"{template.name} {template.hash}",
        "pooling": "sum over the response's tokens",
        "truncation": "left",
        "max_tokens": str(max_tokens),
        "licence": licence,
    }
    return rewards.Scorer(name, "implicit", learned, pair_ids, prompts, score, facts)


def log_probabilities(
    model,
    prompts: Sequence[str],
    responses: Sequence[str],
    tokenizer,
    template: templates.Template,
    max_tokens: int,
    batch_size: int,
) -> np.ndarray:
    """Summed log-probability of each response given its prompt, in nats, shape (n,).

    The template's end-of-sequence marker counts as the response's. Texts beyond ``max_tokens`` lose
    their left end. Equal texts are computed once, so that they tie. Dropout is off meanwhile.
    """
    texts = [(template.render(p, r), p) for p, r in zip(prompts, responses, strict=True)]
    unique = list(dict.fromkeys(texts))
    inputs = [_tokens(text, prompt, tokenizer, template, max_tokens) for text, prompt in unique]
    order = sorted(range(len(inputs)), key=lambda i: len(inputs[i][0]))
    sums = np.empty(len(unique))
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            sums[chosen] = _batch(model, [inputs[i] for i in chosen])
    finally:
        model.train(was_training)
    place = {text: i for i, text in enumerate(unique)}
    return sums[[place[text] for text in texts]]


def _tokens(text: str, prompt: str, tokenizer, template, max_tokens: int) -> tuple[list[int], int]:
    """``(tokens, where the response begins)`` of a text, cut to its last ``max_tokens``."""
    tokens = tokenizer(text).input_ids
    probes = [tokenizer(template.render(prompt, probe)).input_ids for probe in _PROBES]
    # The first token has nothing before it, so no model says how likely it is.
    begin = max(1, len(os.path.commonprefix([tokens, *probes])))
    cut = max(0, len(tokens) - max_tokens)
    return tokens[cut:], max(1, begin - cut)


def _batch(model, inputs: list[tuple[list[int], int]]) -> np.ndarray:
    import torch

    longest = max(len(tokens) for tokens, _ in inputs)
    ids = torch.zeros(len(inputs), longest, dtype=torch.long)
    mask, counted = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, (tokens, begin) in enumerate(inputs):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
        counted[row, begin : len(tokens)] = True
    if not counted.any():  # empty responses under a template without an end-of-sequence marker
        return np.zeros(len(inputs))
    # Only the positions before a response's tokens go through the vocabulary, the largest matrix.
    kept = longest - min(begin for _, begin in inputs) + 1
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits = model(
            input_ids=ids.to(device), attention_mask=mask.to(device), logits_to_keep=kept
        ).logits
        log_p = logits[:, -kept:-1].float().log_softmax(-1).cpu()
        targets, counted = ids[:, 1 - kept :], counted[:, 1 - kept :]
        picked = log_p.gather(-1, targets[..., None]).squeeze(-1)
        return (picked.double() * counted).sum(1).numpy()
