import gzip
import json
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import pairs

PROMPT = "\n\nHuman: Why?\n\nAssistant:"
GOOD = {"chosen": PROMPT + " Because.\n\nTruly.", "rejected": PROMPT + " No."}
GOOD_LINE = json.dumps(GOOD).encode()
NO_MARKER = "Human: Why? Assistant: Because."

# What a line may hold instead of a pair, and what its error must say.
BAD = {
    b"": "the line is blank",
    b"  \t": "the line is blank",
    b'{"chosen": "a", "rej': "not JSON",
    b"\xef\xbb\xbf{}": "not JSON",
    b"[" * 100_000: "not JSON (nested too deeply)",
    b"[1, 2]": "a pair must be a JSON object, got list",
    b"null": "a pair must be a JSON object, got NoneType",
    b'{"chosen": "a"}': "field 'rejected' is missing",
    json.dumps({"rejected": GOOD["rejected"]}).encode(): "field 'chosen' is missing",
    json.dumps(GOOD | {"chosen": 3}).encode(): "field 'chosen' must be a string, got int",
    json.dumps(GOOD | {"rejected": None}).encode(): "field 'rejected' must be a string, got NoneT",
    GOOD_LINE.replace(b"Why", b"\xff\xfe"): "not UTF-8 at byte",
    GOOD_LINE[:-20] + b"\xc3": "not UTF-8 at byte",
    json.dumps(GOOD | {"chosen": NO_MARKER}).encode(): r"no turn marker '\n\nAssistant:' in 'chos",
    json.dumps(GOOD | {"rejected": ""}).encode(): r"no turn marker '\n\nAssistant:' in 'rejected'",
    json.dumps(GOOD | {"rejected": PROMPT + " \ud83d."}).encode(): "lone surrogate at character 2",
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
# Texts with the markers in and around them, whole and broken.
pieces = st.sampled_from(
    ["\n\nHuman:", "\n\nAssistant:", "\n\n", "Human:", "\n", "\r\n", " a", "é"]
)
dialogues = st.lists(pieces | texts, max_size=8).map("".join)


def read(path, **options):
    """All pairs of a file and its final counts."""
    chunks = list(pairs.read_pairs(path, "subset", "test", **options))
    return pd.concat([data for data, _ in chunks], ignore_index=True), chunks[-1][1]


def raised(path) -> str:
    with pytest.raises(pairs.BadLine) as caught:
        read(path)
    return str(caught.value)


def quarantined(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# Parsing


@given(dialogues, dialogues)
def test_prompt_and_response_make_up_the_dialogue(before, after):
    dialogue = f"{before}\n\nAssistant:{after}"
    prompt, response = pairs.split_dialogue(dialogue)
    assert prompt + response == dialogue
    assert prompt.endswith("\n\nAssistant:")
    assert "\n\nAssistant:" not in response


@given(dialogues)
def test_turns_join_to_the_dialogue(dialogue):
    turns = pairs.split_turns(dialogue)
    assert "".join((f"\n\n{role}:" if role else "") + text for role, text in turns) == dialogue
    assert all("\n\nHuman:" not in text and "\n\nAssistant:" not in text for _, text in turns)
    assert {role for role, _ in turns[1:]} <= {"Human", "Assistant"}


def test_a_turn_of_several_paragraphs_stays_whole():
    assert pairs.split_turns("\n\nHuman: a\n\nb\n\n\n\nAssistant: c\n\nHuman\n\n d") == [
        ("Human", " a\n\nb\n\n"),
        ("Assistant", " c\n\nHuman\n\n d"),
    ]
    assert pairs.parse(GOOD["chosen"], GOOD["rejected"])["chosen"] == " Because.\n\nTruly."


def test_the_prompt_ends_at_the_last_marker_and_turns_are_counted():
    dialogue = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d"
    assert pairs.split_dialogue(dialogue) == (dialogue[:-2], " d")
    assert pairs.parse(dialogue, dialogue)["turns"] == 4


def test_each_side_has_its_own_prompt():
    other = "\n\nHuman: How?\n\nAssistant:"
    record = pairs.parse(GOOD["chosen"], other + " So.")
    assert (record["prompt"], record["rejected_prompt"]) == (PROMPT, other)
    assert (record["chosen"], record["rejected"]) == (" Because.\n\nTruly.", " So.")
    assert pairs.parse(*GOOD.values())["rejected_prompt"] is None


@given(texts, texts, texts)
def test_the_id_depends_on_both_sides_and_their_order(a, b, c):
    same = pairs.pair_id(a, b)
    assert re.fullmatch("[0-9a-f]{16}", same) and same == pairs.pair_id(a, b)
    assert (pairs.pair_id(b, a) == same) == (a == b)
    assert (pairs.pair_id(a, c) == same) == (b == c)
    assert (pairs.pair_id(c, b) == same) == (a == c)


def test_the_id_keeps_the_border_between_the_sides():
    assert pairs.pair_id("ab", "c") != pairs.pair_id("a", "bc")
    assert pairs.pair_id("a\0", "b") != pairs.pair_id("a", "\0b")


# Reading


@given(
    st.lists(st.tuples(texts, texts), min_size=1, max_size=5),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
)
def test_every_text_survives_a_file(tmp_path_factory, answers, zipped, escape, end):
    path = tmp_path_factory.mktemp("pairs") / "test.jsonl"
    extra = ["\0", "👩‍👩‍👧 é e\u0301", "<b>&amp;</b>", "a\r\nb\x85c\u2028d", '"\\', "\ufeff"]
    answers = answers + list(zip(extra, reversed(extra)))
    records = [dict(chosen=PROMPT + a, rejected=PROMPT + b) for a, b in answers]
    content = "".join(json.dumps(r, ensure_ascii=escape) + end for r in records).encode()
    path.write_bytes(gzip.compress(content) if zipped else content)
    data, counts = read(path)
    assert list(zip(data["chosen"], data["rejected"])) == answers
    assert set(data["prompt"]) == {PROMPT} and data["rejected_prompt"].isna().all()
    assert data["row"].tolist() == list(range(len(answers)))
    assert counts == (len(answers), len(answers), 0)


def test_the_last_line_may_lack_its_end(tmp_path):
    (tmp_path / "a").write_bytes(GOOD_LINE + b"\n" + GOOD_LINE)
    assert read(tmp_path / "a")[1] == (2, 2, 0)


def test_chunks_are_bounded_and_their_counts_run_on(tmp_path):
    (tmp_path / "a").write_bytes((GOOD_LINE + b"\n") * 5)
    chunks = list(pairs.read_pairs(tmp_path / "a", "s", "test", chunk_rows=2))
    assert [len(data) for data, _ in chunks] == [2, 2, 1]
    assert [counts for _, counts in chunks] == [(2, 2, 0), (4, 4, 0), (5, 5, 0)]
    assert pd.concat([data for data, _ in chunks])["row"].tolist() == [0, 1, 2, 3, 4]


# Bad input


@pytest.mark.parametrize(("line", "reason"), BAD.items(), ids=lambda v: v[:30] if v else "empty")
def test_a_bad_line_stops_with_file_line_and_reason(tmp_path, line, reason):
    path = tmp_path / "test.jsonl"
    path.write_bytes(GOOD_LINE + b"\n" + line + b"\n" + GOOD_LINE + b"\n")
    assert raised(path).startswith(f"{path}, line 2: {reason}")


@given(lines=st.lists(st.sampled_from([GOOD_LINE, *BAD]), min_size=1, max_size=30), zipped=...)
def test_quarantine_keeps_everything_else(tmp_path_factory, lines: list, zipped: bool):
    folder = tmp_path_factory.mktemp("quarantine")
    path, bad = folder / "test.jsonl", folder / "new" / "bad.jsonl"
    content = b"".join(line + b"\n" for line in lines)
    path.write_bytes(gzip.compress(content) if zipped else content)
    data, counts = read(path, on_bad="quarantine", quarantine=bad, chunk_rows=3)
    good = [i for i, line in enumerate(lines) if line == GOOD_LINE]
    assert counts == (len(lines), len(good), len(lines) - len(good))
    assert data["row"].tolist() == good
    entries = quarantined(bad) if bad.exists() else []
    assert [e["line"] - 1 for e in entries] == [i for i in range(len(lines)) if i not in good]
    for entry in entries:
        line = lines[entry["line"] - 1]
        assert entry["file"] == str(path)
        assert entry["reason"].startswith(BAD[line])
        assert entry["text"] == line.decode("utf-8", "backslashreplace")


@pytest.fixture
def many(tmp_path):
    """A gzipped file of a thousand different pairs and its lines."""
    records = [
        dict(chosen=f"{PROMPT} {i * 7919 % 1000}", rejected=PROMPT + f" {i}") for i in range(1000)
    ]
    lines = [json.dumps(record).encode() for record in records]
    path = tmp_path / "test.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    return path, lines


@pytest.mark.parametrize("kept", [3, 0.3, 0.7, -1])
def test_a_truncated_gzip_says_so_and_keeps_what_came_before(many, tmp_path, kept):
    path, lines = many
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else kept])
    assert re.search(rf"{re.escape(str(path))}, line \d+: gzip stream is damaged", raised(path))
    data, counts = read(path, on_bad="quarantine", quarantine=tmp_path / "bad")
    (entry,) = quarantined(tmp_path / "bad")
    assert counts == (len(data) + 1, len(data), 1) and entry["line"] == counts.lines
    assert data["pair_id"].tolist() == [pairs.parse_line(pairs.Line(1, line))["pair_id"]
                                        for line in lines[: len(data)]]  # fmt: skip
    assert (len(data) > 0) == (kept not in (3,))


