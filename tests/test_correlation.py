"""Planted correlations and reliabilities come back; what five points show of them; bad files."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from helpers import (
    agreement,
    bestof,
    corpora,
    correlation,
    downloads,
    ratings,
    shards,
    stats,
    votes,
)

FAST = dict(seed=0, n_resamples=200)


def planted(rho, *, n=600, k=4, noise=1.0, gap=0.0, subsets=1, seed=0, lone=0.0):
    """A study: truth and model are bivariate normal with ``rho`` within subsets whose means of
    both rise by ``gap``; k annotators with noise; a share ``lone`` of the items has one rating.
    Annotators differ in severity where everybody scores everything."""
    rng = np.random.default_rng(seed)
    subset = np.arange(n) % subsets
    truth = rng.standard_normal(n)
    model = rho * truth + np.sqrt(1 - rho**2) * rng.standard_normal(n)
    ids = [f"i{number:05}" for number in range(n)]
    level = gap * subset
    values = (
        (truth + level)[:, None]
        + (lone == 0) * rng.standard_normal(k)
        + noise * rng.standard_normal((n, k))
    )
    wide = pd.DataFrame(values, index=pd.Index(ids, name="id"), columns=[*"abcdefgh"[:k]])
    alone = rng.random(n) < lone
    keep = rng.integers(k, size=n)
    wide = wide.where(~alone[:, None] | (np.arange(k) == keep[:, None]))
    scores = wide.reset_index().melt("id", var_name="annotator", value_name="score").dropna()
    items = pd.DataFrame(dict(subset=subset.astype(str), cluster=np.arange(n) // 2), index=ids)
    return correlation.study(items, scores, pd.DataFrame({"model": model + level}, index=ids))


# Closed forms


def test_spearman_brown_closed_form():
    assert correlation.spearman_brown(0.5, 2) == pytest.approx(2 / 3)
    assert correlation.spearman_brown(0.6, 1) == pytest.approx(0.6)
    assert correlation.spearman_brown(0.0, 7) == 0
    assert np.isnan(correlation.spearman_brown(-0.9, 3))


@given(st.floats(0, 0.99), st.floats(0.2, 9))
def test_spearman_brown_is_undone_by_its_inverse_factor(r, factor):
    there = correlation.spearman_brown(r, factor)
    assert correlation.spearman_brown(there, 1 / factor) == pytest.approx(r, abs=1e-9)


def test_two_annotators_give_the_formula_exactly():
    data = planted(0.5, k=2)
    r = np.corrcoef(data.humans["a"], data.humans["b"])[0, 1]
    found = correlation.reliability(data, within=False, **FAST)
    assert found.value == pytest.approx(2 * r / (1 + r), abs=1e-12)
    raw = np.corrcoef(data.models["model"], data.human_mean)[0, 1]
    corrected = correlation.disattenuated(data, "model", within=False, **FAST)
    assert corrected.value == pytest.approx(raw / np.sqrt(found.value), abs=1e-12)
    ceiling = correlation.ceiling(found)
    assert ceiling.value == pytest.approx(np.sqrt(found.value))
    assert ceiling.low**2 == pytest.approx(found.low)


def test_detectable_correlation_is_found_with_that_power():
    # Cohen (1988, table 3.4.1) needs n = 28 for r = .50 at alpha .05 two-sided and power .80; the
    # normal approximation needs one more.
    assert bestof.detectable(29) == pytest.approx(0.50, abs=0.005)
    n, rng = 20, np.random.default_rng(0)
    rho = bestof.detectable(n)
    x, e = rng.standard_normal((2, 4000, n))
    y = rho * x + np.sqrt(1 - rho**2) * e
    p = scipy.stats.pearsonr(x, y, axis=1).pvalue
    assert np.mean(p < 0.05) == pytest.approx(0.8, abs=0.03)
    with pytest.raises(ValueError, match="at least 4"):
        bestof.detectable(3)


# Planted truth


@pytest.mark.parametrize(("k", "noise", "lone"), [(4, 1.0, 0.0), (3, 1.5, 0.0), (4, 1.0, 0.4)])
def test_planted_rho_and_reliability_lie_in_their_intervals(k, noise, lone):
    rho, seeds = 0.5, 12
    hits = {"reliability": 0, "corrected": 0, "raw": 0}
    for seed in range(seeds):
        data = planted(rho, k=k, noise=noise, lone=lone, seed=seed)
        truth = 1 / (1 + noise**2 * (1 / data.humans.notna().sum(axis=1)).mean())
        found = correlation.reliability(data, within=False, **FAST)
        hits["reliability"] += found.low <= truth <= found.high
        found = correlation.disattenuated(data, "model", within=False, **FAST)
        hits["corrected"] += found.low <= rho <= found.high
        raw = correlation.item_level(data, "model", within=False, **FAST)
        hits["raw"] += raw.low <= rho <= raw.high
    # At a coverage of 95 % fewer than ten of twelve have a probability of 2 %, and seeds are fixed.
    assert hits["reliability"] >= 10 and hits["corrected"] >= 10
    assert hits["raw"] < hits["corrected"], "noise of annotators must pull the raw r down"


def test_simulated_scores_have_the_reliability_that_is_stated():
    truth = pd.Series(np.random.default_rng(0).exponential(size=3000)).rename(str)
    scores = ratings.simulate(truth, n_annotators=5, noise=2.0, severity=3.0, seed=0)
    items = pd.DataFrame(dict(subset="s", cluster=truth.index), index=truth.index)
    data = correlation.study(items, scores, truth.to_frame("truth"))
    found = correlation.reliability(data, within=False, **FAST)
    assert found.low <= 1 / (1 + 2.0**2 / 5) <= found.high
    corrected = correlation.disattenuated(data, "truth", within=False, **FAST)
    assert corrected.value == pytest.approx(1, abs=0.03)
    pd.testing.assert_frame_equal(
        scores, ratings.simulate(truth, n_annotators=5, noise=2.0, severity=3.0, seed=0)
    )


def test_no_agreement_no_correction():
    data = planted(0.9, noise=30.0, seed=3)
    reliability = correlation.reliability(data, within=False, **FAST)
    assert reliability.low <= 0
    with pytest.raises(ValueError, match="its interval touches 0.*Collect more ratings"):
        correlation.disattenuated(data, "model", within=False, **FAST)
    with pytest.raises(ValueError, match="no ceiling"):
        correlation.ceiling(reliability._replace(value=-0.1))
    refused = correlation.table(data, **FAST).set_index("measure").loc["corrected"]
    assert refused["estimate"] is None and "touches 0" in refused["why"]


def test_pooling_within_subsets_takes_a_gap_out():
    data = planted(0.2, gap=3.0, subsets=2, n=2000, noise=0.5)
    for kind in correlation.KINDS:
        naive = correlation.item_level(data, "model", kind, within=False, **FAST)
        within = correlation.item_level(data, "model", kind, within=True, **FAST)
        assert naive.low > 0.4 > 0.25 > within.high > within.low > 0
        assert "within subsets" in within.method and "naive" in naive.method
    # The partial correlation given the subset, by regression.
    x, y, s = data.models["model"], data.human_mean, (data.items["subset"] == "1").to_numpy(float)
    residual = [v - np.polyval(np.polyfit(s, v, 1), s) for v in (x, y)]
    within = correlation.item_level(data, "model", within=True, **FAST)
    assert within.value == pytest.approx(np.corrcoef(residual)[0, 1], abs=1e-9)
    corrected = correlation.disattenuated(data, "model", within=True, **FAST)
    assert corrected.low < 0.2 < corrected.high


def test_one_subset_is_scipy():
    rng = np.random.default_rng(0)
    x, y = rng.integers(6, size=(2, 80)).astype(float)
    wanted = (scipy.stats.pearsonr, scipy.stats.spearmanr, scipy.stats.kendalltau)
    for kind, reference in zip(correlation.KINDS, wanted, strict=True):
        r = reference(x, y).statistic
        assert correlation.coefficient(x, y, kind) == pytest.approx(r, abs=1e-12)
        one = correlation.coefficient(x, y, kind, np.zeros(80, dtype=int))
        assert one == pytest.approx(r, abs=1e-12)
        assert np.isnan(correlation.coefficient(np.ones(80), y, kind))
    with pytest.raises(ValueError, match="unknown kind 'r'"):
        correlation.coefficient(x, y, "r")


def test_difference_is_paired():
    data = planted(0.6)
    worse = data.models["model"] + np.random.default_rng(1).standard_normal(600)
    data = data._replace(models=data.models.assign(worse=worse, same=data.models["model"]))
    found = correlation.difference(data, "model", "worse", within=False, **FAST)
    r = [correlation.coefficient(data.models[m].to_numpy(), data.human_mean) for m in data.models]
    assert found.value == pytest.approx(r[0] - r[1]) and found.low > 0
    none = correlation.difference(data, "model", "same", within=True, **FAST)
    assert none[:3] == (0, 0, 0)


# Shards: the ranges of facts.md, section 7, at rho 0.3


def test_shards_by_score_show_almost_any_correlation_as_one():
    rng = np.random.default_rng(0)
    found = {"sorted": [], "random": [], "four": [], "items": []}
    for _ in range(400):
        points, values = [], []
        for subset in range(4):
            x, e = rng.standard_normal((2, 2300))
            y = 0.3 * x + np.sqrt(1 - 0.3**2) * e
            x, y = x + 0.3 * subset, y + 0.3 * subset
            points.append(shards.means(x, y, "random", rng))
            values.append((x, y))
            if not subset:
                found["random"].append(correlation.coefficient(*points[0]))
                found["sorted"].append(correlation.coefficient(*shards.means(x, y, "sorted", rng)))
        found["four"].append(correlation.coefficient(*np.hstack(points)))
        found["items"].append(correlation.coefficient(*np.hstack(values)))
    assert np.median(found["sorted"]) == pytest.approx(0.99, abs=0.01)
    low, high = np.quantile(found["random"], [0.025, 0.975])
    assert (low, high) == (pytest.approx(-0.75, abs=0.12), pytest.approx(0.94, abs=0.03))
    assert np.mean(found["random"]) == pytest.approx(0.28, abs=0.06)
    assert np.median(found["four"]) == pytest.approx(0.99, abs=0.01)
    assert np.mean(found["items"]) == pytest.approx(0.37, abs=0.01)


def test_shards_hold_every_item_once():
    x = np.arange(23.0)
    means = shards.means(x, -x, "sorted", None)
    assert means.shape == (2, shards.SHARDS)
    assert means[0].tolist() == [2, 7, 12, 16.5, 20.5] and (means[1] == -means[0]).all()


def test_protocols_and_the_share_of_wrong_orders():
    data = planted(0.5, subsets=2, n=800)
    weak = 0.2 * data.models["model"] + np.random.default_rng(2).standard_normal(800)
    data = data._replace(models=data.models.assign(weak=weak))
    repeats = shards.protocols(data, n_studies=60, seed=0)
    assert len(repeats) == 60 * 2 * 3 * 3 and repeats["r"].between(-1, 1).all()
    pd.testing.assert_frame_equal(repeats, shards.protocols(data, n_studies=60, seed=0))
    truth = pd.DataFrame({s: {"model": 0.5, "weak": 0.1} for s in ("0", "1", "all")})
    found = shards.misranked(repeats, truth, least=0.05, seed=0).set_index(["cut", "shown"])[
        "share"
    ]
    assert found["items", "all"].value == 0 and "Wilson" in found["items", "all"].method
    assert found["items", "all"].high > 0
    assert found["random", "one"].low > 0.1 and found["random", "one"].n == 120
    turned = shards.misranked(repeats, -truth, least=0.05, seed=0).set_index(["cut", "shown"])
    assert turned.loc[("items", "all"), "share"].value == 1
    with pytest.raises(ValueError, match="differ by 0.5 or more"):
        shards.misranked(repeats, truth, least=0.5, seed=0)


def test_a_share_without_variation_has_the_width_of_its_units():
    units = np.repeat(np.arange(5), 20)
    for value in (0, 1):
        found = stats.cluster_share(np.full(100, value), units, seed=0)
        bound = stats.wilson(5 * value, 5)
        assert found[:4] == (value, bound.low, bound.high, 100), "five units, not a hundred values"
    half = stats.cluster_share(np.full(100, 0.5), units, seed=0)
    assert half[:3] == (0.5, 0.5, 0.5) and "bootstrap" in half.method
    mixed = np.r_[np.ones(40), np.zeros(60)]
    plain = stats.cluster_bootstrap(mixed, units, seed=0)
    assert stats.cluster_share(mixed, units, seed=0) == plain


def test_a_model_against_itself_is_never_right():
    data = planted(0.5, n=100)
    data = data._replace(models=data.models.assign(copy=data.models["model"]))
    repeats = shards.protocols(data, n_studies=5, seed=0)
    wide = repeats.pivot(index=["study", "cut", "shown", "subset"], columns="model", values="r")
    assert (wide["model"] == wide["copy"]).all(), "all models meet the same random shards"


# What may set a ceiling, and what is refused


def test_bad_studies_are_refused():
    data = planted(0.5, n=20)
    long = data.humans.reset_index().melt("id", var_name="annotator", value_name="score")
    with pytest.raises(ValueError, match="panel.*only people's or simulated"):
        correlation.study(data.items, long.assign(source="panel"), data.models)
    with pytest.raises(ValueError, match="items lack 1 scored id.*i00000"):
        correlation.study(data.items[1:], long, data.models)
    with pytest.raises(ValueError, match="models lack 20"):
        correlation.study(data.items, long, data.models[:0])
    with pytest.raises(ValueError, match="items: id 'i00019' stands twice"):
        correlation.study(pd.concat([data.items, data.items[-1:]]), long, data.models)
    with pytest.raises(ValueError, match="1 second scores.*keep one"):
        correlation.study(data.items, pd.concat([long, long[:1]]), data.models)
    with pytest.raises(ValueError, match="'model' has no finite score for id 'i00003'"):
        models = data.models.assign(model=data.models["model"].where(data.models.index != "i00003"))
        correlation.study(data.items, long, models)
    alone = correlation.study(data.items, long[long["annotator"] == "a"], data.models)
    with pytest.raises(ValueError, match="0 of 20 items have ratings by two"):
        correlation.reliability(alone, within=False, **FAST)
    refused = correlation.table(alone, **FAST).set_index("measure").loc["corrected"]
    assert refused["estimate"] is None and "at least 4" in refused["why"]


def test_votes_become_shares():
    table = pd.DataFrame(
        [("p", "a", "chosen"), ("p", "b", "tie"), ("q", "a", "rejected")],
        columns=["pair_id", "annotator", "vote"],
    ).assign(toxic=False, source="test")
    found = ratings.of_votes(votes.check(table))
    assert found["score"].tolist() == [1, 0.5, 0] and list(found["id"]) == ["p", "p", "q"]


def test_gpt4_and_people_on_mt_bench(monkeypatch):
    folder = downloads.data_folder()
    if folder is None or not (folder / corpora.SETS["mt_bench"].folder).is_dir():
        pytest.skip("no real data here: set ELEPHANT_DATA to a folder with the public sets")
    human, gpt4 = corpora.mt_bench()
    expert = agreement.mt_bench_votes(human[human["judge"].str.startswith("expert_")])
    judge = ratings.of_votes(agreement.mt_bench_votes(gpt4)).set_index("id")["score"]
    given = ratings.of_votes(expert)
    given = given[given["id"].isin(judge.index)]
    names = pd.Index(given["id"].unique(), name="id")
    parts = names.str.split("/")
    items = pd.DataFrame({"subset": parts.str[2] + parts.str[3], "cluster": parts.str[0]}, names)
    data = correlation.study(items, given, judge.to_frame("GPT-4"))
    assert len(data.items) == 1633 and data.items["subset"].nunique() == 15
    naive = correlation.item_level(data, "GPT-4", within=False, **FAST)
    within = correlation.item_level(data, "GPT-4", within=True, **FAST)
    # Which of two models is better is the larger part of what GPT-4 and people share.
    assert within.low > 0 and within.high < naive.low


# Best of 16


def test_six_points_by_closed_form():
    x, y = np.array([1.0, 2, 3, 4, 5, 6]), np.array([2.0, 1, 4, 3, 6, 5])
    found = bestof.correlate(x, y, "pearson")
    reference = scipy.stats.pearsonr(x, y)
    assert found.estimate.value == pytest.approx(reference.statistic)
    assert found.estimate[1:3] == pytest.approx(tuple(reference.confidence_interval(0.95)))
    rank = bestof.correlate(np.exp(x), y, "spearman")
    assert rank.estimate.value == pytest.approx(found.estimate.value)
    assert rank.estimate.low < found.estimate.low and rank.estimate.high > found.estimate.high
    # A perfect order of six: 2 of 720 orders are as extreme.
    perfect = bestof.correlate(x, x**3, "spearman")
    assert perfect.p_value == pytest.approx(2 / 720)
    assert perfect.estimate[:3] == (1, 1, 1)
    for bad, message in [(x[:3], "3 points"), (np.ones(6), "constant")]:
        with pytest.raises(ValueError, match=message):
            bestof.correlate(bad, bad, "pearson")


def test_the_six_models_have_their_totals():
    folder = downloads.data_folder()
    if folder is None or not (folder / corpora.SETS["best_of_16"].folder).is_dir():
        pytest.skip("no real data here: set ELEPHANT_DATA to a folder with the public sets")
    table = bestof.table()
    assert len(table) == 6 and table.notna().all(axis=None)
    assert table["after"].between(45, 70).all()


# Files


GOOD = [("007", "NA", 4), ("007", "b", 2.5), ("x", "b", 1)]


def write(path, rows, columns=("id", "annotator", "score")):
    table = pd.DataFrame(rows, columns=list(columns))
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif ".csv" in path.name:
        table.to_csv(path, index=False)
    else:
        text = "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.jsonl", "x.jsonl.gz", "x.parquet"])
def test_each_kind_of_file_is_read_as_it_is(tmp_path, name):
    found = ratings.read(write(tmp_path / name, GOOD), {"007", "x", "more"})
    assert list(found) == ["id", "annotator", "score", "source"]
    assert found["id"].tolist() == ["007", "007", "x"]
    assert found["annotator"].tolist() == ["NA", "b", "b"]
    assert found["score"].tolist() == [4, 2.5, 1] and set(found["source"]) == {"humans"}


def test_texts_and_models_scores(tmp_path):
    rows = [
        (1, "a", 4, "hi?", "ho", "s"),
        (1, "b", 3, "hi?", "ho", "s"),
        (2, "a", 1, "hi?", "", "t"),
    ]
    columns = ["id", "annotator", "score", "prompt", "response", "subset"]
    found = ratings.read(write(tmp_path / "x.jsonl", rows, columns))
    assert found["id"].tolist() == ["1", "1", "2"] and found["response"].tolist()[-1] == ""
    assert found["subset"].tolist() == ["s", "s", "t"]
    path = write(tmp_path / "y.csv", [("a", "rm", 0.1)], ("id", "model", "score"))
    assert ratings.read(path, {"a"}, rater="model")["model"].tolist() == ["rm"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*GOOD, ("y", "b", 1)], "row 4: unknown id.*'y'"),
        ([*GOOD, ("x", "b", 3)], "row 4: a second score of this annotator for this id"),
        ([*GOOD, ("x", "c", "good")], "row 4: score is not a finite number, found 'good'"),
        ([*GOOD, ("x", "c", float("inf"))], "row 4: score is not a finite number"),
        ([*GOOD, ("x", "c", None)], "row 4: score is missing"),
        ([*GOOD, ("x", "", 1)], "row 4: annotator is missing"),
        ([("", "a", 1)], "row 1: id is missing"),
        ([], "holds no scores"),
    ],
)
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_bad_rows_are_named(tmp_path, rows, message, name):
    path = write(tmp_path / name, rows)
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        ratings.read(path, {"007", "x"})


def test_bad_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="give a .csv"):
        ratings.read(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"column\(s\) \['score'\] missing"):
        ratings.read(write(tmp_path / "a.csv", [("a", "b")], ("id", "annotator")), {"a"})
    with pytest.raises(ValueError, match="has prompt only"):
        ratings.read(
            write(tmp_path / "b.csv", [(1, 2, 3, "p")], ("id", "annotator", "score", "prompt"))
        )
    with pytest.raises(ValueError, match="row 1: unknown id"):
        ratings.read(write(tmp_path / "c.csv", GOOD))
    columns = ("id", "annotator", "score", "prompt", "response")
    two = write(tmp_path / "d.csv", [("a", "k", 1, "p", "r"), ("a", "l", 1, "p", "q")], columns)
    with pytest.raises(ValueError, match="row 2: response differs from an earlier row"):
        ratings.read(two)
    (tmp_path / "e.jsonl").write_text('{"id": "a"}\n{oops\n')
    with pytest.raises(ValueError, match="line 2: not JSON"):
        ratings.read(tmp_path / "e.jsonl")
    with pytest.raises(ValueError, match="row 1: score is not a finite number, found True"):
        ratings.read(write(tmp_path / "f.jsonl", [("a", "b", True)]), {"a"})
    (tmp_path / "g.csv").write_text("id,annotator,score\na,b,1,2\n")
    with pytest.raises(ValueError, match="more values than the header"):
        ratings.read(tmp_path / "g.csv", {"a"})
    (tmp_path / "h.xlsx").touch()
    with pytest.raises(ValueError, match="unknown kind of file"):
        ratings.read(tmp_path / "h.xlsx")
    for name in ("i.parquet", "j.csv.gz"):
        (tmp_path / name).write_bytes(b"\x1f\x8b\xff\xff")
        with pytest.raises(ValueError, match=f"{name}.*damaged"):
            ratings.read(tmp_path / name)
