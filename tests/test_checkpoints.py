"""Loading reward models, and refusing what would not score as its makers meant."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
)

from helpers import catalogue, checkpoints, circularity, rewards, scoring, weights

ARGUMENTS = dict(token_budget=4096, progress=False)


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """A folder with a stock reward model, as a trainer would leave it."""
    folder = tmp_path_factory.mktemp("tiny-reward")
    torch.manual_seed(0)
    settings = tiny_models.config("llama", num_labels=1, pad_token_id=2)
    AutoModelForSequenceClassification.from_config(settings).save_pretrained(folder)
    tiny_models.tokenizer(eos="</s>", pad="</s>").save_pretrained(folder)
    checkpoints.describe(folder, template="hh_raw_eos", max_tokens=256, learned="nothing")
    (folder / "training_args.bin").write_bytes(pickle.dumps(os.system))
    return folder


@pytest.fixture
def copy(stock, tmp_path):
    """A copy of it that a test may damage."""
    return shutil.copytree(stock, tmp_path / "copy")


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def rewrite(folder, change):
    """Replaces the weights by what ``change`` makes of them."""
    state = change(weights_of(folder))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def direct(folder, prompts, responses):
    """Scores by reading the weights into the backbone and multiplying with the head by hand."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = tiny_models.tokenizer(eos="</s>")
    head, out = weights_of(folder)["score.weight"], []
    for prompt, response in zip(prompts, responses):
        tokens = tokenizer(prompt + " " + response.removeprefix(" ") + "</s>", return_tensors="pt")
        with torch.no_grad():
            out.append((model.model(**tokens).last_hidden_state[0, -1] @ head[0]).item())
    return np.array(out)


def test_a_stock_model_scores_as_the_direct_computation(stock):
    network = checkpoints.load(stock)
    assert network.name == stock.name and network.template.name == "hh_raw_eos"
    assert (network.max_tokens, network.truncation) == (256, "left")
    scores, _ = scoring.scores(network, tiny_models.PROMPTS, tiny_models.RESPONSES, **ARGUMENTS)
    expected = direct(stock, tiny_models.PROMPTS, tiny_models.RESPONSES)
    assert expected.std() > 0.1
    assert scores == pytest.approx(expected, abs=1e-4)


def test_padding_equal_to_the_end_of_sequence_does_not_move_the_pooling(stock):
    network = checkpoints.load(stock)
    tokenizer = network.tokenizer
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, None)
    assert tokenizer.pad_token_id < tiny_models.VOCABULARY, "the row must be in the embedding"
    texts = list(map(network.template.render, tiny_models.PROMPTS, tiny_models.RESPONSES))
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    logits = network.model(batch.input_ids, attention_mask=batch.attention_mask).logits
    expected = direct(stock, tiny_models.PROMPTS, tiny_models.RESPONSES)
    assert logits.squeeze(-1).numpy() == pytest.approx(expected, abs=1e-4)
    # The trap is real: as it was saved, with padding = end of sequence, the scores are others.
    trapped = AutoModelForSequenceClassification.from_pretrained(stock)
    assert trapped.config.pad_token_id == tokenizer.eos_token_id
    with torch.no_grad():
        wrong = trapped(batch.input_ids, attention_mask=batch.attention_mask).logits[0, 0].item()
    assert abs(wrong - expected[0]) > 1e-2


def test_without_a_spare_row_there_is_no_padding_rather_than_a_wrong_one(copy):
    tokenizer = tiny_models.tokenizer(eos="</s>", pad="</s>")
    rows = len(tokenizer)
    key = "model.embed_tokens.weight"
    rewrite(copy, lambda state: {**state, key: state[key][:rows].clone()})
    settings = json.loads((copy / "config.json").read_text()) | {"vocab_size": rows}
    (copy / "config.json").write_text(json.dumps(settings))
    network = checkpoints.load(copy)
    assert network.model.config.pad_token_id is None
    scores, _ = scoring.scores(network, tiny_models.PROMPTS, tiny_models.RESPONSES, **ARGUMENTS)
    expected = direct(copy, tiny_models.PROMPTS, tiny_models.RESPONSES)
    assert scores == pytest.approx(expected, abs=1e-4)


