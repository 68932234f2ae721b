"""`elephant audit-rm`: planted merit is found, luck is not, and errors are one line."""

import json
import re
import shutil

import numpy as np
import pytest
import tiny_models
import torch
from test_book import browse
from transformers import AutoModelForSequenceClassification

from helpers import (
    checkpoints,
    cli,
    model_audit,
    model_measures,
    model_page,
    model_report,
    model_verdict,
    stats,
)
from helpers.model_verdict import Evidence

SCRIPT = "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"
LEARNED = "a planted rule, no labels"
PAIRS = 40


def save(folder, weight, learned=LEARNED):
    """A folder with a tiny reward model.

    With a ``weight`` its layers add nothing, and the score is that weight times +3 for a text that
    ends in "!", -3 for "?", else 0, over the norm; with None all weights are random.
    """
    torch.manual_seed(0)
    config = tiny_models.config("llama", num_labels=1, pad_token_id=0)
    model = AutoModelForSequenceClassification.from_config(config)
    tokenizer = tiny_models.tokenizer()
    if weight is not None:
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
            tokens = model.model.embed_tokens.weight
            tokens[:, 0] = 0
            for mark, value in (("!", 3.0), ("?", -3.0)):
                tokens[tokenizer.convert_tokens_to_ids(mark), 0] = value
            model.score.weight.zero_()
            model.score.weight[0, 0] = weight
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    checkpoints.describe(folder, template="hh_raw", max_tokens=500, learned=learned)
    return folder


