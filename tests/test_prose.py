"""The number check: it finds numbers by hand, and leaves code, maths, links and quotations."""

import pytest

from helpers import prose


@pytest.mark.parametrize(
    "text",
    [
        "Accuracy is 66.13 here.",
        "About 5 % of pairs.",
        "About 5% of pairs.",
        "Ten percent? No: 12 percent.",
        "| a | 0.5 |",
        "A note\n\n```{note}\nit was 3.5 all along\n```",
        ":::{admonition} Title\nsome 7 per cent\n:::",
        "Costs 1,234.5 in all.",
        "```{list-table}\n* - 0.5\n```",
        ":::{admonition} About 67.8 %\nwords\n:::",
        "German style 3,5 too.",
    ],
)
def test_numbers_by_hand_are_found(text):
    assert prose.naked_numbers(text)


@pytest.mark.parametrize(
    "text",
    [
        "In `Table 4` the value `66.13` is code.",
        "{num}`audit.i02.rows|.1f` of ten rows, {ci}`a.b`.",
        "The paper prints {paper}`67.8% and 51.5%`.",
        r"With $\alpha = 0.05$ and $$x = 1.5 \%$$ as maths.",
        "See [section 3.2](https://example.org/v1.2/x.html).",
        "```python\nx = 0.5  # 5 %\n```",
        "```{figure} figures/a-1.5.svg\n:width: 100%\n\nA caption.\n```",
        "<!-- 5 % of nothing -->",
        '<img style="width: 99.5%">',
        "There are 8,552 pairs, 1,024 tokens. Ten of 20 rows, in 2024.",
    ],
)
def test_code_maths_links_and_quotations_are_left_alone(text):
    assert prose.naked_numbers(text) == []


def test_a_fence_inside_a_directive_is_still_code():
    text = "````{note}\nbefore\n```bash\nx=0.5\n```\nafter 0.7\n````"
    assert prose.naked_numbers(text) == ["before after 0.7"]


def test_problems_name_page_and_cell(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("It is 0.5.")
    (problem,) = prose.check([page])
    assert problem.startswith("page.md: '…It is 0.5.…'")


@pytest.mark.parametrize(
    ("row", "spec", "expected"),
    [
        (dict(value=0.0412, unit="share"), "", "4.1\N{NO-BREAK SPACE}%"),
        (dict(value=66.13, unit="%"), "", "66.1\N{NO-BREAK SPACE}%"),
        (dict(value=66.13, unit="%"), ".2f", "66.13"),
        (dict(value=33870.4, unit="USD"), ",.0f", "33,870"),
        (dict(value=8552, unit="pairs"), "", "8,552"),
        (dict(value=-7.2, unit="score"), "", "\N{MINUS SIGN}7.2"),
        (dict(value=None, unit="score"), "", "not available"),
    ],
)
def test_number_text(row, spec, expected):
    assert prose.number_text(row, spec) == expected


def test_interval_text_gives_the_unit_once():
    row = dict(value=0.5, low=0.25, high=0.75, n=1200, unit="share")
    nbsp = "\N{NO-BREAK SPACE}"
    assert prose.interval_text(row) == f"50.0{nbsp}% [25.0, 75.0], n = 1,200"
