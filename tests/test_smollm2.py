"""SmolLM2 as features, on a tiny random Llama with the real tokenizer; slow: on the real one."""

import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from helpers import scoring, smollm2, templates

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
TINY = dict(
    vocab_size=49_152,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    initializer_range=0.3,
)
PROMPT = "\n\nHuman: How are you?\n\nAssistant: Fine.\n\nHuman: And now?\n\nAssistant:"
OTHER = "\n\nHuman: One?\n\nAssistant:"
PROMPTS = [PROMPT, PROMPT, OTHER, PROMPT, OTHER]
RESPONSES = [" Still fine.", " Still fine, and you? What else?", " Two.", "", " Two.\n\nThree. 🐈"]


@pytest.fixture
def tiny(tokenizer, tmp_path, monkeypatch):
    """``(causal model, classifier, tokenizer)`` in the place of SmolLM2."""
    monkeypatch.setenv("ELEPHANT_CACHE", str(tmp_path))
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
    )
    torch.manual_seed(0)
    causal = LlamaForCausalLM(LlamaConfig(**TINY)).eval()
    classifier = LlamaForSequenceClassification(LlamaConfig(**TINY, num_labels=1)).eval()
    template = templates.hh_raw("<|im_end|>")
    network = scoring.Network("tiny", "0", template, made, classifier, 512, "left")
    monkeypatch.setattr(smollm2, "tokenizer", lambda: made)
    monkeypatch.setattr(smollm2, "_causal", lambda: (causal, made))
    monkeypatch.setattr(smollm2, "network", lambda: network)
    return causal, classifier, made


def plain(causal, made, prompt, response, limit):
    """Minus the loss that the model itself computes when the prompt's labels are left out."""
    chat = templates.chat(made)
    before = made(chat.render(prompt, "").removesuffix("<|im_end|>\n")).input_ids
    ids = made(chat.render(prompt, response).removesuffix("\n")).input_ids
    labels = [-100] * len(before) + ids[len(before) :]
    ids, labels = torch.tensor([ids[-limit:]]), torch.tensor([labels[-limit:]])
    with torch.inference_mode():
        return -causal(ids, labels=labels).loss.item()


@pytest.mark.parametrize("limit", [512, 24])
def test_the_log_likelihood_is_minus_the_loss_on_the_response(tiny, monkeypatch, limit):
    causal, _, made = tiny
    monkeypatch.setattr(smollm2, "TOKENS", limit)
    found = smollm2.log_likelihood(PROMPTS, RESPONSES)
    expected = [plain(causal, made, p, r, limit) for p, r in zip(PROMPTS, RESPONSES)]
    assert found.shape == (5, 1) and np.ptp(expected) > 0.1
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4)


def test_hidden_states_are_those_of_the_last_token(tiny):
    _, classifier, made = tiny
    found = smollm2.hidden_states(PROMPTS, RESPONSES)
    for row, prompt, response in zip(found, PROMPTS, RESPONSES):
        ids = made(prompt + " " + response.removeprefix(" ") + "<|im_end|>", return_tensors="pt")
        with torch.inference_mode():
            last = classifier.model(ids.input_ids).last_hidden_state[0, -1]
        np.testing.assert_allclose(row, last.numpy(), atol=1e-4)


def test_what_is_computed_anew_equals_what_is_kept_and_says_what_it_took(tiny):
    for kept, now in (
        (smollm2.hidden_states, smollm2.states_now),
        (smollm2.log_likelihood, smollm2.log_likelihood_now),
    ):
        values, report = now(PROMPTS, RESPONSES)
        np.testing.assert_allclose(values, kept(PROMPTS, RESPONSES), rtol=1e-4, atol=1e-5)
        assert report.texts == 5 and report.cached == 0 and report.truncated == 0
        assert 0 < report.tokens_needed < report.tokens_plain, "prompts are shared"
        assert report.tokens_needed <= report.tokens_computed
        share = 1 - report.tokens_needed / report.tokens_computed
        assert report.padding_share == pytest.approx(share)


def test_texts_that_lose_their_beginning_are_counted(tiny, monkeypatch):
    _, _, made = tiny
    chat = templates.chat(made)
    whole = [
        len(made(chat.render(p, r).rstrip("\n")).input_ids) for p, r in zip(PROMPTS, RESPONSES)
    ]
    monkeypatch.setattr(smollm2, "TOKENS", 24)
    report = smollm2.log_likelihood_now(PROMPTS, RESPONSES)[1]
    assert report.truncated == sum(n > 24 for n in whole) > 0
    assert report.tokens_plain == sum(min(n, 24) for n in whole)


@pytest.mark.slow
def test_the_real_model_prefers_sense(tmp_path, monkeypatch):
    monkeypatch.setenv("ELEPHANT_CACHE", str(tmp_path))
    prompt = "\n\nHuman: What is the capital of France?\n\nAssistant:"
    said = ["The capital of France is Paris.", "Paris is France of capital the.", "Xq zzv."]
    best, mixed, noise = smollm2.log_likelihood([prompt] * 3, said)[:, 0]
    assert -0.5 < best <= 0 and best > mixed > noise
    made = smollm2.network()
    assert made.model.config.num_hidden_layers == 20 and made.tokenizer.pad_token_id == 0
    states = smollm2.hidden_states([prompt] * 3, said)
    assert states.shape == (3, 576) and np.isfinite(states).all()
