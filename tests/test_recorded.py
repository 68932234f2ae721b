"""Recorded runs: what is kept, that it reads back whole, and how the page sets it beside fresh."""

import json
import re

import pytest
from small_project import A, B, C, Project

from helpers import claims, ledger, notebooks, recorded, runner

GPU = "1 x NVIDIA H100 80GB HBM3"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("project"))
    cells = [
        "from helpers import nulls, stats",
        'run.record("c.share", stats.wilson(3, 10), unit="share", labels="none", note="é")',
        'run.record("c.none", None, unit="%", labels="none", note="not reachable")',
        'run.measure("c.tokens_per_second", 7.5, unit="tokens/s")',
        'run.measure("c.memory", 9, unit="bytes")',
    ]
    project.write_notebook(C, cells)
    done = project.run()
    assert done.returncode == 0, done.stderr
    return project


def _as_if_on_a_gpu(project, device: str = GPU) -> None:
    """The rows as a card would have left them; the record knows what was made."""
    build = project.root / "build" / "smoke"
    for name in (A, B, C):
        path = runner.paths(build, name)["ledger"]
        rows = [json.loads(line) | {"device": device} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def test_results_and_speeds_read_back_as_the_ledger_has_them(project):
    _as_if_on_a_gpu(project)
    written = recorded.record(project.root, "smoke")
    assert [path.name for path in written] == [f"{name}.json" for name in (A, B, C)]
    (runs,) = recorded.read(project.root).values()
    rows = ledger.read(project.root / "build" / "smoke" / "ledger")
    kept = [row for row in rows if row["id"] != "c.memory"]
    assert ledger.by_id(r for run in runs for r in run.rows) == ledger.by_id(kept)
    last = runs[-1]
    assert (last.notebook, last.profile, last.device) == (C, "smoke", GPU)
    assert last.parameters == {"step": 1, "profile": "smoke"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", last.date)
    assert last.environment["torch"] and last.environment["python"]
    data = json.loads(written[-1].read_text())["run"]
    assert data["cells"] == notebooks.code_hash(
        notebooks.read(project.root / "notebooks" / f"{C}.ipynb")
    )


def test_the_environment_is_that_of_the_run_and_not_of_the_recording(project):
    """It ran on a node of a cluster, or an upgrade came between."""
    _as_if_on_a_gpu(project)
    done = project.root / "build" / "smoke" / "done" / f"{C}.json"
    text = done.read_text()
    known = json.loads(text)
    assert len(known["environment"]["packages"]) > len(recorded.PACKAGES)
    known["environment"] |= {"driver": "550.1", "device": GPU, "packages": {"torch": "1.0"}}
    done.write_text(json.dumps(known))
    recorded.record(project.root, "smoke", [C])
    (runs,) = recorded.read(project.root).values()
    found = next(run for run in runs if run.notebook == C).environment
    assert (found["driver"], found["device"], found["torch"]) == ("550.1", GPU, "1.0")
    assert found["numpy"] == "missing" and "packages" not in found
    # An older version of the runner noted none: nobody knows any more where it ran.
    del known["environment"]
    done.write_text(json.dumps(known))
    with pytest.raises(ValueError, match="did not note its environment; run it again before it"):
        recorded.record(project.root, "smoke", [C])
    done.write_text(text)
    assert f"[{C}] start" not in project.run().stderr, "what the record says beside is no input"


def test_a_run_of_other_code_is_not_recorded_as_this_one(project, monkeypatch):
    _as_if_on_a_gpu(project)
    path = project.root / "notebooks" / f"{C}.ipynb"
    text = path.read_text()
    path.write_text(text.replace("wilson(3, 10)", "wilson(4, 10)"))
    with pytest.raises(ValueError, match="its cells changed since it ran; run it again before it"):
        recorded.record(project.root, "smoke", [C])
    # Words are no code.
    path.write_text(text.replace("Words.", "Other words."))
    recorded.record(project.root, "smoke", [C])
    monkeypatch.setattr(recorded.runner.sources, "helpers_hash", lambda modules: "other")
    with pytest.raises(ValueError, match="helpers that it uses changed since it ran; run it again"):
        recorded.record(project.root, "smoke", [C])
    monkeypatch.undo()
    path.unlink()
    with pytest.raises(ValueError, match=r"there is no notebooks/02_c\.ipynb any more"):
        recorded.record(project.root, "smoke", [C])
    path.write_text(text)


def test_recording_twice_changes_no_byte(project):
    _as_if_on_a_gpu(project)
    before = [path.read_bytes() for path in recorded.record(project.root, "smoke")]
    assert [path.read_bytes() for path in recorded.record(project.root, "smoke")] == before


def test_only_finished_gpu_runs_are_recorded(project, tmp_path):
    with pytest.raises(ValueError, match="not finished at the profile 'gpu': any notebook"):
        recorded.record(project.root, "gpu")
    with pytest.raises(ValueError, match="not finished at the profile 'smoke': 07_x"):
        recorded.record(project.root, "smoke", [A, "07_x"])
    _as_if_on_a_gpu(project, "cpu x86_64, 2 cores")
    with pytest.raises(ValueError, match="ran on cpu x86_64, 2 cores; only runs on a GPU"):
        recorded.record(project.root, "smoke", [C])
    _as_if_on_a_gpu(project)
    path = runner.paths(project.root / "build" / "smoke", C)["ledger"]
    text = path.read_text()
    path.write_text(text.replace('"value": 0.3', '"value": 0.9'))
    with pytest.raises(ValueError, match="what it made was changed"):
        recorded.record(project.root, "smoke", [C])
    path.write_text(text)


def test_a_broken_file_and_a_doubled_id_are_named(tmp_path):
    where = recorded.folder(tmp_path, "gpu")
    where.mkdir(parents=True)
    (where / "a.json").write_text('{"run": {}, "rows": []}')
    with pytest.raises(ValueError, match=r"a\.json is no recorded run"):
        recorded.read(tmp_path)
    for name in ("a", "b"):
        (where / f"{name}.json").write_text(_file(name, [_row("x.y")]))
    with pytest.raises(ValueError, match=r"x\.y is recorded in a\.json and .*b\.json"):
        recorded.read(tmp_path)


def _row(id: str, **fields) -> dict:
    row = dict(id=id, kind="result", value=60.0, low=58.0, high=62.0, n=2312, method="Wilson")
    row |= dict(unit="%", scope="paper", labels="original", cell="c", seconds=1.0)
    return row | dict(date="2026-11-20T00:00:00+00:00") | fields


def _file(notebook: str, rows: list[dict], device: str = GPU) -> str:
    run = dict(profile="gpu", notebook=notebook, commit="a" * 40, data={}, code="c", seed=0)
    run |= dict(device=device, parameters={}, environment={"torch": "2.13.0"})
    return json.dumps({"run": run, "rows": rows})


def _fresh(rows: list[dict]) -> list[dict]:
    shared = dict(published=None, beside="", model="", revision="", note="", notebook="03_x")
    return [row | shared for row in rows]


def test_without_any_recording_the_columns_say_not_run(tmp_path):
    id = "table4.gpt-j.charmless_base.accuracy"
    text = recorded.page(recorded.read(tmp_path), _fresh([_row(id)]), "cpu")
    assert "No run on a GPU has been recorded yet" in text
    assert "<th>cpu</th><th>gpu</th><th>paper</th>" in text
    (line,) = re.findall(r"<tr><td>table4.*?</tr>", text)
    assert "60 [58, 62], n = 2,312" in line and line.count("<td>not run</td>") == 2


def test_recorded_numbers_stand_beside_fresh_ones_with_device_and_date(tmp_path):
    id = "table4.gpt-j.charmless_base.accuracy"
    where = recorded.folder(tmp_path, "gpu")
    where.mkdir(parents=True)
    rows = [_row(id, value=61.0, low=60.0, high=62.0), _row("rm.extra", value=1.5, low=1, high=2)]
    (where / "03_x.json").write_text(_file("03_x", rows))
    text = recorded.page(recorded.read(tmp_path), _fresh([_row(id)]), "cpu")
    assert f"<th>gpu<br><small>{GPU}, 2026-11-20</small></th>" in text
    (line,) = [found for found in re.findall(r"<tr>.*?</tr>", text) if "Table 4, GPT-J" in found]
    assert "60 [58, 62]" in line and "61 [60, 62]" in line
    extra = re.search(r"<tr><td>rm\.extra</td>(.*?)</tr>", text).group(1)
    assert extra == "<td>not run</td><td>1.5 [1, 2] %</td><td>not run</td>"
    assert "torch 2.13.0" in text and "aaaaaaaaaa" in text
    # Each column is judged by itself.
    outcome = claims.verdicts(ledger.by_id(_fresh([_row(id)])))
    assert next(v for v in outcome if v.id == id).outcome in line


def test_a_book_of_the_recorded_profile_shows_its_own_numbers(tmp_path):
    where = recorded.folder(tmp_path, "gpu")
    where.mkdir(parents=True)
    (where / "03_x.json").write_text(_file("03_x", [_row("rm.extra")]))
    text = recorded.page(recorded.read(tmp_path), _fresh([]), "gpu")
    assert "<small>" not in text and "rm.extra" not in text


def test_what_a_file_says_is_escaped(tmp_path):
    where = recorded.folder(tmp_path, "gpu")
    where.mkdir(parents=True)
    (where / "a.json").write_text(_file("a", [_row("x.y")], device="<script>x</script>"))
    assert "<script>" not in recorded.page(recorded.read(tmp_path), [], "cpu")
