"""The paper's printed numbers under audit: recomputed, bounded, tested (chapter 00).

Nothing here reads data: the inputs are printed tables, public test sizes and seeded simulation.
Percentages are printed accuracies; shares lie in 0..1.
"""

from decimal import ROUND_HALF_DOWN, ROUND_HALF_UP, Decimal
from itertools import combinations, product
from string import Formatter
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
from scipy.optimize import linprog
from scipy.special import logsumexp

from helpers import paper, significance, stats

# Pairs of the public HH-RLHF test files, counted. The paper prints no sizes. Its cleaned sets drop
# pairs, so these are upper bounds of its n.
SUBSET_SIZES = {
    "harmless_base": 2312,
    "helpful_base": 2354,
    "helpful_online": 1137,
    "helpful_rejection": 2749,
}
TEST_SIZES = SUBSET_SIZES | {"test_mixed": sum(SUBSET_SIZES.values())}
TRAIN_PAIRS = 160_800


class CommonWeights(NamedTuple):
    """The best mixture of the four subsets: weights, residual of each model, largest of them."""

    weights: dict[str, float]
    residuals: dict[str, float]
    largest: float


def table_5_rounding() -> pd.DataFrame:
    """Every accuracy that Tables 4 and 5 share (I01): is Table 5's a one-decimal rounding of
    Table 4's? A half may go either way."""
    full, rows = paper.table_4(), []
    for model, row in paper.table_5("acc_chh_rlhf").items():
        for column, printed in row.items():
            exact, digit = Decimal(str(full[model][column])), Decimal("0.1")
            roundings = {exact.quantize(digit, r) for r in (ROUND_HALF_UP, ROUND_HALF_DOWN)}
            agrees = Decimal(str(printed)) in roundings
            rows.append(
                dict(model=model, test_set=column, table_4=float(exact), table_5=printed, ok=agrees)
            )
    return pd.DataFrame(rows)


def mixture_bounds() -> pd.DataFrame:
    """Table 4's mixed accuracy against the range of its four subsets (I02), in percent.

    Whatever the sizes, the accuracy on a union lies between the smallest and the largest accuracy
    of its parts. ``beyond`` is how far it lies outside, ``weighted_mean`` uses the public sizes.
    """
    rows = []
    for model, row in paper.table_4().items():
        parts = [row[subset] for subset in SUBSET_SIZES]
        mixed, low, high = row["test_mixed"], min(parts), max(parts)
        beyond = max(low - mixed, mixed - high, 0.0)
        mean = float(np.average(parts, weights=list(SUBSET_SIZES.values())))
        rows.append(
            dict(model=model, low=low, high=high, weighted_mean=mean, mixed=mixed)
            | {
                "beyond": beyond,
                # Three values rounded to two decimals can disagree by a hundredth at most.
                "outside": beyond > 0.01,
            }
        )
    return pd.DataFrame(rows)


def common_weights(*, without: tuple[str, ...] = ()) -> CommonWeights:
    """The non-negative weights, summing to one and common to all models, that bring the largest
    absolute residual of the mixed column (percentage points) to its minimum: a linear programme.
    Models in ``without`` are left out."""
    table = {model: row for model, row in paper.table_4().items() if model not in without}
    parts = np.array([[row[subset] for subset in SUBSET_SIZES] for row in table.values()])
    mixed = np.array([row["test_mixed"] for row in table.values()])
    slack = np.ones((len(mixed), 1))
    solution = linprog(
        c=[0] * 4 + [1],
        A_ub=np.block([[parts, -slack], [-parts, -slack]]),
        b_ub=np.concatenate([mixed, -mixed]),
        A_eq=[[1] * 4 + [0]],
        b_eq=[1],
        bounds=[(0, None)] * 5,
    )
    weights = solution.x[:4]
    residuals = parts @ weights - mixed
    return CommonWeights(
        {name: float(w) for name, w in zip(SUBSET_SIZES, weights, strict=True)},
        {name: float(r) for name, r in zip(table, residuals, strict=True)},
        float(solution.x[4]),
    )


