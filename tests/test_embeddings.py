import zlib

import numpy as np
import pytest
import tiny_models
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from helpers import checkpoints, embeddings, rewards, scoring, smollm2, templates
from helpers.pairs import ASSISTANT, HUMAN, frame, parse

GOOD = ["Sure, here is how you do it.", "Happy to help you with that.", "Here is a clear answer."]
BAD = ["That is a stupid question.", "Leave me alone.", "I hate you, go away."]


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("ELEPHANT_CACHE", str(tmp_path))


def make(n: int, seed: int = 0, wrong: float = 0.0, prompts: int = 1_000):
    """n pairs in which a kind answer wins, but for a share of wrong labels."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(n):
        sides = [f" {rng.choice(words)} {rng.integers(99)}" for words in (GOOD, BAD)]
        if rng.random() < wrong:
            sides.reverse()
        prompt = f"{HUMAN} Question {i % prompts} of {seed}?{ASSISTANT}"
        record = parse(prompt + sides[0], prompt + sides[1])
        records.append(dict(record, subset="s", split="train", row=i))
    return frame(records)


def counted(prompts, responses):
    """Four features: kind words, digits, a constant, and noise of a large scale."""
    kind = [sum(word in r for word in ("Sure", "Happy", "clear")) for r in responses]
    digits = [sum(c.isdigit() for c in r) for r in responses]
    noise = [1e4 * (zlib.crc32(r.encode()) % 101) for r in responses]
    return np.column_stack([kind, digits, np.ones(len(kind)), noise]).astype(float)


def fit(data, seed=0):
    return embeddings._bradley_terry("counted", "test", data, counted, {"base": "counts"})


def swap(data):
    return data.assign(chosen=data["rejected"], rejected=data["chosen"])


def test_a_planted_feature_is_found_under_noise_and_wrong_labels():
    scorer = fit(make(200, wrong=0.2))
    assert (rewards.margins(scorer, make(100, seed=1)) > 0).all()
    weights = scorer.score.weights
    assert weights.shape == (4,) and weights[0] > 100 * abs(weights[3] * 1e4 / 30)
    assert weights[2] == 0, "what is equal on both sides has no weight"


def test_no_side_is_preferred_and_wrong_labels_turn_the_sign():
    data = make(60, wrong=0.3)
    one, other = fit(data), fit(swap(data))
    np.testing.assert_allclose(one.score.weights, -other.score.weights, rtol=1e-3, atol=1e-6)
    same = data.assign(rejected=data["chosen"])
    assert not rewards.margins(one, same).any()


def test_the_penalty_is_chosen_on_prompts_that_were_not_seen(monkeypatch):
    data = make(40, prompts=10)
    seen = []
    folds = embeddings._folds
    monkeypatch.setattr(embeddings, "_folds", lambda g: seen.append((g, folds(g))) or folds(g))
    fit(data)
    ((groups, cut),) = seen
    assert len(cut) == embeddings.FOLDS
    held = np.concatenate([b for _, b in cut])
    assert sorted(held) == list(range(40))
    for learn, hold in cut:
        assert not {groups[i] for i in learn} & {groups[i] for i in hold}


def test_labels_without_a_pattern_get_a_strong_penalty():
    rng = np.random.default_rng(0)
    data, turned = make(300), rng.random(300) < 0.5
    random = data.assign(
        chosen=np.where(turned, data["rejected"], data["chosen"]),
        rejected=np.where(turned, data["chosen"], data["rejected"]),
    ).astype(data.dtypes)
    strong, weak = fit(random).score, fit(data).score
    assert strong.penalty < weak.penalty == embeddings.PENALTIES[-1]
    assert abs(strong.weights[0]) < abs(weak.weights[0]) / 20


def test_pairs_of_one_prompt_are_too_few():
    with pytest.raises(ValueError, match="5 pairs of 1 prompts"):
        fit(make(5, prompts=1))


@pytest.mark.parametrize("learner", [embeddings.minilm_bt, embeddings.minilm_prompt_bt])
def test_kindness_is_learned_by_meaning_and_carries_over(learner):
    data = make(40)
    scorer = learner(data, 0)
    unseen = ["I am glad to assist.", "Shut up, idiot."]
    kind, rude = scorer.score([f"{HUMAN} Hello?{ASSISTANT}"] * 2, unseen)
    assert kind > rude
    assert scorer.family == "minilm" and scorer.pair_ids == set(data["pair_id"])
    assert scorer.prompts == set(data["prompt"]) and scorer.learned == "original labels of s/train"
    assert scorer.facts["licence"] == "Apache-2.0" and scorer.facts["max_tokens"] == "256"


def test_both_sides_prompts_are_named():
    record = parse(f"{HUMAN} One?{ASSISTANT} a b", f"{HUMAN} Two?{ASSISTANT} c")
    other = frame([dict(record, subset="t", split="test", row=0)])
    data = frame([*make(20).to_dict("records"), *other.to_dict("records")])
    data["rejected_prompt"] = data["rejected_prompt"].where(data["rejected_prompt"].notna())
    scorer = fit(data)
    assert {f"{HUMAN} One?{ASSISTANT}", f"{HUMAN} Two?{ASSISTANT}"} <= scorer.prompts
    assert scorer.learned == "original labels of s/train, t/test"


def test_the_scale_of_a_member_does_not_decide_an_ensemble():
    def times(factor):
        def learner(data, seed):
            scorer = fit(data, seed)
            return scorer._replace(score=lambda p, r: factor * scorer.score(p, r))

        return learner

    data, test = make(80, wrong=0.2), make(30, seed=1)
    both = {"tfidf": rewards.tfidf_bt, "counted": times(1.0)}
    one = embeddings.ensemble_bt(data, 0, both)
    other = embeddings.ensemble_bt(data, 0, both | {"counted": times(1e6)})
    np.testing.assert_allclose(rewards.margins(one, test), rewards.margins(other, test), rtol=1e-6)
    assert (rewards.margins(one, test) > 0).mean() > 0.9
    assert one.facts["base"] == "tfidf-words, counted" and one.family == "ensemble"


def test_an_ensemble_is_the_mean_of_standardised_margins():
    data = make(80, wrong=0.2)
    alone = embeddings.ensemble_bt(data, 0, {"counted": fit})
    assert 0.5 < rewards.margins(alone, data).std() < 2
    twice = embeddings.ensemble_bt(data, 0, {"counted": fit, "again": fit})
    np.testing.assert_allclose(rewards.margins(twice, data), rewards.margins(alone, data))


def test_a_member_that_ties_everything_is_named():
    def constant(data, seed):
        return fit(data, seed)._replace(name="constant", score=lambda p, r: np.zeros(len(r)))

    with pytest.raises(ValueError, match="'constant'"):
        embeddings.ensemble_bt(make(20), 0, {"c": constant})


def test_warming_computes_both_sides_at_once():
    calls = []
    record = parse(f"{HUMAN} One?{ASSISTANT} a b", f"{HUMAN} Two?{ASSISTANT} c")
    data = frame([dict(record, subset="t", split="test", row=0)])
    embeddings.warm(data, lambda p, r, progress: calls.append((p, r, progress)))
    one, two = (f"{HUMAN} {n}?{ASSISTANT}" for n in ("One", "Two"))
    assert calls == [([one, two], [" a b", " c"], True)]


@pytest.fixture
def tiny(monkeypatch):
    """A tiny random classifier in SmolLM2's place, its weights rounded to bfloat16 as those are."""
    made = tiny_models.tokenizer("<|im_end|>", "<|endoftext|>")
    config = tiny_models.config("llama", num_labels=1, pad_token_id=made.pad_token_id)

    def load(dtype):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        # Parameters only: the angles of the positions stay in float32, as from_pretrained has it.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16).to(dtype)
        torch.nn.init.zeros_(model.score.weight)
        template = templates.named("hh_raw_eos", made)
        return scoring.Network("tiny", "0", template, made, model.eval(), 512, "left")

    network = load(torch.float32)
    monkeypatch.setattr(smollm2, "load", load)
    monkeypatch.setattr(smollm2, "network", lambda: network)


