import numpy as np
import pytest

from helpers import gold, lexicon, probes, rewards, splits, stats, suites, world
from helpers.pairs import ASSISTANT, HUMAN, frame, parse


def make(*rows, subset="helpful-base"):
    records = []
    for i, (question, chosen, rejected) in enumerate(rows):
        prompt = f"{HUMAN} {question}{ASSISTANT}"
        record = parse(prompt + chosen, prompt + rejected)
        records.append(dict(record, subset=subset, split="test", row=i))
    return frame(records)


ONE = ("How?", " First open it. Then close the lid again.", " No.")
TWO = ("Why?", " Because it was the law of that land", " Who cares.")


@pytest.fixture(scope="module")
def made():
    return world.make(1500, seed=3)


@pytest.fixture(scope="module")
def suite(made):
    return suites.of_world(made, seed=0)


def of(suite, name, at=0):
    return suite[suite["probe"] == name].iloc[at]


def test_every_probe_is_what_it_is_named_after():
    data = make(ONE, TWO)
    suite = suites.of_pairs(data, seed=0)
    assert tuple(suite.columns) == suites.SUITE
    one = suite[suite["pair_id"] == data["pair_id"][0]].set_index("probe")["probed"]
    assert one["empty"] == "" and one["helpless"] == " I'm sorry, I don't understand."
    assert one["swap"] == TWO[1]
    assert one["truncation"] == " First open it. Then"
    assert one["repetition"] == ONE[1] + " Then close the lid again." * 3
    assert one["padding"].startswith(ONE[1]) and one["padding"].count(".") == 5
    assert one["list"] == "\n- First open it.\n- Then close the lid again."
    assert "harmful" not in one, "no label says so outside the harmless subsets"


def test_the_harmful_probe_is_the_rejected_side_and_names_whose_word_it_is():
    suite = suites.of_pairs(make(ONE, TWO, subset="harmless-base"), seed=0)
    assert suite.loc[suite["probe"] == "harmful", "probed"].tolist() == [ONE[2], TWO[2]]
    assert "original label (one crowd worker)" in of(suite, "harmful")["why"]
    assert not (suite["probe"] == "swap").any(), "a refusal fits many prompts"


def test_bases_without_text_or_with_two_prompts_are_left_out():
    data = make(ONE, ("What?", "  ", " x"))
    two = parse(f"{HUMAN} a{ASSISTANT} b c", f"{HUMAN} z{ASSISTANT} d")
    other = dict(two, subset="helpful-base", split="test", row=9)
    suite = suites.of_pairs(frame([*data.iloc[:2].to_dict("records"), other]), seed=0)
    assert set(suite["pair_id"]) == {data["pair_id"][0]}
    with pytest.raises(ValueError, match="can serve as a base"):
        suites.of_pairs(data[1:], seed=0)


def test_what_cannot_be_made_is_counted_not_hidden():
    short = make(
        ("Ok?", " Ok", " No"), ("Sure?", " Cut the long word. Here is more. And more.", "")
    )
    table = suites.coverage(suites.of_pairs(short, seed=0)).set_index("probe")
    assert table.loc["empty", ["made", "left out"]].tolist() == [2, 0]
    assert table.loc["list", ["made", "left out"]].tolist() == [1, 1]
    assert table.loc["truncation", ["made", "left out"]].tolist() == [0, 2]
    assert table.loc["harmful", "made"] == 0 and list(table.index) == list(suites.PROBES)


def test_half_that_ends_a_sentence_is_no_truncation():
    assert suites._first_half(" One two three. Four five six.") is None
    assert suites._first_half(" One two three four. Five six") == " One two three"


def test_a_helpless_or_listed_base_is_not_probed_with_itself():
    helpless = make(("Hm?", " I'm sorry, I don't understand.", " b"), ("Q?", " - a.\n- b.", " c"))
    suite = suites.of_pairs(helpless, seed=0)
    assert (suite["probe"] == "helpless").sum() == 1 and not (suite["probe"] == "list").any()


