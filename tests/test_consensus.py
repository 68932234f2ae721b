import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import consensus, votes

MODELS = [consensus.dawid_skene, consensus.mace, consensus.glad]
UNEQUAL = [0.05, 0.1, 0.35, 0.4]


def planted(n, seed=0, chosen=0.5):
    sides = np.random.default_rng([seed, 99]).choice(votes.VOTES[:2], n, p=[chosen, 1 - chosen])
    return pd.Series(sides, [f"p{i:04d}" for i in range(n)])


def simulated(truth, errors=UNEQUAL, seed=0):
    return votes.simulate(
        truth, n_annotators=len(errors), error=0, annotator_errors=errors, seed=seed
    )


def ballots(**sides):
    names = {"c": "chosen", "r": "rejected", "t": "tie"}
    rows = [
        (pair, f"a{i}", names[letter])
        for pair, letters in sides.items()
        for i, letter in enumerate(letters)
    ]
    frame = pd.DataFrame(rows, columns=["pair_id", "annotator", "vote"])
    return frame.assign(toxic=False, source="test")


def test_the_vote_and_its_credit():
    found = consensus.plurality(ballots(p="ccr", q="cr", r="crt", s="t", u="crtt"))
    assert found.labels().fillna("-").to_dict() == dict(p="chosen", q="-", r="-", s="tie", u="tie")
    assert found.probabilities.loc["p"].tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    truth = pd.Series(dict(q="chosen", p="chosen", r="tie", s="tie", u="chosen"))
    credit = found.credit(truth)
    assert credit.to_dict() == pytest.approx(dict(q=0.5, p=1, r=1 / 3, s=1, u=0))
    assert found.annotators["votes"].tolist() == [5, 4, 3, 1]
    assert found.annotators.loc["a3", "agreement"] == pytest.approx(1 / 2)
    assert found.annotators["quality"].isna().all()
    # A truth that nobody voted for earns nothing.
    two = consensus.plurality(ballots(p="c"))
    assert two.credit(pd.Series(dict(p="tie"))).tolist() == [0]
    with pytest.raises(ValueError, match="truth must be one of"):
        found.credit(pd.Series(dict(p="A")))
    with pytest.raises(KeyError):
        found.credit(pd.Series(dict(x="chosen")))


def test_dawid_skene_finds_the_planted_confusion():
    truth = planted(2000, chosen=0.7)
    found = consensus.dawid_skene(simulated(truth))
    assert found.probabilities.index.equals(truth.index)
    assert found.probabilities.sum(axis=1).to_numpy() == pytest.approx(1)
    quality = found.annotators["quality"].to_numpy()
    # The truth is estimated too, so the bound is wider than a binomial's 4 standard errors (.044).
    assert np.abs(quality - (1 - np.array(UNEQUAL))).max() < 0.06


@pytest.mark.parametrize("model", MODELS)
def test_models_rank_annotators_and_rows_may_come_in_any_order(model):
    truth = planted(150)
    voted = simulated(truth, [0.02, 0.2, 0.2, 0.45])
    found = model(voted)
    for column in ("quality", "agreement"):
        assert found.annotators[column].idxmax() == "simulated-1"
        assert found.annotators[column].idxmin() == "simulated-4"
    assert found.credit(truth).mean() > consensus.plurality(voted).credit(truth).mean()
    shuffled = model(voted.sample(frac=1, random_state=3))
    pd.testing.assert_frame_equal(shuffled.probabilities, found.probabilities)
    pd.testing.assert_frame_equal(shuffled.annotators, found.annotators)


def test_mace_is_right_when_labels_and_names_first_appear_against_the_alphabet():
    """crowd-kit's MACE mixes up two orders of labels and annotators; the coding must prevent it."""
    truth = planted(400, chosen=0.3)
    voted = simulated(truth, [0.02, 0.2, 0.2, 0.45])
    names = dict(zip(sorted(set(voted["annotator"])), "zwxy", strict=True))
    renamed = voted.assign(annotator=voted["annotator"].map(names))
    quality = consensus.mace(voted).annotators["quality"]
    other = consensus.mace(renamed).annotators["quality"]
    # The order of names changes the random start, so equality is that of converged fits.
    assert other[["z", "w", "x", "y"]].to_numpy() == pytest.approx(quality.to_numpy(), abs=0.02)


