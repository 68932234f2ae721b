"""The smoke book: built strictly from real runs, and read in a real browser without the network."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from helpers import book, ledger, notebooks, plan

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "smoke"
NOTEBOOKS = ["00_paper_audit", "01_data_pitfalls", "02_relabel_and_clean"]
PAGES = [
    "index",
    "verdicts",
    "recorded",
    "status",
    "references",
    *(f"notebooks/{name}" for name in NOTEBOOKS),
]
# What the theme itself says on every page; none of it is of our making.
THEME_NOISE = (
    "THEBE_JS_URL",  # the theme declares it twice
    "[togglebutton]",
    "[PST]",
    "theme mode",
    "preload",  # of icon fonts, which a page read from a file may not share
    "webfonts",
)


def elephant_book(**options):
    return subprocess.run(
        [sys.executable, "-m", "helpers", "book", "--profile", "smoke"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def built():
    """The smoke book of the present checkout: nothing is executed that is up to date."""
    done = elephant_book()
    assert done.returncode == 0, done.stderr
    return BUILD / "book"


def test_the_book_is_built_without_a_warning(built):
    assert (built / "index.html").is_file()
    log = (BUILD / "book.log").read_text(encoding="utf-8")
    assert "build succeeded" in log and "WARNING" not in log
    for page in PAGES:
        assert (built / f"{page}.html").is_file(), page


def test_a_second_build_executes_and_builds_nothing(built):
    stamp = (built / "index.html").stat().st_mtime_ns
    done = elephant_book()
    assert done.returncode == 0, done.stderr
    assert "start (" not in done.stderr and "book: up to date" in done.stderr
    assert (built / "index.html").stat().st_mtime_ns == stamp


def test_everything_a_run_makes_lies_under_its_build_folder(built):
    have = {path.name for path in BUILD.iterdir()}
    assert {"notebooks", "artifacts", "ledger", "src", "book"} <= have
    status = subprocess.run(
        ["git", "status", "--porcelain", "--ignored=no", "build"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert status.stdout == "", "git does not ignore what a run makes"


def test_verdict_page_lists_every_claim_and_cell_beside_its_printed_value(built):
    page = (built / "verdicts.html").read_text(encoding="utf-8")
    for claim in range(1, 9):
        assert f"<b>C{claim}</b>" in page
    assert page.count('title="table') >= 177
    safety = page.index("table5.beaver-7b.safety.rewardbench")
    row = page[safety : page.index("</tr>", safety)]
    assert "29.6" in row and "29.57" in row and "verdict-reproduced" in row
    assert "leaderboard formula of March 2024" in row, "why it agrees must be seen"


def test_numbers_in_prose_come_from_the_ledger_with_their_origin(built):
    page = (built / "notebooks" / "00_paper_audit.html").read_text(encoding="utf-8")
    rows = ledger.by_id(ledger.read(BUILD / "ledger"))
    assert rows["audit.i02.rows_out_of_bound"]["value"] == 5
    assert 'class="num"' in page and "votes: printed" in page
    assert "?audit." not in page, "an id without a row"


def test_pages_show_no_path_of_this_machine(built):
    for page in PAGES:
        text = (built / f"{page}.html").read_text(encoding="utf-8")
        for path in (str(ROOT), sys.prefix, str(Path.home()) + "/"):
            assert path not in text, f"{page} shows {path}"


def test_pages_load_nothing_from_elsewhere(built):
    for page in PAGES:
        text = (built / f"{page}.html").read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|source)[^>]+src="(https?:[^"]+)"', text)
        loaded += re.findall(r'<link[^>]+rel="stylesheet"[^>]+href="(https?:[^"]+)"', text)
        assert loaded == [], page


def test_every_figure_has_alt_text_caption_and_remake_box(built):
    figures = 0
    for page in PAGES:
        text = (built / f"{page}.html").read_text(encoding="utf-8")
        for figure in re.findall(r'<figure class="book-figure">.*?</figure>', text, re.S):
            figures += 1
            alt = re.search(r'(?:alt|aria-label)="([^"]+)"', figure)
            assert alt and len(alt.group(1).split()) >= 4
            assert "<figcaption>" in figure and "elephant run --force --profile smoke" in figure
        assert not re.search(r"<img(?![^>]*\balt=)[^>]*>", text), f"{page}: image without alt"
    assert figures >= 6


def test_dataset_text_is_escaped_and_closed_until_clicked(built):
    page = (built / "notebooks" / "01_data_pitfalls.html").read_text(encoding="utf-8")
    cards = re.findall(r'<div class="case">.*?</details></div>', page, re.S)
    assert cards
    for card in cards:
        assert '<details class="sensitive">' in card and "<details open" not in card
        # In the open stand its title and where to find it, and nothing of its text.
        shown = card.split("<details", 1)[0]
        assert re.fullmatch(
            r'<div class="case"><p><b>[^<]*</b> <small>[a-z-]+, test, row \d+, id [0-9a-f]{16}'
            "</small></p>",
            shown,
        )


def chromium() -> str:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on the PATH; `make browser` installs it where it may")
    return path


def browse(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The page's DOM after its scripts ran, and the console lines that are not the theme's.

    No host can be resolved, so whatever needs the network fails.
    """
    command = [chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
    command += ["--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom"]
    command += ["--enable-logging=stderr", f"--user-data-dir={profile}"]
    command += ["--virtual-time-budget=15000", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, [line for line in console if not any(n in line for n in THEME_NOISE)]


@pytest.mark.parametrize("page", PAGES)
def test_pages_open_in_a_browser_without_network_and_without_errors(built, tmp_path, page):
    dom, console = browse(built / f"{page}.html", tmp_path)
    assert console == []
    assert "<h1" in dom


def test_plotly_figure_and_filterable_table_are_drawn_in_the_browser(built, tmp_path):
    dom, _ = browse(built / "notebooks" / "01_data_pitfalls.html", tmp_path)
    assert re.search(r'class="[^"]*js-plotly-plot', dom) and "scatterlayer" in dom
    assert "dt-container" in dom, "the filterable table was not set up"
    assert '<details class="sensitive" open' not in dom


def test_markdown_changes_rebuild_the_page_only(built, tmp_path):
    """On a staged copy: new words arrive, outputs stay, and no cell has run."""
    root = tmp_path / "root"
    for name in ("book", "notebooks", "profiles", "_config.yml", "_toc.yml", "Snakefile"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name)
        else:
            root.mkdir(exist_ok=True)
            shutil.copy(source, root)
    shutil.copytree(BUILD, root / "build" / "smoke", ignore=shutil.ignore_patterns("sphinx"))
    path = root / "notebooks" / "01_data_pitfalls.ipynb"
    nb = notebooks.read(path)
    nb.cells[0].source = "# A new title"
    nbformat.write(nb, path)
    todo = plan.make(root, "smoke")
    before = json.loads((BUILD / "plan.json").read_text(encoding="utf-8"))["notebooks"]
    for name, entry in todo["notebooks"].items():
        assert plan.inputs(entry, {}) == plan.inputs(before[name], {}), name
    book.stage(root, todo, tmp_path / "staged")
    staged = notebooks.read(tmp_path / "staged" / "notebooks" / "01_data_pitfalls.ipynb")
    assert staged.cells[0].source == "# A new title"
    assert any(c.outputs for c in notebooks.code_cells(staged))
    kept = notebooks.read(root / "build" / "smoke" / "notebooks" / "01_data_pitfalls.ipynb")
    assert kept.cells[0].source == "# A new title", "the executed copy has the new words too"


def test_numbers_by_hand_stop_the_book(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "index.md").write_text("# T\n\nAbout 67.8 % of pairs.\n")
    with pytest.raises(book.BookError, match=r"index\.md: .*67\.8 %"):
        book.check_prose(tmp_path)


def test_absent_data_excuse_only_their_own_numbers():
    rows = [{"id": "hh.harmless-base.test.empty"}, {"id": "audit.i01.x"}]
    absent = book.absent_prefixes(rows)
    assert {"hh.helpful-base.test.", "toxicity.", "panel.helpful-online."} <= set(absent)
    assert not any("hh.harmless-base.test.empty".startswith(p) for p in absent)
    assert not any("audit.i99.typo".startswith(p) for p in absent)


@pytest.mark.slow
def test_without_any_data_the_book_is_built_with_banners(tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    environment = {k: v for k, v in os.environ.items() if k not in ("HH_RLHF_DIR", "ELEPHANT_DATA")}
    environment |= {"PYTHONPATH": str(clone / "src"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "helpers", "book", "--profile", "smoke"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = clone / "build" / "smoke" / "book" / "notebooks" / "01_data_pitfalls.html"
    text = page.read_text(encoding="utf-8")
    assert 'class="banner"' in text and "HH_RLHF_DIR" in text
    assert "planted (test)" in text and "data were not reachable" in text