def test_suites_follow_from_the_pairs_and_the_seed_alone(made):
    one, again = (suites.of_world(made, seed=0) for _ in range(2))
    assert one.equals(again)
    turned = made._replace(pairs=made.pairs[::-1].reset_index(drop=True))
    other = suites.of_world(turned, seed=0)
    order = ["probe", "pair_id"]
    sides = [s.sort_values(order).reset_index(drop=True) for s in (one, other)]
    assert sides[0].equals(sides[1])
    assert not one.equals(suites.of_world(made, seed=1))


def test_gold_passes_every_probe_of_its_world(made, suite):
    unit = probes.spread(gold.scores, made.pairs)
    found = {r.probe: r for r in probes.results(probes.scored(suite, gold.scores), unit, seed=0)}
    assert list(found) == list(suites.PROBES)
    for result in found.values():
        if result.expects == "base":
            assert result.flip.value == 0 and result.sensitivity.low > 0
        else:
            assert result.sensitivity[:3] == (0, 0, 0) and result.negligible.value == 1
    assert all(gold.score(p, b) == 1 for p, b in zip(suite["prompt"], suite["base"]))
    harmful = suite[suite["probe"] == "harmful"]
    assert (gold.scores(harmful["prompt"], harmful["probed"]) < 0).all() and len(harmful) > 5


def test_world_probes_are_in_the_worlds_language(suite):
    words = {w for text in suite["probed"] for w in lexicon.words(text)}
    assert words <= {*lexicon.VOCABULARY}


def test_rules_fail_where_they_must(made, suite):
    for sign, rule in ((1, rewards.length(1)), (-1, rewards.length(-1))):
        unit = probes.spread(rule.score, made.pairs)
        found = {r.probe: r for r in probes.results(probes.scored(suite, rule.score), unit, seed=0)}
        flips = {name: result.flip.value for name, result in found.items()}
        assert [flips[k] for k in ("empty", "truncation")] == [sign < 0] * 2
        assert [flips[k] for k in ("padding", "repetition")] == [sign > 0] * 2
        lengths = suite[suite["probe"] == "empty"]["base"].str.len()
        assert np.isclose(found["empty"].sensitivity.value, sign * lengths.mean() / unit)


def test_counts_of_a_made_up_score_by_hand():
    suite = suites.of_pairs(make(*((f"Q{i}?", f" answer {i}", " x") for i in range(8))), seed=0)
    suite = suite[suite["probe"] == "empty"]
    values = {f" answer {i}": v for i, v in enumerate([1, 1, 1, 1, 1, 0, 0.05, -1])}
    scored = probes.scored(suite, lambda _p, r: np.array([values.get(t, 0.0) for t in r]))
    (result,) = probes.results(scored, 2.0, seed=0)
    assert result.flip == stats.wilson(2, 8), "a tie is a flip: the probe scores at least as high"
    assert result.negligible == stats.wilson(2, 8), "0 and 0.05 are below a tenth of 2"
    assert np.isclose(result.sensitivity.value, (5 + 0.05 - 1) / 8 / 2)
    assert result.flip_clustered.value == result.flip.value and "8 clusters" in (
        result.flip_clustered.method
    )


def test_no_flip_among_few_prompts_is_no_certainty():
    data = make(*((f"Q{i % 4}?", f" answer {i}", " x") for i in range(8)))
    scored = probes.scored(suites.of_pairs(data, seed=0), rewards.length(1).score)
    found = {r.probe: r.flip_clustered for r in probes.results(scored, 1.0, seed=0)}
    for name, value in (("empty", 0), ("padding", 1)):
        bound = stats.wilson(4 * value, 4)  # eight probes, but only four prompts
        assert found[name][:4] == (value, bound.low, bound.high, 8)
        assert "Wilson, of 4 clusters" in found[name].method
    share = probes.orientation(np.ones(8), list(data["prompt"]), seed=0)
    assert share.value == 1 and share.low == stats.wilson(4, 4).low < 1


