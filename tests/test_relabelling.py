"""`elephant annotate` and `elephant clean` on files, as a user calls them."""

import json

import pandas as pd
import pytest

from helpers import clean, cli, formats

PAIRS = [
    {"prompt": f"Question {i}?", "chosen": f"Good answer {i}.", "rejected": f"Bad answer {i}."}
    for i in range(6)
]


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(p) + "\n" for p in PAIRS))
    return path


def votes_file(own, path, sides):
    ids = formats.read(own)[0]["pair_id"]
    rows = [
        dict(pair_id=id, annotator=f"a{n}", vote=side, source="humans")
        for id, cast in zip(ids, sides)
        for n, side in enumerate(cast)
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


C, R = "chosen", "rejected"


def test_clean_keeps_swaps_and_names_what_it_drops(own, tmp_path, capsys):
    sides = [[C, C, C, R], [R, R, R, C], [C, C, R, R], [C] * 4, [R] * 4]
    cast = votes_file(own, tmp_path / "votes.csv", sides)
    out = tmp_path / "clean"
    assert cli.main(["clean", "--votes", str(cast), "--data", str(own), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "Same" in said and "Unvoted" in said
    again = clean.read(out)
    assert [t.strip() for t in again["chosen"]] == [
        "Good answer 0.", "Bad answer 1.", "Good answer 3.", "Bad answer 4."
    ]  # fmt: skip
    dropped = pd.read_json(out / "dropped.jsonl", lines=True)
    assert sorted(dropped["category"]) == ["Unvoted", "Vague"]
    assert "humans" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(pair_id="f" * 16), "unknown pair_id"),
        (lambda t: pd.concat([t, t.head(1)]), "second vote"),
        (lambda t: t.assign(vote="both"), "vote is none of"),
        (lambda t: t.drop(columns="annotator"), "missing"),
    ],
)
def test_bad_votes_are_one_clear_line(own, tmp_path, capsys, change, message):
    cast = votes_file(own, tmp_path / "votes.csv", [[C]] * 6)
    change(pd.read_csv(cast)).to_csv(cast, index=False)
    out = tmp_path / "clean"
    assert cli.main(["clean", "--votes", str(cast), "--data", str(own), "--out", str(out)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not out.exists()


def test_export_and_import_bring_back_what_people_said(own, tmp_path, capsys):
    tasks = tmp_path / "tasks"
    arguments = ["--data", str(own), "--seed", "7"]
    assert cli.main(["annotate", "export", *arguments, "--out", str(tasks)]) == 0
    assert "6 tasks" in capsys.readouterr().out
    exported = json.loads((tasks / "tasks.json").read_text())
    shown = json.dumps(exported)
    assert "chosen" not in shown and "rejected" not in shown, "the label must not be shown"
    # One annotator who always takes the good answer, and one task that was skipped.
    for number, task in enumerate(exported):
        good_first = "Good" in task["data"]["response_a"]
        choice = "Response A" if good_first else "Response B"
        result = {"from_name": "better", "to_name": "response_a", "type": "choices"}
        result["value"] = {"choices": [choice]}
        task |= {"id": number, "annotations": [
            {"id": number, "completed_by": 1, "result": [result], "was_cancelled": number == 0}
        ]}  # fmt: skip
    (tmp_path / "export.json").write_text(json.dumps(exported))
    out = tmp_path / "votes.parquet"
    command = ["annotate", "import", str(tmp_path / "export.json"), *arguments, "--out", str(out)]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "5 of 6 annotations are votes" in said and "tasks without a vote: 1" in said
    cast = pd.read_parquet(out)
    assert set(cast["vote"]) == {"chosen"} and set(cast["source"]) == {"humans"}


def test_the_seed_has_no_default(capsys):
    with pytest.raises(SystemExit):
        cli.main(["annotate", "export", "--out", "x"])
    assert "--seed" in capsys.readouterr().err
