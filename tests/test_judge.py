import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from email.utils import format_datetime
from pathlib import Path

import httpx
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import completions, judge, paper
from helpers.completions import Endpoint
from helpers.pairs import ASSISTANT, HUMAN, frame, parse

ENDPOINT = Endpoint("http://judge.test/v1", "a-model")
SECRET = "sk-planted-0123456789"


def make(n: int) -> pd.DataFrame:
    ask = [f"{HUMAN} Question {i}?{ASSISTANT}" for i in range(n)]
    records = [parse(f"{q} Good answer {i}.", f"{q} Bad answer {i}.") for i, q in enumerate(ask)]
    return frame([dict(r, subset="s", split="test", row=i) for i, r in enumerate(records)])


def says(text) -> httpx.Response:
    return httpx.Response(200, json={"choices": [{"message": {"content": text}}]})


def prefers_good(request: httpx.Request) -> httpx.Response:
    """A perfect judge, whatever the order."""
    text = json.loads(request.content)["messages"][0]["content"]
    return says("A" if text.index("Good") < text.index("Bad") else "B")


class Server:
    """Plays the given reactions first, then is a perfect judge; remembers what it was asked."""

    def __init__(self, *first):
        self.first, self.asked, self.lock = list(first), [], threading.Lock()

    def __call__(self, request):
        with self.lock:
            self.asked.append(request)
            reaction = self.first.pop(0) if self.first else prefers_good
        if isinstance(reaction, Exception):
            raise reaction
        return reaction(request) if callable(reaction) else reaction


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "answers.jsonl"


def run(server, pairs, cache, *, waits=None, endpoint=ENDPOINT, **options):
    """One question at a time, so that what comes first is fixed; waits are noted, not waited."""
    options = dict(workers=1, say=lambda _: None) | options
    return judge.ask(
        pairs,
        endpoint,
        cache=cache,
        transport=httpx.MockTransport(server),
        sleep=(waits if waits is not None else []).append,
        **options,
    )


# What is asked


def test_the_criteria_are_the_papers():
    prompt = judge.build_prompt(make(1).iloc[0], "chosen")
    places = [prompt.index(c) for c in paper.results()["annotation_protocol"]["alignment_criteria"]]
    assert places == sorted(places) and len(places) == 4


def test_the_order_decides_the_letters_and_nothing_tells_the_label():
    pair = make(1).iloc[0]
    one, two = (judge.build_prompt(pair, first) for first in judge.SIDES)
    assert one.index("Good answer 0.") < one.index("[Response B]") < one.index("Bad answer 0.")
    assert two.index("Bad answer 0.") < two.index("[Response B]") < two.index("Good answer 0.")
    assert sorted(one) == sorted(two), "both orders are made of the same text"
    assert "chosen" not in one and "rejected" not in one
    with pytest.raises(ValueError, match="must be 'chosen' or 'rejected'"):
        judge.build_prompt(pair, "A")


def test_responses_to_different_prompts_stand_under_their_own():
    record = parse(f"{HUMAN} One?{ASSISTANT} Good.", f"{HUMAN} Two?{ASSISTANT} Bad.")
    pair = frame([dict(record, subset="s", split="test", row=0)]).iloc[0]
    prompt = judge.build_prompt(pair, "rejected", criteria=["mine"])
    order = ["(1) mine", "Two?", "Bad.", "One?", "Good."]
    assert [prompt.index(text) for text in order] == sorted(prompt.index(text) for text in order)
    assert prompt.count("[Dialogue of response") == 2 and "harmless" not in prompt


@pytest.mark.parametrize(
    ("text", "better", "toxic"),
    [
        ("A", "A", ""),
        (" b.\n", "B", ""),
        ("Tie", "tie", ""),
        ("B\nToxic: A", "B", "A"),
        ("tie\n\nToxic: both.", "tie", "AB"),
        ("A\ntoxic: neither", "A", ""),
    ],
)
def test_answers_in_the_form_are_read(text, better, toxic):
    assert judge.parse(text) == (better, frozenset(toxic))


