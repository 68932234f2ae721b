"""Two responses to one prompt put to an LLM judge, by the paper's question or the corrected one
(:mod:`helpers.verdict_prompts`), each in both orders, and what the answers come to."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from helpers import completions, judge, outcomes, verdict_prompts
from helpers.stats import Estimate

FORMS = ("printed", "corrected")


def asked(
    table: pd.DataFrame,
    sides: Mapping[str, str],
    endpoint: completions.Endpoint,
    *,
    form: str,
    cache: Path | None = None,
    **options,
) -> pd.DataFrame:
    """One row a question: the columns of ``table``, ``first`` (the side in first place), ``vote``
    (a side, ``tie``, or None) and ``status`` (``answered``, ``unparseable``, ``failed``).

    ``table`` has ``pair_id``, different in each row, and ``prompt``; ``sides`` maps the names of
    two sides to their columns. ``form`` is one of :data:`FORMS`: the printed question shows the
    first side first, and once more with the places exchanged, which the paper did not do. Answers
    are cached, see :func:`helpers.completions.fetch`, which has ``options``.
    """
    if len(sides) != 2 or form not in FORMS:
        raise ValueError(f"{len(sides)} sides, form {form!r}; give two sides and one of {FORMS}")
    if table["pair_id"].duplicated().any():
        raise ValueError("pair_id is not different in each row; name each comparison by itself")
    rows, texts = [], {}
    for row in table.to_dict("records"):
        for first, text in _questions(row, sides, form):
            key = endpoint.key(form, first, text)
            texts[key] = text
            rows.append(row | {"first": first, "key": key})
    said, _ = completions.fetch(endpoint, texts, cache or judge.default_cache(), **options)
    for row in rows:
        text = said.get(row.pop("key"))
        row["vote"] = None if text is None else _vote(text, row["first"], sides, form)
        row["status"] = "failed" if text is None else "answered" if row["vote"] else "unparseable"
    return pd.DataFrame(rows)


def shares(answers: pd.DataFrame, ours: str, *, seed: int) -> outcomes.Summary:
    """Wins, ties and losses of the side ``ours``: it wins where it does in both orders. Pairs
    without two answers are left out. Bootstrap by prompt, which several pairs may share."""
    verdict = outcomes.resolve(answers)
    prompts = answers.drop_duplicates("pair_id").set_index("pair_id")["prompt"]
    found = verdict.map(lambda side: 0 if side == "tie" else 1 if side == ours else -1)
    return outcomes.summarise(found, prompts.loc[found.index], seed=seed)


def liking(answers: pd.DataFrame, *, seed: int) -> Estimate:
    """How much a judge likes the first place, see :class:`helpers.outcomes.Places`."""
    return outcomes.places(answers, seed=seed).liking


def _questions(row: Mapping, sides: Mapping[str, str], form: str) -> list[tuple[str, str]]:
    said = {side: row[column] for side, column in sides.items()}
    if form == "corrected":
        both = verdict_prompts.both_orders(row["prompt"], said)
        return [(question.first, question.text) for question in both]
    a, b = said
    return [(x, verdict_prompts.as_printed(said[x], said[y])) for x, y in ((a, b), (b, a))]


def _vote(text: str, first: str, sides: Mapping[str, str], form: str) -> str | None:
    """The side that an answer names, where ``first`` stood in first place."""
    second = next(side for side in sides if side != first)
    if form == "printed":
        # It speaks of places as if the generated response stood first, as it does in the paper.
        place = verdict_prompts.read_printed(text)
        return {"generated": first, "chosen": second}.get(place, place)
    answer = judge.parse(text)
    return answer and {"A": first, "B": second, "tie": "tie"}[answer.better]
