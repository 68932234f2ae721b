import gzip
import json
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from datasets import Dataset

from helpers import downloads, hh, pairs

KEY = ("harmless-base", "test")
PROMPT = "\n\nHuman: {}?\n\nAssistant:"
ROWS = [
    dict(chosen=PROMPT.format(i) + " yes/é <b>\r\n", rejected=PROMPT.format(i) + f" no\0 {i}")
    for i in range(5)
]


def content(rows=ROWS) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """No folder set, no earlier download, and a hub that was never asked before."""
    for name in ("HH_RLHF_DIR", "HF_DATASETS_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", f"http://{tmp_path.name}.invalid")


@pytest.fixture
def hub(alone, monkeypatch):
    """A hub that gives ROWS for every split; returns the calls made to it."""
    calls = []

    def load_dataset(name, **options):
        calls.append((name, options))
        return Dataset.from_list(ROWS)

    monkeypatch.setattr(downloads, "answers", lambda address, timeout: True)
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return calls


# The real test sets against the known numbers


@pytest.fixture(scope="module")
def sets(hh_test_sets):
    _, data = hh_test_sets
    return {subset: data[data["subset"] == subset] for subset in hh.SUBSETS}


def counts(sets, condition) -> list[int]:
    return [int(condition(data).sum()) for data in sets.values()]


def stripped(data):
    return data["chosen"].str.strip(), data["rejected"].str.strip()


def test_rows_of_the_test_sets(sets):
    assert [len(data) for data in sets.values()] == [2312, 2354, 1137, 2749]
    for data in sets.values():
        assert data["row"].tolist() == list(range(len(data)))


def test_identical_and_empty_responses(sets):
    assert counts(sets, lambda d: d["chosen"] == d["rejected"]) == [0, 2, 2, 32]
    empty = counts(sets, lambda d: (stripped(d)[0] == "") | (stripped(d)[1] == ""))
    assert empty == [4, 4, 3, 0]
    harmless = sets["harmless-base"]
    chosen, rejected = stripped(harmless)
    assert harmless["row"][chosen == ""].tolist() == [86, 516, 925, 1103]
    assert not (rejected == "").any()


def test_prompts_that_differ(sets):
    assert counts(sets, lambda d: d["rejected_prompt"].isna()) == [2307, 2345, 1137, 2746]
    harmless = sets["harmless-base"]
    rows = harmless["row"][harmless["rejected_prompt"].notna()].tolist()
    assert rows == [1254, 1688, 1950, 1952, 2036]


def test_the_longer_answer_wins_this_often(sets):
    longer = [(c.str.len() > r.str.len()) for c, r in map(stripped, sets.values())]
    assert [round(float(x.mean()), 4) for x in longer] == [0.4425, 0.5956, 0.4257, 0.5580]
    assert longer[0].sum() == 1023
    chosen, rejected = stripped(sets["harmless-base"])
    assert (chosen.str.len() == rejected.str.len()).sum() == 11


def test_harmless_prompts_paragraphs_and_duplicates(sets):
    harmless = sets["harmless-base"]
    chosen, rejected = stripped(harmless)
    assert (chosen.str.contains("\n\n") | rejected.str.contains("\n\n")).sum() == 122
    assert harmless["prompt"].nunique() == 2310
    assert not harmless["pair_id"].duplicated().any()


def test_nothing_of_the_real_texts_is_lost(hh_test_sets):
    source, data = hh_test_sets
    for (subset, _), path in source.files.items():
        lines = gzip.decompress(path.read_bytes()).splitlines()
        here = data[data["subset"] == subset]
        other = here["rejected_prompt"].fillna(here["prompt"])
        for line, chosen, rejected in zip(
            lines, here["prompt"] + here["chosen"], other + here["rejected"], strict=True
        ):
            assert json.loads(line) == dict(chosen=chosen, rejected=rejected)


# From a folder


@pytest.mark.parametrize("name", ["harmless-base/test", "harmless-base-test"])
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("zipped", [False, True])
def test_layouts_and_names_even_if_the_suffix_lies(
    alone, tmp_path, monkeypatch, name, suffix, zipped
):
    data = gzip.compress(content()) if zipped else content()
    put(tmp_path / "data" / (name + suffix), data)
    monkeypatch.setenv("HH_RLHF_DIR", f" {tmp_path / 'data'} ")
    source = hh.locate()
    assert source.kind == "folder" and hh.available(source) == [KEY]
    loaded, count = hh.load(source)
    assert count.to_dict("records") == [
        dict(subset=KEY[0], split=KEY[1], lines=5, pairs=5, quarantined=0)
    ]
    assert (loaded["prompt"] + loaded["chosen"]).tolist() == [row["chosen"] for row in ROWS]


