"""From categories to a cleaned data set: Same kept, Opposite swapped, the rest dropped and counted.

What is written is a ``datasets`` folder: Parquet, one config a subset, splits as in the original, a
card that says whose votes it rests on, and for each pair where it comes from.
"""

import json
from pathlib import Path

import pandas as pd

from helpers import pairs, votes
from helpers.votes import CATEGORIES, UNVOTED

KEPT = ("Same", "Opposite")


def clean(data: pd.DataFrame, categories: pd.Series, counted: pd.DataFrame, source: str):
    """The cleaned pairs, one row each in the order of ``data``.

    ``data``: frame of pairs; ``categories``: category by ``pair_id``; ``counted``: votes by
    ``pair_id`` (:func:`helpers.votes.counts`); ``source``: whose votes they are. Columns:
    ``chosen`` and ``rejected`` full dialogues under the new labels, ``category``, ``swapped``,
    ``source``, ``votes`` (JSON counts relative to the original labels), ``original_chosen_is``
    (the column in which the originally chosen dialogue now stands), ``pair_id``, ``subset``,
    ``split``, ``row``.
    Raises KeyError naming pairs without a category.
    """
    category = _aligned(data, categories)
    other = data["rejected_prompt"].where(data["rejected_prompt"].notna(), data["prompt"])
    first, second = data["prompt"] + data["chosen"], other + data["rejected"]
    swapped = category.eq("Opposite")
    cast = counted.reindex(data["pair_id"]).fillna(0).astype(int)
    out = pd.DataFrame(
        {
            "chosen": first.where(~swapped, second),
            "rejected": second.where(~swapped, first),
            "category": category,
            "swapped": swapped,
            "original_chosen_is": swapped.map({True: "rejected", False: "chosen"}),
            "source": source,
            "votes": [json.dumps(row, sort_keys=True) for row in cast.to_dict("records")],
            **{c: data[c] for c in ("pair_id", "subset", "split", "row")},
        }
    )
    return out[category.isin(KEPT)].reset_index(drop=True)


def table_7(data: pd.DataFrame, categories: pd.Series) -> pd.DataFrame:
    """The statistics that the paper's Table 7 gives, for any votes: pairs by split and category.

    Every pair is in one column, those without votes in ``Unvoted``; ``kept`` is Same + Opposite.
    """
    category = _aligned(data, categories)
    place = data["subset"] + " (" + data["split"] + ")"
    table = pd.crosstab(place, category).reindex(columns=[*CATEGORIES, UNVOTED], fill_value=0)
    table = table.loc[list(dict.fromkeys(place))]
    table["kept"] = table[list(KEPT)].sum(axis=1)
    table["all"] = table[[*CATEGORIES, UNVOTED]].sum(axis=1)
    table.index.name, table.columns.name = "split", None
    return table


def write(
    cleaned: pd.DataFrame, dropped: pd.DataFrame, out: Path, *, title: str, about: str
) -> None:
    """Write the data set folder: ``<subset>/<split>.parquet``, ``dropped.jsonl`` and ``README.md``.

    ``dropped`` is :func:`left_out`'s frame; ``about`` goes into the card. Raises FileExistsError
    for a folder that is not empty: an older data set must not be mixed with a new one.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; give a new folder, or empty it")
    configs: dict[str, list[str]] = {}
    for (subset, split), part in cleaned.groupby(["subset", "split"], sort=False):
        path = out / subset / f"{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        part.to_parquet(path, index=False)
        configs.setdefault(subset, []).append(split)
    dropped.to_json(out / "dropped.jsonl", orient="records", lines=True, force_ascii=False)
    (out / "README.md").write_text(_card(title, about, configs), encoding="utf-8")


def left_out(data: pd.DataFrame, categories: pd.Series) -> pd.DataFrame:
    """Id, place and category of every pair that cleaning drops, so that each is accounted for."""
    category = _aligned(data, categories)
    columns = ["pair_id", "subset", "split", "row"]
    return data[columns].assign(category=category)[~category.isin(KEPT)].reset_index(drop=True)


def read(folder: Path) -> pd.DataFrame:
    """The cleaned pairs of a written folder in the schema of :mod:`helpers.pairs`.

    Ids are those of the original pairs, not of the swapped ones.
    """
    parts = [pd.read_parquet(path) for path in sorted(Path(folder).glob("*/*.parquet"))]
    records = []
    for row in pd.concat(parts, ignore_index=True).to_dict("records"):
        parsed = pairs.parse(row["chosen"], row["rejected"])
        records.append(parsed | {k: row[k] for k in ("pair_id", "subset", "split", "row")})
    return pairs.frame(records)


def _aligned(data: pd.DataFrame, categories: pd.Series) -> pd.Series:
    unknown = sorted(set(categories) - {*CATEGORIES, UNVOTED})
    if unknown:
        raise ValueError(f"no categories of the paper: {unknown}")
    missing = data.loc[~data["pair_id"].isin(categories.index), "pair_id"]
    if len(missing):
        raise KeyError(
            f"{len(missing)} pairs have no category, the first is {missing.iloc[0]}; categorise "
            "all pairs, those without votes get 'Unvoted'"
        )
    return pd.Series(categories.loc[data["pair_id"]].to_numpy(), index=data.index)


def _card(title: str, about: str, configs: dict[str, list[str]]) -> str:
    lines = ["---", f"pretty_name: {json.dumps(title)}", "configs:"]
    for subset, splits in configs.items():
        lines += [f"- config_name: {subset}", "  data_files:"]
        for split in splits:
            lines += [f"  - split: {split}", f"    path: {subset}/{split}.parquet"]
    fields = {
        "chosen, rejected": "full dialogues under the new labels",
        "category": "Same (label kept) or Opposite (labels swapped)",
        "votes": "counts of votes, relative to the original labels",
        "source": "whose votes these are",
        "original_chosen_is": "where the originally chosen dialogue now stands",
        "pair_id, subset, split, row": "the original pair",
    }
    lines += ["---", "", f"# {title}", "", about, "", "## Fields", ""]
    lines += [f"- `{name}`: {text}" for name, text in fields.items()]
    lines += ["", "Dropped pairs with their category: `dropped.jsonl`.", ""]
    return "\n".join(lines)


def categorise(data: pd.DataFrame, cast: pd.DataFrame, flags: pd.DataFrame, **rule) -> pd.Series:
    """Category by ``pair_id`` of all pairs of ``data`` (see :func:`helpers.votes.categorise`).

    ``flags``: boolean columns ``empty`` and ``repetitive``, index as ``data``. Pairs that stand
    twice with the same text share their id, votes and category.
    """
    seen = flags[["empty", "repetitive"]].groupby(data["pair_id"]).any()
    return votes.categorise(cast, seen, **rule)
