import math
import os
import random
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from helpers import hh, pairs, pitfalls

PROMPT = "\n\nHuman: Why?\n\nAssistant:"
LIMITS = (1, 3, 8, 20)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def frame(*dialogues):
    """Pairs of full dialogues as a frame of the schema."""
    return pairs.frame(
        [
            dict(pairs.parse(chosen, rejected), subset="s", split="test", row=row)
            for row, (chosen, rejected) in enumerate(dialogues)
        ]
    )


def flags(chosen: str, rejected: str, prompt: str = PROMPT, other: str = PROMPT) -> set[str]:
    """The flags of one pair of responses."""
    row = pitfalls.flag(frame((prompt + chosen, other + rejected))).iloc[0]
    return set(row.index[row])


# The real test sets


def test_flags_of_the_real_test_sets(hh_test_sets, tokenizer):
    _, data = hh_test_sets
    found = pitfalls.flag(data, tokenizer)
    assert list(found) == list(pitfalls.FLAGS)
    counts = found.groupby(data["subset"]).sum().loc[list(hh.SUBSETS)]
    assert counts["empty"].tolist() == [4, 4, 3, 0]
    assert counts["repetitive"].tolist() == [0, 2, 2, 32]
    assert counts["prompts_differ"].tolist() == [5, 9, 0, 3]
    assert counts["pro_loses_text"]["harmless-base"] == 185
    # Every fortieth pair and all that are flagged, tokenised in full.
    some = data[(data.index % 40 == 0) | found["truncated_512"]]
    expected = [
        naive(*sides, tokenizer, pitfalls.LIMITS) for sides in zip(*pitfalls.dialogues(some))
    ]
    names = [f"truncated_{limit}" for limit in pitfalls.LIMITS]
    assert found.loc[some.index, names].to_numpy().tolist() == expected


# One flag at a time


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        (" Yes.", " No.", set()),
        ("", " No.", {"empty"}),
        (" Yes.", " \n\u3000", {"empty"}),
        ("", "", {"empty", "repetitive"}),
        (" Yes.", " Yes.", {"repetitive"}),
        (" Yes.", " yes", {"identical_normalised"}),
        (" Yes,  we do!", "YES WE\n\nDO", {"identical_normalised", "pro_loses_text"}),
        (" ﬁne ①", " FINE 1", {"identical_normalised"}),
        (" ?", " !", set()),
        (" Human: a", " b", {"turn_marker"}),
        (" b", " a Assistant: c", {"turn_marker"}),
        (" Inhuman: a", " nonAssistant: b", set()),
        (" the human: a", " Assistant, b", set()),
        (" a\n\nb", " c", {"pro_loses_text"}),
        (" a", " c\n\n\n\n d", {"pro_loses_text"}),
        (" a\n\n \n", " c", set()),
        (" a\nb", " c", set()),
    ],
)
def test_what_each_flag_means(chosen, rejected, expected):
    assert flags(chosen, rejected) == expected


def test_prompts_that_differ():
    assert flags(" a", " b", other="\n\nHuman: How?\n\nAssistant:") == {"prompts_differ"}


def test_pro_loses_text_of_any_turn_and_keeps_marked_pieces():
    two = "\n\nHuman: a\n\nmore\n\nAssistant: b"
    assert pitfalls.pro_loses_text(two)
    assert not pitfalls.pro_loses_text(two.replace("\n\nmore", ""))
    # PRO looks for the marker at the start of a piece only, so a marked paragraph is a turn to it.
    assert not pitfalls.pro_loses_text(two.replace("more", "Human: more"))


def test_no_tokenizer_no_truncation_columns():
    data = frame((PROMPT + " a", PROMPT + " b"))
    assert list(pitfalls.flag(data)) == [n for n in pitfalls.FLAGS if "truncated" not in n]


def test_flags_keep_the_index_and_do_not_depend_on_chunks(monkeypatch, tokenizer):
    sides = [(f"{PROMPT} {i}", f"{PROMPT} {i % 3}") for i in range(10)]
    data = frame(*sides)
    data.index = [f"row {i}" for i in range(10)]
    whole = pitfalls.flag(data, tokenizer, limits=(2, 8))
    assert whole.index.equals(data.index) and whole["repetitive"].sum() == 3
    monkeypatch.setattr(pitfalls, "_CHUNK_ROWS", 3)
    assert pitfalls.flag(data, tokenizer, limits=(2, 8)).equals(whole)
    empty = pitfalls.flag(data.iloc[:0], tokenizer, limits=(2, 8))
    assert len(empty) == 0 and empty.dtypes.equals(whole.dtypes)


def test_dialogues_are_the_texts_of_the_file():
    sides = [(PROMPT + " a", PROMPT + " b"), (PROMPT + " a", "\n\nHuman:\n\nAssistant: c")]
    assert list(zip(*pitfalls.dialogues(frame(*sides)))) == sides


# Normalising


@given(texts)
def test_normalising_twice_changes_nothing(text):
    once = pitfalls.normalise(text)
    assert pitfalls.normalise(once) == once


def test_normalising_twice_changes_nothing_for_any_character():
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)) not in ("Cs", "Cn"):
            for text in (chr(code), f"a{chr(code)}b"):
                once = pitfalls.normalise(text)
                assert pitfalls.normalise(once) == once, (hex(code), text)


@given(texts, st.sampled_from([" ", "  ", ", ", "\n\n", " ...! "]))
def test_spacing_punctuation_and_case_do_not_count(text, gap):
    assert pitfalls.normalise(f"{text}{gap}Word") == pitfalls.normalise(f"{text} wORD.")


