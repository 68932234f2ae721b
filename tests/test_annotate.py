"""Tasks out and votes back, with exports in the shape that Label Studio 1.23 writes."""

import json
import math
import xml.etree.ElementTree as ET

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import annotate, labelling, labelstudio, pairs, paper, votes

PROMPT = "\n\nHuman: Why?\n\nAssistant:"
HTML = ' <b>bold</b> <script>alert("1")</script> &amp; $prompt é 😀\r\n\r\nA second paragraph.'
TOXIC = labelling.TOXIC
CRITERIA = [name.lower() for name in labelling.SCORING]


def frame(*dialogues):
    """Pairs of full dialogues as a frame of the schema."""
    return pairs.frame(
        [
            dict(pairs.parse(left, right), subset="s", split="test", row=row)
            for row, (left, right) in enumerate(dialogues)
        ]
    )


def many(n):
    """``n`` pairs of different texts."""
    return frame(*[(f"{PROMPT} One {i}.", f"{PROMPT} Two {i}.") for i in range(n)])


ODD = frame(
    (PROMPT + HTML, PROMPT + " No."),
    (PROMPT + " ", PROMPT + " Empty on the other side."),
    (PROMPT + " Both.", PROMPT + " Both."),
    (
        "\n\nHuman: A?\n\nAssistant: B.\n\nHuman: C?\n\nAssistant: D.",
        "\n\nHuman: A?\n\nAssistant:E",
    ),
)


def export(data, folder, task="relabel", seed=1, generated=None):
    """The exported tasks as Label Studio gives them back, each without annotations."""
    done = annotate.export_tasks(data, task=task, seed=seed, out=folder, generated=generated)
    written = json.loads(done.tasks_file.read_text(encoding="utf-8"))
    return [
        {"id": n, "data": entry["data"], "annotations": [], "drafts": [], "predictions": []}
        for n, entry in enumerate(written, 1)
    ]


def region(name, kind, value, to="response_a"):
    """One answer as the labelling page writes it."""
    return {
        "id": "ix0jeNtFI1",
        "from_name": name,
        "to_name": to,
        "type": kind,
        "value": {kind: value},
        "origin": "manual",
    }


def better(choice):
    return region("better", "choices", [choice])


def annotation(number, by, *result, cancelled=False, at="2026-11-23T15:08:35.453498Z"):
    return {
        "id": number,
        "completed_by": by,
        "result": list(result),
        "was_cancelled": cancelled,
        "ground_truth": False,
        "created_at": at,
        "updated_at": at,
        "lead_time": 21.725,
    }


