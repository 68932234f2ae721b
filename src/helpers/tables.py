"""How tables and dataset texts reach the page: always escaped, offensive text behind a click."""

import hashlib
import html
from collections.abc import Mapping, Sequence

import itables.javascript
import itables.options as opt
import pandas as pd
from IPython.display import HTML, display

from helpers.pairs import ASSISTANT, HUMAN

WARNING = "Show dataset text (may be offensive)"
# A page that holds every flagged dialogue in full would weigh tens of megabytes.
MAX_CHARACTERS = 1_500


def show(data: pd.DataFrame, *, caption: str, formats: Mapping[str, str] | None = None) -> None:
    """A static table, escaped, without its index; ``formats`` maps columns to format strings.

    Missing values show as an en dash.
    """
    display(HTML(plain_html(data, caption=caption, formats=formats)))


def plain_html(data: pd.DataFrame, *, caption: str, formats=None) -> str:
    """The HTML of :func:`show`."""
    specs = [(formats or {}).get(column) for column in data.columns]
    rows = [
        [_cell(value, spec) for value, spec in zip(row, specs)]
        for row in data.itertuples(index=False)
    ]
    head = "".join(f"<th>{html.escape(str(c))}</th>" for c in data.columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="table-wrap"><table class="plain"><caption>{html.escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def html_table(titles: Sequence[str], rows: Sequence[str]) -> str:
    """A table for a page: titles are HTML, rows ``<tr>`` elements."""
    head = "".join(f"<th>{title}</th>" for title in titles)
    return (
        f'<div class="table-wrap"><table class="plain"><thead><tr>{head}</tr></thead><tbody>'
        + "".join(rows)
        + "</tbody></table></div>"
    )


def _cell(value, spec: str | None) -> str:
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return "–"
    return html.escape(spec.format(value) if spec else str(value))


def estimate_text(row: Mapping, scale: float = 1.0, digits: int = 2) -> str:
    """``4.1 [3.2, 5.0]`` from a ledger row, every part multiplied by ``scale``."""
    if row["value"] is None:
        return "–"
    value = f"{row['value'] * scale:.{digits}f}"
    if row["low"] is None:
        return value
    return f"{value} [{row['low'] * scale:.{digits}f}, {row['high'] * scale:.{digits}f}]"


def banner(text: str) -> str:
    """A notice across the page, e.g. that data are missing (plain text, escaped here)."""
    return f'<div class="banner">{html.escape(text)}</div>'


def clip(text: str, limit: int = MAX_CHARACTERS) -> str:
    """At most ``limit`` characters, with a note of how many were left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]} […{len(text) - limit:,} more characters]"


def hidden(text_html: str, summary: str = WARNING) -> str:
    """HTML that stays closed until it is clicked. The argument must be escaped already."""
    return (
        f'<details class="sensitive"><summary>{html.escape(summary)}</summary>{text_html}</details>'
    )


def pair_card(pair: Mapping, *, title: str, notes: str = "") -> str:
    """A pair as HTML: where it stands in the open, its texts escaped and behind a click."""
    rejected_prompt = pair["rejected_prompt"]
    columns = [("Prompt", pair["prompt"])]
    if isinstance(rejected_prompt, str):
        columns.append(("Prompt of the rejected side", rejected_prompt))
    columns += [("Chosen", pair["chosen"]), ("Rejected", pair["rejected"])]
    # No white space between the tags: the card keeps white space, as the texts need it.
    parts = "".join(f"<div><b>{label}</b>\n{_text(text)}</div>" for label, text in columns)
    where = f"{pair['subset']}, {pair['split']}, row {pair['row']}, id {pair['pair_id']}"
    return (
        f'<div class="case"><p><b>{html.escape(title)}</b> '
        f"<small>{html.escape(where)}</small></p>"
        + (f"<p>{html.escape(notes)}</p>" if notes else "")
        + hidden(f'<div class="pair-card">{parts}</div>')
        + "</div>"
    )


def _text(text: str) -> str:
    """A response or prompt as shown: escaped, an empty one named as such."""
    if not text.strip():
        return "<i>(empty)</i>"
    return html.escape(clip(text.strip()))


def show_cards(cards: list[str]) -> None:
    """Display pair cards under each other."""
    display(HTML("".join(cards)))


def pair_text(pair: Mapping) -> str:
    """Last question, chosen and rejected response of a pair as one text, each part clipped."""
    question = pair["prompt"].removesuffix(ASSISTANT).rsplit(HUMAN, 1)[-1]
    parts = {"Question": question, "Chosen": pair["chosen"], "Rejected": pair["rejected"]}
    limit = MAX_CHARACTERS // len(parts)
    return "\n\n".join(f"{k}: {clip(text.strip(), limit)}" for k, text in parts.items())


def filterable(data: pd.DataFrame, *, caption: str, sensitive: tuple[str, ...] = ()) -> None:
    """A searchable, sortable table with a filter per column, all rows, offline (by itables).

    Every value is escaped. Columns named in ``sensitive`` are clipped and stand behind a click.
    """
    shown = pd.DataFrame(
        {
            column: [
                hidden(f'<div class="pair-text">{_text(str(v))}</div>', "show")
                if column in sensitive
                else _cell(v, None)
                for v in data[column]
            ]
            for column in data.columns
        }
    )
    display(HTML(_filterable_html(shown, caption)))


def _filterable_html(escaped: pd.DataFrame, caption: str) -> str:
    """HTML of a table whose cells are escaped HTML already, with the library it needs."""
    # The name follows from the content: a random one would change the page at every run.
    name = "table-" + hashlib.sha256(caption.encode()).hexdigest()[:12]
    body = itables.to_html_datatable(
        escaped,
        caption=caption,
        table_id=name,
        connected=False,
        # The cells hold our own markup, and every text in them has been escaped above.
        allow_html=True,
        showIndex=False,
        # The default keeps 64 KiB and drops the other rows with a small note.
        maxBytes=0,
        column_filters="header",
        pageLength=10,
        style="table-layout:auto;width:100%;margin:auto",
        classes="display compact",
    )
    library = itables.javascript.generate_init_offline_itables_html(opt.dt_bundle)
    return f'<div class="table-wrap">{library}{body}</div>'
