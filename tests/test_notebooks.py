"""What counts as a change of a notebook, and what does not."""

import copy
import os
import subprocess
import sys

import nbformat
import pytest

from helpers import notebooks, sources


def make(*cells, **elephant):
    """A notebook from ("m", text) and ("c", text, tag…) cells."""
    nb = nbformat.v4.new_notebook(metadata={"elephant": elephant})
    for number, (kind, text, *tags) in enumerate(cells):
        new = nbformat.v4.new_markdown_cell if kind == "m" else nbformat.v4.new_code_cell
        cell = new(text)
        cell.id = f"cell-{number}"
        if tags:
            cell.metadata["tags"] = tags
        nb.cells.append(cell)
    return nb


SOURCE = make(("m", "# Title"), ("c", "x = 1", "parameters"), ("m", "Words."), ("c", "x + 1"))


def executed(source):
    """The source as papermill leaves it: outputs, counts, and an injected cell."""
    nb = copy.deepcopy(source)
    for count, cell in enumerate(notebooks.code_cells(nb), 1):
        cell.execution_count = count
        cell.outputs = [nbformat.v4.new_output("stream", text=f"out {count}")]
    injected = nbformat.v4.new_code_cell("x = 5", metadata={"tags": ["injected-parameters"]})
    nb.cells.insert(2, injected)
    return nb


def test_code_hash_sees_code_and_tags_only():
    base = notebooks.code_hash(SOURCE)
    assert notebooks.code_hash(executed(SOURCE)) == base
    other = copy.deepcopy(SOURCE)
    other.cells[2].source = "Other words."
    other.cells[1].id = "renamed"
    assert notebooks.code_hash(other) == base
    other.cells[3].source = "x + 2"
    assert notebooks.code_hash(other) != base
    tagged = copy.deepcopy(SOURCE)
    tagged.cells[3].metadata["tags"] = ["hide-input"]
    assert notebooks.code_hash(tagged) != base


def test_markdown_is_copied_and_outputs_are_kept():
    source, done = copy.deepcopy(SOURCE), executed(SOURCE)
    source.cells[2].source = "New words."
    assert notebooks.copy_markdown(source, done)
    assert [c.cell_type for c in done.cells] == ["markdown", "code", "code", "markdown", "code"]
    assert done.cells[3].source == "New words."
    assert done.cells[2].source == "x = 5", "the injected cell stays behind the parameters"
    assert done.cells[4].outputs[0].text == "out 2"
    assert not notebooks.copy_markdown(source, done), "a second copy changes nothing"


def test_markdown_may_be_added_removed_and_moved():
    done = executed(SOURCE)
    first, parameters, words, code = copy.deepcopy(SOURCE).cells
    new = nbformat.v4.new_markdown_cell("Added.")
    source = nbformat.v4.new_notebook(cells=[new, parameters, code, first])
    assert notebooks.copy_markdown(source, done)
    assert [c.source for c in done.cells] == ["Added.", "x = 1", "x = 5", "x + 1", "# Title"]


def test_other_code_is_not_papered_over():
    source = copy.deepcopy(SOURCE)
    source.cells[3].source = "x + 3"
    with pytest.raises(ValueError, match="executed again"):
        notebooks.copy_markdown(source, executed(SOURCE))


def test_imports_are_followed_directly_and_indirectly():
    nb = make(
        ("c", "%matplotlib inline\nfrom helpers import paper\nimport numpy"),
        ("c", "import helpers.hh as data"),
    )
    found = notebooks.helper_modules(nb)
    assert {"paper", "hh", "pairs"} <= found, "hh imports pairs"
    assert "runner" not in found and "toxicity" not in found


def test_helpers_hash_sees_source_and_facts(tmp_path, monkeypatch):
    (tmp_path / "facts").mkdir()
    (tmp_path / "facts" / "x.yaml").write_text("a: 1")
    (tmp_path / "one.py").write_text('FACTS = "facts/x.yaml"\n')
    (tmp_path / "two.py").write_text("from helpers import one\n")
    monkeypatch.setattr(sources, "PACKAGE", tmp_path)
    modules = sources.closure({"two"})
    assert modules == {"one", "two"}
    base = sources.helpers_hash(modules)
    (tmp_path / "facts" / "x.yaml").write_text("a: 2")
    changed_facts = sources.helpers_hash(modules)
    (tmp_path / "one.py").write_text('FACTS = "facts/x.yaml"  # comment\n')
    assert len({base, changed_facts, sources.helpers_hash(modules)}) == 3


def test_hashes_are_the_same_in_every_process():
    # Sets of strings iterate in another order in each process; a hash over them must not.
    code = (
        "from helpers import sources as n;print(n.helpers_hash(n.closure({'audit', 'hh', 'book'})))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(seen) == 1


def test_a_missing_module_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"helpers\.nowhere"):
        sources.closure({"nowhere"})


def test_an_unreadable_notebook_is_named(tmp_path):
    path = tmp_path / "00_broken.ipynb"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"00_broken\.ipynb"):
        notebooks.read(path)
