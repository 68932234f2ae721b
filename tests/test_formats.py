"""A user's own data in each form give the same pairs; what is wrong is named with its record."""

import gzip
import json

import pandas as pd
import pytest

from helpers import formats

HH = {
    "chosen": "\n\nHuman: Hi?\n\nAssistant: Yes.",
    "rejected": "\n\nHuman: Hi?\n\nAssistant: No.",
}
PROMPT = {"prompt": "Hi?", "chosen": "Yes.", "rejected": "No."}
MESSAGES = {
    "chosen": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}],
    "rejected": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "No."}],
}
SPLIT = {
    "prompt": [{"role": "user", "content": "Hi?"}],
    "chosen": [{"role": "assistant", "content": "Yes."}],
    "rejected": [{"role": "assistant", "content": "No."}],
}


def write(path, records):
    if path.suffix == ".parquet":
        pd.DataFrame(records).to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    else:
        text = "".join(json.dumps(r) + "\n" for r in records)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.json", "x.parquet"])
@pytest.mark.parametrize(
    ("record", "form"),
    [(HH, "hh"), (PROMPT, "prompt"), (MESSAGES, "messages"), (SPLIT, "messages")],
)
def test_each_form_in_each_file_gives_the_same_pair(tmp_path, name, record, form):
    frame, found = formats.read(write(tmp_path / name, [record, record]))
    assert found == form and len(frame) == 2
    expected, _ = formats.read(write(tmp_path / "hh.jsonl", [HH]))
    assert frame["pair_id"][0] == expected["pair_id"][0]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([HH, {"chosen": "x"}], "record 2"),
        ([{"text": "x"}], "record 1: no known form"),
        ([PROMPT, {"prompt": "a", "chosen": 1, "rejected": "b"}], "record 2: field 'chosen'"),
        ([MESSAGES, dict(MESSAGES, chosen=MESSAGES["chosen"][:1])], "does not end with"),
        ([dict(MESSAGES, chosen=[{"role": "system", "content": "s"}])], "system message"),
        ([dict(MESSAGES, chosen=[{"role": "tool", "content": "s"}])], "without known role"),
        ([{"chosen": "a", "rejected": "b"}], "no turn marker"),
    ],
)
def test_bad_records_are_named(tmp_path, records, message):
    with pytest.raises(ValueError, match=message):
        formats.read(write(tmp_path / "x.jsonl", records))


def test_bad_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        formats.read(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds no records"):
        formats.read(tmp_path / "empty.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"a": \n')
    with pytest.raises(ValueError, match="line 1: not JSON"):
        formats.read(tmp_path / "bad.jsonl")
    (tmp_path / "object.json").write_text("{}")
    with pytest.raises(ValueError, match="JSON array"):
        formats.read(tmp_path / "object.json")
