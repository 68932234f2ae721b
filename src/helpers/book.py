"""From executed notebooks to the rendered book: staging, the strict build, the switch.

The book is built from a copy under ``build/<profile>/src``. ``build/<profile>/book`` is a link to
the last complete one under ``books/``; it is moved on in one step, so a reader never meets half a
book or none.
"""

import hashlib
import html
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import nbformat

from helpers import (
    claims,
    hh,
    history,
    ledger,
    notebooks,
    prose,
    recorded,
    runner,
    sources,
    status,
    tables,
)

# Written beside the book when it is complete; equal hash, nothing to build.
_STAMP = ".staged-sha256"


class BookError(RuntimeError):
    """The book cannot be built; the message says what to change."""


def build(root: Path, todo: dict) -> Path:
    """Stage and build the book of a finished run; returns its ``index.html``.

    Does nothing where nothing changed since the last build. Raises BookError for naked numbers in
    prose, for a notebook that is not executed, and for any warning of Jupyter Book.
    """
    target = Path(todo["build"])
    check_prose(root)
    staged = target / "src"
    fresh = target / "src.partial"
    shutil.rmtree(fresh, ignore_errors=True)
    stage(root, todo, fresh)
    shutil.rmtree(staged, ignore_errors=True)
    fresh.replace(staged)
    stamp = _tree_hash(staged) + _renderer_hash()
    book = target / "book"
    index = book / "index.html"
    if index.is_file() and (book / _STAMP).is_file() and (book / _STAMP).read_text() == stamp:
        print("book: up to date", file=sys.stderr)
        return index
    _jupyter_book(staged, target / "sphinx", target / "book.log")
    made = target / "sphinx" / "_build" / "html"
    (made / _STAMP).write_text(stamp)
    switch(made, book)
    return index


def check_prose(root: Path) -> None:
    """Raise BookError naming every decimal or percentage that stands in prose by hand."""
    sources = [*sorted((root / "book").glob("*.md")), *sorted((root / "notebooks").glob("*.ipynb"))]
    problems = prose.check(sources)
    if problems:
        raise BookError("numbers by hand in the prose:\n  " + "\n  ".join(problems))


def stage(root: Path, todo: dict, out: Path) -> None:
    """Everything that Jupyter Book reads, in one folder: pages, executed notebooks with the
    present Markdown, the verdict page, the ledger, and the scripts that figures need offline."""
    build_dir = Path(todo["build"])
    shutil.copytree(root / "book", out)
    shutil.copy(root / "_config.yml", out)
    shutil.copy(root / "_toc.yml", out)
    plotly = files("plotly").joinpath("package_data/plotly.min.js")
    (out / "_static" / "plotly.min.js").write_bytes(plotly.read_bytes())
    (out / "notebooks").mkdir()
    (out / "ledger").mkdir()
    chapters, made = [], {}
    for name, entry in todo["notebooks"].items():
        where = runner.paths(build_dir, name)
        if not where["notebook"].is_file():
            raise BookError(f"{name} has not been executed; run `elephant run` first")
        executed = notebooks.read(where["notebook"])
        source = notebooks.read(Path(entry["source"]))
        # Other code has other words; the old ones stay with what they describe.
        same = notebooks.code_hash(source) == notebooks.code_hash(executed)
        if same and notebooks.copy_markdown(source, executed):
            runner.write_text(where["notebook"], nbformat.writes(executed))
        shutil.copy(where["ledger"], out / "ledger")
        rows = ledger.read(where["ledger"])
        made[name] = runner.made_hash(build_dir, name)
        behind = {chapter.name for chapter in chapters if chapter.stale} & set(entry["upstream"])
        stale = stale_parts(entry, executed, rows, made) or ", ".join(sorted(behind))
        chapters.append(
            status.Chapter(name, _title(executed), status.timing(executed), rows, stale)
        )
        page = _with_run_line(executed, name, rows)
        if stale:
            _insert(page, 1, "stale", status.banner({_title(executed): stale}))
        (out / "notebooks" / f"{name}.ipynb").write_text(nbformat.writes(page), encoding="utf-8")
    rows = ledger.read(out / "ledger")
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (out / "ledger.jsonl").write_text("".join(lines), encoding="utf-8")
    (out / "absent.json").write_text(json.dumps(absent_prefixes(rows)), encoding="utf-8")
    page = verdict_page(claims.verdicts(ledger.by_id(rows)), todo["profile"], todo["notebooks"])
    (out / "verdicts.md").write_text(page, encoding="utf-8")
    page = recorded.page(recorded.read(root), rows, todo["profile"])
    (out / "recorded.md").write_text(page, encoding="utf-8")
    nights = history.nights(history.folder(root, todo["profile"]))
    page = status.page(chapters, nights, todo["profile"])
    (out / "status.md").write_text(page, encoding="utf-8")
    if old := {chapter.title: chapter.stale for chapter in chapters if chapter.stale}:
        for path in (out / "index.md", out / "verdicts.md", out / "recorded.md"):
            title, _, text = path.read_text(encoding="utf-8").partition("\n")
            path.write_text(f"{title}\n\n{status.banner(old)}\n{text}", encoding="utf-8")


