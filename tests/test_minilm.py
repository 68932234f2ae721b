import numpy as np
import pytest
import torch

from helpers import minilm

TEXTS = ["cat", "kitten", "stocks", "", "A longer sentence about a cat, with commas.", "猫 🐈 \0"]


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("ELEPHANT_CACHE", str(tmp_path))


def plain(text):
    """One text by itself, as the model's own page shows it."""
    tokenizer, model = minilm._encoder()
    tokenizer.truncation_side = "right"
    inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
    with torch.inference_mode():
        mean = model(**inputs).last_hidden_state[0].mean(0)
    return (mean / mean.norm()).numpy()


def test_texts_of_a_batch_get_what_each_gets_by_itself():
    found = minilm.vectors(TEXTS)
    np.testing.assert_allclose(found, np.stack([plain(text) for text in TEXTS]), atol=1e-5)
    np.testing.assert_allclose((found**2).sum(1), 1, atol=1e-5)


def test_what_is_computed_anew_equals_what_is_kept_and_says_what_it_took():
    now, report = minilm.vectors_now(TEXTS)
    np.testing.assert_allclose(now, minilm.vectors(TEXTS), atol=1e-6)
    lengths = [len(minilm._encoder()[0](text).input_ids) for text in TEXTS]
    assert report.tokens_plain == report.tokens_needed == sum(lengths)
    assert report.tokens_computed == len(TEXTS) * max(lengths), "one batch, padded to the longest"
    assert (report.texts, report.dtype, report.shared) == (len(TEXTS), "float32", False)


def test_like_meanings_are_near():
    cat, kitten, stocks, *_ = minilm.vectors(TEXTS)
    assert cat @ kitten > 0.5 > 0.3 > cat @ stocks


def test_a_long_text_loses_the_end_that_is_named():
    start, end = "the cat sleeps " * 100, "stocks fell again " * 100
    first, last = (minilm.vectors([start + end], truncation=side) for side in ("right", "left"))
    np.testing.assert_allclose(first, minilm.vectors([start]), atol=1e-5)
    np.testing.assert_allclose(last, minilm.vectors([end], truncation="left"), atol=1e-5)


def test_features_with_the_prompt_are_the_response_and_the_product():
    prompts, responses = ["one prompt", "another"], ["cat", "stocks"]
    both = minilm.of_both(prompts, responses)
    response, prompt = minilm.vectors(responses), minilm.vectors(prompts)
    np.testing.assert_allclose(both[:, :384], response, atol=1e-5)
    np.testing.assert_allclose(both[:, 384:].sum(1), 384**0.5 * (response * prompt).sum(1), 1e-3)
    np.testing.assert_array_equal(minilm.of_response(prompts, responses), both[:, :384])


def test_half_a_surrogate_pair_is_no_crash():
    assert np.isfinite(minilm.vectors(["a \ud83d b"])).all()


def test_a_missing_package_names_the_command_that_brings_it(monkeypatch):
    monkeypatch.setattr("helpers.bundled.find_spec", lambda name: None)
    minilm._encoder.cache_clear()
    with pytest.raises(FileNotFoundError, match="`make setup`"):
        minilm.vectors(["a new text"])
