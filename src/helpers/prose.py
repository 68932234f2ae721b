"""No number stands in prose by hand: the check, and the text of a number that the ledger gives.

Decimals and percentages in Markdown are errors outside code, maths, links and the role
``{paper}`...```, which marks words of the paper. Computed numbers come by ``{num}`` and ``{ci}``.
"""

import re
from pathlib import Path

from helpers import notebooks

# Fenced directives whose content is no prose; any other directive's content is checked.
_VERBATIM = {
    "code",
    "code-block",
    "code-cell",
    "math",
    "bibliography",
    "toctree",
    "raw",
}
_WITH_PATH = {"figure", "image", "include", "div"}
_FENCE = re.compile(r"^(\s*)(`{3,}|~{3,}|:{3,})(.*)$")
_OPTION = re.compile(r"^\s*:[\w-]+:.*$")
_INLINE = [
    re.compile(r"(`+)(?:(?!\1).)+?\1", re.S),  # code spans and, with their braces, roles
    re.compile(r"\$\$.+?\$\$", re.S),
    re.compile(r"(?<!\\)\$[^$\n]+?\$"),
    re.compile(r"!?\[[^\]]*\]\([^)]*\)"),
    re.compile(r"<!--.*?-->", re.S),
    re.compile(r"<[^>]+>"),
    re.compile(r"https?://\S+"),
]
_NUMBER = re.compile(r"\d+[.,]\d+|\d+\s?(?:%|percent\b|per cent\b)")
# 8,552 is an integer with a separator, not a decimal.
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d|\.\d)")
NBSP = "\N{NO-BREAK SPACE}"


def naked_numbers(markdown: str) -> list[str]:
    """Decimals and percentages that stand in the open, each with its surroundings."""
    text = _THOUSANDS.sub("", _prose(markdown))
    found = []
    for match in _NUMBER.finditer(text):
        around = text[max(0, match.start() - 25) : match.end() + 15]
        found.append(" ".join(around.split()))
    return found


def check(paths: list[Path]) -> list[str]:
    """One line for each naked number in the given notebooks and Markdown pages."""
    problems = []
    for path in paths:
        if path.suffix == ".ipynb":
            cells = notebooks.read(path).cells
            texts = [
                (f"{path.name}, cell {c.id}", c.source) for c in cells if c.cell_type == "markdown"
            ]
        else:
            texts = [(path.name, path.read_text(encoding="utf-8"))]
        for where, text in texts:
            problems += [
                f"{where}: '…{found}…' is a number by hand; use {{num}}`ledger.id`, or "
                "{paper}`…` for words of the paper"
                for found in naked_numbers(text)
            ]
    return problems


def _prose(markdown: str) -> str:
    """The text without fenced code, directive options, inline code, roles, maths and links."""
    kept, stack = [], []
    for line in markdown.splitlines():
        fence = _FENCE.match(line)
        if fence:
            mark, info = fence.group(2), fence.group(3).strip()
            if stack and mark.startswith(stack[-1][0]) and not info:
                stack.pop()
            else:
                name, _, title = info[1:].partition("}") if info.startswith("{") else ("", "", "")
                verbatim = not name or name in _VERBATIM
                stack.append((mark, verbatim))
                # The title of an admonition is prose; a figure's argument is a path.
                if not verbatim and name not in _WITH_PATH:
                    kept.append(title)
            continue
        if stack and (stack[-1][1] or _OPTION.match(line)):
            continue
        kept.append(line)
    text = "\n".join(kept)
    for pattern in _INLINE:
        text = pattern.sub(" ", text)
    return text


def number_text(row: dict, spec: str = "") -> str:
    """A ledger value as it stands in prose: shares as percentages, counts as integers.

    ``spec`` is a Python format specification that overrides this, e.g. ``.1f`` or ``.1%``.
    """
    value = row["value"]
    if value is None:
        return "not available"
    if spec:
        return _typeset(format(value, spec))
    return _typeset(_by_unit(value, row["unit"]))


def interval_text(row: dict, spec: str = "") -> str:
    """``4.1 % [3.2, 5.0], n = 2,312`` as far as the row has these."""
    text = number_text(row, spec)
    if row["low"] is not None:
        unit = f"{NBSP}%"
        ends = [number_text(dict(row, value=row[end]), spec) for end in ("low", "high")]
        text += f" [{ends[0].removesuffix(unit)}, {ends[1].removesuffix(unit)}]"
    if row["n"] is not None:
        text += f", n = {row['n']:,}"
    return text


def _by_unit(value: float, unit: str) -> str:
    if unit == "share":
        return f"{value:.1%}"
    if unit == "%":
        return f"{value:.1f}%"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.3g}"


def _typeset(text: str) -> str:
    # A no-break space keeps the number and its unit on one line.
    return re.sub(r"(?<=\d)%", f"{NBSP}%", text).replace("-", "−")
