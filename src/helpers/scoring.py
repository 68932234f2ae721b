"""Scores of responses by a network with a reward head: fast, and the same as one text at a time.

What makes it fast: the responses to one prompt share the prompt's computation (see
:mod:`helpers.batches`), rows of like length share a batch of a bounded number of tokens, only the
last real token of each response goes through the head, and nothing is computed twice: neither
identical texts nor those in the cache (:mod:`helpers.scorecache`).

What keeps it exact: a text is tokenised and truncated whole, as a plain call would do it, and only
then is the common beginning looked for, so no tokenizer can tell the difference. The last real
token is known by its position: where the padding token is also the end-of-sequence token, looking
for it in the text finds the wrong place.
"""

import copy
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from helpers import batches, encoding, forward, scorecache
from helpers.encoding import Inputs

# From 512 to 2,048 tokens a processor is equally fast; more leave its caches and add padding.
_BUDGET = {"cpu": 1024, "cuda": 16384}


class Network(NamedTuple):
    """A reward model that is ready to score.

    ``template`` has ``hash`` and ``render(prompt, response) -> str``; ``tokenizer`` is a Hugging
    Face tokenizer; ``model`` a ``...ForSequenceClassification`` with one label whose head is
    ``model.score``; texts are cut to ``max_tokens`` at the ``truncation`` side (left or right).
    """

    name: str
    revision: str
    template: Any
    tokenizer: Any
    model: Any
    max_tokens: int
    truncation: str


class Report(NamedTuple):
    """What a call did.

    ``texts`` were asked for, ``distinct`` of them differ as the network sees them, ``cached`` of
    those were known; ``truncated`` were cut, ``replaced`` held halves of surrogate pairs, which no
    tokenizer takes (each became U+FFFD). For the texts that were computed: ``tokens_plain`` is the
    sum of their lengths, ``tokens_needed`` what is left of it where prefixes are shared,
    ``tokens_computed`` that with padding, ``padding_share`` the share of padding in it.
    ``tokens_per_second`` counts needed tokens, ``pairs_per_second`` two computed texts as a pair.
    ``peak_memory`` is in bytes: of the card during the call, or of this process since it began.
    ``note`` says why nothing was shared, and how often memory ran out.
    """

    texts: int
    distinct: int
    cached: int
    truncated: int
    replaced: int
    tokens_plain: int
    tokens_needed: int
    tokens_computed: int
    padding_share: float
    seconds: float
    tokens_per_second: float
    pairs_per_second: float
    peak_memory: int
    dtype: str
    device: str
    shared: bool
    note: str


class _Plan(NamedTuple):
    """Batches of distinct texts, the tokens of these texts, those left of them where prefixes are
    shared, and why none were shared (empty: they were)."""

    batches: list[list[batches.Row]]
    plain: int
    needed: int
    reason: str


def best_dtype(device: str | torch.device = "cpu") -> torch.dtype:
    """bfloat16 where the device multiplies it in hardware, else float32."""
    if torch.device(device).type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu.get_capabilities()
        fast = any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if fast else torch.float32


def in_dtype(network: Network, dtype: torch.dtype) -> Network:
    """A copy of the network in another number format.

    Raises ValueError if the format is finer than that of the weights: what rounding took away
    would be missing under a name that promises it.
    """
    have = network.model.dtype
    if torch.finfo(dtype).eps < torch.finfo(have).eps:
        raise ValueError(f"{network.name} is in {have}; load it in {dtype} instead of widening it")
    return network._replace(model=copy.deepcopy(network.model).to(dtype))


