import sys
from importlib.metadata import metadata
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
)

from helpers import corpora, downloads, stats, toxicity

TEXTS = [
    "you are a stupid idiot",
    "thank you for the cake",
    "",
    "   ",
    "<b>damn</b> &amp; <script>alert('x')</script>",
    "stupid\0idiot\0",
    "\0",
    "so stupid " * 50_000,
    "é 😀 \ud7ff \u202e",
]
WORDS = ["you", "are", "a", "kind", "stupid", "idiot", "person", "thanks", "for", "the", "cake"]


@pytest.fixture(autouse=True)
def forget_models():
    yield
    toxicity._classifier.cache_clear()
    toxicity._detoxify.cache_clear()


# The profanity proxy


def test_profanity_takes_any_text():
    scores = toxicity.scores(TEXTS)
    assert scores.shape == (len(TEXTS),) and scores.dtype == float
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores[0] > 0.9 > 0.1 > scores[1]
    # Without a word there is nothing to see: all such texts score alike, and low.
    assert scores[2] == scores[3] == scores[6] < 0.1
    assert scores[5] > 0.9, "a NUL character hides no word"


def test_no_text_no_score():
    assert toxicity.scores([]).shape == (0,)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=20), st.integers(1, 7))
def test_profanity_chunks_change_no_score(texts, batch_size):
    whole = toxicity.scores(texts)
    np.testing.assert_array_equal(toxicity.scores(texts, batch_size=batch_size), whole)
    np.testing.assert_array_equal(toxicity.scores(pd.Series(texts, dtype=object)), whole)


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="one string"):
        toxicity.scores("idiot")
    with pytest.raises(TypeError, match=r"texts\[1\] is None"):
        toxicity.scores(["a", None])
    with pytest.raises(ValueError, match="batch_size is 0"):
        toxicity.scores(["a"], batch_size=0)
    for name in ("perspective", "hf:", ""):
        with pytest.raises(ValueError, match="unknown detector.*known are"):
            toxicity.scores(["a"], name)


def test_descriptions():
    line = toxicity.describe("profanity")
    assert line.startswith("profanity proxy: alt-profanity-check ") and "\n" not in line
    assert toxicity.describe("hf:org/model@abc") == "org/model, text classifier, revision abc"
    assert "not pinned" in toxicity.describe("hf:org/model")
    with pytest.raises(ValueError, match="unknown detector"):
        toxicity.describe("perspective")


def test_the_proxy_was_trained_on_davidson():
    assert corpora.DAVIDSON.url.split("/")[3:5] == [
        "t-davidson",
        "hate-speech-and-offensive-language",
    ]
    page = metadata("alt-profanity-check")
    text = str(page.get_payload()) + str(page["Description"])
    assert "trained on" in text and "t-davidson/hate-speech-and-offensive-language" in text


# Detoxify


def test_missing_detoxify_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "detoxify", None)
    for call in (lambda: toxicity.scores(["a"], "detoxify"), lambda: toxicity.describe("detoxify")):
        with pytest.raises(ImportError, match="pip install detoxify"):
            call()


def test_detoxify_passes_are_joined_in_order(monkeypatch):
    class Detoxify:
        """As the real one: a bare number for a list of one text."""

        def __init__(self, model):
            assert model == "original"

        def predict(self, texts):
            assert len(texts) <= toxicity.PASS
            values = [len(text) / 100 for text in texts]
            return {"toxicity": values[0] if len(texts) == 1 else values, "insult": 0.0}

    monkeypatch.setitem(sys.modules, "detoxify", SimpleNamespace(Detoxify=Detoxify))
    texts = ["x" * n for n in range(toxicity.PASS + 1)]
    for batch_size in (256, toxicity.PASS, 3, 1):
        found = toxicity.scores(texts, "detoxify", batch_size=batch_size)
        np.testing.assert_array_equal(found, np.arange(len(texts)) / 100)


# Any stock classifier of the hub, here a tiny random one in a folder


def save(folder, *, labels, model_max_length=16, network=BertForSequenceClassification, **config):
    """A BERT of two layers with random weights and its tokenizer, as the hub would give it."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    limit = {} if model_max_length is None else {"model_max_length": model_max_length}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", **limit
    ).save_pretrained(folder)
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        # Large weights: the texts' scores differ by far more than rounding.
        initializer_range=0.5,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        **config,
    )
    network(settings).save_pretrained(folder)
    return f"hf:{folder}"


def logits(folder, texts):
    """The model's own answer, one text at a time: no padding, no pipeline."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        rows = [
            model(**tokenizer(t, return_tensors="pt", truncation=True, max_length=14)).logits[0]
            for t in texts
        ]
    return torch.stack(rows).double().numpy()


SHORT = ["you are a kind person", "stupid idiot", "", "\0", "thanks for the cake", "unknown words"]


def test_a_classifier_gives_its_own_softmax(tmp_path):
    detector = save(tmp_path, labels=["fine", "Toxic", "odd"])
    found = toxicity.scores(SHORT, detector)
    odds = np.exp(logits(tmp_path, SHORT))
    np.testing.assert_allclose(found, (odds / odds.sum(axis=1, keepdims=True))[:, 1], atol=1e-5)
    assert np.ptp(found) > 0.01
    np.testing.assert_array_equal(toxicity.scores(SHORT, detector), found)
    for batch_size in (1, 2, 5):
        chunked = toxicity.scores(SHORT, detector, batch_size=batch_size)
        np.testing.assert_allclose(chunked, found, atol=1e-5)
    assert toxicity.scores([], detector).shape == (0,)
    assert str(tmp_path) not in toxicity.describe(detector)


