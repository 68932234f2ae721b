"""The status page, its sparklines, and the banner of numbers that are older than their code."""

import re

import nbformat
import pytest
from night_project import NightProject
from small_project import CELLS, A, B

from helpers import book, plan, status
from helpers.history import Night

ROW = dict(
    id="table3.cell", kind="result", value=0.5, low=0.4, high=0.6, n=9, method="Wilson",
    unit="share", scope="paper", labels="none", published=0.4, beside="Table 3", model="",
    revision="", notebook="00_a", note="", profile="smoke", device="cpu x86_64, 2 cores", code="h1",
    data={"hh": "1"}, tolerance=None,
)  # fmt: skip
TIMING = dict(seconds=12.3, finished="2026-11-23T18:33:32", cells={"first": 1.2, "second": 11.0})


def chapter(**fields) -> status.Chapter:
    return status.Chapter(
        **dict(name="00_a", title="A <b>", timing=TIMING, rows=[ROW], stale="") | fields
    )


def night(value, state="good", **head) -> Night:
    full = dict(
        id="20261123T020000Z", state=state, accepted="", started="2026-11-23T02:00:00+00:00",
        minutes=3.2, commit="0123456789abcdef", findings=[], problems=[], notebooks={},
    )  # fmt: skip
    return Night(full | head, {"table3.cell": dict(ROW, value=value)})


def test_the_page_says_when_how_long_on_what_and_with_which_verdicts():
    text = status.page([chapter()], [], "smoke")
    assert '<time class="age" datetime="2026-11-23T18:33:32Z">2026-11-23 18:33 UTC</time>' in text
    assert "A &lt;b&gt;" in text and "cpu x86_64, 2 cores" in text
    assert "<td>second</td><td>11.0</td>" in text and "12<details>" in text
    assert "no night yet" in text and "No night has been kept yet" in text


def test_verdicts_are_counted_where_their_rows_were_made():
    row = dict(ROW, id="claims.c2.world.effect", scope="world", low=0.1, published=None)
    text = status.page([chapter(rows=[row])], [], "smoke")
    assert "1 direction reproduced" in text
    assert ">none<" in status.page([chapter(rows=[])], [], "smoke")


def test_nights_are_listed_newest_first_with_what_they_found():
    finding = "moved: x: 1 → 2 [code: helpers.<stats>]"
    nights = [night(0.5), night(0.7, "drift", findings=[finding]), night(0.5, accepted="so it is")]
    text = status.page([chapter()], nights, "smoke")
    assert text.index("good, accepted: so it is") < text.index("<td>drift</td>")
    assert "helpers.&lt;stats&gt;" in text
    assert 'aria-label="table3.cell over 3 nights, from 0.5 to 0.7"' in text


def test_a_failed_and_a_stale_chapter_are_named():
    failed = {"00_a": dict(state="failed", problem="KeyError: 'x'")}
    text = status.page([chapter(stale="its cells")], [night(0.5, notebooks=failed)], "smoke")
    assert "failed: KeyError: &#x27;x&#x27;; older than its code: its cells" in text


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0], [1.0, 3.0, 2.0]])
def test_a_sparkline_stays_in_its_box_and_puts_more_higher(values):
    points = re.search(r'points="([^"]+)"', status.sparkline(values, "a <label>")).group(1).split()
    drawn = [tuple(map(float, point.split(","))) for point in points]
    assert len(drawn) == len(values)
    assert all(0 <= x <= 180 and 0 <= y <= 30 for x, y in drawn)
    by_value = sorted(range(len(values)), key=values.__getitem__)
    heights = [-drawn[i][1] for i in by_value]
    assert heights == sorted(heights)
    assert "a &lt;label&gt;" in status.sparkline(values, "a <label>")


def _executed(source="x = 1", upstream=None):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nb.metadata["papermill"] = dict(parameters=dict(profile="smoke", n=1))
    nb.metadata["elephant_upstream"] = {"00_a": "u1"} if upstream is None else upstream
    return nb


def test_age_is_told_by_hash_of_cells_parameters_helpers_and_data():
    from helpers import notebooks

    executed = _executed()
    entry = dict(
        code=notebooks.code_hash(executed), parameters=dict(profile="smoke", n=1), helpers="h1",
        data={"hh": "1"}, upstream=["00_a"],
    )  # fmt: skip

    def stale(entry=entry, executed=executed, made="u1"):
        return book.stale_parts(entry, executed, [ROW], {"00_a": made})

    assert stale() == ""
    assert stale(executed=_executed("x = 2")) == "its cells"
    assert stale(entry | dict(helpers="h2")) == "helpers that it uses"
    changed = entry | dict(parameters=dict(profile="smoke", n=2), data={"hh": "2"})
    assert stale(changed) == "its parameters, its data"
    assert stale(made="u2") == "what 00_a made"
    # A copy that an older version left does not say what it was run with.
    assert book.stale_parts(entry, _executed(upstream={}), [ROW], {"00_a": "u2"}) == ""


def test_a_chapter_that_failed_after_its_upstream_has_a_banner(tmp_path, monkeypatch):
    """As in a night: all records are deleted first, a's new code runs well, b fails after it."""
    project = NightProject(tmp_path / "project")
    monkeypatch.chdir(project.root)

    def staged(name: str) -> dict[str, bool]:
        book.stage(project.root, plan.make(project.root, "smoke"), tmp_path / name)
        pages = ("notebooks/00_a.ipynb", "notebooks/01_b.ipynb", "index.md", "verdicts.md")
        texts = {page: (tmp_path / name / page).read_text() for page in (*pages, "recorded.md")}
        return {page: "Numbers older than their code" in text for page, text in texts.items()}

    assert project.run().returncode == 0
    assert not any(staged("good").values())
    # b fails where what a made is even; its own code is the same before and after.
    project.write_notebook(B, [*CELLS[B], "assert int(up)"], words="# Second")
    assert project.run().returncode == 0 and not any(staged("again").values())
    project.write_notebook(A, [CELLS[A][0], CELLS[A][1].replace("% 2", "% 1")], words="# First")
    done = project.call("run", "--profile", "smoke", "--force")
    assert done.returncode == 1 and project.executed(done) == {A}
    found = staged("failed")
    assert found.pop("notebooks/00_a.ipynb") is False
    assert all(found.values()), found
    text = (tmp_path / "failed" / "recorded.md").read_text()
    assert "Second: what 00_a made changed since" in text


def test_the_switch_leads_to_the_new_book_and_keeps_the_one_before(tmp_path):
    link = tmp_path / "book"
    link.mkdir()  # as older versions left it
    (link / "index.html").write_text("0")
    for number in "1234":
        made = tmp_path / "made"
        made.mkdir()
        (made / "index.html").write_text(number)
        book.switch(made, link)
        assert link.is_symlink() and (link / "index.html").read_text() == number
    kept = sorted((path / "index.html").read_text() for path in (tmp_path / "books").iterdir())
    assert kept == ["3", "4"]


def test_what_a_kill_left_of_a_switch_is_swept_and_the_book_stays(tmp_path):
    link, made = tmp_path / "book", tmp_path / "made"
    made.mkdir()
    (made / "index.html").write_text("1")
    book.switch(made, link)
    # Killed with the new book in place and its link not moved on.
    (tmp_path / "books" / "half").mkdir()
    (tmp_path / ".book.link").symlink_to("books/half")
    assert (link / "index.html").read_text() == "1"
    made.mkdir()
    (made / "index.html").write_text("2")
    book.switch(made, link)
    assert (link / "index.html").read_text() == "2"
    assert not (tmp_path / "books" / "half").exists()
