"""The annotation loop through a real Label Studio server, in an environment of its own.

Slow, once: the environment is about a gigabyte (``tests/label_studio_env.sh``). Where it cannot be
made, these tests fail and show why. The server listens on this machine only, keeps its data in a
temporary folder, and is told to report to nobody.
"""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pandas as pd
import pytest

from helpers import annotate, labelling, labelstudio, pairs, votes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"
# Made up for a server that lives as long as these tests.
USERS = {f"{name}@example.org": f"token-of-{name}-000000" for name in ("first", "second")}
SEED = 2025
HTML = ' <b>bold</b> <script>alert("1")</script> &amp; $prompt é 😀 \x00\r\n\r\nNext  paragraph.'
LONG = "\n\nHuman: A?\n\nAssistant: B.\n\nHuman: C?\n\nAssistant: D."
TEXTS = [
    (HTML, " No."),
    (" ", " Empty on the other side."),
    (" Both.", " Both."),
    *((f" One {n}.", f" Two {n}.") for n in range(3, 11)),
]


@pytest.fixture(scope="module")
def data():
    """Twelve pairs, odd ones among them."""
    prompt = "\n\nHuman: Why?\n\nAssistant:"
    dialogues = [(prompt + left, prompt + right) for left, right in TEXTS]
    dialogues.append((LONG, "\n\nHuman: A?\n\nAssistant: E."))
    return pairs.frame(
        [
            dict(pairs.parse(*sides), subset="s", split="test", row=row)
            for row, sides in enumerate(dialogues)
        ]
    )


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    """An HTTP client for each of two annotators of a fresh server."""
    folder = ROOT / "build" / "label_studio"
    made = subprocess.run(
        ["bash", ROOT / "tests" / "label_studio_env.sh", folder], capture_output=True, text=True
    )
    assert made.returncode == 0, f"no Label Studio environment: {made.stdout}{made.stderr}"
    command = folder / "venv" / "bin" / "label-studio"
    home = tmp_path_factory.mktemp("label-studio")
    environment = _environment(home)
    for user, token in USERS.items():
        account = ["--username", user, "--password", f"pw-{token}", "--user-token", token]
        subprocess.run(
            [command, "init", "--quiet", "--enable-legacy-api-token", *account],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=300,
        )
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = str(free.getsockname()[1])
    log = home / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [command, "start", "--no-browser", "--internal-host", HOST, "--port", port],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        clients = [
            httpx.Client(
                base_url=f"http://{HOST}:{port}",
                headers={"Authorization": f"Token {token}"},
                timeout=60,
                trust_env=False,
            )
            for token in USERS.values()
        ]
        _wait(server, clients[0], log)
        yield clients
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _environment(home: Path) -> dict[str, str]:
    quiet = dict.fromkeys(("LATEST_VERSION_CHECK", "COLLECT_ANALYTICS"), "false")
    quiet |= dict.fromkeys(("SENTRY_DSN", "FRONTEND_SENTRY_DSN"), "")
    # Whatever asks for another host all the same finds a closed door.
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), f"http://{HOST}:9")
    return nowhere | {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "NO_PROXY": f"{HOST},localhost",
        "LABEL_STUDIO_BASE_DATA_DIR": str(home),
        **{f"LABEL_STUDIO_{name}": value for name, value in quiet.items()},
    }


