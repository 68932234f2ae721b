"""Scores by helpers.scoring against the plain computation, one text at a time."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForSequenceClassification,
    BloomConfig,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from helpers import attention, batches, encoding, forward, scoring

EOS = "<end>"
STORY = "\n\nHuman: tell me a long story about whales, ships and the sea\n\nAssistant:"
DATA = [
    (STORY, " Once upon a time there was a whale."),
    (STORY, " No."),
    (STORY, " Once upon a time there was a ship."),
    ("\n\nHuman: hi\n\nAssistant:", " Hello! How can I help?"),
    ("\n\nHuman: hi\n\nAssistant:", ""),
    ("\n\nHuman: Gruesse?\n\nAssistant:", " <b>bold</b>\0 \U0001f418 日本語"),
    (STORY * 3, " It is a word." * 9),
    (STORY * 3, " It is a word." * 9 + " Really."),
]
PROMPTS, RESPONSES = ([row[k] for row in DATA] for k in (0, 1))


class Template(NamedTuple):
    """Prompt and response as they are, and an end-of-sequence marker."""

    hash: str = "0123456789ab"

    def render(self, prompt: str, response: str) -> str:
        return prompt + response + EOS


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs learned from the texts. Padding is the end-of-sequence token, as in most language
    models."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([p + r for p, r in DATA] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=EOS)


def toy_model(architecture: str, seed: int = 0):
    common = dict(vocab_size=400, num_labels=1, pad_token_id=0, initializer_range=0.3)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    config = {
        "llama": lambda: LlamaConfig(**common, **sizes, num_key_value_heads=2),
        "gpt_neox": lambda: GPTNeoXConfig(**common, **sizes),
        "gptj": lambda: GPTJConfig(**common, n_embd=32, n_layer=2, n_head=4, rotary_dim=4),
        "qwen2": lambda: Qwen2Config(**common, **sizes, num_key_value_heads=2),
        "qwen3": lambda: Qwen3Config(**common, **sizes, num_key_value_heads=2, head_dim=8),
        "bloom": lambda: BloomConfig(**common, hidden_size=32, n_layer=2, n_head=4),
    }[architecture]()
    torch.manual_seed(seed)
    return AutoModelForSequenceClassification.from_config(config).eval()


@pytest.fixture(scope="module")
def toy():
    """A toy network by architecture, each built once."""
    tokenizer, made = toy_tokenizer(), {}

    def network(architecture: str = "llama", **changes) -> scoring.Network:
        if architecture not in made:
            model = toy_model(architecture)
            made[architecture] = scoring.Network(
                "toy", "0", Template(), tokenizer, model, 512, "left"
            )
        return made[architecture]._replace(**changes)

    return network


@torch.inference_mode()
def plain(network: scoring.Network, prompts=PROMPTS, responses=RESPONSES) -> np.ndarray:
    """Hugging Face's own score of each text alone, at its last token."""
    network.tokenizer.truncation_side = network.truncation
    found = []
    pad, network.model.config.pad_token_id = network.model.config.pad_token_id, None
    for p, r in zip(prompts, responses):
        text = network.template.render(p, r)
        ids = network.tokenizer(text, truncation=True, max_length=network.max_tokens)["input_ids"]
        found.append(network.model(torch.tensor([ids]), use_cache=False).logits.item())
    network.model.config.pad_token_id = pad
    return np.array(found)


class Calls:
    """Stands before a backbone: what it was called with, and something to do at each call."""

    def __init__(self, monkeypatch, network, act=lambda calls, tokens: None):
        self.shapes = []
        backbone = getattr(network.model, network.model.base_model_prefix)
        original = backbone.forward

        def forward(input_ids, **options):
            self.shapes.append(tuple(input_ids.shape))
            act(self, input_ids)
            return original(input_ids, **options)

        monkeypatch.setattr(backbone, "forward", forward)


# --- the same as one text at a time ------------------------------------------------------------