# Truncation


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60))
def test_shared_bytes_is_the_length_of_the_common_prefix(shared, a, b):
    expected = len(os.path.commonprefix([shared + a, shared + b]))
    assert pitfalls.shared_bytes(shared + a, shared + b) == expected


def naive(chosen: str, rejected: str, tokenizer, limits: tuple[int, ...]) -> list[bool]:
    """The definition, for each limit: both texts tokenised in full."""
    a, b = (tokenizer.encode(t, add_special_tokens=False).ids for t in (chosen, rejected))
    return [chosen != rejected and a[:limit] == b[:limit] for limit in limits]


def trained(pre_tokenizer, decoder, normalizer=None, alphabet=(), added=()):
    """A small BPE tokenizer that splits words badly, so that borders matter."""
    rng = random.Random(0)
    corpus = ["".join(rng.choices("abcx .,'\n-=1é中", k=80)) for _ in range(300)]
    corpus += ["a" * 200, "ab" * 100, "=" * 100]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=list(alphabet),
        special_tokens=["<s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False, **how) for text, how in added])
    return tokenizer


BYTES = pre_tokenizers.ByteLevel
ALL_BYTES = BYTES.alphabet()
TOKENIZERS = {
    "bytes": lambda: trained(BYTES(False), decoders.ByteLevel(), alphabet=ALL_BYTES),
    "bytes missing": lambda: trained(BYTES(False), decoders.ByteLevel()),
    "space before": lambda: trained(BYTES(True), decoders.ByteLevel(), alphabet=ALL_BYTES),
    "no words": lambda: trained(BYTES(False, use_regex=False), decoders.ByteLevel()),
    "normaliser": lambda: trained(
        BYTES(False), decoders.ByteLevel(), normalizers.NFC(), alphabet=ALL_BYTES
    ),
    "metaspace": lambda: trained(pre_tokenizers.Metaspace(), decoders.Metaspace()),
    "no spaces": lambda: trained(pre_tokenizers.Whitespace(), decoders.BPEDecoder()),
    "added": lambda: trained(
        BYTES(False), decoders.ByteLevel(), alphabet=ALL_BYTES, added=[("c a", {})]
    ),
    "stripping": lambda: trained(
        BYTES(False), decoders.ByteLevel(), alphabet=ALL_BYTES, added=[("cc", {"lstrip": True})]
    ),
}
fragment = st.sampled_from(
    ["a", "b", "c", "c a", "the ", " ", " ", "  ", "\n\n", ".", "'s", "=", "1", "é", "e\u0301"]
    + ["中", "😀", "\0", "\x04", "\x1f", "\u00a0", "\U00040000", "\U00080000", "<s>"]
    + ["<|im_end|>", "<|im_"]
)  # fmt: skip
run = st.builds(
    lambda text, n: text * n, st.sampled_from(["a", "ab", "=", "é"]), st.integers(1, 99)
)
some_text = st.lists(fragment, max_size=12).map("".join)
twins = st.builds(
    lambda shared, a, b, rest: (shared + a + rest, shared + b + rest),
    st.lists(fragment | run, max_size=30).map("".join),
    some_text,
    some_text,
    some_text,
)


@pytest.mark.parametrize("kind", ["smollm2", *TOKENIZERS])
def test_truncation_agrees_with_tokenising_everything(kind, tokenizer):
    if kind != "smollm2":
        tokenizer = TOKENIZERS[kind]()

    @settings(max_examples=40)
    @given(st.lists(twins, min_size=1, max_size=20))
    def agrees(sides):
        found = pitfalls.identical_after_truncation(*zip(*sides), tokenizer, LIMITS)
        for i, (chosen, rejected) in enumerate(sides):
            expected = naive(chosen, rejected, tokenizer, LIMITS)
            assert [found[limit][i] for limit in LIMITS] == expected

    agrees()


@pytest.mark.parametrize("kind", ["bytes", "added", "smollm2"])
def test_bounds_decide_without_tokenising_everything(kind, tokenizer):
    # What the speed rests on, and where it must not be used: words joined over a space.
    if kind != "smollm2":
        tokenizer = TOKENIZERS[kind]()
    agreed = pitfalls.agreed_tokens(tokenizer, least=8)
    low, high = agreed("a b " * 20 + "c", "a b " * 20 + "d")
    # 39 words of one token each; the last one's three bytes and a space before all may be four.
    assert (low, high) == ((0, math.inf) if kind == "added" else (39, 43))


def test_differences_in_bytes_that_the_vocabulary_lacks_are_none_to_the_model(tokenizer):
    sides = ["same\x04 text"], ["same text"]
    assert tokenizer.encode(sides[0][0]).ids == tokenizer.encode(sides[1][0]).ids
    assert pitfalls.identical_after_truncation(*sides, tokenizer, (512,))[512].tolist() == [True]


def test_equal_texts_are_no_truncation_pitfall(tokenizer):
    found = pitfalls.identical_after_truncation(["a b"], ["a b"], tokenizer, (1, 512))
    assert not found[1].any() and not found[512].any()


@pytest.mark.parametrize("setting", ["enable_truncation", "enable_padding"])
def test_a_tokenizer_that_cuts_or_pads_is_refused(setting):
    tokenizer = TOKENIZERS["bytes"]()
    getattr(tokenizer, setting)(*([8] if setting == "enable_truncation" else []))
    with pytest.raises(ValueError, match=r"call no_truncation\(\) and no_padding\(\)"):
        pitfalls.identical_after_truncation(["a"], ["b"], tokenizer, (4,))


def test_memory_stays_bounded(monkeypatch):
    monkeypatch.setattr(pitfalls._Memory, "SIZE", 3)
    memory = pitfalls._Memory(str.upper)
    assert [memory[c] for c in "abcdabcd"] == list("ABCDABCD")
    assert len(memory) <= 3
