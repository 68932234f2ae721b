"""From votes to the paper's six categories, and what rater error alone would make of them.

The only input is the vote table, one row a vote: ``pair_id``, ``annotator``, ``vote`` ("chosen",
"rejected" or "tie", relative to the pair's original label), ``toxic`` (this annotator marks the
original chosen response as toxic; missing means no) and ``source``. Shares lie in 0..1.
"""

from collections.abc import Iterable, Sequence
from itertools import permutations

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import binom

from helpers import stats

COLUMNS = ["pair_id", "annotator", "vote", "toxic", "source"]
VOTES = ("chosen", "rejected", "tie")
CATEGORIES = ("Same", "Opposite", "Toxic", "Vague", "Repetitive", "Empty")
UNVOTED = "Unvoted"
# The paper leaves the order open. What can be seen without a vote comes first.
PRECEDENCE = ("Empty", "Repetitive", "Toxic", "Opposite", "Same", "Vague")
MAJORITY = 0.5
_ROUNDING = 1e-9  # 0.57 * 100 is a little less than 57


def check(votes: pd.DataFrame, pair_ids: Iterable[str] | None = None) -> pd.DataFrame:
    """The vote table with ``toxic`` as booleans; a copy, rows and further columns as they are.

    Raises ValueError that counts and names the first offenders: missing columns or values, a pair
    that ``pair_ids`` does not list, a vote outside the scale, a toxicity mark that is not true or
    false, two votes of one annotator on one pair. A missing ``toxic`` counts as false.
    """
    missing = [c for c in COLUMNS if c != "toxic" and c not in votes]
    if missing:
        raise ValueError(f"vote table: column(s) {missing} missing; it has {list(votes)}")
    votes = votes.assign(toxic=False) if "toxic" not in votes else votes.copy()
    for column in ("pair_id", "annotator", "vote", "source"):
        text = votes[column].map(lambda value: isinstance(value, str)).astype(bool)
        _refuse(votes, ~text, f"{column} is missing or no text")
    _refuse(votes, ~votes["vote"].isin(VOTES), f"vote is none of {', '.join(VOTES)}")
    # Trap: the text "no" would count as true.
    odd = votes["toxic"].notna() & ~votes["toxic"].isin([0, 1])
    _refuse(votes, odd, "toxic is not true or false")
    votes["toxic"] = votes["toxic"].eq(1).fillna(False).astype(bool)
    if pair_ids is not None:
        known = votes["pair_id"].isin(set(pair_ids))
        _refuse(votes, ~known, "unknown pair_id: these votes belong to other pairs")
    twice = votes.duplicated(["pair_id", "annotator"])
    _refuse(votes, twice, "second vote of an annotator on a pair: keep one, or rename annotators")
    return votes


def _refuse(votes: pd.DataFrame, bad: pd.Series, rule: str) -> None:
    if bad.any():
        first = votes.loc[bad, [c for c in COLUMNS if c in votes]].head(3).to_dict("records")
        raise ValueError(f"vote table: {rule} in {int(bad.sum())} row(s), first {first}")


def counts(votes: pd.DataFrame, pair_ids: Iterable[str] | None = None) -> pd.DataFrame:
    """Votes for each pair: columns n, chosen, rejected, tie, toxic; index pair_id, sorted.

    With ``pair_ids`` the rows are these pairs in their order, those without votes as zeros.
    Raises ValueError as :func:`check` does.
    """
    pair_ids = None if pair_ids is None else list(pair_ids)
    votes = check(votes, pair_ids)
    table = pd.DataFrame({"n": 1}, index=votes.index)
    table = table.assign(**{side: votes["vote"] == side for side in VOTES}, toxic=votes["toxic"])
    table = table.astype(int).groupby(votes["pair_id"]).sum()
    if pair_ids is not None:
        table = table.reindex(pd.Index(pair_ids, name="pair_id"), fill_value=0)
    return table


def votes_needed(n, majority: float = MAJORITY):
    """The fewest of n votes (scalar or array) that win: strictly more than ``majority`` of them.

    Raises ValueError unless 0.5 <= majority < 1: below, both sides could win.
    """
    if not 0.5 <= majority < 1:
        raise ValueError(f"majority={majority} must lie in 0.5..1 (1 excluded)")
    return np.floor(majority * np.asarray(n) + _ROUNDING).astype(int) + 1