def scores(
    network: Network,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    token_budget: int | None = None,
    shared_prefix: bool = True,
    most_rows: int | None = None,
    padding: str = "right",
    cache: Path | None = None,
    progress: bool | None = None,
) -> tuple[np.ndarray, Report]:
    """Score of each response to its prompt, float64 of shape (n,), and what the call did.

    The head is computed in float32 from the hidden state in the model's format: in bfloat16 a
    score has three digits, and responses would tie that do not. ``token_budget`` bounds the tokens
    of a batch with padding (None: 1,024 on a processor, 16,384 on a card), ``most_rows`` its rows.
    ``cache`` is the file of :mod:`helpers.scorecache`; each batch is in it before the next begins.
    ``progress`` shows pairs/s on the error stream (None: if that is a terminal).

    Raises ValueError for a score that is not finite, with the number of the text and its beginning
    (all finite scores before it are in the cache), and for a network or texts that cannot be
    scored; MemoryError where one text alone does not fit.
    """
    if getattr(network.model, "score", None) is None or network.model.config.num_labels != 1:
        raise ValueError(f"{network.name} has no head `score` with one label: no reward model")
    started = time.perf_counter()
    head = copy.deepcopy(network.model.score).float()
    inputs = _encode(network, prompts, responses)
    values = np.full(len(inputs.tokens), np.nan)
    if cache is not None:
        facts, keys = _facts(network), [scorecache.key(text) for text in inputs.tokens]
        known = scorecache.read(cache, facts, keys)
        values[:] = [known.get(key, np.nan) for key in keys]
    todo = np.flatnonzero(np.isnan(values)).tolist()
    plan = _plan(network.model, inputs, todo, token_budget, shared_prefix, most_rows)
    done = None
    for done in _run(network, inputs, plan, padding, progress):
        with torch.inference_mode():
            found = head(done.states.float()).reshape(-1).double().cpu().numpy()
        values[done.texts] = found
        good = np.isfinite(found)
        if cache is not None:
            new = {keys[i]: score for i, score in zip(done.texts[good], found[good])}
            scorecache.write(cache, facts, new)
        if not good.all():
            at = int(np.flatnonzero(inputs.of == done.texts[~good][0])[0])
            raise ValueError(
                f"text {at} of {len(inputs.of)} has the score {values[inputs.of[at]]}: prompt "
                f"{prompts[at][:60]!r}, response {responses[at][:60]!r}; a {network.model.dtype} "
                "network that overflows may do better in torch.float32"
            )
    return values[inputs.of], _report(network, inputs, plan, len(todo), done, started)


def pooled(
    network: Network,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    token_budget: int | None = None,
    shared_prefix: bool = True,
    most_rows: int | None = None,
    padding: str = "right",
    progress: bool | None = None,
) -> tuple[np.ndarray, Report]:
    """Hidden state at the last real token of each text, float32 of shape (n, d): what the head
    sees; and what the call did. Options and errors as for :func:`scores`; the model needs no head.
    """
    started = time.perf_counter()
    inputs = _encode(network, prompts, responses)
    found = np.zeros((len(inputs.tokens), network.model.config.hidden_size), dtype=np.float32)
    everything = range(len(inputs.tokens))
    plan = _plan(network.model, inputs, everything, token_budget, shared_prefix, most_rows)
    done = None
    for done in _run(network, inputs, plan, padding, progress):
        found[done.texts] = done.states.float().cpu().numpy()
    return found[inputs.of], _report(network, inputs, plan, len(everything), done, started)


def report(model: Any, started: float, **counts: Any) -> Report:
    """The report of a call of ``model`` that began at ``started`` (:func:`time.perf_counter`) and
    ends now. ``counts`` are the fields of :class:`Report` that cannot be had from these two."""
    counts = dict(cached=0, truncated=0, replaced=0, shared=False, note="") | counts
    needed, computed = counts["tokens_needed"], counts["tokens_computed"]
    seconds = time.perf_counter() - started
    if model.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(model.device)
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return Report(
        **counts,
        padding_share=1 - needed / computed if computed else 0.0,
        seconds=seconds,
        tokens_per_second=needed / seconds,
        pairs_per_second=(counts["distinct"] - counts["cached"]) / 2 / seconds,
        peak_memory=peak,
        dtype=str(model.dtype).removeprefix("torch."),
        device=model.device.type,
    )


