"""Keys come from the environment and are written nowhere; pickles and remote code stay out."""

import ast
import json
import subprocess
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

import nbformat
import pytest
from night_project import NightProject
from small_project import ROOT, A, B, C, Project

from helpers import completions, sources

JUDGE, REWARD = "planted-judge-key-7c1f0a", "planted-reward-key-93bd2e"
PLANTED = {
    "ELEPHANT_JUDGE_API_KEY": JUDGE,
    "ELEPHANT_REWARD_API_KEY": REWARD,
    "HF_TOKEN": "hf_planted0hub0token",
    "ELEPHANT_OTHER_API_KEY": "planted-other-key-55",
}
# A key that is not looked for whole: an error text may be cut in its middle.
PARTS = [key[:14].encode() for key in PLANTED.values()]


class Server(BaseHTTPRequestHandler):
    """Judge and reward model that say back the key they were given, as badly made servers do."""

    seen: list[str] = []

    def do_POST(self):
        given = self.headers.get("Authorization", "")
        self.seen.append(given)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.startswith("/refused"):
            # Cut to 200 characters, this text ends within the key.
            return self._send(401, "x" * 175 + given + given)
        if "pairs" in body:
            return self._send(200, json.dumps({"scores": [1.0] * len(body["pairs"])}))
        message = {"content": f"A {given}"}
        return self._send(200, json.dumps({"choices": [{"message": message}]}))

    def _send(self, status: int, text: str):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Server.seen = []
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


ASK = """
import pathlib
from helpers import completions, endpoint
cache = pathlib.Path(run.artifacts, "answers.jsonl")
judge = completions.Endpoint("{address}", "judge")
answers, problems = completions.fetch(judge, {{"k": "Which is better?"}}, cache)
facts = dict(revision="1", learned="unknown", pair_ids=frozenset(), prompts=frozenset())
scorer = endpoint.scorer("{address}", "rm", cache=pathlib.Path(run.artifacts, "s.sqlite"), **facts)
found = scorer.score(["\\n\\nHuman: Hi\\n\\nAssistant:"], [" Hello"])
print(answers, problems, found, judge, scorer)
run.record("c.value", len(answers) + found[0], unit="count", labels="none")
"""
REFUSED = """
from helpers import completions, endpoint
facts = dict(revision="1", learned="unknown", pair_ids=frozenset(), prompts=frozenset())
scorer = endpoint.scorer("{address}/refused", "rm", **facts)
try:
    scorer.score(["\\n\\nHuman: Hi\\n\\nAssistant:"], [" Hello"])
except completions.Stopped as error:
    print(error)
judge = completions.Endpoint("{address}/refused", "judge")
completions.fetch(judge, {{"k": "Which is better?"}}, run.artifacts / "answers.jsonl")
"""


def _project(folder, address: str) -> Project:
    project = Project(folder)
    project.write_notebook(C, [ASK.format(address=address)])
    project.write_notebook(A, [REFUSED.format(address=address)])
    return project


def _found(folder) -> list[str]:
    """Files under the folder that hold a planted key or its beginning."""
    holding = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and any(part in path.read_bytes() for part in PARTS):
            holding.append(str(path.relative_to(folder)))
    return holding


def test_no_key_is_written_whatever_a_server_says(tmp_path, address, monkeypatch):
    for name, key in PLANTED.items():
        monkeypatch.setenv(name, key)
    project = _project(tmp_path / "project", address)
    done = project.run()
    build = project.root / "build" / "smoke"
    # The keys were used, the good notebook is complete, the other failed by a refusal.
    assert {f"Bearer {JUDGE}", f"Bearer {REWARD}"} == set(Server.seen)
    assert project.executed(done) == {C} and project.results()[0]["value"] == 2
    assert "Stopped" in done.stderr and (build / "failed" / f"{A}.ipynb").is_file()
    assert "[ELEPHANT_JUDGE_API_KEY]" in (build / "artifacts" / C / "answers.jsonl").read_text()
    assert not _found(tmp_path)
    assert not any(part in (done.stdout + done.stderr).encode() for part in PARTS)


def test_a_search_that_finds_nothing_would_find_a_key(tmp_path):
    (tmp_path / "a.ipynb").write_text(json.dumps({"x": f"Bearer {JUDGE}"}))
    (tmp_path / "b.sqlite").write_bytes(b"\x00" + REWARD[:15].encode())
    assert _found(tmp_path) == ["a.ipynb", "b.sqlite"]


def test_an_error_text_is_cleared_before_it_is_cut(address, monkeypatch, tmp_path):
    monkeypatch.setenv("ELEPHANT_JUDGE_API_KEY", JUDGE)
    judge = completions.Endpoint(f"{address}/refused", "judge")
    with pytest.raises(completions.Stopped) as stopped:
        completions.fetch(judge, {"k": "?"}, tmp_path / "answers.jsonl")
    assert JUDGE[:6] not in str(stopped.value)