def categorise(
    votes: pd.DataFrame,
    flags: pd.DataFrame,
    *,
    precedence: Sequence[str] = PRECEDENCE,
    majority: float = MAJORITY,
    toxic_share: float = 0.5,
) -> pd.Series:
    """The category of every pair (section 3.2 of the paper), or "Unvoted"; index as in ``flags``.

    ``flags`` has one row a pair, index pair_id, boolean columns empty and repetitive and, from a
    detector, toxic if there is one. Pairs with neither votes nor flag are "Unvoted".

    A side wins with strictly more than ``majority`` of all votes on the pair; a tie is one of these
    votes and counts for neither side. Same: chosen wins. Opposite: rejected wins. Vague: neither.
    With one half this is the paper's rule for four annotators (3 of 4, Vague at 2-2), and the
    winner of 1 to 8 votes needs 1, 2, 2, 3, 3, 4, 4, 5. Three quarters would give 3 of 4 too, but
    call 2-1 Vague, where the paper means an even split; a margin of two would leave a single
    annotator no say. Toxic: strictly more than ``toxic_share`` of the annotators mark the original
    chosen response, or the flag is set; the paper gives no number.

    Several categories can hold at once; ``precedence`` lists all six, first wins. Raises ValueError
    on bad votes, on bad flags, and on a precedence that is no order of the six.
    """
    if sorted(precedence) != sorted(CATEGORIES):
        raise ValueError(f"precedence {tuple(precedence)} must be an order of {CATEGORIES}")
    if not 0 <= toxic_share < 1:
        raise ValueError(f"toxic_share={toxic_share} must lie in 0..1 (1 excluded)")
    _check_flags(flags)
    table = counts(votes, flags.index)
    needed = votes_needed(table["n"], majority)
    same, opposite = table["chosen"] >= needed, table["rejected"] >= needed
    toxic = table["toxic"] > toxic_share * table["n"] + _ROUNDING
    if "toxic" in flags:
        toxic |= flags["toxic"].astype(bool)
    holds = {
        "Same": same,
        "Opposite": opposite,
        "Vague": (table["n"] > 0) & ~same & ~opposite,
        "Toxic": toxic,
        "Repetitive": flags["repetitive"].astype(bool),
        "Empty": flags["empty"].astype(bool),
    }
    found = np.select([holds[c].to_numpy() for c in precedence], list(precedence), UNVOTED)
    return pd.Series(found, index=table.index, name="category")


def _check_flags(flags: pd.DataFrame) -> None:
    missing = [c for c in ("empty", "repetitive") if c not in flags]
    if missing:
        raise ValueError(f"flags: column(s) {missing} missing; take them from helpers.pitfalls")
    if not flags.index.is_unique:
        twice = flags.index[flags.index.duplicated()][:3].tolist()
        raise ValueError(f"flags: pair ids repeated, first {twice}; index the flags by pair_id")
    for column in flags.columns.intersection(["empty", "repetitive", "toxic"]):
        if not flags[column].isin([0, 1]).all():
            raise ValueError(f"flags: {column} holds other values than true and false")


def shares(categories: pd.Series, by: pd.Series | None = None) -> pd.DataFrame:
    """How many pairs, and what share with its Wilson interval, fall into each category.

    One row a category (zeros too; "Unvoted" where it occurs), columns category, count, share,
    low, high, n, method; with ``by`` (same index, e.g. the subset) one block a group, n its size.
    """
    if by is not None:
        groups = categories.groupby(by.reindex(categories.index), dropna=False)
        blocks = {name: shares(part) for name, part in groups}
        return pd.concat(blocks, names=["group"]).reset_index("group").reset_index(drop=True)
    found = categories.value_counts()
    unknown = set(found.index) - {*CATEGORIES, UNVOTED}
    if unknown or categories.isna().any():
        raise ValueError(f"categories hold unknown or missing values: {sorted(map(str, unknown))}")
    rows = []
    for name in (*CATEGORIES, *([UNVOTED] if UNVOTED in found else [])):
        count = int(found.get(name, 0))
        rows.append(
            dict(category=name, count=count) | stats.wilson(count, len(categories))._asdict()
        )
    return pd.DataFrame(rows).rename(columns={"value": "share"})


def precedence_effect(
    votes: pd.DataFrame,
    flags: pd.DataFrame,
    *,
    of: Sequence[str] = ("Empty", "Repetitive", "Toxic"),
    **rule,
) -> pd.DataFrame:
    """Category shares under every order of the categories ``of``, the others in their places.

    Long form: order, and the columns of :func:`shares`. ``rule`` goes to :func:`categorise`.
    ``of=("Toxic", "Opposite")``: is a toxic chosen response that loses the vote dropped or swapped?
    """
    blocks = {}
    for order in permutations(of):
        slots = iter(order)
        precedence = [next(slots) if c in of else c for c in PRECEDENCE]
        found = categorise(votes, flags, precedence=precedence, **rule)
        blocks[" > ".join(order)] = shares(found)
    return pd.concat(blocks, names=["order"]).reset_index("order").reset_index(drop=True)


def expected_shares(
    rater_error,
    n_annotators: int = 4,
    *,
    original_error=None,
    tie_rate: float = 0.0,
    majority: float = MAJORITY,
) -> dict[str, np.ndarray]:
    """Same, Opposite and Vague that independent rater error alone would produce.

    Every rater votes for a tie with probability ``tie_rate``, else for the wrong side with
    probability ``rater_error`` (scalar or array). The original label is wrong with probability
    ``original_error``; None makes it as fallible as a rater, 0 makes it right. A rater error of 0.5
    is a truly tied pair. Raises ValueError on probabilities outside 0..1 and fewer than 1 rater.
    """
    error = np.asarray(rater_error, dtype=float)
    flipped = error if original_error is None else np.asarray(original_error, dtype=float)
    if not all(((p >= 0) & (p <= 1)).all() for p in (error, flipped)):
        raise ValueError(f"rater_error={error} and original_error={flipped} must lie in 0..1")
    _check_raters(n_annotators, tie_rate)
    ties = np.arange(n_annotators + 1)
    weight = binom.pmf(ties, n_annotators, tie_rate)
    too_few = votes_needed(n_annotators, majority) - 1
    right, wrong = (
        (weight * binom.sf(too_few, n_annotators - ties, p[..., None])).sum(axis=-1)
        for p in (1 - error, error)
    )
    same = (1 - flipped) * right + flipped * wrong
    opposite = (1 - flipped) * wrong + flipped * right
    return {"Same": same, "Opposite": opposite, "Vague": np.maximum(1 - right - wrong, 0)}