@pytest.mark.parametrize(
    "text",
    ["", "C", "A B", "A or B", "Response A", "A, it is nicer", "I think A", "A\nToxic: C"]
    + ["A\nToxic: A\nToxic: B", "Toxic: A", "A Toxic: B", "neither", "А"],
)
def test_all_else_is_no_answer(text):
    assert judge.parse(text) is None


@given(st.text())
def test_any_text_is_an_answer_or_none(text):
    answer = judge.parse(text)
    assert answer is None or (answer.better in ("A", "B", "tie") and answer.toxic <= {"A", "B"})


def test_the_key_depends_on_all_that_decides_the_answer():
    pairs = make(1)
    same = {q.key for q in judge.questions(pairs, Endpoint("http://judge.test/v1/", "a-model"))}
    assert same == {q.key for q in judge.questions(pairs, ENDPOINT)} and len(same) == 2
    others = [
        judge.questions(pairs, Endpoint("http://other.test/v1", "a-model")),
        judge.questions(pairs, Endpoint(ENDPOINT.address, "b-model")),
        judge.questions(pairs, Endpoint(ENDPOINT.address, "a-model", {"max_tokens": 17})),
        judge.questions(pairs, ENDPOINT, ["another criterion"]),
    ]
    assert not same & {q.key for asked in others for q in asked}


# The estimate


def test_the_estimate_counts_what_is_missing(cache, tokenizer):
    pairs = make(3)
    texts = [q.text for q in judge.questions(pairs, ENDPOINT)]
    tokens = sum(len(tokenizer.encode(t)) for t in texts)
    prices = dict(usd_per_million_in=2.0, usd_per_million_out=10.0)
    cost = judge.estimate(pairs, ENDPOINT, cache=cache, **prices)
    assert cost[:4] == (6, 0, tokens, 6 * 16)
    assert cost.usd == pytest.approx((2 * tokens + 10 * 96) / 1e6)
    assert judge.estimate(pairs, ENDPOINT, cache=cache).usd is None
    run(Server(), pairs.head(2), cache)
    assert judge.estimate(pairs, ENDPOINT, cache=cache)[:2] == (2, 4)
    unlimited = Endpoint(ENDPOINT.address, "a-model", {})
    with pytest.raises(ValueError, match="no max_tokens"):
        judge.estimate(pairs, unlimited, cache=cache)


def test_the_estimate_is_said_before_the_first_request(cache):
    said, server = [], Server()

    def say(line):
        said.append((line, len(server.asked)))

    run(server, make(2), cache, say=say, usd_per_million_in=1.0, usd_per_million_out=1e6)
    first, asked = said[0]
    assert asked == 0 and first.startswith("4 requests to make") and "about 64.00 USD" in first
    assert said[-1] == ("4 answered, 0 unparseable, 0 failed", 4)


# A good server


def test_both_orders_of_every_pair_are_asked_once(cache):
    server, pairs = Server(), make(5)
    answers = run(server, pairs, cache, workers=4)
    assert (
        len(server.asked) == 10
        and str(server.asked[0].url) == f"{ENDPOINT.address}/chat/completions"
    )
    assert list(answers.columns) == list(judge.COLUMNS)
    assert answers["pair_id"].tolist() == pairs["pair_id"].repeat(2).tolist()
    assert (answers["vote"] == "chosen").all() and (answers["status"] == "answered").all()
    again = run(dead := Server(), pairs, cache)
    assert not dead.asked
    pd.testing.assert_frame_equal(answers, again)


def test_identical_responses_are_asked_in_both_orders_all_the_same(cache):
    record = parse(f"{HUMAN} Q?{ASSISTANT} Same.", f"{HUMAN} Q?{ASSISTANT} Same.")
    pairs = frame([dict(record, subset="s", split="test", row=0)])
    server = Server(says("A"), says("A"))
    assert run(server, pairs, cache)["vote"].tolist() == ["chosen", "rejected"]
    assert len(server.asked) == 2