@pytest.mark.parametrize("architecture", [*forward.SHARING, "bloom"])
def test_equals_the_plain_computation(toy, architecture):
    network = toy(architecture)
    expected = plain(network)
    assert expected.std() > 0.1
    for options in (
        {},
        {"shared_prefix": False},
        {"padding": "left"},
        {"padding": "left", "shared_prefix": False},
        {"token_budget": 1},
        {"token_budget": 10**6},
        {"token_budget": 10**6, "most_rows": 2, "shared_prefix": False},
    ):
        if architecture == "bloom" and "padding" in options:
            continue
        found, report = scoring.scores(network, PROMPTS, RESPONSES, **options)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=str(options))
        asked = options.get("shared_prefix", True)
        assert report.shared == (asked and architecture != "bloom")
        assert (report.tokens_needed < report.tokens_plain) == report.shared
    if architecture == "bloom":
        _, report = scoring.scores(network, PROMPTS, RESPONSES)
        assert report.note == "prefix not shared: not verified for the architecture bloom"


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("limit", [2, 20, 40])
@pytest.mark.parametrize("shared", [True, False])
def test_truncation_at_either_side(toy, side, limit, shared):
    network = toy("gpt_neox", truncation=side, max_tokens=limit)
    expected = plain(network)
    found, report = scoring.scores(network, PROMPTS, RESPONSES, shared_prefix=shared)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    whole = scoring.tokens(network._replace(max_tokens=512), PROMPTS, RESPONSES)
    assert report.truncated == sum(len(text) > limit for text in whole) > 0
    assert max(map(len, scoring.tokens(network, PROMPTS, RESPONSES))) == limit