def test_the_revision_follows_the_content_and_not_the_place(stock, copy):
    assert checkpoints.load(copy).revision == checkpoints.load(stock).revision
    rewrite(copy, lambda state: {**state, "score.weight": state["score.weight"] + 1})
    changed = checkpoints.load(copy)
    assert changed.revision.startswith("sha256:") and changed.revision != weights.revision(stock)


def test_the_caller_overrides_what_the_folder_says(stock):
    network = checkpoints.load(
        stock, template="llama2", max_tokens=64, truncation="right", dtype="bfloat16"
    )
    assert (network.template.name, network.max_tokens, network.truncation) == (
        "llama2",
        64,
        "right",
    )
    assert network.model.dtype == torch.bfloat16
    assert not network.model.training
    assert not any(p.requires_grad for p in network.model.parameters())
    with pytest.raises(ValueError, match="max_tokens is 4096, .* has 512 positions"):
        checkpoints.load(stock, max_tokens=4096)


def test_a_scorer_of_a_network_names_all_that_decides_a_score(stock):
    network = checkpoints.load(stock)
    scorer = checkpoints.as_scorer(
        network,
        learned="nothing",
        pair_ids=frozenset(),
        prompts=frozenset(),
        licence="MIT",
        **ARGUMENTS,
    )
    assert isinstance(scorer, rewards.Scorer)
    again = scorer.score(tiny_models.PROMPTS, tiny_models.RESPONSES)
    assert again == pytest.approx(direct(stock, tiny_models.PROMPTS, tiny_models.RESPONSES), 1e-3)
    facts = scorer.facts
    assert facts["template"] == f"hh_raw_eos {network.template.hash}"
    assert facts["revision"] == network.revision and facts["licence"] == "MIT"
    assert set(facts) == {
        *("base", "revision", "template", "pooling", "truncation", "max_tokens", "licence")
    }


def test_what_a_model_learned_from_is_found_by_any_name_and_its_absence_is_said(stock, copy):
    row = catalogue.row("Pythia-1.4B")
    for name in (row.name, row.paper, row.hub_id):
        facts = checkpoints.stated(name)
        assert "hh-rlhf" in facts["training_data"] and facts["learned"] == facts["training_data"]
        assert (facts["pooling"], facts["licence"]) == (row.pooling, row.licence)
    assert checkpoints.stated(stock)["training_data"] == "nothing"
    (copy / checkpoints.SIDECAR).unlink()
    for unknown in (copy, "someone/model"):
        facts = checkpoints.stated(unknown)
        assert facts["training_data"] == "" and facts["learned"] == "training data not known"
        assert facts["licence"] == "not stated"


@pytest.mark.parametrize("data, circular", [("", True), ("hh-rlhf, SHP", True), ("Nectar", False)])
def test_a_model_from_elsewhere_cannot_win_unless_its_training_data_are_known(
    stock, data, circular
):
    facts = dict(learned="x", training_data=data, pooling="last token", licence="MIT")
    none = dict(pair_ids=frozenset(), prompts=frozenset())
    scorer = checkpoints.as_scorer(checkpoints.load(stock), **facts, **none)
    found, why = circularity.guard(scorer, circularity.LabelSource("original", data="hh-rlhf"))
    assert found is circular and bool(why) is circular
    assert ("not known" in why) == (data == "")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").write_bytes(b"no weights"),
        lambda folder: (folder / "config.json").write_text("[]"),
        lambda folder: (folder / "config.json").write_text('{"model_type": 3}'),
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        lambda folder: (folder / checkpoints.SIDECAR).write_text("not json"),
        lambda folder: (folder / checkpoints.SIDECAR).write_text('{"template": 3}'),
    ],
)
def test_whatever_is_wrong_with_a_folder_is_an_error_that_callers_can_catch(copy, damage):
    damage(copy)
    with pytest.raises(checkpoints.UNREADABLE):
        checkpoints.load(copy)


def test_a_head_that_is_missing_is_refused_and_not_made_up(copy):
    def without_head(state):
        return {key: value for key, value in state.items() if key != "score.weight"}

    rewrite(copy, without_head)
    with pytest.raises(weights.Refused, match="head 'score.weight' is missing.*would be random"):
        checkpoints.load(copy)


def test_a_base_language_model_is_no_reward_model(copy):
    settings = tiny_models.config("llama")
    (copy / "model.safetensors").unlink()
    AutoModelForCausalLM.from_config(settings).save_pretrained(copy)
    with pytest.raises(weights.Refused, match="A base model is no reward model"):
        checkpoints.load(copy)