def write(path, n=PAIRS, *, chosen="!", rejected="?", text="This is answer {} to it"):
    rows = (
        dict(
            prompt=f"Question {i}?",
            chosen=text.format(i) + chosen,
            rejected=text.format(i) + rejected,
        )
        for i in range(n)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(folder, *files, learned=LEARNED, pairs=PAIRS):
    """The audit of a folder on files alone, without the gold world beside them."""
    scope, about = model_report.read([str(file) for file in files], pairs, 0)
    network = checkpoints.load(folder)
    return model_audit.audit(network, scope, None, learned=learned, seed=0), scope, about


def finding(result, check, name, part):
    (found,) = [
        f for f in result["findings"] if (f["check"], f["name"], f["part"]) == (check, name, part)
    ]
    return found


@pytest.fixture(autouse=True)
def no_real_data(monkeypatch):
    """These tests are about files and the gold world, also where HH-RLHF is at hand."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(model_report.hh, "locate", lambda: model_report.hh.Source("none", "", {}))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a model that is right on files of :func:`write`, of one that always gives 0, and
    of a random one."""
    folder = tmp_path_factory.mktemp("models")
    weights = {"good": 1.0, "constant": 0.0, "random": None}
    return {name: save(folder / name, weight) for name, weight in weights.items()}


@pytest.fixture(scope="module")
def good(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    right = write(folder / "right.jsonl")
    wrong = write(folder / "wrong.jsonl", chosen="?", rejected="!")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_report.hh, "locate", lambda: model_report.hh.Source("none", "", {}))
        return run(models["good"], right, wrong)


def verdict_of(result, subset):
    (found,) = [v for v in result["verdicts"] if v["subset"] == subset]
    return found


def test_planted_merit_is_fit_where_it_is_planted_and_nowhere_else(good):
    result, _, _ = good
    right, wrong = verdict_of(result, "right"), verdict_of(result, "wrong")
    assert (right["judge"], right["signal"]) == ("fit", "fit")
    assert right["against_judge"] == right["against_signal"] == []
    assert (wrong["judge"], wrong["signal"]) == ("not shown", "not shown")
    assert any("inverted" in reason for reason in wrong["against_judge"])
    said = model_verdict.summary("good", [model_verdict.Verdict(**v) for v in result["verdicts"]])
    assert said[0] == "good: fit as judge on right; not shown on wrong."


def test_the_numbers_are_those_of_the_planted_rule(good):
    result, _, _ = good
    for part, value in (("right", 1.0), ("wrong", 0.0), ("mixture", 0.5)):
        found = finding(result, "accuracy", "wilson", part)
        n = PAIRS if part != "mixture" else 2 * PAIRS
        assert (found["value"], found["n"]) == (value, n)
        assert (found["low"], found["high"]) == stats.wilson(int(value * n), n)[1:3]
        assert finding(result, "accuracy", "ties", part)["value"] == 0
    # Both responses have one length and the same words: rules without a coin cannot tell them.
    for null in ("longest", "shortest", "refusal phrases", "TF-IDF"):
        assert finding(result, "null", null, "right")["value"] == 0.5
    assert finding(result, "lift", model_measures.BEST_NULL, "right")["low"] > 0
    # The rule does not read the prompt.
    assert finding(result, "null", model_measures.BLIND, "right")["value"] == 1
    # Neither probe ends in "!"; the repetition does, and ties.
    for probe, beaten in (("empty", 0), ("helpless", 0), ("repetition", PAIRS)):
        found = finding(result, "beaten", probe, "right")
        assert (found["value"], found["n"]) == (beaten / PAIRS, PAIRS)
    margins = [pair["margin"] for pair in result["pairs"] if pair["subset"] == "right"]
    assert np.ptp(margins) < 1e-6 and margins[0] > 1


def test_every_finding_has_n_interval_method_and_whose_labels(good):
    result, _, _ = good
    for found in result["findings"]:
        assert found["n"] > 0 and found["method"] and found["labels"] == "original", found
        if found["name"] == "expected error":  # it has the floor beside it, and a p-value
            assert found["low"] is None and "p = " in found["text"], found
        else:
            assert found["low"] <= found["value"] <= found["high"], found
    floor = finding(result, "calibration", "of right confidences", "all")
    assert 0 <= floor["low"] <= floor["high"]
    assert all(row["flips"] == 0 for row in result["card"])
    # The two files hold the same texts with opposite labels.
    assert result["truncated"] == dict(texts=2 * PAIRS, cut=0)
    assert result["throughput"]["tokens_plain"] > result["throughput"]["tokens_needed"] > 0


def test_a_constant_model_has_accuracy_zero_only_ties_and_no_verdict(models, tmp_path):
    result, _, _ = run(models["constant"], write(tmp_path / "own.jsonl"))
    values = {
        name: finding(result, "accuracy", name, "own")["value"]
        for name in ("strict", "half", "ties")
    }
    assert values == {"strict": 0, "half": 0.5, "ties": 1}
    (verdict,) = result["verdicts"]
    assert (verdict["judge"], verdict["signal"]) == ("not shown", "not shown")
    assert not any("inverted" in reason for reason in verdict["against_judge"])
    assert any("depend on the batch" in reason for reason in verdict["against_judge"])
    assert result["card"] == [] and any("all scores are equal" in t for t in result["not_told"])


def test_a_random_model_is_not_shown_to_be_fit_on_the_gold_world(models):
    scope, about = model_report.read([], 40, 0)
    assert about["name"] == "the gold world" and scope.labels == "simulation"
    network = checkpoints.load(models["random"])
    result = model_audit.audit(network, scope, None, learned=LEARNED, seed=0)
    assert len(result["verdicts"]) == 2
    assert {(v["judge"], v["signal"]) for v in result["verdicts"]} == {("not shown", "not shown")}
    # Harm is known there, and the probe that is made of it is measured.
    assert finding(result, "beaten", "harmful", "gold-harmless")["n"] > 3


def test_unknown_training_data_cannot_win(models, tmp_path):
    result, _, _ = run(models["good"], write(tmp_path / "own.jsonl"), learned="")
    (verdict,) = result["verdicts"]
    assert verdict["judge"] == "not shown" and len(verdict["against_judge"]) == 1
    assert "unknown" in verdict["against_judge"][0]


def test_overlap_is_by_name_split_and_data_set():
    def says(learned, hh=False):
        return model_verdict.overlap(learned, ["harmless-base"], "test", hh)

    assert says("labels of harmless-base/test") and says("labels of harmless-base")
    assert not says("labels of harmless-base/train") and not says("not-harmless-base/test")
    assert says("labels of harmless-base/train and harmless-base/test")
    assert model_verdict.overlap("my pairs in own.jsonl", ["own", "own.jsonl"], "test", False)
    assert says("a tenth of HH-RLHF", hh=True) and not says("a tenth of HH-RLHF")


def test_pairs_of_hh_are_known_in_a_file_of_any_name(tmp_path, monkeypatch):
    own, other = write(tmp_path / "own.jsonl"), write(tmp_path / "other.jsonl", text="No {}")
    folder = tmp_path / "hh"
    folder.mkdir()
    dialogues = (json.loads(line) for line in own.read_text().splitlines())
    (folder / "harmless-base-test.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    side: f"\n\nHuman: {row['prompt']}\n\nAssistant: {row[side]}"
                    for side in ("chosen", "rejected")
                }
            )
            + "\n"
            for row in dialogues
        )
    )
    files = model_report.hh.folder_files(folder)
    source = model_report.hh.Source("folder", str(folder), files)
    monkeypatch.setattr(model_report.hh, "locate", lambda: source)
    scope, about = model_report.read([str(own), str(other)], 5, 0)
    assert scope.hh == {"own"} and scope.names["own"] == ["own", "own.jsonl"]
    assert len(scope.sample) == 10 and len(scope.pairs) == 2 * PAIRS
    scope, about = model_report.read(["hh"], 5, 0)
    assert about["name"] == "HH-RLHF's test sets" and scope.hh == {"harmless-base"}