def test_the_toxicity_mark_follows_the_chosen_response(cache):
    server = Server(says("B\nToxic: A"), says("A\nToxic: A"))
    answers = run(server, make(1), cache)
    assert answers["vote"].tolist() == ["rejected", "rejected"]
    assert answers["toxic"].tolist() == [True, False]


def test_no_pairs_no_request(cache):
    server = Server()
    assert run(server, make(0), cache).empty and not server.asked


# A bad server

HTML = httpx.Response(200, text="<html>Bad gateway</html>")
CUT = httpx.Response(200, text='{"choices": [{"message": {"content": "A"')
TRANSIENT = {
    "time-out": httpx.ReadTimeout("slow"),
    "refused": httpx.ConnectError("refused"),
    "broken off": httpx.RemoteProtocolError("peer closed connection"),
    "429": httpx.Response(429),
    "500": httpx.Response(500, text="oops"),
    "502": httpx.Response(502),
    "503": httpx.Response(503),
    "html": HTML,
    "cut": CUT,
    "no choices": httpx.Response(200, json={"choices": []}),
    "an error in a 200": httpx.Response(200, json={"error": "overloaded"}),
    "a list": httpx.Response(200, json=[1]),
    "deep": httpx.Response(200, text="[" * 200_000),
    "parts": says([{"type": "text", "text": "A"}]),
}


@pytest.mark.parametrize("reaction", TRANSIENT.values(), ids=TRANSIENT)
def test_what_may_pass_is_tried_again_with_doubling_waits(reaction, cache):
    waits = []
    server = Server(reaction, reaction, reaction)
    answers = run(server, make(1), cache, waits=waits)
    assert (answers["vote"] == "chosen").all()
    assert waits == [1, 2, 4] and len(server.asked) == 5


def test_retry_after_is_respected(cache):
    now = pd.Timestamp.now(tz="UTC").to_pydatetime()
    late = format_datetime(now + pd.Timedelta(seconds=90), usegmt=True)
    past = format_datetime(now - pd.Timedelta(seconds=90), usegmt=True)
    values = ["30", late, past, "nonsense"]
    server = Server(*(httpx.Response(429, headers={"Retry-After": v}) for v in values))
    waits = []
    run(server, make(1), cache, waits=waits)
    assert waits[0] == 30 and 80 < waits[1] <= 90 and waits[2:] == [4, 8]


def test_a_wait_of_hours_is_not_waited_nor_cut_short(cache):
    server, waits = Server(httpx.Response(429, headers={"Retry-After": "7200"})), []
    answers = run(server, make(1), cache, waits=waits)
    assert answers["status"].tolist() == ["failed", "answered"] and waits == []
    assert "asks to wait 7200 s" in answers["problem"][0]


def test_what_fails_for_good_is_said_and_asked_again_by_the_next_run(cache):
    server = Server(*[httpx.Response(500, text="oops")] * completions.ATTEMPTS)
    answers = run(server, make(2), cache)
    assert answers["status"].tolist() == ["failed", "answered", "answered", "answered"]
    assert answers["problem"][0] == "HTTP 500: oops (6 attempts)"
    assert answers["vote"].isna().tolist() == [True, False, False, False]
    again = Server()
    assert (run(again, make(2), cache)["status"] == "answered").all() and len(again.asked) == 1


def test_a_bad_request_is_not_repeated(cache):
    waits = []
    server = Server(httpx.Response(400, text="context too long"))
    answers = run(server, make(1), cache, waits=waits)
    assert answers["problem"].tolist() == ["HTTP 400: context too long", ""] and not waits