def test_a_head_of_another_name_is_refused_with_the_remap_that_knows_it(copy):
    def renamed(state):
        return {key.replace("score.", "score_head."): value for key, value in state.items()}

    rewrite(copy, renamed)
    with pytest.raises(weights.Refused, match=r"found score_head.weight \(remap beaver\)"):
        checkpoints.load(copy)
    # Named, it loads, and scores as before.
    checkpoints.describe(copy, template="hh_raw_eos", max_tokens=256, remap="beaver")
    assert checkpoints.load(copy).model.score.weight.shape == (1, 32)


def test_two_labels_are_refused(copy):
    rewrite(copy, lambda state: {**state, "score.weight": torch.ones(2, 32)})
    with pytest.raises(weights.Refused, match="the head gives 2 numbers"):
        checkpoints.load(copy)


def test_a_lost_layer_and_an_unknown_one_are_refused(copy):
    lost = "model.layers.1.mlp.up_proj.weight"

    def without_layer(state):
        return {key: value for key, value in state.items() if key != lost}

    rewrite(copy, without_layer)
    with pytest.raises(weights.Refused, match="1 missing, 0 unknown.*up_proj"):
        checkpoints.load(copy)
    rewrite(copy, lambda state: {**state, lost: torch.zeros(48, 32), "gate.weight": torch.ones(2)})
    with pytest.raises(weights.Refused, match="0 missing, 1 unknown.*'gate.weight'"):
        checkpoints.load(copy)


def test_another_kind_of_classifier_is_refused(tmp_path):
    shape = dict(num_hidden_layers=1, hidden_size=32, intermediate_size=32, num_attention_heads=2)
    BertForSequenceClassification(BertConfig(**shape, num_labels=1)).save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(weights.Refused, match="found .*classifier.weight"):
        checkpoints.load(tmp_path, template="hh_raw")