def test_a_wrong_setting_is_said_and_nothing_else_is_read(hub, tmp_path, monkeypatch):
    for folder in (tmp_path / "typo", tmp_path):
        monkeypatch.setenv("HH_RLHF_DIR", str(folder))
        with pytest.raises(FileNotFoundError, match=re.escape(repr(str(folder)))) as caught:
            hh.locate()
        assert "harmless-base/test.jsonl.gz" in str(caught.value)
        assert "correct it, or unset it" in str(caught.value)


def test_test_sets_come_first_and_a_missing_split_is_named(alone, tmp_path, monkeypatch):
    for name in ("helpful-base/train", "helpful-base/test", "harmless-base/train"):
        put(tmp_path / f"{name}.jsonl", content())
    monkeypatch.setenv("HH_RLHF_DIR", str(tmp_path))
    source = hh.locate()
    assert ["/".join(key) for key in hh.available(source)] == [
        "helpful-base/test", "harmless-base/train", "helpful-base/train",
    ]  # fmt: skip
    with pytest.raises(KeyError, match="has no harmless-base/test; it has helpful-base/test, har"):
        hh.load(source, [KEY])


def test_bad_lines_are_counted_by_split(alone, tmp_path, monkeypatch):
    put(tmp_path / "harmless-base/test.jsonl", content() + b"{\n")
    put(tmp_path / "helpful-base/test.jsonl", content())
    monkeypatch.setenv("HH_RLHF_DIR", str(tmp_path))
    with pytest.raises(pairs.BadLine, match=r"harmless-base/test\.jsonl, line 6: not JSON"):
        hh.load(hh.locate())
    bad = tmp_path / "bad"
    data, count = hh.load(hh.locate(), on_bad="quarantine", quarantine=bad)
    assert len(data) == 10 and data.index.equals(pd.RangeIndex(10))
    assert count["quarantined"].tolist() == [1, 0]
    assert (count["lines"] == count["pairs"] + count["quarantined"]).all()
    assert json.loads(bad.read_text())["line"] == 6


def test_fingerprint_follows_content_not_place(alone, tmp_path):
    def fingerprint(folder):
        return hh.fingerprint(hh.Source("folder", str(folder), hh.folder_files(folder)))

    for place in ("a", "b"):
        put(tmp_path / place / "harmless-base/test.jsonl", content())
    first = fingerprint(tmp_path / "a")
    assert re.fullmatch("sha256:[0-9a-f]{16}", first)
    assert fingerprint(tmp_path / "b") == first
    put(tmp_path / "b/harmless-base/test.jsonl", content().replace(b"3?", b"4?"))
    assert fingerprint(tmp_path / "b") != first
    (tmp_path / "a/harmless-base/test.jsonl").rename(tmp_path / "a/helpful-base-test.jsonl")
    assert fingerprint(tmp_path / "a") != first


# No source


def test_an_offline_hub_is_not_asked(alone, monkeypatch):
    monkeypatch.setattr(downloads, "answers", lambda address, timeout: True)
    assert hh.locate().kind == "hub"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source = hh.locate()
    assert source == ("none", "", {}) and hh.available(source) == []
    assert hh.fingerprint(source) == "none"
    with pytest.raises(hh.Unreachable) as caught:
        hh.load(source, [KEY])
    assert "(1) set HH_RLHF_DIR" in str(caught.value)
    assert "(2) allow network access" in str(caught.value)
    assert "unset HF_HUB_OFFLINE" in str(caught.value)


def test_a_resolver_that_hangs_does_not_hold_up(alone, monkeypatch):
    released, asked = threading.Event(), threading.Event()

    def hang(*args, **kwargs):
        asked.set()
        released.wait()
        raise OSError

    monkeypatch.setattr("socket.create_connection", hang)
    monkeypatch.setattr(hh, "HUB_TIMEOUT", 0.3)
    try:
        # Without the time limit this call would never come back.
        assert hh.locate().kind == "none"
        assert asked.is_set()
    finally:
        released.set()


def test_the_wait_leaves_room_for_three_seconds_in_all():
    assert hh.HUB_TIMEOUT <= 2