def _wait(server: subprocess.Popen, client: httpx.Client, log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and server.poll() is None:
        try:
            client.get("/api/version").raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(1)
    text = log.read_text(encoding="utf-8", errors="replace")
    pytest.fail(f"Label Studio did not start:\n{text[-3000:]}")


def call(client, method, path, **options):
    answer = client.request(method, path, **options)
    assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
    return answer.json() if answer.content else None


def project(client, done: annotate.Exported) -> tuple[int, list[dict]]:
    """A project with the configuration and the tasks of an export; its id and its tasks."""
    config = done.config_file.read_text(encoding="utf-8")
    settings = {"title": "Votes", "label_config": config, "maximum_annotations": 2}
    number = call(client, "POST", "/api/projects", json=settings)["id"]
    tasks = json.loads(done.tasks_file.read_text(encoding="utf-8"))
    made = call(client, "POST", f"/api/projects/{number}/import", json=tasks)
    assert made["task_count"] == len(tasks) == done.tasks
    query = {"project": number, "page_size": 1000, "fields": "all"}
    stored = call(client, "GET", "/api/tasks", params=query)["tasks"]
    # Every character of every text is kept: HTML, NUL, line ends, runs of spaces.
    kept = {task["data"]["key"]: task["data"] for task in stored}
    assert kept == {task["data"]["key"]: task["data"] for task in tasks}
    return number, stored


def download(client, number: int, folder: Path, kind="JSON") -> Path:
    """The export file of a project, as the export button gives it."""
    answer = client.get(f"/api/projects/{number}/export", params={"exportType": kind})
    assert answer.is_success, answer.text[:500]
    path = folder / f"export-{kind}.json"
    path.write_bytes(answer.content)
    return path


def region(name, kind, value, to):
    return {"from_name": name, "to_name": to, "type": kind, "value": {kind: value}}


def submit(client, task: dict, *regions, **options) -> int:
    path = f"/api/tasks/{task['id']}/annotations/"
    return call(client, "POST", path, json={"result": list(regions)} | options)["id"]


def better(choice):
    return region("better", "choices", [choice], "response_a")


def sides(row, task: dict) -> dict[str, str]:
    """The choices that stand for the chosen and the rejected response, found by their texts."""
    shown = [task["data"]["response_a"], task["data"]["response_b"]]
    chosen_first = shown[0].endswith(row.chosen) and shown[1].endswith(row.rejected)
    first, second = labelling.SIDES if chosen_first else labelling.SIDES[::-1]
    return {"chosen": first, "rejected": second, "tie": labelling.TIE}


def test_votes_of_two_annotators_come_back_as_posted(users, data, tmp_path):
    done = annotate.export_tasks(data, task="relabel", seed=SEED, out=tmp_path)
    number, tasks = project(users[0], done)
    ids = [str(call(user, "GET", "/api/current-user/whoami")["id"]) for user in users]
    assert len(set(ids)) == 2
    rows = _rows_by_task(data, tasks)
    posted = []
    for place, (task, row) in enumerate(rows):
        # Identical texts cannot be told apart by what is shown; only a tie is meant there.
        meant = ["tie"] * 2 if row.chosen == row.rejected else _meant(place)
        for who, (user, vote) in enumerate(zip(users, meant)):
            choice = sides(row, task)
            toxic = row.chosen != row.rejected and (place + who) % 3 == 0
            marks = []
            if toxic:
                letter = choice["chosen"][-1].lower()
                mark = region(f"toxic_{letter}", "choices", [labelling.TOXIC], f"response_{letter}")
                marks.append(mark)
            submit(user, task, better(choice[vote]), *marks)
            posted.append((row.pair_id, ids[who], vote, toxic, "humans", False))

    table, report = annotate.import_votes(
        labelstudio.read_export(download(users[1], number, tmp_path)), data, seed=SEED
    )
    assert sorted(table.itertuples(index=False, name=None)) == sorted(posted)
    assert (report.found, report.used, report.unvoted) == (24, 24, 0)
    votes.check(table, data["pair_id"])


def _rows_by_task(data: pd.DataFrame, tasks: list[dict]) -> list[tuple[dict, object]]:
    rows = {frozenset((row.chosen, row.rejected)): row for row in data.itertuples()}
    odd = data.iloc[-1]
    found = []
    for task in tasks:
        shown = frozenset((task["data"]["response_a"], task["data"]["response_b"]))
        found.append((task, rows.get(shown, odd)))
    assert len({row.pair_id for _, row in found}) == len(data)
    return found


def _meant(place: int) -> list[str]:
    return [votes.VOTES[place % 3], votes.VOTES[place // 3 % 3]]


def test_what_is_no_vote_is_told_apart_in_a_real_export(users, data, tmp_path):
    done = annotate.export_tasks(data, task="relabel", seed=SEED, out=tmp_path)
    number, tasks = project(users[0], done)
    rows = _rows_by_task(data, tasks)
    (task, row), (drafted, _), (predicted, _) = [r for r in rows if r[1].row > 2][:3]
    choice = sides(row, task)
    changed = submit(users[0], task, better(choice["rejected"]))
    patch = {"result": [better(choice["chosen"])]}
    call(users[0], "PATCH", f"/api/annotations/{changed}/", json=patch)
    first = submit(users[1], task, better(choice["rejected"]))
    second = submit(users[1], task, better(labelling.TIE))
    skipped = submit(users[0], drafted, was_cancelled=True)
    empty = submit(users[1], predicted)
    draft = {"result": [better(labelling.TIE)]}
    call(users[1], "POST", f"/api/tasks/{drafted['id']}/drafts", json=draft)
    guess = {"task": predicted["id"], "result": draft["result"], "model_version": "m"}
    call(users[0], "POST", "/api/predictions/", json=guess)

    table, report = annotate.import_votes(
        labelstudio.read_export(download(users[0], number, tmp_path)), data, seed=SEED
    )
    assert dict(zip(table["pair_id"] + table["vote"], table["annotator"])).keys() == {
        row.pair_id + "chosen",
        row.pair_id + "tie",
    }
    excluded = report.excluded.set_index("annotation")["reason"]
    by_reason = excluded.reset_index().groupby("reason")["annotation"].apply(set).to_dict()
    assert by_reason["replaced by a later one of the annotator"] == {str(first)}
    assert by_reason["skipped by the annotator"] == {str(skipped)}
    assert by_reason["empty"] == {str(empty)}
    assert len(by_reason["draft, not submitted"]) == len(by_reason["prediction of a model"]) == 1
    assert str(second) not in excluded and report.unvoted == 11
    assert report.found == report.used + len(report.excluded) == 7

    short = download(users[0], number, tmp_path, "JSON_MIN")
    with pytest.raises(ValueError, match="export again in the format JSON"):
        labelstudio.read_export(short)


def test_comparisons_come_back_as_posted(users, data, tmp_path):
    generated = {pair: f" Made {n}." for n, pair in enumerate(data["pair_id"])}
    done = annotate.export_tasks(data, task="compare", seed=SEED, out=tmp_path, generated=generated)
    number, tasks = project(users[0], done)
    names = {text: pair for pair, text in generated.items()}
    posted = {}
    for place, task in enumerate(tasks):
        shown = [task["data"]["response_a"], task["data"]["response_b"]]
        (made,) = [text for text in shown if text in names]
        generated_side = labelling.SIDES[shown.index(made)]
        chosen_side = labelling.SIDES[1 - shown.index(made)]
        answer = ("generated", "chosen", "tie")[place % 3]
        submit(users[0], task, better((generated_side, chosen_side, labelling.TIE)[place % 3]))
        posted[names[made]] = answer
    export = labelstudio.read_export(download(users[0], number, tmp_path))
    table, _ = annotate.import_comparisons(export, data, seed=SEED, generated=generated)
    assert dict(zip(table["pair_id"], table["better"])) == posted
    with pytest.raises(ValueError, match="another labelling configuration: task compare"):
        annotate.import_votes(export, data, seed=SEED)


def test_scores_come_back_as_posted_with_their_review(users, data, tmp_path):
    done = annotate.export_tasks(data, task="score", seed=SEED, out=tmp_path)
    number, tasks = project(users[0], done)
    posted = []
    for place, task in enumerate(tasks):
        scores = [1 + (place + k) % labelling.MAX_SCORE for k in range(len(labelling.SCORING))]
        regions = [
            region(name.lower(), "rating", score, "response")
            for name, score in zip(labelling.SCORING, scores)
        ]
        if place % 2:
            regions.append(region("review", "choices", [labelling.REVIEWED], "response"))
        submit(users[place % 2], task, *regions)
        text = task["data"]["response"]
        posted += [(text, n, s, bool(place % 2)) for n, s in zip(labelling.SCORING, scores)]
    export = labelstudio.read_export(download(users[0], number, tmp_path))
    table, report = annotate.import_scores(export, data, seed=SEED)
    own = data.set_index("pair_id")
    read = [
        (own.loc[row.pair_id, row.response], row.criterion, row.score, row.reviewed)
        for row in table.itertuples()
    ]
    assert sorted(read) == sorted(posted)
    assert (report.used, report.unvoted) == (24, 0)


def test_the_server_refuses_a_configuration_that_its_tasks_do_not_fit(users, data, tmp_path):
    done = annotate.export_tasks(data, task="relabel", seed=SEED, out=tmp_path)
    number, _ = project(users[0], done)
    scored = annotate.export_tasks(data, task="score", seed=SEED, out=tmp_path)
    tasks = json.loads(scored.tasks_file.read_text(encoding="utf-8"))
    answer = users[0].post(f"/api/projects/{number}/import", json=tasks)
    assert answer.status_code == 400, answer.text[:500]
