"""Reading source notebooks: what decides whether one must run again, and what does not.

A run depends on the code cells with their tags, the parameters, the data, upstream artefacts and
every ``helpers`` module that the notebook imports, directly or not. Markdown is not among them.
"""

import ast
import json
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from helpers import sources

_INJECTED = "injected-parameters"


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook of format 4. Raises ValueError naming the file where it is none."""
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:
        raise ValueError(f"{path} is not a readable notebook: {error}") from error


def code_cells(notebook) -> list:
    """The code cells that a person wrote (papermill's injected cell left out)."""
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and _INJECTED not in cell.metadata.get("tags", [])
    ]


def code_hash(notebook) -> str:
    """Hash of the code cells and their tags, in order; blind to Markdown, outputs and ids."""
    cells = [[c.source, sorted(c.metadata.get("tags", []))] for c in code_cells(notebook)]
    return sources.digest(json.dumps(cells).encode())


def declared(notebook, field: str) -> list[str]:
    """What the notebook's metadata declares under ``elephant``: ``data`` or ``upstream`` names."""
    return list(notebook.metadata.get("elephant", {}).get(field, []))


def helper_modules(notebook) -> set[str]:
    """Names of the ``helpers`` modules that the notebook's code imports, directly or not.

    Raises ValueError naming a cell that is no Python, or an import that names no module.
    """
    transform = TransformerManager().transform_cell
    found: set[str] = set()
    for cell in code_cells(notebook):
        try:
            found |= sources.imported(ast.parse(transform(cell.source)))
        except SyntaxError as error:
            raise ValueError(f"cell {cell.id} is no Python: {error}") from error
    return sources.closure(found)


def copy_markdown(source, executed) -> bool:
    """Bring the Markdown of ``source`` into ``executed`` in place; whether anything changed.

    Both must have the same code cells in the same order (same :func:`code_hash`); the source
    decides what Markdown there is and where. Raises ValueError where the code differs.
    """
    if code_hash(source) != code_hash(executed):
        raise ValueError("the executed notebook has other code cells; it must be executed again")
    kept = {cell.id: cell for cell in executed.cells if cell.cell_type != "code"}
    done = iter(_with_injected(executed))
    cells = []
    for cell in source.cells:
        if cell.cell_type == "code":
            cells += next(done)
            continue
        old = kept.get(cell.id)
        same = old is not None and (old.source, old.metadata) == (cell.source, cell.metadata)
        cells.append(old if same else cell)
    before = [(cell.id, cell.source) for cell in executed.cells]
    executed.cells = cells
    return before != [(cell.id, cell.source) for cell in cells]


def _with_injected(notebook) -> list[list]:
    """Each code cell, together with the injected cell that papermill put behind it."""
    groups: list[list] = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        if _INJECTED in cell.metadata.get("tags", []) and groups:
            groups[-1].append(cell)
        else:
            groups.append([cell])
    return groups
