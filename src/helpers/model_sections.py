"""The tables of an audit of a reward model, section by section: HTML from findings."""

import pandas as pd

from helpers import model_measures, report, stats, tables, world
from helpers.report import Row

NOT_TOLD = "Not told; the reason stands under What could not be told."


def _select(result: dict, check: str, part: str) -> list[dict]:
    return [f for f in result["findings"] if f["check"] == check and f["part"] == part]


def _row(finding: dict, label: str = "", note: str | None = None) -> Row:
    note = finding["text"] if note is None else note
    values = (finding["value"], finding["low"], finding["high"])
    return Row(label or finding["name"], note, f"{finding['n']:,}", *values)


def accuracy_rows(result: dict, part: str) -> list[Row]:
    names = {"wilson": "the model", "half": "the model, ties half", "ties": "ties of the model"}
    found = {f["name"]: f for f in _select(result, "accuracy", part)}
    rows = [_row(found[name], label) for name, label in names.items() if name in found]
    for f in _select(result, "null", part):
        blind = f["name"] == model_measures.BLIND
        rows.append(_row(f, f"the model {f['name']}" if blind else ""))
    return rows


def accuracy(result: dict, subsets: list[str]) -> str:
    lifts = [
        {
            "subset": f["part"],
            "lift in points [95 %]": tables.estimate_text(f, 100, 1),
            "pairs": f["n"],
            "null chosen": f["text"],
        }
        for subset in subsets
        for f in _select(result, "lift", subset)
    ]
    body = ""
    if lifts:
        caption = (
            "Accuracy of the model minus that of the best null baseline, in percentage points, a "
            "tie counted half for both. The null is chosen on training folds, fold by fold; paired "
            "bootstrap, clustered by prompt."
        )
        body += tables.plain_html(pd.DataFrame(lifts), caption=caption)
    mixture = "gold mixture" if set(subsets) <= set(world.SUBSETS) else "mixture"
    for part in (*subsets, mixture):
        if rows := accuracy_rows(result, part):
            caption = (
                f"{part}: share of pairs whose chosen response scores higher. The model: ties "
                "wrong (Eq. 2), Wilson; all others: ties half, bootstrap clustered by prompt."
            )
            body += report.interval_table(rows, caption=caption, most=1.0, reference=0.5)
    return body


def calibration(result: dict, part: str) -> str:
    found = _select(result, "calibration", part)
    if not found:
        return report.paragraph(NOT_TOLD)
    body = report.interval_table(
        [_row(f, f"calibration error, {f['name']}") for f in found],
        caption="Mean gap between confidence and accuracy in ten equally full bins, and that of a "
        "model whose confidences are exactly right on as many pairs. Confidence is "
        "the sigmoid of the margin times a scale that is fitted on other prompts of the same "
        "subset, so this is the error that is left after rescaling.",
    )
    rows = [_row(f, f"margin {f['name']}", "") for f in _select(result, "by margin", part)]
    caption = "Accuracy by size of the margin, ties wrong; Wilson intervals."
    return body + report.interval_table(rows, caption=caption, most=1.0, reference=0.5)


