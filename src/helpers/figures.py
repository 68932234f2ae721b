"""How figures reach the page: interactive (plotly) or static (seaborn), offline, with alt text.

Each figure stands in a ``<figure>`` with a caption and a box that says how to remake it.
"""

import base64
import hashlib
import html
import io
import os

import matplotlib.pyplot as plt
import plotly.graph_objects as go
import plotly.io as pio
import seaborn as sns
from IPython.display import HTML, display
from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart with any kind of colour vision.
PALETTE = {
    "level1": "#0072B2",
    "level2": "#D55E00",
    "good": "#009E73",
    "bad": "#CC3311",
    "neutral": "#7F7F7F",
    "paper": "#000000",
}


def setup() -> None:
    """One look for all figures. Figures are shown by :func:`show` only, so nothing appears twice
    and no figure can come without its alt text."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    # Text as text keeps the SVG small, searchable and legible to screen readers.
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "elephant", "figure.dpi": 110})
    # The notebook's inline backend would draw every open figure once more at the end of a cell.
    plt.switch_backend("agg")
    colours = [colour for name, colour in PALETTE.items() if name != "paper"]
    pio.templates["book"] = go.layout.Template(layout={"colorway": colours})
    pio.templates.default = "plotly_white+book"


def show(figure: go.Figure | Figure, *, alt: str, caption: str, command: str = "") -> None:
    """Display a plotly or matplotlib figure with alt text, caption and remake box.

    ``command`` defaults to the command that runs the present notebook. Raises ValueError for an
    empty ``alt``: a figure that says nothing to a screen reader is not finished.
    """
    if len(alt.split()) < 4:
        raise ValueError(f"alt text {alt!r} says too little; describe what the figure shows")
    if isinstance(figure, go.Figure):
        body = _plotly_html(figure, alt)
    else:
        body = _matplotlib_html(figure, alt)
        plt.close(figure)
    display(HTML(_frame(body, caption, command or remake_command())))


def remake_command() -> str:
    """The command that runs the notebook which is running now."""
    notebook = os.environ.get("ELEPHANT_NOTEBOOK", "NOTEBOOK")
    profile = os.environ.get("ELEPHANT_PROFILE", "cpu")
    return f".venv/bin/elephant run --force --profile {profile} {notebook}"


def _plotly_html(figure: go.Figure, alt: str) -> str:
    # plotly.min.js is served once from the book's static folder; MathJax would come from a CDN.
    # A fixed id makes the page the same at every run; the alt text is unique on a page.
    inner = pio.to_html(
        figure,
        include_plotlyjs=False,
        include_mathjax=False,
        full_html=False,
        default_width="100%",
        default_height=figure.layout.height or 420,
        div_id="plot-" + hashlib.sha256(alt.encode()).hexdigest()[:12],
        config={"displaylogo": False, "responsive": True},
    )
    return f'<div role="img" aria-label="{html.escape(alt)}">{inner}</div>'


def _matplotlib_html(figure: Figure, alt: str) -> str:
    out = io.BytesIO()
    # Date=None: the time of drawing would make equal figures differ from run to run.
    figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
    data = base64.b64encode(out.getvalue()).decode()
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{html.escape(alt)}"/>'


def _frame(body: str, caption: str, command: str) -> str:
    return (
        f'<figure class="book-figure">{body}<figcaption>{html.escape(caption)}</figcaption>'
        '<details class="remake"><summary>Remake this figure</summary>'
        f"<pre>{html.escape(command)}</pre></details></figure>"
    )
