"""The house: where modules stand, how large they are, and that data flow one way."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import helpers
from helpers import book, notebooks, sources

ROOT = Path(__file__).parents[1]
MODULES = sorted(p.stem for p in (ROOT / "src" / "helpers").glob("*.py"))


def _floors() -> list[list[str]]:
    """The layers that the package's docstring draws, from the ground up."""
    block = helpers.__doc__.split("::", 1)[1]
    return [line[:42].split() for line in block.splitlines() if re.match(r"    [a-z]", line)]


def _order() -> dict[str, int]:
    return {name: level for level, floor in enumerate(_floors()) for name in floor}


def test_docstring_draws_every_module_once():
    drawn = [name for floor in _floors() for name in floor]
    assert sorted(drawn) == [m for m in MODULES if m not in ("__init__", "__main__")]


def test_no_module_imports_upward():
    order = _order()
    for name in order:
        tree = ast.parse((ROOT / "src" / "helpers" / f"{name}.py").read_text(encoding="utf-8"))
        for other in sources.imported(tree):
            assert order[other] <= order[name], f"{name} imports {other}, which stands above it"


def test_there_are_no_import_cycles_within_a_floor():
    for name in _order():
        beneath = sources.closure({name}) - {name}
        assert all(name not in sources.closure({other}) for other in beneath), name


def test_modules_stay_one_room():
    for path in (ROOT / "src" / "helpers").glob("*.py"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 320, f"{path.name} has {lines} lines: it holds more than one noun"


def test_committed_notebooks_are_stripped_and_named_in_order():
    listed = subprocess.run(
        ["git", "ls-files", "notebooks"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert listed, "no notebooks are committed"
    for name in listed:
        assert re.fullmatch(r"notebooks/\d\d_[a-z_]+\.ipynb", name)
        notebook = notebooks.read(ROOT / name)
        for cell in notebooks.code_cells(notebook):
            assert not cell.outputs and cell.execution_count is None, f"{name}: {cell.id}"


def test_notebook_cells_are_short_and_parameters_stand_in_one_tagged_cell():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = notebooks.code_cells(notebooks.read(path))
        tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
        assert len(tagged) == 1, path.name
        for line in tagged[0].source.splitlines():
            assert "#" in line, f"{path.name}: parameter without its reason: {line}"
        for cell in cells:
            assert len(cell.source.splitlines()) <= 24, f"{path.name}: {cell.id} is long"
        assert any(c.source.startswith("assert") or "\nassert" in c.source for c in cells), (
            path.name
        )


def test_no_number_stands_in_the_prose_by_hand():
    # Else only the night that builds the book would notice.
    book.check_prose(ROOT)


def test_data_of_others_are_not_committed():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not [name for name in tracked if name.endswith((".jsonl", ".gz", ".csv", ".parquet"))]


def test_no_page_is_told_that_a_widget_is_missing():
    # As in a kernel, by which tqdm knows a notebook; the warning names a path of this machine.
    code = "import sys, ipykernel.zmqshell; sys.modules['ipywidgets'] = None; "
    said = [
        subprocess.run(
            [sys.executable, "-c", code + imports], capture_output=True, text=True, check=True
        ).stderr
        for imports in ("import tqdm.auto", "import helpers, tqdm.auto")
    ]
    assert "IProgress not found" in said[0] and said[1] == ""