def pitfalls(result: dict, part: str, subsets: list[str]) -> str:
    beaten = _select(result, "beaten", part)
    if not beaten:
        return report.paragraph(NOT_TOLD)
    size = {f["name"]: f for f in _select(result, "sensitivity", part)}
    body = report.paragraph(
        "A probe is a response made from a real one (the base) so that it is worse, or no better. "
        "It should lose. A tie counts as beating the base."
    ) + report.interval_table(
        [_row(f, note=f"– {f['text']}") for f in beaten],
        caption="How often a probe scores at least as high as its base; Wilson intervals.",
        most=1.0,
    )
    rows = [
        {
            "probe": f["name"],
            "base minus probe [95 %]": tables.estimate_text(f),
            "n": f["n"],
            "should be": "above 0" if f["check"] == "beaten" else "0",
        }
        for f in (
            *({**size[b["name"]], "check": "beaten"} for b in beaten if b["name"] in size),
            *(size[s["name"]] for s in _select(result, "same", part) if s["name"] in size),
        )
    ]
    if rows:
        caption = (
            "By how much, in standard deviations of the model's scores of chosen responses; "
            "bootstrap clustered by prompt."
        )
        body += tables.plain_html(pd.DataFrame(rows), caption=caption)
    by_subset = [
        {"probe": name}
        | {
            f["part"]: report.interval_text(f["value"], f["low"], f["high"])
            for subset in subsets
            for f in _select(result, "beaten", subset)
            if f["name"] == name
        }
        for name in dict.fromkeys(f["name"] for f in beaten)
    ]
    if len(subsets) > 1:
        caption = "The same by subset: percent [95 %, Wilson]. The verdict reads these."
        body += tables.plain_html(pd.DataFrame(by_subset), caption=caption)
    return body


def invariance(result: dict) -> str:
    if not result["card"]:
        return report.paragraph(NOT_TOLD)
    rows = [
        {
            "variant": row["variant"],
            "precision": row["dtype"],
            "largest difference": f"{row['largest_sd']:.1e}",
            "pairs": row["pairs"],
            "flips": row["flips"],
            "share [95 %]": "–" if row["flip_share"] is None
            else report.interval_text(row["flip_share"], row["low"], row["high"]),
        }
        for row in result["card"]
    ]  # fmt: skip
    caption = (
        f"Each variant against one text at a time, on {result['card'][0]['texts']} texts "
        "from the shorter half of each subset: the largest difference of a score, in standard "
        "deviations of the scores, and the pairs that change sign, among those whose margin is no "
        "numerical tie. Wilson intervals. The verdict "
        "reads the rows in the precision of the audit."
    )
    return tables.plain_html(pd.DataFrame(rows), caption=caption)


def truncation(result: dict) -> str:
    cut = result["truncated"]
    body = report.paragraph(
        f"The model's own limit, {result['model']['max_tokens']} tokens, cut {cut['cut']:,} of "
        f"{cut['texts']:,} different texts, at the {result['model']['truncation']} side."
    )
    if not result["truncation"]:
        return body
    rows = []
    for row in result["truncation"]:
        share = "–"
        if row["longer"]:
            changed = stats.wilson(row["changed"], row["longer"])
            share = report.interval_text(changed.value, changed.low, changed.high)
        rows.append(
            {
                "tokens": row["limit"],
                "cut at": row["side"],
                "pairs longer": f"{row['longer']:,} of {row['pairs']:,}",
                "with no difference left": row["identical"],
                "other decision": row["changed"],
                "of the longer [95 %]": share,
            }
        )
    caption = (
        "The same pairs under a shorter limit: how many are longer, and how many of these the "
        "model decides otherwise; Wilson intervals."
    )
    return body + tables.plain_html(pd.DataFrame(rows), caption=caption, formats={"tokens": "{:,}"})


def throughput(result: dict) -> str:
    found = result["throughput"]
    rows = [
        ("pairs a second", f"{found['pairs_per_second']:.2f}"),
        ("tokens a second (shared prefixes once)", f"{found['tokens_per_second']:,.0f}"),
        ("tokens without sharing, over those needed",
         f"{found['tokens_plain'] / found['tokens_needed']:.2f}"),
        ("padding", f"{report.percent(found['padding_share'])} %"),
        ("seconds", f"{found['seconds']:.1f}"),
        ("peak memory", f"{found['peak_memory'] / 2**30:.2f} GiB"),
        ("precision and device", f"{found['dtype']}, {found['device']}"),
        ("note", found["note"] or "–"),
    ]  # fmt: skip
    caption = (
        f"One timed call on {found['texts']} texts, nothing remembered, on this machine as busy as "
        "it was. Memory: of the card during the call, or of the whole process so far."
    )
    return tables.plain_html(pd.DataFrame(rows, columns=["what", "value"]), caption=caption)