def test_a_multi_label_classifier_gives_its_own_sigmoid(tmp_path):
    detector = save(
        tmp_path, labels=["insult", "toxicity"], problem_type="multi_label_classification"
    )
    for label, column in ((None, 1), ("toxicity", 1), ("insult", 0)):
        found = toxicity.scores(SHORT, detector, toxic_label=label)
        expected = 1 / (1 + np.exp(-logits(tmp_path, SHORT)[:, column]))
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("model_max_length", [14, None])
def test_a_long_text_is_cut_at_the_limit(tmp_path, model_max_length):
    # Without a limit in the tokenizer the 16 positions less the two that RoBERTa reserves count.
    detector = save(tmp_path, labels=["fine", "toxic"], model_max_length=model_max_length)
    text = "stupid idiot " * 5000
    found = toxicity.scores([text, "stupid idiot " * 6], detector)
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    odds = np.exp(logits(tmp_path, [text]))
    assert found[0] == pytest.approx(odds[0, 1] / odds[0].sum(), abs=1e-5)


def test_an_ambiguous_label_is_asked_for(tmp_path):
    detector = save(tmp_path, labels=["LABEL_0", "LABEL_1"])
    with pytest.raises(ValueError, match=r"labels \['LABEL_0', 'LABEL_1'\]; say by toxic_label"):
        toxicity.scores(SHORT, detector)
    with pytest.raises(ValueError, match="none is 'hate'"):
        toxicity.scores(SHORT, detector, toxic_label="hate")
    assert len(toxicity.scores(SHORT, detector, toxic_label="LABEL_1")) == len(SHORT)


def test_a_model_without_a_classifier_is_refused(tmp_path):
    detector = save(tmp_path, labels=["fine", "toxic"], network=BertModel)
    with pytest.raises(ValueError, match="lacks the weights.*classifier"):
        toxicity.scores(SHORT, detector)


def test_a_regression_model_is_refused(tmp_path):
    detector = save(tmp_path, labels=["toxic"], problem_type="regression")
    assert logits(tmp_path, SHORT).min() < 0
    with pytest.raises(ValueError, match="no probability"):
        toxicity.scores(SHORT, detector)


def test_pickled_weights_are_refused(tmp_path):
    detector = save(tmp_path, labels=["fine", "toxic"])
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        toxicity.scores(SHORT, detector)


def test_the_revision_is_passed_on(monkeypatch):
    asked = []

    def from_pretrained(model, **settings):
        asked.append((model, settings["revision"], settings["trust_remote_code"]))
        raise OSError("no network in tests")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", from_pretrained)
    for name in ("hf:org/model@abc", "hf:org/model"):
        with pytest.raises(OSError, match="no network in tests"):
            toxicity.scores(["a"], name)
    assert asked == [("org/model", "abc", False), ("org/model", None, False)]


# Precision and recall


def test_precision_and_recall_of_planted_scores():
    # 8 flagged, 6 of them true; 10 true. The threshold itself is flagged.
    truth = np.array([True] * 10 + [False] * 20)
    scores = np.r_[np.full(5, 0.9), 0.5, np.full(4, 0.4), 0.9, 0.5, np.full(18, 0.1)]
    precision, recall = toxicity.precision_recall(scores, truth, 0.5)
    assert precision == stats.wilson(6, 8)
    assert recall == stats.wilson(6, 10)
    shuffled = np.random.default_rng(0).permutation(30)
    again = toxicity.precision_recall(scores[shuffled], pd.Series(truth[shuffled]), 0.5)
    assert again == (precision, recall)


def test_precision_and_recall_need_something():
    with pytest.raises(ValueError, match="nothing is flagged at threshold 0.5 .n = 2"):
        toxicity.precision_recall([0.1, 0.2], [True, False], 0.5)
    with pytest.raises(ValueError, match="nothing is true .n = 2"):
        toxicity.precision_recall([0.9, 0.2], [False, False], 0.5)
    with pytest.raises(ValueError, match="nothing is flagged"):
        toxicity.precision_recall([], np.array([], dtype=bool), 0.5)
    with pytest.raises(ValueError, match="equally long"):
        toxicity.precision_recall([0.9, 0.2], [True], 0.5)
    with pytest.raises(ValueError, match="boolean"):
        toxicity.precision_recall([0.9, 0.2], ["hate", "neutral"], 0.5)
    with pytest.raises(ValueError, match=r"scores\[1\] is not a finite number"):
        toxicity.precision_recall([0.9, float("nan")], [True, False], 0.5)


# The real labelled sets


@pytest.fixture(scope="module")
def labelled():
    folder = downloads.data_folder()
    if folder is None or not (folder / corpora.SETS["toxicity"].folder).is_dir():
        pytest.skip("no real data here: set ELEPHANT_DATA to a folder with the public sets")
    return toxicity.labelled_sets()


def test_labelled_sets_hold_the_known_counts(labelled):
    assert {name: (len(d), int(d["toxic"].sum())) for name, d in labelled.items()} == {
        "davidson_hate_or_offensive": (24783, 1430 + 19190),
        "davidson_hate": (24783, 1430),
        "toxigen": (6514, 2767),
    }
    for names in toxicity.IN_SAMPLE.values():
        assert set(names) < set(labelled)


def test_the_proxy_on_the_labelled_sets(labelled):
    found = {}
    for name, data in labelled.items():
        scores = toxicity.scores(data["text"])
        found[name] = toxicity.precision_recall(scores, data["toxic"], 0.5)
        for share in found[name]:
            assert 0 <= share.low < share.value < share.high <= 1
    # The two readings of Davidson share texts, so what is flagged is the same.
    first, second = found["davidson_hate_or_offensive"], found["davidson_hate"]
    assert first[0].n == second[0].n and first[0].value > second[0].value
    # The word counts see the swearing they were trained on and miss hate that does not swear.
    assert found["toxigen"][1].high < first[1].low