def test_a_corrupt_gzip_says_so_wherever_it_is_hit(many, tmp_path):
    path, lines = many
    content = path.read_bytes()
    for at in range(10, len(content), len(content) // 25):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        assert f"{path}, line " in raised(path)
        bad = tmp_path / f"bad-{at}"
        data, counts = read(path, on_bad="quarantine", quarantine=bad)
        assert counts.lines == len(data) + len(quarantined(bad))
        assert "gzip stream is damaged" in quarantined(bad)[-1]["reason"]


@pytest.mark.parametrize("zipped", [False, True])
def test_an_empty_file_is_bad_input(tmp_path, zipped):
    path = tmp_path / "test.jsonl"
    path.write_bytes(gzip.compress(b"") if zipped else b"")
    assert raised(path).startswith(f"{path}, line 0: the file is empty")
    data, counts = read(path, on_bad="quarantine", quarantine=tmp_path / "bad")
    assert len(data) == 0 and list(data) == list(pairs.COLUMNS) and counts == (0, 0, 0)
    assert quarantined(tmp_path / "bad")[0]["reason"] == "the file is empty"


def test_wrong_options_are_said(tmp_path):
    (tmp_path / "a").write_bytes(GOOD_LINE)
    with pytest.raises(ValueError, match="on_bad must be 'raise' or 'quarantine', got 'skip'"):
        read(tmp_path / "a", on_bad="skip")
    with pytest.raises(ValueError, match="needs quarantine="):
        read(tmp_path / "a", on_bad="quarantine")


# The schema


def test_no_records_give_a_frame_of_the_same_types():
    record = pairs.parse(*GOOD.values())
    full = pairs.frame([record | dict(subset="s", split="test", row=0)])
    assert pairs.frame([]).dtypes.equals(full.dtypes)
    assert full["rejected_prompt"].isna().all()


def test_a_frame_that_breaks_the_schema_is_refused():
    record = pairs.parse(*GOOD.values())
    data = pairs.frame([record | dict(subset="s", split="test", row=0)])
    with pytest.raises(ValueError, match=r"missing \['chosen'\], extra \['answer'\]"):
        pairs.check(data.rename(columns={"chosen": "answer"}))
    with pytest.raises(ValueError, match=r"null values in \['rejected'\]"):
        pairs.check(data.assign(rejected=pd.Series([None], dtype="str")))