@pytest.mark.slow
def test_the_book_holds_no_key_and_cannot_be_written_to(tmp_path, address, monkeypatch):
    for name, key in PLANTED.items():
        monkeypatch.setenv(name, key)
    project = _project(tmp_path / "project", address)
    project.write_notebook(A, ['run.record("a.value", 1, unit="count", labels="none")'])
    project.write_notebook(B, ['run.record("b.value", 1, unit="count", labels="none")'])
    _add_book(project)
    done = subprocess.run(
        project.command("book", "--profile", "smoke"),
        cwd=project.root,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(Server.seen) == 2 and not _found(tmp_path)
    assert not any(part in (done.stdout + done.stderr).encode() for part in PARTS)
    book = project.root / "build" / "smoke" / "book"
    pages = sorted(book.rglob("*.html"))
    assert len(pages) > 5
    for page in pages:
        text = page.read_text(encoding="utf-8").lower()
        assert 'method="post"' not in text and 'type="file"' not in text, page
    _check_read_only(book)


@pytest.mark.slow
def test_a_failing_night_tells_no_key(tmp_path, address, monkeypatch):
    """What a server says goes a long way: the notebook's error, the log, the history, the alarm
    and its command, the status page of the book."""
    for name, key in PLANTED.items():
        monkeypatch.setenv(name, key)
    project = NightProject(tmp_path / "project")
    told = tmp_path / "told.txt"
    project.teller.write_text(f'#!/bin/sh\n{{ env; cat; }} > "{told}"\n')
    assert project.run().returncode == 0  # the copies that the book shows after the failure
    project.write_notebook(A, [REFUSED.format(address=address)], words="# First")
    done = project.night()
    assert done.returncode == 1, done.stderr
    assert {f"Bearer {JUDGE}", f"Bearer {REWARD}"} == set(Server.seen)
    # The server's answer has come through to each of these places, which is why they are searched.
    (night,) = project.kept()
    (problem,) = (line for line in night.head["problems"] if "Stopped" in line)
    alarm = (project.where / "alarm.json").read_text()
    assert "xxxxx" in problem and problem in json.loads(alarm)["lines"]
    assert "xxxxx" in told.read_text() and "ELEPHANT_ALARM_STATE=open" in told.read_text()
    assert "xxxxx" in (project.root / "build" / "smoke" / "failed" / f"{A}.ipynb").read_text()
    assert "xxxxx" in done.stdout and "xxxxx" in done.stderr
    assert "xxxxx" in (project.book / "status.html").read_text()
    assert not _found(tmp_path)
    # Nights are compressed: a key in one is not seen from outside.
    assert not any(part.decode() in json.dumps(night) for part in PARTS)
    assert not any(part in (done.stdout + done.stderr).encode() for part in PARTS)


def _add_book(project: Project) -> None:
    """What a book needs besides its notebooks: the real settings, a table of contents, one page."""
    (project.root / "book" / "_static").mkdir(parents=True)
    for name in ("book.css", "references.bib"):
        found = next((ROOT / "book").rglob(name))
        to = project.root / "book" / found.relative_to(ROOT / "book")
        to.write_bytes(found.read_bytes())
    (project.root / "book" / "index.md").write_text("# A book\n\nOf three notebooks.\n")
    (project.root / "_config.yml").write_bytes((ROOT / "_config.yml").read_bytes())
    for name in (A, B, C):
        path = project.root / "notebooks" / f"{name}.ipynb"
        notebook = nbformat.read(path, 4)
        notebook.cells[0].source = f"# Chapter {name}"
        nbformat.write(notebook, path)
    files = [*(f"notebooks/{name}" for name in (A, B, C)), "verdicts", "recorded", "status"]
    lines = ["format: jb-book", "root: index", "chapters:", *(f"  - file: {f}" for f in files)]
    (project.root / "_toc.yml").write_text("\n".join(lines) + "\n")


def _check_read_only(book) -> None:
    """Served as static files, every request that would write is refused."""

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(book))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/index.html"
        assert urllib.request.urlopen(url).status == 200
        before = (book / "index.html").read_bytes()
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(urllib.request.Request(url, data=b"x", method=method))
            assert refused.value.code == 501
        assert (book / "index.html").read_bytes() == before
    finally:
        server.shutdown()


def _calls():
    """Every call in the package and the notebooks: where, the called name, its keywords."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in sources.PACKAGE.glob("*.py")}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
        texts[path.name] = "\n".join(cells)
    for where, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                keywords = {k.arg: k.value for k in node.keywords}
                yield where, ast.unparse(node.func), keywords


def test_weights_are_read_as_plain_tensors_and_no_code_comes_with_them():
    loads = 0
    for where, name, keywords in _calls():
        if name == "torch.load":
            loads += 1
            assert ast.unparse(keywords["weights_only"]) == "True", where
        assert name not in ("pickle.load", "pickle.loads", "joblib.load", "eval", "exec"), where
        if name in ("np.load", "pd.read_pickle"):
            assert name == "np.load" and "allow_pickle" not in keywords, where
        code = keywords.get("trust_remote_code")
        if code is not None:
            # A name only: False until a person says --allow-remote-code.
            assert ast.unparse(code) in ("False", "allow_remote_code", "remote_code"), where
    assert loads, "the search sees the calls"