@pytest.mark.parametrize("text", ["I cannot judge this.", "", None, "A and B", "\ud800"])
def test_an_unparseable_answer_is_kept_counted_and_not_asked_again(text, cache):
    said = []
    body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
    answers = run(Server(httpx.Response(200, content=body)), make(1), cache, say=said.append)
    assert answers["status"].tolist() == ["unparseable", "answered"]
    assert answers["text"][0] == ("?" if text == "\ud800" else text or "")
    assert said[-1] == "1 answered, 1 unparseable, 0 failed"
    run(server := Server(), make(1), cache)
    assert not server.asked


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_address_stops_the_run_and_keeps_what_was_answered(status, cache):
    server = Server(prefers_good, prefers_good, httpx.Response(status, text="no"))
    with pytest.raises(completions.Stopped, match=f"HTTP {status}: no; check address"):
        run(server, make(20), cache)
    assert len(server.asked) == 3, "the rest is not tried"
    answered = len(completions.read_cache(cache)[0])
    assert answered == 2
    again = Server()
    assert (run(again, make(20), cache)["vote"] == "chosen").all()
    assert len(again.asked) == 40 - answered


def test_a_dead_server_is_given_up(cache):
    def refuse(_request):
        raise httpx.ConnectError("refused")

    with pytest.raises(completions.Stopped, match="10 requests in a row failed"):
        run(refuse, make(50), cache, workers=4)


def test_an_interrupt_ends_the_run_and_loses_nothing(cache):
    def interrupted(_request):
        raise KeyboardInterrupt

    def slow(request):
        # As a real server: the interrupt reaches the caller while the next question is under way.
        time.sleep(1)
        return prefers_good(request)

    server = Server(*[prefers_good] * 3, interrupted, *[slow] * 4)
    with pytest.raises(KeyboardInterrupt):
        run(server, make(20), cache)
    assert len(completions.read_cache(cache)[0]) >= 3 and len(server.asked) <= 5


KILLED = """
    import sys, time
    from pathlib import Path
    import httpx
    from tests_judge import make, prefers_good, ENDPOINT
    from helpers import judge

    answered = 0

    def slow(request):
        global answered
        if answered == 7:
            print("hanging", flush=True)
            time.sleep(600)
        answered += 1
        return prefers_good(request)

    cache = Path(sys.argv[1])
    transport = httpx.MockTransport(slow)
    judge.ask(make(20), ENDPOINT, cache=cache, workers=1, transport=transport, say=lambda _: None)
"""