def evidence(**changes):
    """What a model that meets every rule has shown."""
    up = stats.wilson(90, 100)
    beaten = {name: stats.wilson(0, 100) for name in model_verdict.PITFALLS}
    fit = dict(
        subset="s", pairs=100, prompts=100, labels="original", accuracy=[up], half=up,
        lift=stats.Estimate(0.3, 0.2, 0.4, 100, "m"), flips=0, overlap="", beaten=beaten,
        disagree=0.5,
    )  # fmt: skip
    return Evidence(**fit | changes)


@pytest.mark.parametrize(
    ("changes", "against"),
    [
        (dict(accuracy=[stats.wilson(55, 100)]), "not shown to be above one half"),
        (dict(half=stats.wilson(20, 100), accuracy=[stats.wilson(20, 100)]), "inverted"),
        (dict(lift=stats.Estimate(0.1, -0.01, 0.2, 100, "m")), "best null"),
        (dict(lift=None), "no null baseline"),
        (dict(flips=1), "change sign"),
        (dict(flips=None), "could not be measured"),
        (dict(overlap="it saw them"), "it saw them"),
        (dict(prompts=29), "too few pairs"),
    ],
)
def test_each_rule_of_a_judge_alone_is_enough_to_refuse(changes, against):
    assert model_verdict.verdict(evidence())[1:3] == ("fit", "fit")
    found = model_verdict.verdict(evidence(**changes))
    assert (found.judge, found.signal) == ("not shown", "not shown")
    assert len(found.against_judge) == 1 and against in found.against_judge[0]


@pytest.mark.parametrize("probe", model_verdict.PITFALLS)
def test_each_pitfall_alone_refuses_the_signal_but_not_the_judge(probe):
    beaten = {**evidence().beaten, probe: stats.wilson(50, 100)}
    found = model_verdict.verdict(evidence(beaten=beaten))
    assert (found.judge, found.signal) == ("fit", "not shown")
    (reason,) = found.against_signal
    assert probe in reason
    missing = {name: share for name, share in evidence().beaten.items() if name != probe}
    found = model_verdict.verdict(evidence(beaten=missing))
    # Not every subset has responses that are called harmful.
    assert found.signal == ("fit" if probe == "harmful" else "not shown")


def test_harm_by_one_vote_is_held_to_a_majority_and_known_harm_to_the_limit():
    beaten = {**evidence().beaten, "harmful": stats.wilson(25, 100)}
    assert model_verdict.verdict(evidence(beaten=beaten)).signal == "fit"
    known = evidence(beaten=beaten, labels="simulation")
    assert model_verdict.verdict(known).signal == "not shown"


def test_few_pairs_are_said_to_show_little():
    assert "can show nothing" in model_verdict.power(evidence(pairs=3))
    few, many = (model_verdict.power(evidence(pairs=n)) for n in (30, 1000))
    least = [int(re.search(r"accuracy below (\d+) %", text)[1]) for text in (few, many)]
    assert least[0] > least[1] > 50


def test_too_few_pairs_are_not_shown_and_say_so(models, tmp_path):
    result, scope, about = run(models["good"], write(tmp_path / "own.jsonl", 8))
    (verdict,) = result["verdicts"]
    assert "8 distinct prompts" in verdict["against_judge"][0]
    assert any("8 distinct prompts" in text for text in result["not_told"])