def stale_parts(entry: dict, executed, rows: list[dict], made: Mapping[str, str]) -> str:
    """What of a chapter's code or data differs from what made its numbers, by hash; "" if nothing.

    ``entry`` is the plan's, ``executed`` and ``rows`` are what lies in the build folder, ``made``
    hashes of what others made: a chapter that failed after them still shows what came before.
    """
    first = rows[0] if rows else dict(code=entry["helpers"], data=entry["data"])
    made_with = executed.metadata.get("papermill", {}).get("parameters", entry["parameters"])
    then = (notebooks.code_hash(executed), made_with, first["code"], first["data"])
    now = (entry["code"], entry["parameters"], entry["helpers"], entry["data"])
    words = ("its cells", "its parameters", "helpers that it uses", "its data")
    changed = [word for word, a, b in zip(words, then, now, strict=True) if a != b]
    # Copies of an older version of the runner have none: of these nothing is known.
    used = executed.metadata.get("elephant_upstream", {})
    changed += [f"what {up} made" for up in entry["upstream"] if used.get(up, made[up]) != made[up]]
    return ", ".join(changed)


def _title(notebook) -> str:
    """The first heading of a notebook, without marks."""
    for cell in notebook.cells:
        for line in cell.source.splitlines() if cell.cell_type == "markdown" else ():
            if line.startswith("# "):
                return line[2:].strip()
    return "Untitled"


def absent_prefixes(rows: list[dict]) -> list[str]:
    """Beginnings of ledger ids that cannot exist because their data were not reachable.

    Prose about them says "not available" instead of failing the build; any other unknown id is an
    error. A data set counts as absent only if it left no row at all.
    """
    ids = [row["id"] for row in rows]
    places = [f"hh.{subset}.{split}." for subset in hh.SUBSETS for split in hh.SPLITS]
    panels = [f"panel.{subset}." for subset in hh.SUBSETS]
    corr = [f"corr.{name}." for name in ("mt_bench", "pandalm", "bon", "hh")]
    wanted = ["hh.", "toxicity.", "panel.", "rm.", "probe.real.", "probe.table3."]
    wanted += [*corr, *places, *panels]
    return [prefix for prefix in wanted if not any(id.startswith(prefix) for id in ids)]


def _with_run_line(executed, name: str, rows: list[dict]):
    """The notebook with one line under its title: profile, device, commit, date, minutes, rows."""
    run = executed.metadata.get("papermill", {})
    first = rows[0] if rows else {}
    text = (
        f"Profile `{first.get('profile', '?')}`, {run.get('duration', 0):.0f} s on "
        f"`{first.get('device', '?')}`, {str(run.get('end_time', ''))[:10]}, commit "
        f"`{first.get('commit', '')[:10] or 'unknown'}`, {len(rows)} numbers: "
        f"{{download}}`ledger </ledger/{name}.jsonl>`."
    )
    _insert(executed, 1, "run-line", f":::{{div}} run-line\n{text}\n:::")
    # Only these two belong to a page: papermill's paths and times would change it at every run.
    kept = {k: executed.metadata[k] for k in ("kernelspec", "language_info")}
    executed.metadata = nbformat.from_dict(kept)
    return executed


def _insert(notebook, place: int, id: str, markdown: str) -> None:
    cell = nbformat.v4.new_markdown_cell(markdown)
    cell.id = id
    notebook.cells.insert(place, cell)


def verdict_page(verdicts: list[claims.Verdict], profile: str, chapters: Collection[str]) -> str:
    """The page of all verdicts as Markdown, published and reproduced values side by side."""
    audit = "chapter 00"  # a link to a chapter that this book leaves out would fail it
    if "00_paper_audit" in chapters:
        audit = f"[{audit}](notebooks/00_paper_audit.ipynb)"
    parts = [
        "# Verdicts",
        f"Profile `{profile}`. Every claim of the paper and every cell of its Tables 2 to 7 has "
        "one verdict a scope. [How to read them](index.md). A substitute never fills the paper's "
        "own setting. What a GPU gave stands on [its own page](recorded.md).",
        "## Claims",
        _claims_table(verdicts),
    ]
    for table in claims.DECIMALS:
        rows = [v for v in verdicts if v.what.startswith(f"Table {table},")]
        done = sum(v.outcome != claims.NOT_RUN for v in rows)
        parts += [
            f"## Table {table}",
            f"{len(rows) // len(claims.SCOPES)} cells, {done} verdicts that are not "
            f"“{claims.NOT_RUN}”. Its place is chapter {claims.CHAPTERS[table]}. Findings of "
            f"{audit} about this table's printed numbers: "
            f"{', '.join(claims.AUDIT[table]) or 'none'}.",
            _cells_table(rows),
        ]
    return "\n\n".join(parts) + "\n"