def raised(call, *arguments, **options) -> str:
    with pytest.raises(ValueError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def side_of(entry, text):
    """The choice that stands for a text of a task."""
    return labelling.SIDES[0 if entry["data"]["response_a"] == text else 1]


# The labelling configuration


@pytest.mark.parametrize("task", labelling.TASKS)
def test_configuration_shows_texts_as_text_and_has_the_controls_that_the_import_reads(
    task, tmp_path
):
    root = ET.fromstring(labelling.configuration(task))
    generated = dict.fromkeys(ODD["pair_id"], "Generated.") if task == "compare" else None
    (data, *_) = [entry["data"] for entry in export(ODD, tmp_path, task, generated=generated)]
    variables = {node.get("value"): node.tag for node in root.iter() if "$" in str(node.attrib)}
    assert set(variables.values()) == {"Text"}, "only <Text> shows its value as text"
    assert {f"${name}" for name in data} - {"$key", "$task"} == set(variables)
    controls = {n.get("name"): n.tag.lower() for n in root.iter() if n.get("toName")}
    assert controls == labelling.CONTROLS[task]
    names = {node.get("name") for node in root.iter("Text")}
    assert all(n.get("toName") in names for n in root.iter() if n.get("toName"))


def test_configuration_carries_the_papers_criteria():
    facts = paper.results()["annotation_protocol"]
    for task in ("relabel", "compare"):
        lines = [n.get("value") for n in ET.fromstring(labelling.configuration(task))]
        for number, criterion in enumerate(facts["alignment_criteria"], 1):
            assert f"({number}) {criterion}" in lines
    assert list(labelling.SCORING) == facts["scoring_criteria"]
    scoring = ET.fromstring(labelling.configuration("score"))
    shown = "\n".join(str(node.get("value")) for node in scoring)
    assert all(f"{name}: {text}" in shown for name, text in labelling.SCORING.items())
    assert "Review step" in shown
    assert {n.get("maxRating") for n in scoring.iter("Rating")} == {str(labelling.MAX_SCORE)}


def test_only_the_relabelling_asks_for_toxicity_and_both_comparisons_allow_a_tie():
    for task, marks in (("relabel", 2), ("compare", 0)):
        root = ET.fromstring(labelling.configuration(task))
        values = [node.get("value") for node in root.iter("Choice")]
        assert values.count(TOXIC) == marks
        assert values.count("Tie") == 1


# What a task may tell


def test_tasks_hold_the_texts_exactly_and_nothing_that_tells_the_label(tmp_path):
    entries = export(ODD, tmp_path)
    text = (tmp_path / "tasks.json").read_text(encoding="utf-8")
    for _, pair in ODD.iterrows():
        swapped = pairs.pair_id(
            (pair["rejected_prompt"] if pd.notna(pair["rejected_prompt"]) else pair["prompt"])
            + pair["rejected"],
            pair["prompt"] + pair["chosen"],
        )
        assert pair["pair_id"] not in text and swapped not in text
    for entry in entries:
        assert set(entry["data"]) == {"key", "task", "prompt", "response_a", "response_b"}
    assert "chosen" not in text and "rejected" not in text and '"s"' not in text
    (odd,) = [e["data"] for e in entries if HTML in e["data"].values()]
    assert {odd["response_a"], odd["response_b"]} == {HTML, " No."}


def test_where_the_dialogues_part_early_what_they_share_is_shown_and_the_rest_compared(tmp_path):
    data = ODD.tail(1)
    (entry,) = export(data, tmp_path)
    assert entry["data"]["prompt"] == "\n\nHuman: A?"
    assert {entry["data"]["response_a"], entry["data"]["response_b"]} == {
        "\n\nAssistant: B.\n\nHuman: C?\n\nAssistant: D.",
        "\n\nAssistant:E",
    }
    scored = export(data, tmp_path, "score")
    assert {(e["data"]["prompt"], e["data"]["response"]) for e in scored} == {
        ("\n\nHuman: A?\n\nAssistant: B.\n\nHuman: C?\n\nAssistant:", " D."),
        ("\n\nHuman: A?\n\nAssistant:", "E"),
    }


def test_sides_are_fair_and_neither_key_nor_order_tells_them(tmp_path):
    n = 4000
    entries = export(many(n), tmp_path)
    first = [" One" in entry["data"]["response_a"] for entry in entries]
    odd = [int(entry["data"]["key"], 16) % 2 == 1 for entry in entries]
    # Five standard deviations of a fair coin: a false alarm in two million.
    bound = 5 * math.sqrt(n) / 2
    assert abs(sum(first) - n / 2) < bound
    assert abs(sum(a == b for a, b in zip(first, odd)) - n / 2) < bound
    assert abs(sum(a == b for a, b in zip(first, first[1:])) - n / 2) < bound
    rows = [int(entry["data"]["response_a"].split()[1].rstrip(".")) for entry in entries]
    ranks = pd.Series(rows).corr(pd.Series(range(n)), method="spearman")
    assert abs(ranks) < 5 / math.sqrt(n), "the order of the tasks follows that of the data"


def test_seed_decides_everything_and_another_seed_mixes_anew(tmp_path):
    data = many(400)
    first, again, other = (export(data, tmp_path, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert {e["data"]["key"] for e in first}.isdisjoint(e["data"]["key"] for e in other)
    side = [{e["data"]["prompt"] + min(e["data"]["response_a"], e["data"]["response_b"]):
             e["data"]["response_a"] for e in entries} for entries in (first, other)]  # fmt: skip
    same = sum(side[0][pair] == side[1][pair] for pair in side[0])
    assert abs(same - 200) < 5 * math.sqrt(400) / 2


def test_a_pair_that_occurs_twice_is_shown_once_and_counted(tmp_path):
    data = pd.concat([ODD, ODD.head(2)], ignore_index=True)
    done = annotate.export_tasks(data, task="relabel", seed=1, out=tmp_path)
    assert (done.tasks, done.repeated_pairs) == (4, 2)


def test_bad_arguments_of_an_export_are_named(tmp_path):
    def told(data=ODD, **options):
        return raised(annotate.export_tasks, data, **{"seed": 1, "out": tmp_path} | options)

    assert "relabel, compare, score" in told(task="rank")
    assert "needs generated=" in told(task="compare")
    assert "4 of 4 pairs have no generated" in told(task="score", generated={})
    assert "leave out generated=" in told(task="relabel", generated={})
    assert "no pairs" in told(ODD.head(0), task="relabel")
    assert not list(tmp_path.iterdir()), "a refused export leaves nothing behind"


# There and back


choices = st.sampled_from(votes.VOTES)


@settings(max_examples=50)
@given(
    st.integers(0, 2**63),
    st.lists(
        st.lists(st.tuples(choices, st.booleans(), st.booleans()), max_size=3),
        min_size=1,
        max_size=8,
    ),
)
def test_votes_come_back_as_they_were_meant(tmp_path_factory, seed, meant):
    data = many(len(meant))
    entries = export(data, tmp_path_factory.mktemp("out"), seed=seed)
    expected = []
    for entry in entries:
        row = int(entry["data"]["response_a"].split()[1].rstrip("."))
        own = {"chosen": f" One {row}.", "rejected": f" Two {row}."}
        for annotator, (vote, toxic, other) in enumerate(meant[row]):
            sides = {name: side_of(entry, text) for name, text in own.items()}
            result = [better(sides.get(vote, "Tie"))]
            for name, marked in (("chosen", toxic), ("rejected", other)):
                if marked:
                    letter = sides[name][-1].lower()
                    result.append(region(f"toxic_{letter}", "choices", [TOXIC]))
            entry["annotations"].append(annotation(annotator, annotator, *result))
            expected.append((data["pair_id"][row], str(annotator), vote, toxic, "humans", other))
    table, report = annotate.import_votes(entries, data, seed=seed)
    columns = [*votes.COLUMNS, "toxic_rejected"]
    assert list(table.columns) == columns
    assert sorted(table.itertuples(index=False, name=None)) == sorted(expected)
    pd.testing.assert_frame_equal(votes.check(table, data["pair_id"]), table)
    assert (report.found, report.used, len(report.excluded)) == (len(expected), len(expected), 0)
    assert report.unvoted == sum(not row for row in meant)


def test_comparisons_come_back_and_know_their_generated_responses(tmp_path):
    data = many(30)
    generated = {pair: f" Made {n}." for n, pair in enumerate(data["pair_id"])}
    entries = export(data, tmp_path, "compare", generated=generated)
    rows = dict(zip(data["pair_id"], range(30)))
    for entry in entries:
        texts = {entry["data"]["response_a"], entry["data"]["response_b"]}
        (made,) = [text for text in texts if "Made" in text]
        number = int(made.split()[1].rstrip("."))
        assert texts == {made, f" One {number}."}
        wanted = [made, f" One {number}."][number % 3] if number % 3 < 2 else None
        choice = side_of(entry, wanted) if wanted else "Tie"
        entry["annotations"] = [annotation(1, {"id": 9, "email": "x"}, better(choice))]
    table, report = annotate.import_comparisons(entries, data, seed=1, generated=generated)
    expected = {pair: ("generated", "chosen", "tie")[n % 3] for pair, n in rows.items()}
    assert dict(zip(table["pair_id"], table["better"])) == expected
    assert set(table["annotator"]) == {"9"} and report.unvoted == 0
    other = generated | {data["pair_id"][0]: " Made by another model."}
    told = raised(annotate.import_comparisons, entries, data, seed=1, generated=other)
    assert told.startswith("1 of 30 tasks belong to no pair")


@pytest.mark.parametrize("made", [True, False])
def test_scores_come_back_with_their_review(tmp_path, made):
    data = many(6)
    generated = {pair: f" Made {n}." for n, pair in enumerate(data["pair_id"])} if made else None
    entries = export(data, tmp_path, "score", generated=generated)
    assert len(entries) == (6 if made else 12)
    for n, entry in enumerate(entries):
        row = int(entry["data"]["response"].split()[1].rstrip("."))
        ratings = [region(c, "rating", 1 + (row + k) % 5) for k, c in enumerate(CRITERIA)]
        if n % 2:
            ratings.append(region("review", "choices", [labelling.REVIEWED]))
        entry["annotations"] = [annotation(n, 3, *ratings)]
    table, report = annotate.import_scores(entries, data, seed=1, generated=generated)
    assert len(table) == 5 * len(entries) and report.used == len(entries)
    assert set(table["response"]) == ({"generated"} if made else {"chosen", "rejected"})
    assert table["reviewed"].mean() == 0.5
    rows = dict(zip(data["pair_id"], range(6)))
    for answer in table.itertuples():
        place = CRITERIA.index(answer.criterion.lower())
        assert answer.score == 1 + (rows[answer.pair_id] + place) % 5


def test_real_pairs_go_out_and_come_back(hh_test_sets, tmp_path):
    _, data = hh_test_sets
    entries = export(data, tmp_path, seed=11)
    assert len(entries) == data["pair_id"].nunique()
    for entry in entries:
        entry["annotations"] = [annotation(1, 1, better("Response A"))]
    table, report = annotate.import_votes(entries, data, seed=11)
    assert (report.used, report.unvoted) == (len(entries), 0)
    assert set(table["pair_id"]) == set(data["pair_id"])
    n = len(entries)
    assert abs((table["vote"] == "chosen").sum() - n / 2) < 5 * math.sqrt(n) / 2


# What is no vote: counted, with its reason


def excluded(entries, data=ODD, importer=annotate.import_votes):
    table, report = importer(entries, data, seed=1)
    assert report.found == report.used + len(report.excluded)
    return table, list(report.excluded["reason"]), report


def test_what_is_no_vote_is_counted_with_its_reason(tmp_path):
    entries = export(ODD, tmp_path)
    entries[0]["annotations"] = [
        annotation(1, 1, better("Tie")),
        annotation(2, 2, better("Tie"), cancelled=True),
        annotation(3, 3),
        annotation(10, 3) | {"result": None},
        annotation(4, None, better("Tie")),
        annotation(5, 5, region("toxic_a", "choices", [TOXIC])),
        annotation(6, 6, better("Tie"), region("toxic_a", "choices", [])),
    ]
    entries[1]["drafts"] = [{"id": 7, "user": "a@example.org", "result": [better("Tie")]}, 8]
    entries[1]["predictions"] = [{"id": 9, "result": [better("Tie")]}]
    table, reasons, report = excluded(entries)
    assert list(table["annotator"]) == ["1", "6"] and not table["toxic"].any()
    assert reasons == [
        "skipped by the annotator",
        "empty",
        "empty",
        "no annotator",
        "no choice of the better response",
        "draft, not submitted",
        "draft, not submitted",
        "prediction of a model",
    ]
    assert list(report.excluded["annotation"]) == ["2", "3", "10", "4", "5", "7", "8", "9"]
    assert set(report.excluded["pair_id"]) <= set(ODD["pair_id"])
    assert report.unvoted == 3


def test_second_answer_of_an_annotator_replaces_the_first_wherever_it_stands(tmp_path):
    entries = export(ODD, tmp_path)
    early, late = "2026-11-23T15:08:35.453498Z", "2026-11-24T09:00:00Z"
    entries[0]["annotations"] = [
        annotation(2, 1, better("Tie"), at=late),
        annotation(1, 1, better("Response A"), at=early),
        annotation(3, 2, better("Response A"), at=early),
    ]
    # The same task imported twice by mistake: still one vote a pair and annotator.
    entries.append(
        entries[0] | {"id": 99, "annotations": [annotation(4, 2, better("Tie"), at=late)]}
    )
    table, reasons, report = excluded(entries)
    assert list(table["vote"]) == ["tie", "tie"]
    assert reasons == ["replaced by a later one of the annotator"] * 2
    assert list(report.excluded["annotation"]) == ["1", "3"]
    votes.check(table, ODD["pair_id"])


def test_an_incomplete_score_is_counted(tmp_path):
    entries = export(ODD, tmp_path, "score")
    ratings = [region(c, "rating", 3) for c in CRITERIA if c not in ("accuracy", "fluency")]
    entries[0]["annotations"] = [annotation(1, 1, *ratings)]
    table, reasons, _ = excluded(entries, importer=annotate.import_scores)
    assert reasons == ["no score of Accuracy, Fluency"] and table.empty


def test_an_export_without_any_annotation_is_an_empty_table(tmp_path):
    for entries in (export(ODD, tmp_path), []):
        table, reasons, report = excluded(entries)
        assert table.empty and not reasons and report.unvoted == 4
        votes.check(table)


# What is another export: an error


def told(entries, data=ODD, seed=1, importer=annotate.import_votes):
    return raised(importer, entries, data, seed=seed)


def test_another_seed_or_other_pairs_are_an_error(tmp_path):
    entries = export(ODD, tmp_path)
    assert told(entries, seed=2).startswith("4 of 4 tasks belong to no pair of these data")
    assert told(entries, ODD.tail(3)).startswith("1 of 4 tasks belong to no pair of these data")
    del entries[2]["data"]["key"]
    assert "the first: None; give the pairs, the seed" in told(entries)


def test_another_labelling_configuration_is_an_error(tmp_path):
    scored = export(ODD, tmp_path, "score")
    assert told(scored).startswith(
        "8 of 8 tasks are of another labelling configuration: task score"
    )
    foreign = [{"id": 5, "data": {"text": "a"}, "annotations": []}]
    assert "task None instead of relabel; the first: 5" in told(foreign)
    for answer in (
        region("sentiment", "choices", ["Tie"]),
        region("better", "rating", 3),
        region(None, None, 3),
        region(["better"], "choices", ["Tie"]),
    ):
        entries = export(ODD, tmp_path)
        entries[1]["annotations"] = [annotation(12, 1, answer)]
        message = told(entries)
        assert "1 of 1 annotations cannot be read, the first: task 2, annotation 12" in message
        assert "another labelling configuration than that of task 'relabel'" in message


@pytest.mark.parametrize("choice", [["Both"], ["Response A", "Tie"], "Tie", 3, {"a": 1}])
def test_a_vote_outside_the_scale_is_an_error(tmp_path, choice):
    entries = export(ODD, tmp_path)
    entries[0]["annotations"] = [
        annotation(n, n, region("better", "choices", choice)) for n in range(5)
    ]
    message = told(entries)
    assert message.startswith("5 of 5 annotations cannot be read, the first: task 1, annotation 0:")
    assert "is outside the scale ['Response A', 'Response B', 'Tie']" in message
    assert "annotation 3" not in message, "three are enough to find them"


@pytest.mark.parametrize("score", [0, 6, -1, 3.5, "3", True, [3]])
def test_a_score_outside_the_scale_is_an_error(tmp_path, score):
    entries = export(ODD, tmp_path, "score")
    entries[0]["annotations"] = [annotation(1, 1, region("accuracy", "rating", score))]
    message = told(entries, importer=annotate.import_scores)
    assert f"accuracy {score!r} is outside the scale 1 to 5" in message


def test_two_answers_of_one_control_are_an_error(tmp_path):
    entries = export(ODD, tmp_path)
    entries[0]["annotations"] = [annotation(1, 1, better("Tie"), better("Response A"))]
    assert "two answers of control 'better'" in told(entries)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"id": 1, "da', "not JSON (Unterminated string"),
        (b"", "not JSON (Expecting value"),
        (b"\xff\xfe", "not JSON ('utf-8' codec"),
        (b"[" * 100_000, "not JSON ("),
        (b'{"id": 1}', "an export is a list of tasks, got dict"),
        (b"[3]", "task 0: no 'data' and 'annotations'"),
        (b'[{"data": {}, "annotations": [3]}]', "task 0: no 'data' and 'annotations'"),
        (b'[{"data": {}, "annotations": [{"result": {}}]}]', "task 0: no 'data' and 'anno"),
        (b'[{"data": {}, "annotations": [{"result": [1]}]}]', "task 0: no 'data' and 'anno"),
        (b'[{"key": "a", "better": "Tie", "annotator": 2}]', "export again in the format JSON"),
    ],
)
def test_a_file_that_is_no_export_is_an_error_that_names_it(tmp_path, content, message):
    path = tmp_path / "export.json"
    path.write_bytes(content)
    text = raised(labelstudio.read_export, path)
    assert str(path) in text and message in text