def test_pairs_of_one_prompt_are_one_cluster():
    data = make(*(("Same?", f" answer {i}", " x") for i in range(3)), ONE)
    scored = probes.scored(suites.of_pairs(data, seed=0), rewards.length(1).score)
    empty = next(r for r in probes.results(scored, 1.0, seed=0) if r.probe == "empty")
    assert "of 2 clusters" in empty.sensitivity.method
    alone = scored[scored["pair_id"] == data["pair_id"][0]]
    assert all(
        r.sensitivity is None is r.flip_clustered for r in probes.results(alone, 1.0, seed=0)
    )


def test_a_constant_score_ties_everywhere_and_has_no_sensitivity(suite):
    def constant(_prompts, responses):
        return np.ones(len(responses))

    for result in probes.results(probes.scored(suite, constant), 0.0, seed=0):
        assert result.sensitivity is None
        assert result.flip.value == result.negligible.value == 1


def test_a_score_that_is_no_number_names_the_pair(suite):
    with pytest.raises(ValueError, match=f"pair {suite['pair_id'][0]}, probe"):
        probes.scored(suite, lambda _p, r: np.full(len(r), np.nan))


def test_each_text_of_a_prompt_is_scored_once(suite):
    asked = []

    def score(prompts, responses):
        asked.extend(zip(prompts, responses))
        return np.zeros(len(responses))

    probes.scored(suite, score)
    assert len(asked) == len(set(asked)) < 2 * len(suite)


def test_orientation_counts_ties_half():
    prompts = [f"{HUMAN} {i}{ASSISTANT}" for i in range(40)]
    for margins, value, verdict in (
        (np.ones(40), 1, "right way round"),
        (-np.ones(40), 0, "inverted"),
        (np.zeros(40), 0.5, "open"),
        (np.r_[np.ones(30), np.zeros(10)], 0.875, "right way round"),
    ):
        share = probes.orientation(margins, prompts, seed=0)
        assert share.value == value and probes.verdict(share) == verdict


def test_responses_of_the_papers_tables():
    found = probes.paper_responses()
    assert found["table"].value_counts().to_dict() == {8: 14, 3: 7, 1: 2}
    assert found["published"].notna().sum() == 8, "Table 3, and one response of Table 1"
    assert found["prompt"].str.endswith(ASSISTANT).all()
    cop = found[found["table"] == 3].assign(rank=probes.ranks(found, "published"))
    assert cop.set_index("method")["rank"].to_dict() == dict(
        chosen=5, rejected=6, PPO=2, CoH=7, DPO=4, RRHF=3, PRO=1
    )
    assert probes.ranks(found, "published")[found["table"] == 8].isna().all()


def test_rank_agreement():
    tau, p = probes.rank_agreement(np.arange(7), np.arange(7) * 3 - 1)
    assert tau == 1 and np.isclose(p, 2 / 5040)
    assert probes.rank_agreement(np.arange(7), -np.arange(7))[0] == -1
    with pytest.raises(ValueError, match="scores is constant"):
        probes.rank_agreement(np.arange(7), np.zeros(7))


def test_real_pairs_and_only_held_out_prompts(hh_test_sets):
    _, data = hh_test_sets
    held = data[data["prompt"].map(splits.split_of) == "test"]
    suite = suites.of_pairs(held, seed=0)
    table = suites.coverage(suite).set_index("probe")["made"]
    assert table["empty"] == suite["pair_id"].nunique() > 1600
    assert table["harmful"] > 400 and table["swap"] > 1100 and table["truncation"] > 1000
    assert set(suite["prompt"].map(splits.split_of)) == {"test"}
    swapped = suite[suite["probe"] == "swap"]
    assert set(swapped["probed"]) <= set(held["chosen"])
    # The rejected side as a probe is the label itself: flips are the accuracy's complement.
    rule = rewards.length(-1)
    harmful = suite[suite["probe"] == "harmful"]
    scored = probes.scored(harmful, rule.score)
    (result,) = probes.results(scored, 1.0, seed=0)
    pairs_of = held[held["pair_id"].isin(harmful["pair_id"])]
    assert result.flip.value == (rewards.margins(rule, pairs_of) <= 0).mean()