def attainable(percent, n, *, decimals: int = 2, truncated: bool = False) -> np.ndarray:
    """GRIM test (Brown and Heathers 2017): can k of n items print as each percentage?

    Returns booleans of shape (len(n), len(percent)): is there a whole k with 100 k / n equal to
    the printed value after rounding (a half may go either way), or after truncation. Whole-number
    arithmetic throughout.
    """
    n = np.atleast_1d(np.asarray(n, dtype=np.int64))[:, None]
    unit = 10**decimals
    printed = np.rint(np.asarray(percent, dtype=float) * unit).astype(np.int64)
    whole = 100 * unit
    if truncated:
        low, high = -(-n * printed // whole), (n * (printed + 1) - 1) // whole
    else:
        low = -(-n * (2 * printed - 1) // (2 * whole))
        high = n * (2 * printed + 1) // (2 * whole)
    # k cannot leave 0..n: matters for printed values of 0 and 100 only.
    return np.maximum(low, 0) <= np.minimum(high, n)


def relabelling_cost() -> tuple[float, float]:
    """US dollars and hours of re-labelling all public pairs at the pay and pace of B.1.1 (I06)."""
    protocol = paper.results()["annotation_protocol"]
    scoring = protocol["evaluation_and_scoring"]
    votes = (TRAIN_PAIRS + TEST_SIZES["test_mixed"]) * protocol["relabelling"]["annotators"]
    hours = votes * scoring["expected_seconds_per_annotation"] / 3600
    return votes * scoring["pay_usd_per_sample"], hours


def pro_equation_3(policy_scores, reward_scores) -> float:
    """Equation 3 of the paper. The reward scores enter by the order of the responses alone."""
    r = np.asarray(policy_scores, dtype=float)[np.argsort(reward_scores)[::-1]]
    return -float(sum(r[k] - logsumexp(r[k:]) for k in range(len(r) - 1)))


def pro_published_loss(mean_log_probs, reward_scores) -> float:
    """Ranking loss of PRO's published training code, without its SFT term (I08).

    Each gap of reward scores is a temperature: T_ki = r_k - r_i for i > k, T_k = max T_ki, and
    loss_k = log(1e-10 + exp(s_k T_k) + sum exp(s_i T_ki)) - s_k T_k.
    """
    order = np.argsort(reward_scores)[::-1]
    s = np.asarray(mean_log_probs, dtype=float)[order]
    r = np.asarray(reward_scores, dtype=float)[order]
    loss = 0.0
    for k in range(len(s) - 1):
        gaps = r[k] - r[k + 1 :]
        best = s[k] * gaps.max()
        loss += logsumexp(np.concatenate([[np.log(1e-10), best], s[k + 1 :] * gaps])) - best
    return float(loss)


def prompt_fields(template: str) -> list[str]:
    """The placeholders of a prompt template, in the order in which they are filled (I10)."""
    return [field for _, field, _, _ in Formatter().parse(template) if field is not None]


def rank_agreement(group: str, column: str, score: str, *, without: tuple[str, ...] = ()) -> float:
    """Kendall's tau-b over Table 5's reward models of one accuracy column and one column of the
    alignment score (I09), leaving out the models in ``without`` (I20)."""
    accuracy, alignment = paper.table_5(group), paper.table_5("alignment_reward_score")
    models = [model for model in accuracy if model not in without]
    x, y = [accuracy[m][column] for m in models], [alignment[m][score] for m in models]
    return float(scipy.stats.kendalltau(x, y).statistic)


def table_4_intervals() -> pd.DataFrame:
    """Wilson intervals of all Table 4 cells at the public sizes, which n cannot exceed (I18).

    ``n`` being an upper bound, the true intervals are at least as wide. Shares in 0..1.
    """
    return pd.DataFrame(
        dict(model=model, test_set=test_set, printed=value)
        | stats.wilson(round(value / 100 * TEST_SIZES[test_set]), TEST_SIZES[test_set])._asdict()
        for model, row in paper.table_4().items()
        for test_set, value in row.items()
    )


def below_chance() -> pd.DataFrame:
    """The cells of Table 4 below 50 % (I15): one-sided exact binomial p at the public size and at
    half of it, the accuracy with all answers turned round, and the rank of that among the ten."""
    rows = []
    for model, test_set in product(paper.table_4(), paper.TEST_SETS):
        value, n = paper.table_4()[model][test_set], TEST_SIZES[test_set]
        if value >= 50:
            continue
        p, p_half = (
            scipy.stats.binomtest(round(value / 100 * m), m, alternative="less").pvalue
            for m in (n, n // 2)
        )
        others = [row[test_set] for name, row in paper.table_4().items() if name != model]
        rank = 1 + sum(other > 100 - value for other in others)
        row = dict(model=model, test_set=test_set, accuracy=value, n=n, p_value=p)
        rows.append(row | dict(p_value_half=p_half, inverted=100 - value, rank_inverted=rank))
    return pd.DataFrame(rows)


def compare_shares(shares: dict[str, float], n: int) -> pd.DataFrame:
    """Fisher's exact test of every pair of shares (0..1), each of n items, with Holm's correction.

    The models answered the same items, so a paired test would be right and mostly sharper; printed
    shares allow only this one. Counts are shares of n rounded to the nearest whole number.
    """
    counts = {name: round(share * n) for name, share in shares.items()}
    rows = [
        dict(a=a, b=b, difference=shares[b] - shares[a])
        | dict(p_value=significance.exact_two_share_p(counts[a], n, counts[b], n))
        for a, b in combinations(shares, 2)
    ]
    table = pd.DataFrame(rows)
    return table.assign(p_holm=significance.holm(table["p_value"]))


def smallest_n(shares: dict[str, float]) -> dict[tuple[str, str], int | None]:
    """The smallest n at which each pair of printed shares (0..1) differs at Holm-adjusted p < .05.

    Normal test of two independent shares, taken as exact at every n: its z is the effect times
    sqrt(n), so Holm's order of the pairs is the same at every n and n has a closed form. (Fisher's
    p jumps with the rounding of counts.) None for equal shares.
    """
    pairs = list(combinations(shares, 2))
    a, b = np.array([[shares[x], shares[y]] for x, y in pairs]).T
    pooled = (a + b) / 2
    effect = np.abs(a - b) / np.sqrt(2 * pooled * (1 - pooled))
    order = np.argsort(-effect)
    # Holm compares the j-th smallest of m p-values with alpha / (m - j), j from 0, and stops at the
    # first that fails: a pair also waits for all pairs before it.
    critical = scipy.stats.norm.isf(0.05 / 2 / (len(pairs) - np.arange(len(pairs))))
    with np.errstate(divide="ignore"):
        needed = np.maximum.accumulate(np.ceil((critical / effect[order]) ** 2))
    sizes = dict(zip(order, needed, strict=True))
    return {p: int(sizes[i]) if np.isfinite(sizes[i]) else None for i, p in enumerate(pairs)}


def sign_tests(triples: dict[str, list[int]], n: int) -> pd.DataFrame:
    """Win against lose of Table 6 (percent triples) at n comparisons: exact sign test, ties left
    out as usual for it, Holm over the models."""
    rows = []
    for model, (win, _, lose) in triples.items():
        wins, losses = round(win * n / 100), round(lose * n / 100)
        p = scipy.stats.binomtest(wins, wins + losses).pvalue
        rows.append(dict(model=model, n=n, wins=wins, losses=losses, p_value=p))
    table = pd.DataFrame(rows)
    return table.assign(p_holm=significance.holm(table["p_value"]))


def category_overlaps(*, toxic_by: str = "original") -> pd.DataFrame:
    """Which of the six categories can hold at once (I19), over small synthetic pairs.

    Pairs of four texts (empty, toxic, and two harmless ones) with 0 to 4 votes for the original
    chosen response. ``toxic_by`` reads "chosen" in the definition of Toxic: the "original" chosen
    response, or the "new" one by majority. One row a pair, one boolean column a category.
    """
    rows = []
    for chosen, rejected, votes in product(
        ("", "toxic", "a", "b"), ("", "toxic", "a", "b"), range(5)
    ):
        preferred = rejected if toxic_by == "new" and votes <= 1 else chosen
        rows.append(
            dict(chosen=chosen, rejected=rejected, votes=votes)
            | {
                "Same": votes >= 3,
                "Opposite": votes <= 1,
                "Toxic": preferred == "toxic",
                "Vague": votes == 2,
                "Repetitive": chosen == rejected,
                "Empty": "" in (chosen, rejected),
            }
        )
    return pd.DataFrame(rows)
