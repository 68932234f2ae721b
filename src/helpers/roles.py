"""Sphinx extension of the book: numbers from the ledger, words of the paper, maths without a CDN.

``{num}`id``` shows a ledger value, ``{num}`id|.2f``` in a given format, ``{ci}`id``` with interval
and n; hovering shows the origin. An unknown id is a warning, which the build turns into an error.
``{paper}`...``` marks words quoted from the paper. Maths is written as MathML, which browsers show
without any script.
"""

import html
import json
from functools import cache
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util.docutils import SphinxRole

from helpers import ledger, prose


class NumberRole(SphinxRole):
    """A number of the ledger; ``with_interval`` adds interval and n."""

    def __init__(self, with_interval: bool):
        super().__init__()
        self.with_interval = with_interval

    def run(self):
        id, _, spec = self.text.partition("|")
        source = Path(self.env.srcdir)
        row = rows(source / "ledger.jsonl").get(id)
        self.env.note_dependency("ledger.jsonl")
        if row is None and id.startswith(tuple(absent(source / "absent.json"))):
            return [nodes.emphasis(text="(not available: its data were not reachable)")], []
        if row is None:
            message = self.inliner.reporter.warning(
                f"no ledger row {id!r}; run the notebook that records it, or correct the id",
                line=self.lineno,
            )
            return [nodes.literal(text=f"?{id}?")], [message]
        write = prose.interval_text if self.with_interval else prose.number_text
        shown = html.escape(write(row, spec))
        return [nodes.raw("", f'<span class="num" title="{origin(row)}">{shown}</span>',
                          format="html")], []  # fmt: skip


class PaperRole(SphinxRole):
    """Words or numbers quoted from the paper."""

    def run(self):
        text = html.escape(self.text)
        markup = f'<span class="paper-quote" title="as printed in the paper">“{text}”</span>'
        return [nodes.raw("", markup, format="html")], []


@cache
def rows(path: Path) -> dict[str, dict]:
    """Ledger rows by id; one build reads one ledger, so it is read once."""
    return ledger.by_id(ledger.read(path))


@cache
def absent(path: Path) -> list[str]:
    """Beginnings of ids whose data were not reachable (see :func:`helpers.book.stage`)."""
    return json.loads(path.read_text(encoding="utf-8"))


def origin(row: dict) -> str:
    """The origin of a number as text for a tooltip (escaped)."""
    parts = [f"{row['id']}: {prose.interval_text(row)} ({row['unit']})"]
    if row["method"]:
        parts.append(row["method"])
    if row["published"] is not None:
        parts.append(f"stands beside {row['published']:g} {row['beside']}".strip())
    parts.append(f"votes: {row['labels']}")
    where = f"{row['notebook']}#{row['cell']}, profile {row['profile']}, seed {row['seed']}"
    parts.append(f"{where}, commit {row['commit'][:10] or 'unknown'}, {row['date'][:10]}")
    return html.escape("; ".join(parts), quote=True)


def _visit_math(self, node):
    self.body.append(convert(node.astext(), display="inline"))
    raise nodes.SkipNode


def _visit_math_block(self, node):
    self.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app):
    """Register the roles and the maths renderer."""
    app.add_role("num", NumberRole(with_interval=False))
    app.add_role("ci", NumberRole(with_interval=True))
    app.add_role("paper", PaperRole())
    app.add_html_math_renderer(
        "mathml", inline_renderers=(_visit_math, None), block_renderers=(_visit_math_block, None)
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
