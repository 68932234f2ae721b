"""The ledger: what it takes, what it refuses, and what two runs are compared on."""

import json

import pytest

from helpers import ledger
from helpers.stats import Estimate, wilson


@pytest.fixture
def run(tmp_path, monkeypatch):
    context = dict(
        notebook="00_test",
        ledger=str(tmp_path / "ledger.jsonl"),
        artifacts=str(tmp_path / "artifacts"),
        commit="abc",
        data={"hh_rlhf": "sha256:1"},
        code="c0de",
        device="cpu",
    )
    (tmp_path / "context.json").write_text(json.dumps(context))
    monkeypatch.setenv("ELEPHANT_RUN", str(tmp_path / "context.json"))
    return ledger.start("00_test", profile="smoke", seed=3)


def test_a_row_carries_value_interval_origin_and_provenance(run):
    run.record("a.b", wilson(5, 10), unit="share", labels="none", published=0.4, beside="Table 9")
    (row,) = ledger.read(run.path)
    assert row["value"] == 0.5 and row["low"] < 0.5 < row["high"] and row["n"] == 10
    assert row["method"] == "Wilson" and row["published"] == 0.4
    for field in ("profile", "notebook", "cell", "commit", "data", "code", "seed", "device"):
        assert field in row
    assert row["seed"] == 3 and row["profile"] == "smoke" and row["data"] == {"hh_rlhf": "sha256:1"}
    assert row["seconds"] >= 0 and row["date"].endswith("+00:00")


@pytest.mark.parametrize(
    ("id", "value", "options", "message"),
    [
        ("Upper.case", 1, {}, "lower-case"),
        ("nodots", 1, {}, "joined by dots"),
        ("a.b", float("nan"), {}, "record None"),
        ("a.b", float("inf"), {}, "record None"),
        ("a.b", "1", {}, "not a number"),
        ("a.b", True, {}, "not a number"),
        ("a.b", 1, {"scope": "moon"}, "scope"),
        ("a.b", 1, {"labels": "guess"}, "labels"),
        ("a.b", Estimate(2.0, 0.0, 1.0, 5, "Wilson"), {}, "outside its interval"),
        ("a.b", Estimate(0.5, 0.0, 1.0, 5, ""), {}, "name of its method"),
    ],
)
def test_bad_rows_are_refused_with_a_reason(run, id, value, options, message):
    with pytest.raises(ValueError, match=message):
        run.record(id, value, **{"unit": "share", "labels": "none"} | options)
    assert ledger.read(run.path) == []


def test_an_id_is_recorded_once(run):
    run.record("a.b", 1, unit="count", labels="none")
    with pytest.raises(ValueError, match="recorded twice"):
        run.record("a.b", 1, unit="count", labels="none")


def test_integers_stay_integers_and_numpy_is_unwrapped(run):
    import numpy as np

    run.record("a.big", np.int64(2**60 + 1), unit="count", labels="none")
    run.record("a.none", None, unit="count", labels="none", note="lost")
    rows = ledger.by_id(ledger.read(run.path))
    assert rows["a.big"]["value"] == 2**60 + 1
    assert rows["a.none"]["value"] is None


def test_results_are_compared_and_measurements_are_not(run):
    run.record("a.b", 1, unit="count", labels="none")
    run.measure("a.seconds", 0.5, unit="s")
    rows = ledger.read(run.path)
    later = [dict(row, date="2030", seconds=99, commit="other") for row in reversed(rows)]
    later[0]["value"] = 7.0  # the measurement
    assert ledger.results_only(rows) == ledger.results_only(later)
    changed = [dict(row, value=2) if row["id"] == "a.b" else row for row in rows]
    assert ledger.results_only(rows) != ledger.results_only(changed)


def test_the_wrong_notebook_name_is_refused(run):
    with pytest.raises(ValueError, match="own file name"):
        ledger.start("01_other", profile="smoke", seed=0)


def test_a_broken_line_names_file_and_line(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": "a.b"}\n{"id": \n')
    with pytest.raises(ValueError, match=r"x\.jsonl, line 2"):
        ledger.read(path)


def test_two_notebooks_cannot_claim_one_id(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"id": "a.b"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl and b\.jsonl"):
        ledger.read(tmp_path)


def test_by_hand_the_ledger_goes_to_the_interactive_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("ELEPHANT_RUN", raising=False)
    (tmp_path / "Snakefile").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    run = ledger.start("00_test", profile="cpu", seed=0)
    run.record("a.b", 1, unit="count", labels="none")
    assert run.path == tmp_path / "build" / "interactive" / "ledger" / "00_test.jsonl"
    assert ledger.read(run.path)[0]["code"] == "interactive"


def test_a_name_becomes_a_part_of_an_id(run):
    assert ledger.slug(" TF-IDF, 1,000 labels (20 % wrong) ") == "tf-idf-1-000-labels-20-wrong"
    run.record(f"a.{ledger.slug('SmolLM2 head')}.b", 1, unit="count", labels="none")
