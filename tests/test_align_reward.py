import numpy as np
import pandas as pd
import pytest
import torch

from helpers import align_reward, graded, scoring, smollm2, training, world
from helpers.align_reward import Config
from helpers.pairs import ASSISTANT, HUMAN, frame, parse


def make(n: int, seed: int = 0):
    """n pairs in which the answer that names a colour wins."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(n):
        item = rng.choice(["kettle", "lamp", "drum", "kite"])
        prompt = f"{HUMAN} tell me about the {item} .{ASSISTANT}"
        good, bad = (f" the {item} is {rng.choice(w)} ." for w in (["red", "blue"], ["odd", "of"]))
        record = parse(prompt + good + f" {i}", prompt + bad)
        records.append(dict(record, subset="s", split="train", row=i))
    return frame(records)


def small(seed: int = 0):
    """A classifier of one tiny layer on the gold world's words."""
    from transformers import GPTNeoXConfig, GPTNeoXForSequenceClassification

    whole = graded.neox(seed)
    shape = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    config = GPTNeoXConfig(**{**whole.model.config.to_dict(), **shape})
    torch.manual_seed(seed)
    return whole._replace(model=GPTNeoXForSequenceClassification(config))


CONFIG = Config(learning_rate=1e-2, epochs=3, batch_size=8, logging_steps=4)


@pytest.fixture(scope="module")
def trained():
    return align_reward.train(small(), make(64), CONFIG, seed=0)


def accuracy(network, data):
    chosen, rejected = (
        scoring.scores(network, data["prompt"].tolist(), data[side].tolist())[0]
        for side in ("chosen", "rejected")
    )
    return (chosen > rejected).mean()


def test_a_planted_word_is_learned_and_carries_over(trained):
    assert accuracy(trained.network, make(40, seed=1)) > 0.95


def test_the_history_says_what_happened(trained):
    history = trained.history
    assert history["step"].tolist() == [4, 8, 12, 16, 20, 24], "64 pairs, 8 a step, 3 epochs"
    assert {"loss", "accuracy", "margin", "learning_rate", "epoch"} <= set(history.columns)
    assert history["loss"].iloc[-1] < 0.3 < 0.5 < history["loss"].iloc[0]
    assert history["learning_rate"].max() <= 1e-2 and history["learning_rate"].iloc[-1] < 1e-3
    assert trained.seconds > 0


def test_the_same_seed_gives_the_same_model_and_another_another(trained):
    torch.manual_seed(12345)  # what happened before must not matter
    again = align_reward.train(small(), make(64), CONFIG, seed=0)
    other = align_reward.train(small(), make(64), CONFIG, seed=1)
    states = [t.network.model.state_dict() for t in (trained, again, other)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert any(not torch.equal(value, states[2][key]) for key, value in states[0].items())
    pd.testing.assert_frame_equal(again.history, trained.history)
    assert other.history["loss"].tolist() != trained.history["loss"].tolist()


def test_adapters_follow_the_seed_too():
    config = CONFIG._replace(lora_rank=2, epochs=1)
    logs = []
    for before, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(before)  # what happened before must not matter
        logs.append(align_reward.train(small(), make(16), config, seed).history["loss"].tolist())
    assert logs[0] == logs[1] != logs[2]


def test_a_run_that_diverges_is_stopped_and_kept():
    config = CONFIG._replace(learning_rate=float("inf"), logging_steps=1)
    lost = align_reward.train(small(), make(32), config, seed=0)
    assert "is nan at step" in lost.stopped and 0 < len(lost.history) < 12


def test_what_comes_back_is_ready_to_score_and_the_threads_are_as_before(trained):
    assert not trained.network.model.training
    assert not any(p.requires_grad for p in trained.network.model.parameters())
    before = torch.get_num_threads()
    with training.threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_short_training_has_a_history_too():
    config = CONFIG._replace(epochs=1, logging_steps=10)
    assert align_reward.train(small(), make(9), config, seed=0).history["step"].tolist() == [2]


def test_lora_moves_a_small_part_and_is_merged():
    network = small()
    before = {key: value.clone() for key, value in network.model.state_dict().items()}
    config = CONFIG._replace(lora_rank=2)
    after = align_reward.train(network, make(64), config, seed=0).network.model
    assert type(after).__name__ == "GPTNeoXForSequenceClassification"
    state = after.state_dict()
    assert state.keys() == before.keys()
    moved = {key for key in state if not torch.equal(state[key], before[key])}
    assert "score.weight" in moved and any("attention" in key for key in moved)
    assert not any("embed" in key or "norm" in key for key in moved)
    change = (
        state["gpt_neox.layers.0.attention.dense.weight"]
        - before["gpt_neox.layers.0.attention.dense.weight"]
    )
    assert torch.linalg.matrix_rank(change, rtol=1e-3) == 2


def test_long_texts_are_cut_and_no_pair_is_lost():
    data = world.make(20, seed=0).pairs
    network = small()._replace(max_tokens=12)
    examples = align_reward._examples(network, data)
    assert len(examples) == 20
    for example, prompt, chosen in zip(examples, data["prompt"], data["chosen"]):
        text = network.template.render(prompt, chosen)
        assert example["chosen_ids"] == network.tokenizer(text).input_ids[-12:]
        assert max(len(example["chosen_ids"]), len(example["rejected_ids"])) == example["length"]
        assert example["length"] <= 12
    right = align_reward._examples(network._replace(truncation="right"), data)
    text = network.template.render(data["prompt"][0], data["chosen"][0])
    assert right[0]["chosen_ids"] == network.tokenizer(text).input_ids[:12]


def test_each_side_has_its_own_prompt():
    record = parse(f"{HUMAN} red{ASSISTANT} blue", f"{HUMAN} green{ASSISTANT} blue")
    data = frame([dict(record, subset="s", split="train", row=0)])
    (example,) = align_reward._examples(small(), data)
    said = {k: small().tokenizer.decode(v) for k, v in example.items() if k != "length"}
    assert "red" in said["chosen_ids"] and "green" in said["rejected_ids"]


def test_padding_that_ends_a_text_is_refused():
    network = small()
    network.tokenizer.pad_token = network.tokenizer.eos_token
    with pytest.raises(ValueError, match="end in the padding token"):
        align_reward.train(network, make(4), CONFIG, seed=0)
    with pytest.raises(ValueError, match="no pairs"):
        align_reward.train(network, make(4).head(0), CONFIG, seed=0)


@pytest.mark.slow
def test_smollm2_is_tuned_with_lora_on_eight_pairs(tmp_path, monkeypatch):
    monkeypatch.setenv("ELEPHANT_CACHE", str(tmp_path))
    network, data = smollm2.load(torch.float32), make(8)
    config = align_reward.LORA._replace(autocast=True, epochs=3, threads=None)
    trained = align_reward.train(network, data, config, seed=0)
    assert len(trained.history) == 6 and np.isfinite(trained.history["loss"]).all()
    assert trained.history["loss"].iloc[-1] < np.log(2) < trained.history["loss"].iloc[0] + 0.2
    assert type(trained.network.model).__name__ == "LlamaForSequenceClassification"
    values, _ = scoring.scores(trained.network, data["prompt"].tolist(), data["chosen"].tolist())
    assert np.ptp(values) > 0
