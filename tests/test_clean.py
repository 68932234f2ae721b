"""Cleaning keeps Same, swaps Opposite, drops the rest, and loses nothing in silence."""

import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import clean, pairs, votes


def dialogue(question: str, answer: str) -> str:
    return f"\n\nHuman: {question}\n\nAssistant: {answer}"


def data(n: int, subset: str = "harmless-base") -> pd.DataFrame:
    records = [
        dict(
            pairs.parse(dialogue(f"q{i}", f"good {i}"), dialogue(f"q{i}", f"bad {i}")),
            subset=subset,
            split="test",
            row=i,
        )
        for i in range(n)
    ]
    return pairs.frame(records)


def cleaned(frame, names):
    categories = pd.Series(names, index=frame["pair_id"])
    counted = pd.DataFrame({"n": 4, "chosen": 3, "rejected": 1}, index=frame["pair_id"])
    return clean.clean(frame, categories, counted, "simulation"), categories


@given(st.lists(st.sampled_from([*votes.CATEGORIES, votes.UNVOTED]), min_size=1, max_size=20))
def test_every_pair_is_kept_swapped_or_named_as_dropped(names):
    frame = data(len(names))
    kept, categories = cleaned(frame, names)
    dropped = clean.left_out(frame, categories)
    assert len(kept) + len(dropped) == len(frame)
    assert set(kept["pair_id"]).isdisjoint(dropped["pair_id"])
    table = clean.table_7(frame, categories)
    assert int(table["all"].sum()) == len(frame) and int(table["kept"].sum()) == len(kept)
    for row in kept.to_dict("records"):
        better = "bad" if row["category"] == "Opposite" else "good"
        assert f"{better} {row['row']}" in row["chosen"]
        assert row["swapped"] == (row["category"] == "Opposite")
        assert row[row["original_chosen_is"]].endswith(f"good {row['row']}")
        assert json.loads(row["votes"]) == {"chosen": 3, "n": 4, "rejected": 1}


def test_a_written_data_set_loads_and_gives_the_same_pairs(tmp_path):
    import datasets

    frame = pd.concat([data(3), data(2, "helpful-base")], ignore_index=True)
    frame["pair_id"] = [f"{i:016x}" for i in range(5)]
    kept, categories = cleaned(frame, ["Same", "Opposite", "Vague", "Same", "Empty"])
    out = tmp_path / "chh"
    clean.write(kept, clean.left_out(frame, categories), out, title="CHH", about="By simulation.")
    loaded = datasets.load_dataset(str(out), "harmless-base", cache_dir=str(tmp_path / "cache"))
    assert loaded["test"].num_rows == 2
    assert loaded["test"]["category"] == ["Same", "Opposite"]
    again = clean.read(out)
    assert list(again["pair_id"]) == list(kept["pair_id"])
    assert list(again["prompt"] + again["chosen"]) == list(kept["chosen"])
    dropped = pd.read_json(out / "dropped.jsonl", lines=True)
    assert sorted(dropped["category"]) == ["Empty", "Vague"]
    card = (out / "README.md").read_text()
    assert "config_name: helpful-base" in card and "By simulation." in card


def test_prompts_that_differ_go_with_their_own_side():
    record = pairs.parse(dialogue("one", "good"), dialogue("two", "bad"))
    frame = pairs.frame([dict(record, subset="s", split="test", row=0)])
    kept, _ = cleaned(frame, ["Opposite"])
    assert kept["chosen"][0] == dialogue("two", "bad")
    assert kept["rejected"][0] == dialogue("one", "good")


def test_a_folder_in_use_is_not_overwritten(tmp_path):
    (tmp_path / "old").write_text("x")
    frame = data(1)
    kept, categories = cleaned(frame, ["Same"])
    with pytest.raises(FileExistsError, match="not empty"):
        clean.write(kept, clean.left_out(frame, categories), tmp_path, title="t", about="a")


def test_missing_and_unknown_categories_are_named():
    frame = data(2)
    only_first = pd.Series(["Same"], index=frame["pair_id"][:1])
    with pytest.raises(KeyError, match="1 pairs have no category"):
        clean.table_7(frame, only_first)
    with pytest.raises(ValueError, match="Wrong"):
        cleaned(frame, ["Same", "Wrong"])
