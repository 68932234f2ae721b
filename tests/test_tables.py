"""Dataset text on a page: always escaped, always closed, never lost."""

from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pandas as pd
import plotly.express as px
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import figures, tables

HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(1)> **bold** $x$ </details> & "q"'


class Tags(HTMLParser):
    """Collects the tags and the text of a piece of HTML."""

    def __init__(self):
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, _attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def read(markup: str) -> Tags:
    parser = Tags()
    parser.feed(markup)
    parser.close()
    return parser


def pair(**texts) -> dict:
    base = dict(pair_id="0" * 16, subset="harmless-base", split="test", row=7)
    base |= dict(prompt="p", rejected_prompt=None, chosen="c", rejected="r")
    return base | texts


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_no_text_can_add_a_tag_to_a_card(text):
    plain = read(tables.pair_card(pair(), title="t")).tags
    hostile = read(tables.pair_card(pair(prompt=text, chosen=text or "c"), title="t"))
    assert [t for t in hostile.tags if t != "i"] == plain


def test_html_and_markdown_show_as_text():
    card = read(tables.pair_card(pair(chosen=HOSTILE), title="t"))
    assert "script" not in card.tags and "img" not in card.tags
    assert HOSTILE in card.text


def test_texts_stand_behind_a_click_and_empty_ones_are_named():
    markup = tables.pair_card(pair(chosen="  ", rejected="secret words"), title="Empty")
    before = markup.split('<details class="sensitive">')[0]
    assert "secret words" not in before and "secret words" in markup
    assert "(empty)" in markup and "<details open" not in markup


def test_prompts_that_differ_are_both_shown():
    markup = tables.pair_card(pair(rejected_prompt="another question"), title="t")
    assert "Prompt of the rejected side" in markup and "another question" in markup


def test_long_texts_say_how_much_is_left_out():
    clipped = tables.clip("x" * 2000, 1500)
    assert clipped.endswith("[…500 more characters]") and tables.clip("short") == "short"


def test_plain_table_escapes_formats_and_marks_missing_values():
    frame = pd.DataFrame({"<a>": [HOSTILE, None], "n": [0.5, float("nan")]})
    markup = tables.plain_html(frame, caption="<c>", formats={"n": "{:.1%}"})
    parsed = read(markup)
    assert "script" not in parsed.tags and HOSTILE in parsed.text
    assert "50.0%" in markup and markup.count("–") == 2


def test_filterable_table_keeps_every_row_and_escapes_it(capsys):
    frame = pd.DataFrame({"id": [f"row-{i:04}" for i in range(3000)], "text": [HOSTILE] * 3000})
    shown = []
    tables.display, original = shown.append, tables.display
    try:
        tables.filterable(frame, caption="c", sensitive=("text",))
    finally:
        tables.display = original
    markup = shown[0].data
    assert "row-0000" in markup and "row-2999" in markup, "no row is sampled away"
    # Inside the script the rows are JSON of escaped HTML.
    assert "<script>alert" not in markup and "<img src=x" not in markup
    assert "&lt;script&gt;" in markup


def test_estimates_show_with_their_interval():
    row = dict(value=0.0412, low=0.03, high=0.05)
    assert tables.estimate_text(row, scale=100, digits=1) == "4.1 [3.0, 5.0]"
    assert tables.estimate_text(dict(value=2.0, low=None, high=None)) == "2.00"
    assert tables.estimate_text(dict(value=None, low=None, high=None)) == "–"


def captured(figure, **options) -> str:
    shown = []
    figures.display, original = shown.append, figures.display
    try:
        figures.show(figure, **options)
    finally:
        figures.display = original
    return shown[0].data


def test_plotly_figures_need_no_network_and_say_what_they_show():
    figure = px.scatter(x=[1], y=[2])
    markup = captured(figure, alt="One point at <one>, two.", caption="A caption & more.")
    assert "cdn" not in markup.lower() and "https://" not in markup.split("<details")[1]
    assert 'aria-label="One point at &lt;one&gt;, two."' in markup
    assert "<figcaption>A caption &amp; more.</figcaption>" in markup
    again = captured(figure, alt="One point at <one>, two.", caption="A caption & more.")
    assert markup == again, "the same figure gives the same page"


def test_static_figures_are_closed_and_repeat_exactly():
    figures.setup()
    pages = []
    for _ in range(2):
        figure, axes = plt.subplots()
        axes.plot([1, 2])
        pages.append(captured(figure, alt="A line from one to two.", caption="c"))
        assert not plt.fignum_exists(figure.number)
    assert pages[0] == pages[1] and 'alt="A line from one to two."' in pages[0]


def test_a_figure_without_alt_text_is_refused():
    with pytest.raises(ValueError, match="says too little"):
        figures.show(px.scatter(x=[1], y=[2]), alt="Plot", caption="c")


def test_the_remake_box_names_notebook_and_profile(monkeypatch):
    monkeypatch.setenv("ELEPHANT_NOTEBOOK", "00_paper_audit")
    monkeypatch.setenv("ELEPHANT_PROFILE", "gpu")
    assert figures.remake_command() == ".venv/bin/elephant run --force --profile gpu 00_paper_audit"