def test_what_an_earlier_run_kept_from_the_hub_is_read_offline(alone, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # A cache of `datasets` alone may hold any part of the data, or none: it does not count.
    (tmp_path / "hf/datasets/Anthropic___hh-rlhf").mkdir(parents=True)
    assert hh.locate().kind == "none"
    kept = tmp_path / "hf" / "elephant" / hh.HUB_REVISION / "harmless-base-test.jsonl"
    kept.parent.mkdir(parents=True)
    kept.write_text(
        json.dumps({side: f"\n\nHuman: q\n\nAssistant: {side}" for side in ("chosen", "rejected")})
    )
    source = hh.locate()
    assert source.kind == "folder" and hh.available(source) == [("harmless-base", "test")]
    assert len(hh.load(source)[0]) == 1


# From the hub


def test_the_hub_gives_the_same_pairs_as_a_folder(hub, tmp_path):
    source = hh.locate()
    assert hh.fingerprint(source) == f"Anthropic/hh-rlhf@{hh.HUB_REVISION}"
    assert len(hh.available(source)) == 8
    data, count = hh.load(source, [KEY])
    path = put(tmp_path / "folder/harmless-base/test.jsonl", content())
    expected, _ = hh.load(hh.Source("folder", str(path), {KEY: path}))
    pd.testing.assert_frame_equal(data, expected)
    assert count["pairs"].tolist() == [5]
    assert hub == [
        (hh.HUB_ID, dict(data_dir="harmless-base", split="test", revision=hh.HUB_REVISION))
    ]
    again, _ = hh.load(source, [KEY])
    pd.testing.assert_frame_equal(again, expected)
    assert len(hub) == 1, "read once, kept since"
    kept = [path.name for path in (tmp_path / "hf").rglob("*") if path.is_file()]
    assert kept == ["harmless-base-test.jsonl"]


def test_a_bad_row_of_the_hub_names_its_line(hub, monkeypatch):
    rows = [*ROWS, {"chosen": "none", "rejected": "none"}]
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **options: Dataset.from_list(rows))
    with pytest.raises(pairs.BadLine, match=r"harmless-base-test\.jsonl, line 6: no turn marker"):
        hh.load(hh.locate(), [KEY])


def test_a_hub_that_breaks_off_says_what_helps(hub, tmp_path, monkeypatch):
    def load_dataset(*args, **options):
        raise ConnectionError("gone")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(
        hh.Unreachable, match=r"\(1\) set HH_RLHF_DIR.*\(2\).*base/test failed: gone"
    ):
        hh.load(hh.locate(), [KEY])
    assert not (tmp_path / "hf").exists()


def test_rm_static_is_read_at_the_revision_that_it_names(hub, monkeypatch):
    rows = [
        dict(prompt="\n\nHuman: a?\n\nAssistant:", chosen=" b", rejected=" c\n\nd", response="e"),
        dict(prompt="\n\nHuman: f?\n\nAssistant:", chosen=" g", rejected="", response=""),
    ]
    calls = []

    def load_dataset(name, **options):
        calls.append((name, options))
        return Dataset.from_list(rows)

    monkeypatch.setattr("huggingface_hub.dataset_info", lambda name: SimpleNamespace(sha="abc"))
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    data, revision = hh.rm_static()
    assert revision == "abc"
    assert calls == [
        (hh.RM_STATIC_ID, dict(split=split, revision="abc")) for split in ("train", "test")
    ]
    assert data["split"].tolist() == ["train", "train", "test", "test"]
    assert data["row"].tolist() == [0, 1, 0, 1]
    assert data["prompt"].tolist() == [row["prompt"] for row in rows] * 2
    assert data["rejected"].tolist() == [" c\n\nd", ""] * 2
    rows[1]["prompt"] = "f? "
    with pytest.raises(pairs.BadLine, match="Dahoas/rm-static@abc, train, row 1: no turn marker"):
        hh.rm_static()


# Samples


def test_samples_are_seeded_and_in_file_order(hub):
    data, _ = hh.load(hh.locate())
    assert hh.sample(data, None, seed=0) is data
    taken = hh.sample(data, 3, seed=0)
    assert taken.groupby(["subset", "split"]).size().tolist() == [3] * 8
    assert taken.groupby(["subset", "split"])["row"].is_monotonic_increasing.all()
    pd.testing.assert_frame_equal(taken, hh.sample(data, 3, seed=0))
    assert not taken.equals(hh.sample(data, 3, seed=1))
    pd.testing.assert_frame_equal(hh.sample(data, 99, seed=0), data)