def test_a_killed_run_loses_nothing_that_was_answered(cache, tmp_path):
    (tmp_path / "tests_judge.py").write_text(Path(__file__).read_text(encoding="utf-8"))
    (tmp_path / "killed.py").write_text(textwrap.dedent(KILLED))
    child = subprocess.Popen(
        [sys.executable, str(tmp_path / "killed.py"), str(cache)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "hanging\n"
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    known, damaged = completions.read_cache(cache)
    assert len(known) == 7 and damaged == 0
    server = Server()
    assert (run(server, make(20), cache)["vote"] == "chosen").all() and len(server.asked) == 33


@settings(max_examples=12)
@given(st.integers(1, 400))
def test_half_a_line_costs_one_answer_and_spoils_no_other(tmp_path_factory, lost):
    cache = tmp_path_factory.mktemp("cut") / "answers.jsonl"
    run(Server(), make(2), cache)
    data = cache.read_bytes()
    last = len(data) - data.rstrip(b"\n").rfind(b"\n") - 1
    cache.write_bytes(data[: -min(lost, last)])
    server, said = Server(), []
    whole = lost == 1  # only the line feed is lost
    answers = run(server, make(2), cache, say=said.append)
    assert len(server.asked) == (0 if whole else 1) and (answers["vote"] == "chosen").all()
    assert any("damaged" in line for line in said) == (1 < lost < last)
    assert not run(server := Server(), make(2), cache).empty and not server.asked


@pytest.mark.parametrize(
    "line", ["[]", "3", '{"key": 1, "text": "A"}', '{"key": "k"}', "\0", "nul"]
)
def test_lines_that_are_no_records_are_counted(line, cache):
    cache.write_text(f'{{"key": "k1", "text": "A"}}\n{line}\n\n{{"key": "k2", "text": "B"}}\n')
    assert completions.read_cache(cache) == ({"k1": "A", "k2": "B"}, 1)


# The key


def everything(tmp_path: Path) -> str:
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    return "".join(p.read_bytes().decode("utf-8", "replace") for p in files)


def test_the_api_key_goes_to_the_server_and_nowhere_else(
    cache, tmp_path, monkeypatch, capfd, caplog
):
    monkeypatch.setenv(completions.KEY, SECRET)
    caplog.set_level(logging.DEBUG)
    echo = f"the key {SECRET} of Bearer {SECRET} is wrong"
    server = Server(
        httpx.Response(500, text=echo),
        says(echo),
        *[httpx.ConnectError(echo)] * completions.ATTEMPTS,
        httpx.Response(400, text=echo),
        httpx.Response(401, text=echo),
    )
    answers = run(server, make(1), cache, say=print)
    assert answers["status"].tolist() == ["unparseable", "failed"]
    with pytest.raises(completions.Stopped) as one:
        run(server, make(3), cache, say=print)
    assert {r.headers["Authorization"] for r in server.asked} == {f"Bearer {SECRET}"}
    assert not server.first, "all that was planted came up"
    output = capfd.readouterr()
    shown = [answers.to_csv(), "".join(traceback.format_exception(one.value)), repr(ENDPOINT)]
    shown += [everything(tmp_path), output.out, output.err, caplog.text]
    assert "HTTP 401" in shown[1] and "requests to make" in output.out
    for text in shown:
        assert SECRET not in text
    assert completions.KEY in answers["text"][0], "what was taken out is marked"


def test_without_a_key_no_header_is_sent(cache, monkeypatch):
    monkeypatch.delenv(completions.KEY, raising=False)
    run(server := Server(), make(1), cache)
    assert "Authorization" not in server.asked[0].headers


@pytest.mark.parametrize("key", [f"{SECRET}\nX: 1", f"{SECRET} 2", f"{SECRET}é", f"{SECRET}\x7f"])
def test_a_key_that_no_header_can_carry_is_refused_unshown(key, cache, monkeypatch):
    monkeypatch.setenv(completions.KEY, key)
    with pytest.raises(ValueError, match="set it anew") as error:
        run(server := Server(), make(1), cache)
    assert SECRET not in "".join(traceback.format_exception(error.value)) and not server.asked


def test_a_key_with_a_line_feed_at_its_end_works(cache, monkeypatch):
    monkeypatch.setenv(completions.KEY, f"{SECRET}\n")
    run(server := Server(), make(1), cache)
    assert server.asked[0].headers["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize(
    "address",
    [
        f"http://me:{SECRET}@judge.test/v1",
        f"https://{SECRET}@judge.test/v1",
        f"https://judge.test/v1?key={SECRET}",
        f"https://judge.test/v1#{SECRET}",
        f"http://me:{SECRET}@judge.test:port/v1",
        f"judge.test/{SECRET}",
        f"ftp://judge.test/{SECRET}",
        "",
    ],
)
def test_an_address_with_credentials_is_refused_unshown(address):
    with pytest.raises(ValueError, match="judge's address|endpoint's address") as error:
        Endpoint(address, "a-model")
    assert SECRET not in "".join(traceback.format_exception(error.value)).replace(address, "")
    assert SECRET not in str(error.value)


def test_a_redirect_does_not_carry_the_key_away(cache, monkeypatch):
    monkeypatch.setenv(completions.KEY, SECRET)
    away = httpx.Response(307, headers={"Location": "http://elsewhere.test/v1/chat/completions"})
    answers = run(server := Server(away), make(1), cache)
    assert {r.url.host for r in server.asked} == {"judge.test"}
    assert answers["status"].tolist() == ["failed", "answered"]
