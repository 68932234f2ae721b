"""The runner on real kernels: what runs again and what does not, failures, and kill -9."""

import json
import subprocess
import sys

import nbformat
import psutil
import pytest
from small_project import CELLS, A, B, C, Project

from helpers import ledger


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("project"))


def test_each_change_reruns_exactly_what_depends_on_it(project):
    def runs(expected: set[str], why: str):
        done = project.run()
        assert done.returncode == 0, done.stderr
        assert project.executed(done) == expected, f"{why}\n{done.stderr}"

    runs({A, B, C}, "nothing was there")
    first = project.results()
    assert {row["id"]: row["value"] for row in first} == {"a.value": 2, "b.value": 1, "c.value": 1}

    for path in (project.root / "notebooks").glob("*.ipynb"):
        path.touch()
    project.write_notebook(C, CELLS[C], words="Other words.")
    runs(set(), "only times and Markdown changed")

    project.write_notebook(A, [*CELLS[A], "# another code cell"])
    runs({A}, "a's code changed but not what it makes, so b has nothing new")

    project.write_profile({A: {"step": 2}, B: {}, C: {"step": 1}})
    runs({A, B}, "a's parameter changed its artefact, which b reads; c does not")
    assert {row["id"]: row["value"] for row in project.results()}["b.value"] == 0

    # c imports nulls, which imports paper: not named in the notebook at all.
    module = project.package / "paper.py"
    module.write_text(module.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    runs({C}, "a module that only c imports, and not directly")

    notebook = project.root / "notebooks" / f"{C}.ipynb"
    nb = nbformat.read(notebook, 4)
    nb.cells[-1].metadata["tags"] = ["hide-input"]
    nbformat.write(nb, notebook)
    runs({C}, "a tag changed")

    (project.root / "build" / "smoke" / "ledger" / f"{C}.jsonl").unlink()
    runs({C}, "an output was deleted")


def test_rows_carry_cell_ids_and_the_executed_copy_its_parameters(project):
    done = project.run()
    assert done.returncode == 0, done.stderr
    build = project.root / "build" / "smoke"
    rows = ledger.by_id(ledger.read(build / "ledger"))
    assert rows["c.value"]["cell"] == "cell-4" and rows["c.value"]["profile"] == "smoke"
    assert rows["c.value"]["notebook"] == C
    nb = nbformat.read(build / "notebooks" / f"{A}.ipynb", 4)
    injected = [c for c in nb.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert "step = 2" in injected[0].source


def test_a_failure_keeps_its_copy_and_lets_the_others_go_on(tmp_path):
    project = Project(tmp_path)
    project.write_notebook(A, [*CELLS[A], "1 / 0"])
    project.write_notebook(C, [*CELLS[C], "import time; time.sleep(60)"])
    project.write_profile({A: {"step": 1}, B: {}, C: {"step": 1}}, cell_timeout=5)
    done = project.run()
    assert done.returncode == 1
    assert "ZeroDivisionError: division by zero" in done.stderr
    for name in (A, C):
        kept = project.root / "build" / "smoke" / "failed" / f"{name}.ipynb"
        assert f"executed copy: {kept}" in done.stderr and kept.is_file()
    assert "cell-5" in done.stderr, "progress names the cell"
    assert not project.executed(done)
    assert f"not complete: {A}, {B}, {C}" in done.stderr
    # Mended, only what failed or waited runs, and the kept copies go.
    project.write_notebook(A, CELLS[A])
    project.write_notebook(C, CELLS[C])
    mended = project.run()
    assert mended.returncode == 0 and project.executed(mended) == {A, B, C}
    assert not list((project.root / "build" / "smoke" / "failed").iterdir())


def test_a_killed_run_goes_on_with_the_same_results(tmp_path):
    reference = Project(tmp_path / "reference")
    assert reference.run().returncode == 0
    project = Project(tmp_path / "killed")
    slow = [*CELLS[C], "import time; time.sleep(4)"]
    project.write_notebook(C, slow)
    project.kill_when(f"[{C}] cell 5")
    partial = project.root / "build" / "smoke"
    assert not (partial / "ledger" / f"{C}.jsonl").exists(), "half a ledger must not count"
    done = project.run()
    assert done.returncode == 0, done.stderr
    assert C in project.executed(done)
    assert project.results() == reference.results()
    assert not project.executed(project.run())


@pytest.mark.skipif(sys.platform != "linux", reason="the system kills children on Linux only")
def test_a_kill_of_the_command_alone_ends_all_that_it_started(tmp_path):
    """Its lock is free then: a second run must not meet notebooks of the first on the card."""
    project = Project(tmp_path)
    project.write_notebook(C, [*CELLS[C], "import time; time.sleep(300)"])
    process = subprocess.Popen(
        project.command("run", "--profile", "smoke", C),
        cwd=project.root,
        env=project.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert any(f"[{C}] cell 5" in line for line in process.stderr), "it ended by itself"
    family = psutil.Process(process.pid).children(recursive=True)
    said = [" ".join(one.cmdline()) for one in family]
    for what in ("snakemake", "helpers.runner", "ipykernel"):
        assert any(what in line for line in said), said
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(family, timeout=20)
    process.stderr.close()
    for one in left:
        one.kill()
    assert not left, left
    project.write_notebook(C, CELLS[C])
    assert project.executed(project.run(C)) == {C}


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [f"[{A}] start", f"[{A}] cell 2", f"[{A}] done", f"[{B}] start", f"[{B}] cell 3"]
    + [f"[{C}] start", f"[{C}] cell 1", f"[{C}] cell 4"],
)
def test_a_kill_at_any_moment_loses_and_doubles_nothing(tmp_path, moment):
    reference = Project(tmp_path / "reference")
    assert reference.run().returncode == 0
    project = Project(tmp_path / "killed")
    project.kill_when(moment)
    done = project.run()
    assert done.returncode == 0, done.stderr
    assert project.results() == reference.results()


def test_a_progress_bar_is_one_line_on_the_page(tmp_path):
    project = Project(tmp_path)
    bar = (
        "import sys, time\n"
        "for i in range(4):\n"
        "    print(f'\\r{i} of 3', end='', file=sys.stderr, flush=True)\n"
        "    time.sleep(0.3)"
    )
    project.write_notebook(C, [bar, *CELLS[C]])
    assert project.run(C).returncode == 0
    path = project.root / "build" / "smoke" / "notebooks" / f"{C}.ipynb"
    executed = nbformat.read(path, 4)
    said = [out for cell in executed.cells for out in cell.get("outputs", []) if "name" in out]
    assert [out["text"] for out in said] == ["3 of 3"]


def test_a_cell_that_ends_the_kernel_is_no_success(tmp_path):
    project = Project(tmp_path)
    project.write_notebook(C, ["import sys; sys.exit()", *CELLS[C]])
    done = project.run(C)
    assert done.returncode == 1 and "was not executed" in done.stderr
    assert not (project.root / "build" / "smoke" / "ledger" / f"{C}.jsonl").exists()


def test_lost_snakemake_records_hide_no_change(tmp_path):
    import shutil

    project = Project(tmp_path / "a folder with spaces")
    assert project.run(C).returncode == 0
    shutil.rmtree(project.root / "build" / "smoke" / ".snakemake")
    project.write_notebook(C, [*CELLS[C], "# changed"])
    assert project.executed(project.run(C)) == {C}
    again = project.run(C)
    assert "1 notebook(s) up to date" in again.stderr
    assert project.executed(project.run("--force", C)) == {C}


def test_two_runs_of_one_profile_do_not_overlap(tmp_path):
    from filelock import FileLock

    project = Project(tmp_path)
    build = project.root / "build" / "smoke"
    build.mkdir(parents=True)
    with FileLock(build / ".run.lock"):
        done = project.run()
    assert done.returncode == 1
    assert "another run of the profile 'smoke' is under way" in done.stderr


def test_only_the_named_notebooks_and_what_they_need_run(tmp_path):
    project = Project(tmp_path)
    done = project.run(B)
    assert done.returncode == 0, done.stderr
    assert project.executed(done) == {A, B}
    receipts = {p.stem for p in (project.root / "build" / "smoke" / "receipts").iterdir()}
    assert receipts == {A, B}


def test_receipts_hold_nothing_that_changes_from_run_to_run(project):
    receipt = project.root / "build" / "smoke" / "receipts" / f"{A}.json"
    assert set(json.loads(receipt.read_text())) == {"results", "a.txt"}