@settings(max_examples=8)
@given(
    st.lists(st.text("crt", min_size=2, max_size=4), min_size=2, max_size=8),
    st.permutations("wxyz"),
)
def test_dawid_skene_does_not_care_for_names(rows, names):
    voted = ballots(**{f"p{i}": row for i, row in enumerate(rows)})
    renamed = voted.assign(annotator=voted["annotator"].map(lambda a: names[int(a[1:])]))
    found, other = (consensus.dawid_skene(v, n_iter=20) for v in (voted, renamed))
    assert np.allclose(found.probabilities, other.probabilities, atol=1e-6)
    assert found.probabilities.sum(axis=1).to_numpy() == pytest.approx(1)
    got = other.annotators.loc[[names[int(a[1:])] for a in found.annotators.index]]
    assert np.allclose(got["quality"], found.annotators["quality"], atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("model", MODELS)
def test_degenerate_votes(model):
    with pytest.raises(ValueError, match=r"one annotator only \(\['a0'\]\)"):
        model(ballots(p="c", q="r"))
    alike = model(ballots(p="cc", q="cc"))
    assert alike.labels().tolist() == ["chosen"] * 2
    assert alike.annotators["agreement"].tolist() == [1, 1]
    assert alike.annotators["quality"].isna().all()
    with pytest.raises(ValueError, match="second vote"):
        model(pd.concat([ballots(p="cr"), ballots(p="c")]))


def test_glad_says_which_pairs_it_saw():
    voted = simulated(planted(30))
    found = consensus.glad(voted, n_pairs=10, seed=1)
    assert len(found.probabilities) == 10 and (found.annotators["votes"] == 10).all()
    again = consensus.glad(voted.sample(frac=1, random_state=0), n_pairs=10, seed=1)
    assert again.probabilities.index.equals(found.probabilities.index)
    other = consensus.glad(voted, n_pairs=10, seed=2)
    assert not other.probabilities.index.equals(found.probabilities.index)


def test_consensus_table():
    truth = planted(150)
    voted = simulated(truth)
    known = pd.concat([truth.head(100), pd.Series({"elsewhere": "chosen"})])
    got = consensus.consensus_table(voted, known, seed=0, glad_pairs=20, n_resamples=200)
    got = got.set_index("method")
    assert got.index.tolist() == ["vote", "Dawid-Skene", "MACE", "GLAD"]
    assert got["n"].tolist() == [150, 150, 150, 20]
    assert got["n_truth"].tolist()[:3] == [100] * 3 and 0 < got.loc["GLAD", "n_truth"] <= 20
    assert got.loc["vote", ["changed", "minus_vote", "minus_low", "minus_high"]].tolist() == [0] * 4
    table = votes.counts(voted)
    assert got.loc["vote", "undecided"] == (table["chosen"] == table["rejected"]).sum() > 0
    assert (got["low"] <= got["accuracy"]).all() and (got["accuracy"] <= got["high"]).all()
    difference = got["accuracy"] - got.loc["vote", "accuracy"]
    assert difference[["Dawid-Skene", "MACE"]].to_numpy() == pytest.approx(
        got.loc[["Dawid-Skene", "MACE"], "minus_vote"].to_numpy()
    )
    prompts = pd.Series(np.arange(150) // 2, truth.index)
    clustered = consensus.consensus_table(
        voted, truth, seed=0, glad_pairs=5, clusters=prompts, n_resamples=200
    )
    assert clustered["interval"].iloc[0].count("75 clusters") == 1
    plain = consensus.consensus_table(voted[voted["pair_id"] < "p0010"], seed=0, glad_pairs=5)
    assert plain.columns.tolist() == ["method", "n", "undecided", "changed"]
    with pytest.raises(ValueError, match="none of the voted pairs"):
        consensus.consensus_table(voted, known.tail(1), seed=0, glad_pairs=5)


def test_dawid_skene_against_the_vote_over_seeds():
    unequal = consensus.gain_over_vote(UNEQUAL, n_pairs=200, seeds=range(6))
    assert unequal.low > 0 and unequal.n == 6
    assert "6 seeds of 200 pairs" in unequal.method
    # The best that is possible: every pattern of votes weighed by the true log odds.
    weights = np.log((1 - np.array(UNEQUAL)) / UNEQUAL)
    patterns = np.array(np.meshgrid(*[[0, 1]] * 4)).reshape(4, -1).T
    chance = np.where(patterns, 1 - np.array(UNEQUAL), UNEQUAL).prod(axis=1)
    score, sides = (2 * patterns - 1) @ weights, (2 * patterns - 1).sum(axis=1)
    best = chance @ (score > 0)
    by_vote = chance @ np.where(sides == 0, 0.5, sides > 0)
    assert unequal.low <= best - by_vote
    # Alike annotators leave nothing to learn: no gain is possible, a small loss is.
    alike = consensus.gain_over_vote([0.2] * 3, n_pairs=100, seeds=range(4))
    assert alike.value <= 0.005 and alike.low <= alike.value <= alike.high
    with pytest.raises(ValueError, match="two or more"):
        consensus.gain_over_vote(UNEQUAL, n_pairs=50, seeds=[0])
