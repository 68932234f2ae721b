"""Contests before a judge: judges of known leanings, in both orders and both wordings."""

import json

import httpx
import pandas as pd
import pytest

from helpers import contests
from helpers.completions import Endpoint

SIDES = {"generated": "response", "chosen": "chosen"}
TABLE = pd.DataFrame(
    {
        "pair_id": ["a", "b", "c"],
        "prompt": ["\n\nHuman: 1?\n\nAssistant:"] * 2 + ["\n\nHuman: 2?\n\nAssistant:"],
        "response": [" good one", " poor two", " good three"],
        "chosen": [" poor one", " good two", " poor three"],
        "grade": ["x", "x", "y"],
    }
)


def ask(answer, tmp_path, form):
    """Every question is answered by ``answer(text)``; returns the answers and the questions."""
    heard = []

    def reply(request):
        text = json.loads(request.content)["messages"][0]["content"]
        heard.append(text)
        return httpx.Response(200, json={"choices": [{"message": {"content": answer(text)}}]})

    found = contests.asked(
        TABLE,
        SIDES,
        Endpoint("http://judge.test/v1", "judge"),
        form=form,
        cache=tmp_path / f"{form}.jsonl",
        transport=httpx.MockTransport(reply),
        workers=1,
    )
    return found, heard


def honest(form):
    """Prefers the good response, wherever it stands."""

    def answer(text):
        first = text.index("good") < text.index("poor")
        if form == "corrected":
            return "A" if first else "B"
        return f"Response {1 if first else 2} is better."

    return answer


@pytest.mark.parametrize("form", contests.FORMS)
def test_an_honest_judge_is_read_rightly_in_both_orders(form, tmp_path):
    found, heard = ask(honest(form), tmp_path, form)
    assert len(heard) == len(set(heard)) and len(found) == 6
    expected = {"a": "generated", "b": "chosen", "c": "generated"}
    assert (found["vote"] == found["pair_id"].map(expected)).all()
    assert set(found["first"]) == set(SIDES) and (found["status"] == "answered").all()
    assert ("1?" in "".join(heard)) == (form == "corrected"), "the printed one has no question"
    summary = contests.shares(found, "generated", seed=0)
    assert summary.win.value == pytest.approx(2 / 3) and summary.tie.value == 0
    assert contests.shares(found, "chosen", seed=0).win.value == pytest.approx(1 / 3)
    assert contests.liking(found, seed=0).value == 0


@pytest.mark.parametrize("form", contests.FORMS)
def test_a_judge_of_places_gives_ties_and_is_found_out(form, tmp_path):
    said = {"printed": "Response 1 is better.", "corrected": "A"}[form]
    found, _ = ask(lambda text: said, tmp_path, form)
    assert (found["vote"] == found["first"]).all()
    assert contests.shares(found, "generated", seed=0).tie.value == 1
    assert contests.liking(found, seed=0).value == 1


@pytest.mark.parametrize("form", contests.FORMS)
def test_an_answer_that_is_none_stays_in_the_table(form, tmp_path):
    found, _ = ask(lambda text: "I would rather not say.", tmp_path, form)
    assert found["vote"].isna().all() and (found["status"] == "unparseable").all()
    again, heard = ask(lambda text: "A", tmp_path, form)
    assert not heard and again["vote"].isna().all(), "answers are cached, also unreadable ones"


def test_what_cannot_be_a_contest_is_refused(tmp_path):
    endpoint = Endpoint("http://judge.test/v1", "judge")
    with pytest.raises(ValueError, match="form 'other'"):
        contests.asked(TABLE, SIDES, endpoint, form="other")
    with pytest.raises(ValueError, match="different in each row"):
        contests.asked(TABLE.assign(pair_id="a"), SIDES, endpoint, form="printed")