def _claims_table(verdicts: list[claims.Verdict]) -> str:
    rows = []
    for verdict in (v for v in verdicts if v.id in claims.RULES):
        rule = claims.RULES[verdict.id]
        first = verdict.scope == next(iter(claims.SCOPES))
        span = f' rowspan="{len(claims.SCOPES)}"'
        head = (
            f"<td{span}><b>{verdict.id}</b></td><td{span}>{html.escape(verdict.what)}<br>"
            f"<small>Rule: {html.escape(rule.text)} Audit findings: "
            f"{', '.join(rule.audit) or 'none'}.</small></td><td{span}>{verdict.published}</td>"
        )
        rows.append(f"<tr>{head if first else ''}{_scope_cells(verdict)}</tr>")
    titles = ("", "Claim", "Published", "Scope", "Reproduced (votes)", "Verdict")
    return tables.html_table(titles, rows)


def _cells_table(verdicts: list[claims.Verdict]) -> str:
    """One line a cell for the paper's setting; further lines for scopes in which something ran."""
    rows = []
    for verdict in verdicts:
        if verdict.scope != "paper" and verdict.outcome == claims.NOT_RUN:
            continue
        what = verdict.what.split(", ", 1)[1]
        rows.append(
            f'<tr title="{html.escape(verdict.id)}"><td>{html.escape(tables.clip(what, 90))}</td>'
            f"<td>{verdict.published}</td>{_scope_cells(verdict)}</tr>"
        )
    titles = ("Cell", "Published", "Scope", "Reproduced (votes)", "Verdict")
    return tables.html_table(titles, rows)


def _scope_cells(verdict: claims.Verdict) -> str:
    kind = verdict.outcome.split()[0] if verdict.outcome != claims.NOT_RUN else "not-run"
    value = html.escape(claims.value_text(verdict)) or "–"
    # A reason always shows, but a hundred cells that wait for their chapter need not say it each.
    shows = verdict.id in claims.RULES or not verdict.why.startswith(claims.WAITS)
    why = f"<br><small>{html.escape(verdict.why)}</small>" if shows else ""
    return (
        f"<td>{claims.SCOPES[verdict.scope]}</td><td>{value}</td>"
        f'<td><span class="verdict-{kind}">{verdict.outcome}</span>{why}</td>'
    )


def _jupyter_book(source: Path, out: Path, log: Path) -> None:
    """Build with warnings as errors, to the end, so that one run shows every problem."""
    shutil.rmtree(out, ignore_errors=True)
    print("book: building", file=sys.stderr, flush=True)
    # The package cannot be run by -m; its script lies beside this environment's interpreter.
    script = Path(sys.executable).with_name("jupyter-book")
    command = [str(script), "build", str(source), "--path-output", str(out)]
    command += ["-W", "-n", "--keep-going"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    log.write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()
        problems = [line for line in lines if "WARNING" in line or "ERROR" in line]
        raise BookError(
            f"Jupyter Book found {len(problems)} problem(s); all of its output is in {log}\n  "
            + "\n  ".join(problems or lines[-5:])
        )


def switch(made: Path, book: Path) -> None:
    """Let the link ``book`` lead to the complete book ``made``, in one step.

    The one before is kept for readers who have a page of it open; older ones are deleted, and so is
    what a kill left before its link was made.
    """
    versions = book.with_name("books").resolve()
    versions.mkdir(exist_ok=True)
    if book.is_dir() and not book.is_symlink():
        # A folder, as older versions of this module left it. Nothing can replace it by a link in
        # one step, so this once there is a moment without a book.
        book.replace(versions / "0")
    fresh = versions / str(time.time_ns())
    made.replace(fresh)
    link = book.with_name(".book.link")
    link.unlink(missing_ok=True)
    before = book.resolve()
    link.symlink_to(Path(versions.name) / fresh.name)
    link.replace(book)
    for old in versions.iterdir():
        if old not in (fresh, before):
            shutil.rmtree(old)


def _renderer_hash() -> str:
    """Of the code and packages that turn the staged folder into pages."""
    modules = sources.closure({"roles", "book"})
    packages = ("jupyter-book", "sphinx", "sphinx-book-theme", "pydata-sphinx-theme", "myst-nb")
    return " ".join([sources.helpers_hash(modules), *map(version, packages)])


def _tree_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