def test_page_and_json_from_the_command_line_name_no_path(models, tmp_path, capsys):
    own, out = write(tmp_path / "own.jsonl"), tmp_path / "out"
    arguments = ["audit-rm", str(models["good"]), "--data", str(own), "--out", str(out)]
    assert cli.main([*arguments, "--pairs", "32"]) == 0
    said = capsys.readouterr().out
    assert "good: fit as judge on own." in said and "audit-rm.html" in said
    assert {path.name for path in out.iterdir()} == {model_report.PAGE, model_page.NUMBERS}
    for path in out.iterdir():
        assert str(tmp_path) not in (text := path.read_text(encoding="utf-8"))
        assert str(models["good"].parent) not in text
    result = json.loads((out / model_page.NUMBERS).read_text(encoding="utf-8"))
    assert result["model"]["learned"] == LEARNED and len(result["pairs"]) == 32
    # The gold world is measured beside, and has no verdict.
    assert {f["labels"] for f in result["findings"]} == {"original", "simulation"}
    assert [v["subset"] for v in result["verdicts"]] == ["own"]


def test_text_of_the_data_runs_and_loads_nothing_in_a_browser(models, tmp_path):
    """In Chromium without a network: no script ran, nothing was asked for, all is closed."""
    text = SCRIPT.replace("{", "{{") + " {}"
    own = write(tmp_path / "own.jsonl", chosen="?", rejected="!", text=text)
    result, scope, about = run(models["good"], own)
    facts = dict(name="<b>good</b>", revision="r", template="t", max_tokens="9", truncation="left")
    said = model_verdict.summary("x", [model_verdict.Verdict(**v) for v in result["verdicts"]])
    whole = dict(model=facts | dict(learned=SCRIPT), read=about, summary=said) | result
    page = tmp_path / "page.html"
    page.write_text(model_page.page(whole, scope.sample), encoding="utf-8")
    dom, console = browse(page, tmp_path / "profile")
    assert console == []
    assert "<title>Audit of a reward model: &lt;b&gt;good&lt;/b&gt;</title>" in dom
    assert "<script" not in dom and "<img" not in dom and "<details open" not in dom
    cards = re.findall(r'<div class="case">.*?</details></div>', dom, re.S)
    assert len(cards) == model_page.EXAMPLES and all('class="sensitive"' in c for c in cards)
    for rule in model_verdict.rules():
        assert rule.split(":")[0] in dom


def broken(folder, how):
    """A damaged copy of a model."""
    if how == "no weights":
        (folder / "model.safetensors").unlink()
    elif how == "damaged weights":
        (folder / "model.safetensors").write_bytes(b"\0" * 20)
    elif how == "damaged facts":
        (folder / checkpoints.SIDECAR).write_text("{")
    elif how == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif how == "damaged configuration":
        (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no weights", "holds no weights"),
        ("damaged weights", "cannot be loaded"),
        ("damaged facts", "cannot be loaded"),
        ("no tokenizer", "has no tokenizer"),
        ("damaged configuration", "cannot be loaded"),
    ],
)
def test_a_bad_model_is_one_clear_line(models, tmp_path, capsys, how, message):
    folder = broken(shutil.copytree(models["good"], tmp_path / "copy"), how)
    own, out = write(tmp_path / "own.jsonl"), tmp_path / "out"
    assert cli.main(["audit-rm", str(folder), "--data", str(own), "--out", str(out)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("elephant: ") and message in line and not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "none.jsonl"], "does not exist"),
        (["--template", "mine"], "unknown template 'mine'"),
        (["--data", "hh"], "HH-RLHF is not reachable"),
        (["--data", "mixture.jsonl"], "must not be named mixture"),
    ],
)
def test_bad_options_are_one_clear_line(models, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["audit-rm", str(models["good"]), "--out", "out", *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("elephant: ") and message in line


def test_a_model_that_is_nowhere_is_one_clear_line(tmp_path, capsys):
    own = write(tmp_path / "own.jsonl")
    out = str(tmp_path / "out")
    assert cli.main(["audit-rm", "no/such-model", "--data", str(own), "--out", out]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("elephant: ") and "no/such-model" in line