def test_damaged_weights_are_refused_by_name(copy):
    content = (copy / "model.safetensors").read_bytes()
    for damage in (content[: len(content) // 2], b"", b"\xff" * 100, b"<html>not found</html>"):
        (copy / "model.safetensors").write_bytes(damage)
        with pytest.raises(weights.Refused, match="model.safetensors is damaged"):
            checkpoints.load(copy)


def test_a_shard_that_is_missing_is_named(copy):
    index = {"weight_map": {"score.weight": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match="lacks model-00002-of-00002.safetensors"):
        checkpoints.load(copy)


@pytest.mark.parametrize(
    "names, message",
    [
        (["tokenizer.json", "tokenizer_config.json"], "has no tokenizer"),
        (["config.json"], "has no config.json"),
        (["model.safetensors"], "holds no weights"),
    ],
)
def test_a_folder_that_lacks_a_part_says_which(copy, names, message):
    for name in names:
        (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        checkpoints.load(copy)


def test_an_adapter_without_its_base_is_named(copy):
    (copy / "model.safetensors").rename(copy / "adapter_model.safetensors")
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="must be merged into its base model first"):
        checkpoints.load(copy)


def test_pickled_weights_are_refused_unless_allowed_and_then_run_nothing(copy):
    state = weights_of(copy)
    (copy / "model.safetensors").unlink()
    torch.save(state, copy / "pytorch_model.bin")
    with pytest.raises(weights.Refused, match="a pickle can run code"):
        checkpoints.load(copy)
    network = checkpoints.load(copy, allow_pickle=True)
    scores, _ = scoring.scores(network, tiny_models.PROMPTS[:1], [" Yes."], **ARGUMENTS)
    assert np.isfinite(scores).all()

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(copy / "owned"),)

    torch.save({**state, "bomb": Bomb()}, copy / "pytorch_model.bin")
    with pytest.raises(weights.Refused, match="holds more than tensors"):
        checkpoints.load(copy, allow_pickle=True)
    assert not (copy / "owned").exists()


def test_remote_code_is_refused_unless_allowed(copy, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    monkeypatch.syspath_prepend(tmp_path / "m")
    settings = json.loads((copy / "config.json").read_text())
    settings["auto_map"] = {"AutoModelForSequenceClassification": "mine.Mine"}
    (copy / "config.json").write_text(json.dumps(settings))
    ran = tmp_path / "ran"
    (copy / "mine.py").write_text(
        "from transformers import LlamaForSequenceClassification\n"
        f"open({str(ran)!r}, 'w').close()\n"
        "class Mine(LlamaForSequenceClassification):\n    pass\n"
    )
    with pytest.raises(weights.Refused, match=r"code of its own .*allow_remote_code=True"):
        checkpoints.load(copy)
    assert not ran.exists()
    network = checkpoints.load(copy, allow_remote_code=True)
    assert ran.exists() and type(network.model).__name__ == "Mine"


def test_a_model_whose_text_nobody_names_is_not_guessed(copy):
    (copy / checkpoints.SIDECAR).unlink()
    with pytest.raises(ValueError, match="name a template: hh_raw, openassistant"):
        checkpoints.load(copy)


def test_a_template_that_doubles_a_marker_is_refused(copy):
    core = json.loads((copy / "tokenizer.json").read_text())
    ends = {"id": "</s>", "ids": [2], "tokens": ["</s>"]}
    core["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "</s>", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"</s>": ends},
    }
    (copy / "tokenizer.json").write_text(json.dumps(core))
    with pytest.raises(weights.Refused, match="both add a marker"):
        checkpoints.load(copy)
    assert checkpoints.load(copy, template="hh_raw").template.name == "hh_raw"


def test_the_sidecar_is_checked(copy):
    with pytest.raises(ValueError, match="does not hold"):
        checkpoints.describe(copy, tempalte="hh_raw")
    (copy / checkpoints.SIDECAR).write_text('{"tempalte": "hh_raw"}')
    with pytest.raises(ValueError, match="no other keys than"):
        checkpoints.load(copy)


def test_what_is_neither_folder_nor_model_says_so(monkeypatch):
    # The environment is read at import, so the library's own switch is set too.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="neither a folder nor a name in the catalogue"):
        checkpoints.load("./no/such/folder")
    with pytest.raises(FileNotFoundError, match="'someone/model' is no folder here, and the hub"):
        checkpoints.load("someone/model")
    with pytest.raises(FileNotFoundError, match="pythia-2.8b: unidentified"):
        checkpoints.load("Pythia-2.8B")


def test_a_model_of_the_catalogue_is_loaded_by_its_facts(monkeypatch, tmp_path):
    """GPT-J's repository in little: one pickle, no configuration, the tokenizer elsewhere."""
    torch.manual_seed(3)
    settings = tiny_models.config("gptj")
    from transformers import GPTJModel

    backbone = GPTJModel(settings)
    state = {f"transformer.{key}": value for key, value in backbone.state_dict().items()}
    commit, words = tmp_path / ("c" * 40), tmp_path / "words"
    commit.mkdir()
    torch.save({**state, "v_head.weight": torch.ones(1, 32)}, commit / "hf_ckpt.pt")
    tiny_models.tokenizer("<|endoftext|>").save_pretrained(words)
    row = catalogue.row("GPT-J")._replace(config=settings.to_dict(), max_tokens=128)
    monkeypatch.setattr(catalogue, "row", lambda name: row)
    monkeypatch.setattr(catalogue, "reach", lambda row: (True, "in the local cache"))
    asked = {}

    def snapshot(hub_id, revision=None, allow_patterns=()):
        asked[hub_id] = list(allow_patterns)
        return str(words if hub_id == row.tokenizer else commit)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(weights.Refused, match="a pickle can run code"):
        checkpoints.load("GPT-J")
    assert "*.pt" not in asked[row.hub_id] and "*.py" not in asked[row.hub_id]
    network = checkpoints.load("GPT-J", allow_pickle=True)
    assert "*.pt" in asked[row.hub_id] and "*.py" not in asked[row.hub_id]
    # Of the repository that only lends its tokenizer no weights are fetched, whatever is allowed.
    assert "*.safetensors" in asked[row.hub_id] and "*.json" in asked[row.tokenizer]
    assert not {"*.safetensors", "*.bin", "*.pt"} & set(asked[row.tokenizer])
    assert network.revision == commit.name and network.name == row.name
    assert network.template.render(tiny_models.PROMPTS[0], "x").endswith("x<|endoftext|>")
    assert (network.max_tokens, network.truncation) == (128, "left")


def test_an_implicit_reward_is_no_single_checkpoint(monkeypatch):
    monkeypatch.setattr(catalogue, "reach", lambda row: (True, "on the hub"))
    with pytest.raises(weights.Refused, match="implicit reward of two models"):
        checkpoints.load("archangel-dpo-pythia-2.8b")