def test_the_last_token_is_found_by_position_where_padding_is_the_end_of_sequence(toy):
    network = toy()
    assert network.model.config.pad_token_id == network.tokenizer.eos_token_id == 0
    batch = network.tokenizer(
        [network.template.render(p, r) for p, r in DATA], padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        theirs = network.model(**batch).logits[:, 0].numpy()
    found, _ = scoring.scores(network, PROMPTS, RESPONSES)
    # The trap is there: looked for by its number, the end lies one token before the end.
    assert np.abs(theirs - plain(network)).min() > 1e-3
    np.testing.assert_allclose(found, plain(network), rtol=0, atol=1e-5)


def test_a_token_may_reach_across_the_end_of_the_prompt(toy):
    network = toy()
    prompt, responses = STORY + "\n\nHum", ["an: a", "bug", ""]
    before = network.tokenizer(prompt)["input_ids"]
    texts = scoring.tokens(network, [prompt] * 3, responses)
    assert not np.array_equal(texts[0][: len(before)], before)
    found, report = scoring.scores(network, [prompt] * 3, responses)
    np.testing.assert_allclose(found, plain(network, [prompt] * 3, responses), rtol=0, atol=1e-5)
    assert report.tokens_needed < report.tokens_plain


def test_order_and_company_do_not_matter(toy):
    network = toy()
    expected, _ = scoring.scores(network, PROMPTS, RESPONSES)
    order = np.random.default_rng(0).permutation(len(DATA))
    found, _ = scoring.scores(
        network, [PROMPTS[i] for i in order], [RESPONSES[i] for i in order], token_budget=64
    )
    np.testing.assert_allclose(found, expected[order], rtol=0, atol=1e-5)


def test_pooled_is_what_the_head_sees(toy):
    network = toy("gptj")
    states, report = scoring.pooled(network, PROMPTS, RESPONSES)
    head = network.model.score
    assert states.shape == (len(DATA), 32) and states.dtype == np.float32
    by_hand = states @ head.weight.detach().numpy()[0]
    if head.bias is not None:
        by_hand = by_hand + head.bias.item()
    np.testing.assert_allclose(by_hand, plain(network), rtol=0, atol=1e-5)
    bare = network._replace(model=getattr(network.model, network.model.base_model_prefix))
    np.testing.assert_array_equal(scoring.pooled(bare, PROMPTS, RESPONSES)[0], states)
    # The head is next to nothing: what is counted is what scores count.
    counted = ("texts", "distinct", "cached", "truncated", "tokens_plain", "tokens_needed",
               "tokens_computed", "padding_share", "dtype", "device", "shared", "note")  # fmt: skip
    other = scoring.scores(network, PROMPTS, RESPONSES)[1]
    assert [getattr(report, k) for k in counted] == [getattr(other, k) for k in counted]
    assert report.tokens_per_second * report.seconds == pytest.approx(report.tokens_needed)
    assert report.pairs_per_second * report.seconds == pytest.approx(report.distinct / 2)


def test_bfloat16_is_near_and_the_head_is_not_rounded(toy):
    network = toy()
    rounded = scoring.in_dtype(network, torch.bfloat16)
    found, report = scoring.scores(rounded, PROMPTS, RESPONSES)
    expected = plain(network)
    assert report.dtype == "bfloat16" and network.model.dtype == torch.float32
    assert 0 < np.abs(found - expected).max() < 0.2 * expected.std()
    assert any(float(torch.tensor(score).bfloat16()) != score for score in found)
    with pytest.raises(ValueError, match="widening"):
        scoring.in_dtype(rounded, torch.float32)


def test_a_model_in_training_is_scored_without_dropout_and_left_in_training(toy):
    network = toy()
    network.model.config.attention_dropout = 0.5
    network.model.train()
    first, _ = scoring.scores(network, PROMPTS, RESPONSES)
    assert network.model.training
    network.model.eval()
    np.testing.assert_array_equal(first, scoring.scores(network, PROMPTS, RESPONSES)[0])


# --- nothing twice -----------------------------------------------------------------------------


def test_identical_texts_are_scored_once_and_tie(toy, monkeypatch):
    network = toy(max_tokens=30, truncation="right")
    # After truncation at the right both long responses are the same to the network.
    prompts, responses = [STORY] * 4 + ["b"], [" a" * 60, " a" * 80, " a" * 60, "", ""]
    calls = Calls(monkeypatch, network)
    found, report = scoring.scores(network, prompts, responses)
    assert found[0] == found[1] == found[2]
    assert (report.texts, report.distinct, report.truncated) == (5, 2, 4)
    assert report.tokens_computed == sum(a * b for a, b in calls.shapes)


def test_the_second_call_computes_nothing(toy, monkeypatch, tmp_path):
    network, cache = toy(), tmp_path / "new" / "scores.sqlite"
    first, report = scoring.scores(network, PROMPTS, RESPONSES, cache=cache)
    assert report.cached == 0
    calls = Calls(monkeypatch, network)
    again, report = scoring.scores(network, PROMPTS, RESPONSES, cache=cache)
    np.testing.assert_array_equal(first, again)
    assert not calls.shapes and report.cached == report.distinct == len(DATA)
    assert report.tokens_computed == report.tokens_needed == 0
    # A new response to a known prompt: only that one is computed.
    _, report = scoring.scores(network, [*PROMPTS, STORY], [*RESPONSES, " New."], cache=cache)
    assert (report.cached, len(calls.shapes)) == (len(DATA), 1)


def test_whatever_decides_a_score_is_part_of_its_address(toy, tmp_path):
    network, cache = toy(), tmp_path / "scores.sqlite"
    scoring.scores(network, PROMPTS, RESPONSES, cache=cache)
    others = [
        network._replace(name="other"),
        network._replace(revision="1"),
        network._replace(template=Template("other")),
        network._replace(max_tokens=500),
        network._replace(truncation="right"),
        network._replace(model=toy_model("llama", seed=1)),
        scoring.in_dtype(network, torch.bfloat16),
    ]
    for other in others:
        _, report = scoring.scores(other, PROMPTS[:2], RESPONSES[:2], cache=cache)
        assert report.cached == 0, other
    assert scoring.scores(network, PROMPTS, RESPONSES, cache=cache)[1].cached == len(DATA)


def test_an_interrupted_call_keeps_the_finished_batches(toy, monkeypatch, tmp_path):
    network, cache = toy(), tmp_path / "scores.sqlite"

    def stop(calls, _tokens):
        if len(calls.shapes) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        Calls(patch, network, stop)
        with pytest.raises(KeyboardInterrupt):
            scoring.scores(
                network, PROMPTS, RESPONSES, cache=cache, token_budget=1, shared_prefix=False
            )
    found, report = scoring.scores(network, PROMPTS, RESPONSES, cache=cache)
    assert report.cached == 2
    np.testing.assert_allclose(found, plain(network), rtol=0, atol=1e-5)


# --- too little memory, and numbers that are none ----------------------------------------------


@pytest.mark.parametrize(
    "message", ["CUDA out of memory", "DefaultCPUAllocator: can't allocate memory"]
)
def test_out_of_memory_halves_the_batch(toy, monkeypatch, message):
    network = toy()
    expected = plain(network)
    longest = max(map(len, scoring.tokens(network, PROMPTS, RESPONSES)))

    def too_large(_calls, tokens):
        if tokens.numel() > longest:
            raise RuntimeError(message)

    calls = Calls(monkeypatch, network, too_large)
    found, report = scoring.scores(network, PROMPTS, RESPONSES, token_budget=10**6)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert "memory ran out" in report.note and max(a * b for a, b in calls.shapes) > longest
    failed = sum(a * b > longest for a, b in calls.shapes)
    assert f"ran out {failed} times" in report.note


def test_out_of_memory_at_a_single_text_says_what_to_do(toy, monkeypatch):
    def never(_calls, _tokens):
        raise torch.OutOfMemoryError("CUDA out of memory")

    network = toy()
    Calls(monkeypatch, network, never)
    with pytest.raises(MemoryError, match="single text of .* lower max_tokens"):
        scoring.scores(network, PROMPTS, RESPONSES)


def test_other_errors_are_not_swallowed(toy, monkeypatch):
    def broken(_calls, _tokens):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    network = toy()
    Calls(monkeypatch, network, broken)
    with pytest.raises(RuntimeError, match="mat1"):
        scoring.scores(network, PROMPTS, RESPONSES)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_no_number_is_an_error_that_names_the_text(toy, monkeypatch, tmp_path, bad):
    network, cache = toy(), tmp_path / "scores.sqlite"
    marked = scoring.tokens(network, ["\n\nHuman: \x07\n\nAssistant:"], [" poison"])[0]
    found = getattr(network.model, network.model.base_model_prefix)
    original = found.forward

    def poisoned(input_ids, **options):
        result = original(input_ids, **options)
        for row, tokens in enumerate(input_ids.tolist()):
            if set(marked.tolist()) <= set(tokens) and len(tokens) == len(marked):
                result.last_hidden_state[row] = bad
        return result

    monkeypatch.setattr(found, "forward", poisoned)
    prompts = [*PROMPTS, "\n\nHuman: \x07\n\nAssistant:"]
    with pytest.raises(ValueError, match=r"text 8 of 9 .*(nan|inf).*x07.*' poison'"):
        scoring.scores(network, prompts, [*RESPONSES, " poison"], token_budget=1, cache=cache)
    # What came before it is not lost, and what is no number was not kept.
    kept = scoring.scores(network, PROMPTS, RESPONSES, cache=cache)[1].cached
    with pytest.raises(ValueError, match="text 0 of 1"):
        scoring.scores(network, prompts[-1:], [" poison"], token_budget=1, cache=cache)
    assert kept > 0


# --- unusual texts -----------------------------------------------------------------------------


def test_unusual_texts_are_scored_truncated_and_counted(toy):
    network = toy(max_tokens=100)
    odd = ["", "\0", "\U0001f418" * 50, "<script>alert(1)</script>", "\ud83d oops \udc18",
           " word" * 20_000, "日本語", "\r\n\t "]  # fmt: skip
    found, report = scoring.scores(network, [STORY] * len(odd), odd)
    assert np.isfinite(found).all() and len(set(found)) == len(odd)
    assert report.replaced == 1 and report.truncated >= 2
    whole = "\ufffd oops \ufffd"
    assert found[4] == pytest.approx(scoring.scores(network, [STORY], [whole])[0][0], abs=1e-5)
    # Two halves of one character that belong together are that character.
    halves, one = (scoring.tokens(network, [STORY], [text])[0] for text in ("\ud83d\udc18", "🐘"))
    np.testing.assert_array_equal(halves, one)


def test_no_texts_at_all(toy):
    found, report = scoring.scores(toy(), [], [])
    assert found.shape == (0,) and report.texts == report.tokens_computed == 0
    states, report = scoring.pooled(toy(), [], [])
    assert states.shape == (0, 32) and report.tokens_computed == report.padding_share == 0


def test_networks_and_texts_that_cannot_be_scored_are_refused(toy):
    network = toy()
    with pytest.raises(ValueError, match="truncation is 'middle'"):
        scoring.scores(network._replace(truncation="middle"), PROMPTS, RESPONSES)
    with pytest.raises(ValueError, match="1 to 2048"):
        scoring.scores(network._replace(max_tokens=4096), PROMPTS, RESPONSES)
    with pytest.raises(ValueError, match="shorter|longer"):
        scoring.scores(network, PROMPTS, RESPONSES[:1])
    with pytest.raises(ValueError, match="no reward model"):
        scoring.scores(network._replace(model=network.model.model), PROMPTS, RESPONSES)
    with pytest.raises(ValueError, match="padding is 'both'"):
        scoring.scores(network, PROMPTS, RESPONSES, padding="both")
    with pytest.raises(ValueError, match="text 1 has no token"):
        encoding.encode(network.tokenizer, ["a", ""], ["p", "p"], 9, "left")


def test_models_that_cannot_share_say_why(toy):
    def reason(**changes):
        model = toy_model("qwen2")
        for name, value in changes.items():
            setattr(model.config, name, value)
        return forward.not_shared(model)

    assert reason() == ""
    assert "sliding window" in reason(layer_types=["full_attention", "sliding_attention"])
    assert "longest text" in reason(rope_parameters={"rope_type": "dynamic"})
    assert "flash" in reason(_attn_implementation="flash_attention_2")


def test_progress_is_shown_where_asked_only(toy, capsys):
    scoring.scores(toy(), PROMPTS, RESPONSES)
    assert capsys.readouterr().err == ""
    scoring.scores(toy(), PROMPTS, RESPONSES, progress=True)
    shown = capsys.readouterr().err
    assert "toy: 100%" in shown and "4/4 pairs" in shown and "pair/s" in shown


def test_the_report_adds_up(toy):
    found, report = scoring.scores(toy(), PROMPTS, RESPONSES, token_budget=64)
    lengths = [len(text) for text in scoring.tokens(toy(), PROMPTS, RESPONSES)]
    assert report.tokens_plain == sum(lengths)
    assert report.tokens_needed < report.tokens_plain
    assert report.padding_share == 1 - report.tokens_needed / report.tokens_computed
    assert report.tokens_per_second == pytest.approx(report.tokens_needed / report.seconds)
    assert report.pairs_per_second == pytest.approx(len(found) / 2 / report.seconds)
    assert report.peak_memory > 50e6 and (report.dtype, report.device) == ("float32", "cpu")


def test_attention_goes_by_pieces_where_the_model_lets_it_be_replaced(toy, monkeypatch):
    asked = []

    def spy(network):
        backbone = getattr(network.model, network.model.base_model_prefix)
        original = backbone.forward
        monkeypatch.setattr(
            backbone, "forward", lambda **call: asked.append(set(call)) or original(**call)
        )

    for architecture, padding, expected in (
        ("llama", "right", "pieces"),
        ("llama", "left", "attention_mask"),
        ("gptj", "right", "attention_mask"),
    ):
        network = toy(architecture)
        spy(network)
        asked.clear()
        scoring.scores(network, [STORY] * 2, [" Yes, a whale.", " No."], padding=padding)
        assert asked and all(expected in call for call in asked)


def test_a_failed_call_leaves_the_model_its_own_attention(toy, monkeypatch):
    network = toy()
    before = network.model.config._attn_implementation

    def broken(_calls, _tokens):
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        Calls(patch, network, broken)
        with pytest.raises(RuntimeError, match="broken"):
            scoring.scores(network, PROMPTS, RESPONSES)
    assert network.model.config._attn_implementation == before


@given(st.integers(0, 9), st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 3))
def test_pieces_see_what_the_mask_says(prefix, own, padding):
    if len(own) == 1:
        prefix = 0  # a row of one text has no prefix
    row = [0] * prefix + [k for k, n in enumerate(own, 1) for _ in range(n)] + [-1] * padding
    segments = np.array([row], dtype=np.int32)
    sees = forward.visible(torch.from_numpy(segments)).numpy()[0]
    found = np.zeros_like(sees)
    for piece in attention.pieces(segments, torch.float32):
        assert piece.row == 0
        columns = [*range(piece.prefix), *range(piece.start, piece.stop)]
        length = piece.stop - piece.start
        seen = np.tri(length) if piece.mask is None else piece.mask[0, 0].numpy() == 0
        found[piece.start : piece.stop, columns] = seen
    real = segments[0] >= 0
    np.testing.assert_array_equal(found[real], sees[real])


