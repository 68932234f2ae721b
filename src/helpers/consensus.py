"""What annotators of different quality agree on: the vote, Dawid-Skene, MACE and GLAD.

The three models are crowd-kit's; everything reads the vote table of :mod:`helpers.votes`. A tie is
a class of its own here. The paper's categories follow from the counts of votes, not from this.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
from crowdkit.aggregation import GLAD, MACE, DawidSkene

from helpers import stats
from helpers.stats import Estimate
from helpers.votes import VOTES, check, counts, simulate

_ROUNDING = 1e-9


class Consensus(NamedTuple):
    """``probabilities``: a row a pair, a column for each vote that occurs. ``annotators``: a row an
    annotator with votes; agreement, the mean probability that the consensus gives to its votes; and
    quality, on the model's own scale (missing for the vote, and where all votes are alike)."""

    method: str
    probabilities: pd.DataFrame
    annotators: pd.DataFrame

    def labels(self) -> pd.Series:
        """The most probable vote of each pair; missing where two or more are equally probable."""
        decided = self._best().sum(axis=1) == 1
        return self.probabilities.idxmax(axis=1).where(decided).rename("label")

    def credit(self, truth: pd.Series) -> pd.Series:
        """How right each pair of ``truth`` (index pair_id) is: 1 if its most probable vote is the
        truth, 1/k if that is one of k equally probable ones (what a coin flip earns), else 0.

        Raises ValueError for a truth that is no vote, KeyError for a pair without a consensus.
        """
        if not truth.isin(VOTES).all():
            raise ValueError(f"truth must be one of {VOTES} for each pair")
        best = self._best().loc[truth.index].reindex(columns=list(VOTES), fill_value=False)
        hit = best.to_numpy()[np.arange(len(truth)), pd.Index(VOTES).get_indexer(truth)]
        return pd.Series(hit / best.sum(axis=1).to_numpy(), truth.index)

    def _best(self) -> pd.DataFrame:
        return self.probabilities.ge(self.probabilities.max(axis=1) - _ROUNDING, axis=0)


def plurality(votes: pd.DataFrame) -> Consensus:
    """The vote: probabilities are shares of votes, the label is what most annotators voted."""
    votes = check(votes)
    table = counts(votes)
    used = [side for side in VOTES if table[side].any()]
    return _consensus("vote", votes, table[used].div(table["n"], axis=0), np.nan)


