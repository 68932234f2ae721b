"""The package's own sources: which modules a piece of code stands on, and what they say.

What has been computed is kept under a hash of the code that made it. It sees every module that is
imported, directly or not, and the fact files that these name.
"""

import ast
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PACKAGE = Path(find_spec("helpers").submodule_search_locations[0])


def closure(modules: set[str]) -> set[str]:
    """``modules`` and all ``helpers`` modules that they import, at any level of a function."""
    seen: set[str] = set()
    todo = set(modules)
    while todo:
        name = todo.pop()
        seen.add(name)
        path = PACKAGE / f"{name}.py"
        if not path.is_file():
            raise ValueError(f"helpers.{name} is imported but {path.name} is not in the package")
        todo |= _imported_by(path.read_text(encoding="utf-8")) - seen
    return seen


@cache
def _imported_by(source: str) -> frozenset[str]:
    """By the text, not the file: a file may change while a plan is made, a text cannot."""
    return frozenset(imported(ast.parse(source)))


def helpers_hash(modules: set[str]) -> str:
    """Hash of the given modules' sources and of the fact files that they name."""
    parts = []
    for name in sorted(modules):
        source = (PACKAGE / f"{name}.py").read_bytes()
        parts.append(f"{name}:{digest(source)}")
        for constant in sorted(_strings(ast.parse(source))):
            facts = PACKAGE / constant
            if constant.startswith("facts/") and facts.is_file():
                parts.append(f"{constant}:{digest(facts.read_bytes())}")
    return digest("\n".join(parts).encode())


def meaning_hash(modules: set[str]) -> str:
    """As :func:`helpers_hash`, blind to comments, docstrings and layout: for results that cost
    many minutes and that no comment can change."""
    parts = [f"{name}:{_meaning((PACKAGE / f'{name}.py').read_text())}" for name in sorted(modules)]
    return digest("\n".join(parts).encode())


def digest(data: bytes) -> str:
    """The first 16 hexadecimal digits of SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]


def imported(tree: ast.AST) -> set[str]:
    """Names of the ``helpers`` modules that a piece of code imports, at any level of a function.

    Raises ValueError for an import that names no module.
    """
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "helpers":
                    raise ValueError("`import helpers` names no module; import what is used")
                if alias.name.startswith("helpers."):
                    names.add(alias.name.split(".")[1])
        elif isinstance(node, ast.ImportFrom):
            # `from .hh import x` inside the package is `from helpers.hh import x`.
            module = "helpers." * bool(node.level) + (node.module or "")
            if module.rstrip(".") == "helpers":
                names |= {alias.name for alias in node.names}
            elif module.startswith("helpers."):
                names.add(module.split(".")[1])
    return names


def _strings(tree: ast.AST) -> set[str]:
    nodes = ast.walk(tree)
    return {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def _meaning(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                node.body = body[1:]
    return ast.dump(tree)