# --- the planner -------------------------------------------------------------------------------

GROUPS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 3), max_size=12),
        st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=6,
)


@given(GROUPS, st.integers(1, 80), st.sampled_from([None, 1, 3]), st.sampled_from([1, 50]))
def test_plans_hold_every_text_once_within_the_budget(drawn, budget, most_rows, width):
    texts, groups = [], []
    for prefix, responses in drawn:
        groups.append(list(range(len(texts), len(texts) + len(responses))))
        texts += [np.array(prefix + response) for response in responses]
    rows = batches.rows(texts, groups, width, budget)
    planned = batches.batches(rows, budget, most_rows)
    assert sorted(i for batch in planned for row in batch for i in row.texts) == list(
        range(len(texts))
    )
    lengths = [row.length for batch in planned for row in batch]
    assert lengths == sorted(lengths, reverse=True)
    for batch in planned:
        assert len(batch) == 1 or batches.padded(batch) <= budget
        assert len(batch) <= (most_rows or len(batch))
        assert len(batch) > 1 or len(batch[0].texts) == 1 or batch[0].length <= budget
        for side in ("left", "right"):
            laid = batches.layout(texts, batch, 9, side)
            visible = forward.visible(torch.from_numpy(laid.segments)).numpy()
            assert visible.any(axis=2).all()
            # Each text can be read back from what its last token sees, in order of position.
            for i, row, last in zip(laid.texts, laid.row, laid.last):
                seen = np.flatnonzero(visible[row, last])
                np.testing.assert_array_equal(laid.tokens[row, seen], texts[i])
                np.testing.assert_array_equal(laid.positions[row, seen], np.arange(len(texts[i])))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(1, 90))