def tokens(network: Network, prompts: Sequence[str], responses: Sequence[str]) -> list[np.ndarray]:
    """Token numbers of each text as the network gets them: rendered, tokenised, truncated."""
    inputs = _encode(network, prompts, responses)
    return [inputs.tokens[i] for i in inputs.of]


def _encode(network: Network, prompts: Sequence[str], responses: Sequence[str]) -> Inputs:
    positions = getattr(network.model.config, "max_position_embeddings", network.max_tokens)
    if network.truncation not in ("left", "right") or not 0 < network.max_tokens <= positions:
        raise ValueError(
            f"{network.name}: truncation is {network.truncation!r} (left or right), max_tokens "
            f"{network.max_tokens} (1 to {positions}, the positions of the model)"
        )
    texts = [network.template.render(p, r) for p, r in zip(prompts, responses, strict=True)]
    return encoding.encode(
        network.tokenizer, texts, prompts, network.max_tokens, network.truncation
    )


def _plan(model, inputs: Inputs, todo, budget: int | None, shared: bool, most_rows) -> _Plan:
    budget = budget or _BUDGET.get(model.device.type, _BUDGET["cpu"])
    reason = forward.not_shared(model) if shared else "not asked for"
    if reason:
        rows = batches.single_rows(inputs.tokens, todo)
    else:
        wanted = set(todo)
        groups = [[i for i in group if i in wanted] for group in inputs.groups]
        # A pair always fits into a row; larger groups are cut where a row outgrows a batch.
        longest = max([budget, *(2 * len(inputs.tokens[i]) for i in todo)])
        rows = batches.rows(inputs.tokens, groups, model.config.hidden_size, longest)
    plain = sum(len(inputs.tokens[i]) for i in todo)
    planned = batches.batches(rows, budget, most_rows)
    return _Plan(planned, plain, sum(row.length for row in rows), reason)


def _run(network, inputs: Inputs, plan: _Plan, padding: str, progress) -> Iterator[forward.Done]:
    """Finished batches, behind a bar in pairs (two texts), with dropout switched off."""
    from tqdm import tqdm

    if padding not in ("left", "right"):
        raise ValueError(f"padding is {padding!r}; it must be left or right")
    model = network.model
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    total = sum(len(row.texts) for batch in plan.batches for row in batch)
    was_training = model.training
    model.eval()
    bar = tqdm(
        total=total / 2,
        desc=network.name,
        unit="pair",
        disable=not (sys.stderr.isatty() if progress is None else progress),
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} pairs [{elapsed}<"
        "{remaining}, {rate_fmt}]",
    )
    try:
        with bar:
            # Token 0 is as good as any: no real token sees the padding.
            for done in forward.states(model, inputs.tokens, plan.batches, pad=0, side=padding):
                yield done
                bar.update(len(done.texts) / 2)
    finally:
        model.train(was_training)


def _report(network, inputs: Inputs, plan: _Plan, todo: int, done, started: float) -> Report:
    notes = [f"prefix not shared: {plan.reason}"] if plan.reason else []
    if done and done.halved:
        notes.append(f"memory ran out {done.halved} times; batches were halved")
    return report(
        network.model,
        started,
        texts=len(inputs.of),
        distinct=len(inputs.tokens),
        tokens_plain=plan.plain,
        tokens_needed=plan.needed,
        tokens_computed=done.computed if done else 0,
        cached=len(inputs.tokens) - todo,
        truncated=inputs.truncated,
        replaced=inputs.replaced,
        shared=not plan.reason,
        note="; ".join(notes),
    )


def _facts(network: Network) -> dict[str, object]:
    """What besides the text decides a score: the address of the network in the cache."""
    return {
        "name": network.name,
        "revision": network.revision,
        "weights": scorecache.fingerprint(network.model.parameters()),
        "template": network.template.hash,
        "dtype": str(network.model.dtype).removeprefix("torch."),
        "max_tokens": network.max_tokens,
        "truncation": network.truncation,
    }