def test_a_saved_head_is_a_stock_classifier_with_the_same_scores(tiny, tmp_path):
    data = make(30)
    scorer = embeddings.smollm2_bt(data, 0)
    folder = embeddings.save_reward_model(scorer, tmp_path / "saved")
    prompts, responses = data["prompt"].tolist(), data["chosen"].tolist()
    expected = scorer.score(prompts, responses)
    assert np.ptp(expected) > 1e-3

    loaded = checkpoints.load(folder)
    np.testing.assert_allclose(
        scoring.scores(loaded, prompts, responses)[0], expected, rtol=1e-4, atol=1e-5
    )
    assert checkpoints.described(folder)["learned"] == "original labels of s/train"

    # As anybody would: no code of this project, batches padded by the tokenizer.
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [f"{p} {r.removeprefix(' ')}<|im_end|>" for p, r in zip(prompts, responses)]
    with torch.inference_mode():
        stock = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits[:, 0].numpy()
    np.testing.assert_allclose(stock, expected, rtol=1e-4, atol=1e-5)


def test_only_heads_on_smollm2_are_saved(tmp_path):
    with pytest.raises(TypeError, match="longer is no head on SmolLM2"):
        embeddings.save_reward_model(rewards.length(1), tmp_path / "saved")
    with pytest.raises(TypeError, match="counted is no head"):
        embeddings.save_reward_model(fit(make(20)), tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_the_log_likelihood_saw_no_label(monkeypatch):
    monkeypatch.setattr(smollm2, "chat_name", lambda: "chat 0")
    monkeypatch.setattr(
        smollm2, "log_likelihood", lambda p, r: -np.array([[len(text)] for text in r])
    )
    scorer = embeddings.smollm2_loglik(make(5), 0)
    assert not scorer.pair_ids and not scorer.prompts and "no preference labels" in scorer.learned
    assert scorer.score(["", ""], ["ab", "abc"]).tolist() == [-2, -3]


@pytest.mark.slow
def test_the_real_smollm2_learns_and_is_saved(tmp_path):
    data = make(24)
    embeddings.warm(data, smollm2.hidden_states, progress=False)
    scorer = embeddings.smollm2_bt(data, 0)
    assert (rewards.margins(scorer, make(8, seed=1)) > 0).all()
    folder = embeddings.save_reward_model(scorer, tmp_path / "saved")
    loaded = checkpoints.load(folder, dtype=str(scoring.best_dtype()).removeprefix("torch."))
    prompts, responses = data["prompt"].tolist(), data["chosen"].tolist()
    found, _ = scoring.scores(loaded, prompts, responses)
    expected = scorer.score(prompts, responses)
    # In bfloat16 the features of a text depend on its batch in their third digit.
    np.testing.assert_allclose(found, expected, atol=0.05 * np.ptp(expected))