def solve_error(same_share: float, n_annotators: int = 4, *, original_error=None, **model) -> float:
    """The rater error in 0..0.5 at which :func:`expected_shares` gives this share of Same.

    ``model`` holds tie_rate and majority. Raises ValueError for an ``original_error`` of 0.5 or
    more, and for a share that no error gives: less than coin-flipping raters, or more than perfect.
    """
    if original_error is not None and not 0 <= original_error < 0.5:
        raise ValueError(f"original_error={original_error} must lie in 0..0.5 (0.5 excluded)")
    model |= dict(n_annotators=n_annotators, original_error=original_error)

    def share(error: float) -> float:
        return float(expected_shares(error, **model)["Same"])

    high, low = share(0), share(0.5)
    # A share that the model itself gave for an error next to an end may lie a rounding beyond it.
    if not low - _ROUNDING <= same_share <= high + _ROUNDING:
        raise ValueError(
            f"same_share={same_share} must lie in {low:.4f}..{high:.4f}: coin-flipping raters give "
            "the first, raters without error the second"
        )
    same_share = min(max(same_share, low), high)
    return float(brentq(lambda error: share(error) - same_share, 0, 0.5))


def caps(n_annotators: int | Iterable[int] = 4, **model) -> pd.DataFrame:
    """What the rule makes of truly tied pairs: it can call only the share Vague of them Vague.

    One row a number of annotators (index), columns needed (votes that win), Same, Opposite, Vague.
    ``model`` holds tie_rate and majority. Without votes for a tie, four split 2-2 with probability
    0.375, an odd number never.
    """
    rows = {
        int(n): dict(needed=int(votes_needed(n, model.get("majority", MAJORITY))))
        | {name: float(share) for name, share in expected_shares(0.5, int(n), **model).items()}
        for n in np.atleast_1d(n_annotators)
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("n_annotators")


def simulate(
    truth: pd.Series,
    *,
    n_annotators: int,
    error: float,
    seed: int,
    tie_rate: float = 0.0,
    annotator_errors: Sequence[float] | None = None,
    toxic: pd.Series | None = None,
    toxic_error: float = 0.0,
) -> pd.DataFrame:
    """Votes of simulated annotators with a set error rate, source "simulation".

    ``truth`` (index pair_id) names the better side, "chosen", "rejected" or "tie"; on a true tie
    the annotators flip coins. ``tie_rate`` is the share of votes for a tie, on any pair.
    ``annotator_errors`` gives each annotator an error of its own. ``toxic`` (same index) says which
    chosen responses are toxic; each mark is wrong with probability ``toxic_error``. With the same
    seed, four annotators are the first four of eight. Raises ValueError on a bad truth or error.
    """
    _check_raters(n_annotators, tie_rate)
    errors = [error] * n_annotators if annotator_errors is None else list(annotator_errors)
    if len(errors) != n_annotators or not all(0 <= e <= 1 for e in (*errors, toxic_error)):
        raise ValueError(f"errors {errors}: give {n_annotators} annotator error(s), all in 0..1")
    if not truth.isin(VOTES).all() or not truth.index.is_unique:
        raise ValueError(f"truth must be one of {VOTES} for each pair, every pair once")
    is_toxic = np.zeros(len(truth), bool) if toxic is None else toxic.loc[truth.index].to_numpy()
    better, tied = (truth == "chosen").to_numpy(), (truth == "tie").to_numpy()
    blocks = []
    for number, own in enumerate(errors):
        wrong, tie, mark = np.random.default_rng([seed, number]).random((3, len(truth)))
        side = better ^ (wrong < np.where(tied, 0.5, own))
        vote = np.where(tie < tie_rate, "tie", np.where(side, "chosen", "rejected"))
        block = dict(pair_id=truth.index, annotator=f"simulated-{number + 1}", vote=vote)
        blocks.append(pd.DataFrame(block | dict(toxic=is_toxic ^ (mark < toxic_error))))
    return pd.concat(blocks, ignore_index=True).assign(source="simulation")


def _check_raters(n_annotators: int, tie_rate: float) -> None:
    if n_annotators < 1 or n_annotators % 1:
        raise ValueError(f"n_annotators={n_annotators} must be a whole number of at least 1")
    if not 0 <= tie_rate <= 1:
        raise ValueError(f"tie_rate={tie_rate} must lie in 0..1")
