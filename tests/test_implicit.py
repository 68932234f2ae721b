"""Implicit rewards against a plain loop over tokens."""

import numpy as np
import pytest
import tiny_models
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from helpers import implicit, templates

RAW = templates.hh_raw("</s>")
NOTHING = dict(learned="nothing", pair_ids=frozenset(), prompts=frozenset())


def model(kind="llama", seed=0):
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(tiny_models.config(kind)).eval()


def by_hand(network, prompt, response):
    """Log-probability of response and end marker, token after token, without a batch. The blank
    before the response is a token of its own here, common to all responses: the prompt's."""
    tokenizer = tiny_models.tokenizer()
    before = tokenizer(prompt + " ").input_ids
    after = tokenizer(response.removeprefix(" ") + "</s>").input_ids
    total = 0.0
    for i, token in enumerate(after):
        with torch.no_grad():
            logits = network(torch.tensor([before + after[:i]])).logits[0, -1]
        total += logits.double().log_softmax(-1)[token].item()
    return total


def sums(network, prompts, responses, template=RAW, max_tokens=512, batch_size=3):
    tokenizer = tiny_models.tokenizer()
    return implicit.log_probabilities(
        network, prompts, responses, tokenizer, template, max_tokens, batch_size
    )


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "gptj"])
def test_the_sum_is_that_of_a_plain_loop(kind):
    network = model(kind)
    # Responses that begin like the probes by which the boundary is found, and none at all.
    prompts = [*tiny_models.PROMPTS, *[tiny_models.PROMPTS[0]] * 3]
    responses = [*tiny_models.RESPONSES, "0 degrees", "Zero", ""]
    expected = [by_hand(network, p, r) for p, r in zip(prompts, responses)]
    assert sums(network, prompts, responses) == pytest.approx(expected, abs=1e-3)


def test_a_reward_is_beta_times_the_log_ratio():
    policy, reference = model(seed=1), model(seed=2)
    scorer = implicit.scorer(
        "dpo", policy, reference, tiny_models.tokenizer(), RAW, 0.5, batch_size=2, **NOTHING
    )
    texts = list(zip(tiny_models.PROMPTS, tiny_models.RESPONSES))
    expected = [0.5 * (by_hand(policy, *t) - by_hand(reference, *t)) for t in texts]
    scores = scorer.score(tiny_models.PROMPTS, tiny_models.RESPONSES)
    assert scores == pytest.approx(expected, abs=1e-3)
    assert np.std(scores) > 0.1
    assert scorer.facts["template"] == f"hh_raw_eos {RAW.hash}"


def test_a_policy_that_is_its_reference_rewards_nothing():
    same = model()
    scorer = implicit.scorer("dpo", same, same, tiny_models.tokenizer(), RAW, 0.1, **NOTHING)
    assert (scorer.score(tiny_models.PROMPTS, tiny_models.RESPONSES) == 0).all()


def test_with_the_adapter_off_a_policy_is_its_own_reference():
    from peft import LoraConfig, get_peft_model

    base, plain = model(seed=4), model(seed=4)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"])).eval()
    arguments = (tiny_models.tokenizer(), RAW, 0.1)
    inside = implicit.scorer("dpo", adapted, None, *arguments, **NOTHING)
    beside = implicit.scorer("dpo", adapted, plain, *arguments, **NOTHING)
    texts = tiny_models.PROMPTS, tiny_models.RESPONSES
    assert inside.score(*texts) == pytest.approx(np.zeros(4), abs=1e-5), "LoRA starts at zero"
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    assert np.abs(inside.score(*texts)).min() > 1e-3
    assert inside.score(*texts) == pytest.approx(beside.score(*texts), abs=1e-5)


def test_equal_texts_tie_in_whatever_batch():
    prompts = [*tiny_models.PROMPTS, tiny_models.PROMPTS[0]]
    responses = [*tiny_models.RESPONSES, tiny_models.RESPONSES[0]]
    out = sums(model(), prompts, responses, batch_size=2)
    assert out[0] == out[-1]


def test_a_long_prompt_loses_its_left_end_and_the_response_stays():
    network = model()
    prompt = "\n\nHuman: " + "so " * 100 + "\n\nAssistant:"
    short = sums(network, [prompt], [" Yes."], max_tokens=20)
    tail = tiny_models.tokenizer()(prompt + " Yes.</s>").input_ids[-20:]
    with torch.no_grad():
        logits = network(torch.tensor([tail])).logits[0].double().log_softmax(-1)
    expected = sum(logits[i - 1, tail[i]].item() for i in range(20 - len("Yes.") - 1, 20))
    assert short == pytest.approx([expected], abs=1e-3)


def test_a_tokenizer_that_joins_blank_and_word_counts_both_as_the_response(tokenizer):
    joined = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    raw = templates.hh_raw("<|im_end|>")
    prompt = tiny_models.PROMPTS[0]
    for response in (" Rain is water.", "0 is rain", "Zero", "", "?!"):
        text = raw.render(prompt, response)
        tokens, begin = implicit._tokens(text, prompt, joined, raw, 512)
        expected = " " + response.removeprefix(" ") + "<|im_end|>"
        assert joined.decode(tokens[begin:]) == expected
        assert joined.decode(tokens[:begin]) == prompt


def test_an_empty_response_without_an_end_marker_has_probability_one():
    assert sums(
        model(),
        tiny_models.PROMPTS[:1],
        [""],
        template=templates.ziya()._replace(answer="Assistant:{}"),
    ) == pytest.approx([0.0])


def test_dropout_is_off_while_scoring_and_on_again_afterwards():
    settings = tiny_models.config("llama")
    settings.attention_dropout = 0.5
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(settings).train()
    texts = tiny_models.PROMPTS, tiny_models.RESPONSES
    assert sums(network, *texts) == pytest.approx(sums(network, *texts), abs=1e-6)
    assert network.training
    expected = [by_hand(network.eval(), *t) for t in zip(*texts)]
    assert sums(network.train(), *texts) == pytest.approx(expected, abs=1e-3)


def test_beta_must_be_positive():
    with pytest.raises(ValueError, match="beta is 0"):
        implicit.scorer("dpo", None, None, None, RAW, 0, **NOTHING)