def test_batches_have_the_least_padding(lengths, budget):
    rows = [batches.Row((i,), 0, length) for i, length in enumerate(lengths)]

    def cost(planned) -> int:
        return sum(batches.padded(batch) + budget // 32 for batch in planned)

    ordered = sorted(rows, key=lambda row: -row.length)
    cuts = []
    for bits in range(2 ** (len(rows) - 1)):
        planned = [[ordered[0]]]
        for k, row in enumerate(ordered[1:]):
            planned = [*planned, [row]] if bits >> k & 1 else [*planned[:-1], [*planned[-1], row]]
        if all(len(batch) == 1 or batches.padded(batch) <= budget for batch in planned):
            cuts.append(cost(planned))
    assert cost(batches.batches(rows, budget, None)) == min(cuts)


def test_a_prefix_leaves_each_text_a_token_of_its_own():
    texts = [np.array(t) for t in ([1, 2, 3], [1, 2, 3, 4], [1, 2, 5])]
    assert batches.common_prefix(texts[:2]) == 2
    assert batches.common_prefix(texts) == 2
    assert batches.common_prefix([texts[0], np.array([2, 2])]) == 0
    assert batches.common_prefix([np.array([1]), np.array([1, 2])]) == 0


def test_sharing_pays_or_is_left_alone():
    prompt, answers = np.arange(100), [np.full(40, 200), np.full(30, 201)]
    texts = [np.concatenate([prompt, answer]) for answer in answers]
    (row,) = batches.rows(texts, [[0, 1]], 576, 10**6)
    assert row == batches.Row((0, 1), 100, 170)
    # One common token of 2,000: attention over the other response would cost more than it saves.
    texts = [np.concatenate([[0], np.full(2000, k)]) for k in (1, 2)]
    assert len(batches.rows(texts, [[0, 1]], 576, 10**6)) == 2