def dawid_skene(votes: pd.DataFrame, *, n_iter: int = 100) -> Consensus:
    """Dawid and Skene (1979): a confusion matrix an annotator, by EM from the vote; no randomness.

    quality: probability of a right vote. 20,000 pairs with four votes take about 5 s.
    Raises ValueError for one annotator only.
    """

    def fit(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
        model = DawidSkene(n_iter=n_iter).fit(table)
        errors = model.errors_  # index (worker, label given), a column a true label
        right = {label: errors[label].xs(label, level="label") for label in errors}
        joint = pd.DataFrame(right) * model.priors_  # a label never given: missing, adds nothing
        return model.probas_, joint.sum(axis=1)

    return _run("Dawid-Skene", votes, fit)


def mace(votes: pd.DataFrame, *, seed: int = 0, n_iter: int = 50) -> Consensus:
    """MACE (Hovy et al. 2013), variational: annotators know the answer or spam.

    quality: probability of not spamming. 20,000 pairs with four votes take about 6 s. One start
    only: crowd-kit draws every restart from the same seed. Trap: the model takes the right answers
    to be spread evenly; where chosen is right in most pairs it reads agreement as spam and can do
    worse than the vote. Raises ValueError for one annotator only.
    """

    def fit(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
        model = MACE(n_restarts=1, n_iter=n_iter, random_state=seed).fit(table)
        return model.probas_, pd.Series(model.spamming_[:, 1])

    return _run("MACE", votes, fit)


def glad(votes: pd.DataFrame, *, n_pairs: int = 500, seed: int = 0, n_iter: int = 10) -> Consensus:
    """GLAD (Whitehill et al. 2009): an ability an annotator, a difficulty a pair.

    quality: ability (0: no better than chance). It is slow, about 10 s for 500 pairs: with more
    than ``n_pairs`` pairs it sees a seeded sample, and the consensus holds that sample only.
    Raises ValueError for one annotator only.
    """

    def fit(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
        model = GLAD(n_iter=n_iter, m_step_max_iter=10).fit(table)
        return model.probas_, model.alphas_

    pair_ids = np.sort(votes["pair_id"].unique())
    if len(pair_ids) > n_pairs:
        sample = np.random.default_rng(seed).choice(pair_ids, n_pairs, replace=False)
        votes = votes[votes["pair_id"].isin(sample)]
    return _run("GLAD", votes, fit)


def _run(method: str, votes: pd.DataFrame, fit: Callable) -> Consensus:
    # Trap: crowd-kit's MACE numbers annotators and labels by first appearance in one place and by
    # alphabet in another; here both orders are the same. Labels are texts because its Dawid-Skene
    # takes 0 and 1 for booleans.
    votes = check(votes).sort_values(["annotator", "pair_id"])
    task, pair_ids = pd.factorize(votes["pair_id"])
    worker, names = pd.factorize(votes["annotator"])
    label, sides = pd.factorize(votes["vote"])
    if len(names) < 2:
        raise ValueError(f"one annotator only ({list(names)}): {method} needs two or more")
    if len(sides) == 1:
        certain = pd.DataFrame(1.0, index=pair_ids, columns=sides)
        return _consensus(method, votes, certain, np.nan)
    table = pd.DataFrame(dict(task=task, worker=worker, label=label.astype(str)))
    with warnings.catch_warnings():
        # crowd-kit 1.4 uses keywords that pandas 3 calls deprecated: hundreds of warnings a fit.
        warnings.simplefilter("ignore", DeprecationWarning)
        probabilities, quality = fit(table)
    probabilities = probabilities.rename(
        index=dict(enumerate(pair_ids)), columns={str(i): side for i, side in enumerate(sides)}
    )
    return _consensus(method, votes, probabilities, quality.rename(dict(enumerate(names))))


def _consensus(method: str, votes: pd.DataFrame, probabilities: pd.DataFrame, quality) -> Consensus:
    table = probabilities.sort_index().rename_axis(index="pair_id", columns=None)
    table = table[[side for side in VOTES if side in table]]
    rows, columns = (
        table.index.get_indexer(votes["pair_id"]),
        table.columns.get_indexer(votes["vote"]),
    )
    given = pd.Series(table.to_numpy()[rows, columns]).groupby(votes["annotator"].to_numpy())
    annotators = pd.DataFrame({"votes": given.size(), "agreement": given.mean()})
    return Consensus(method, table, annotators.assign(quality=quality).rename_axis("annotator"))


def consensus_table(
    votes: pd.DataFrame,
    truth: pd.Series | None = None,
    *,
    seed: int,
    glad_pairs: int = 500,
    clusters: pd.Series | None = None,
    n_resamples: int = 2000,
) -> pd.DataFrame:
    """Vote, Dawid-Skene, MACE and GLAD side by side, one row each.

    Columns: method; n pairs (GLAD: its sample); undecided, pairs on which the best two are equally
    probable; changed, pairs with another label than the vote's where both are decided. With
    ``truth`` (index pair_id, may lack pairs): n_truth; accuracy, low, high, where an undecided pair
    earns a coin flip's share and a consensus of tie is right only if the truth is a tie;
    minus_vote, minus_low, minus_high, the difference from the vote on the same pairs; interval, a
    bootstrap of pairs or of ``clusters`` (Series, pair id to cluster).

    Raises ValueError as the methods do, and where no pair has both votes and truth.
    """
    vote = plurality(votes)
    found = [vote, dawid_skene(votes), mace(votes, seed=seed)]
    found.append(glad(votes, n_pairs=glad_pairs, seed=seed))
    rows = []
    for each in found:
        labels, by_vote = each.labels(), vote.labels().loc[each.probabilities.index]
        decided = labels.notna() & by_vote.notna()
        row = dict(method=each.method, n=len(labels), undecided=int(labels.isna().sum()))
        row["changed"] = int((labels[decided] != by_vote[decided]).sum())
        if truth is not None:
            known = truth[truth.index.isin(labels.index)]
            if known.empty:
                raise ValueError("truth knows none of the voted pairs; index it by pair_id")
            groups = known.index if clusters is None else clusters.loc[known.index]
            options = dict(seed=seed, n_resamples=n_resamples)
            credit, base = each.credit(known), vote.credit(known)
            right = stats.cluster_bootstrap(credit, groups, **options)
            more = stats.paired_bootstrap(credit, base, groups, **options)
            row |= dict(n_truth=len(known), accuracy=right.value, low=right.low, high=right.high)
            row |= dict(minus_vote=more.value, minus_low=more.low, minus_high=more.high)
            row["interval"] = right.method
        rows.append(row)
    return pd.DataFrame(rows)


def gain_over_vote(
    annotator_errors: Sequence[float],
    *,
    n_pairs: int,
    seeds: Iterable[int],
    model: Callable[[pd.DataFrame], Consensus] = dawid_skene,
) -> Estimate:
    """Mean over seeds of a model's accuracy minus the vote's, whichever its sign; t interval.

    Each seed is one simulated set of ``n_pairs`` pairs, half of them with the right side chosen in
    expectation, and annotators with the given error rates. n counts seeds. Raises ValueError for
    fewer than two seeds.
    """
    gains = []
    for seed in seeds:
        sides = np.random.default_rng([seed, len(annotator_errors)]).choice(VOTES[:2], n_pairs)
        truth = pd.Series(sides, [f"pair-{i}" for i in range(n_pairs)])
        votes = simulate(
            truth,
            n_annotators=len(annotator_errors),
            annotator_errors=annotator_errors,
            error=0.0,
            seed=seed,
        )
        gains.append(float((model(votes).credit(truth) - plurality(votes).credit(truth)).mean()))
    if len(gains) < 2:
        raise ValueError(f"{len(gains)} seed(s): an interval over seeds needs two or more")
    mean, spread = float(np.mean(gains)), scipy.stats.sem(gains)
    half = float(spread * scipy.stats.t.ppf((1 + stats.LEVEL) / 2, len(gains) - 1))
    method = f"mean difference, t interval over {len(gains)} seeds of {n_pairs} pairs"
    return Estimate(mean, mean - half, mean + half, len(gains), method)
