import numpy as np
import pandas as pd
import pytest
import torch
from test_policies import small

from helpers import align_dpo, policies, world
from helpers.align_dpo import Config

DATA = world.make(64, seed=0).pairs
CONFIG = Config(learning_rate=3e-3, epochs=2, batch_size=8, logging_steps=1, kl_every=0)
ONE = CONFIG._replace(epochs=1, batch_size=64)


def margins(policy, before, data=DATA):
    """Of each pair, in nats: summed, and a token."""
    found = []
    for side in ("chosen", "rejected"):
        tokens = policies.encode(policy, data["prompt"].tolist(), data[side].tolist())
        now, then = (policies.token_log_probabilities(p, tokens) for p in (policy, before))
        found.append([(n.sum() - t.sum(), n.mean() - t.mean()) for n, t in zip(now, then)])
    return (np.array(found[0]) - np.array(found[1])).T


@pytest.fixture(scope="module")
def trained():
    config = CONFIG._replace(kl_every=4, kl_prompts=8, kl_tokens=8)
    return align_dpo.train(small(), DATA, config, seed=0)


def test_chosen_responses_become_likelier_than_rejected_ones(trained):
    summed, _ = margins(trained.policy, small())
    assert (summed > 0).mean() > 0.8
    history = trained.history
    assert history["step"].tolist() == list(range(1, 17)), "64 pairs, 8 a step, 2 epochs"
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert trained.stopped == "" and trained.seconds > 0
    measured = history["kl"].dropna()
    assert measured.index.tolist() == [3, 7, 11, 15] and (measured > 0).all()


@pytest.mark.parametrize("loss", ["dpo", "cdpo"])
def test_the_first_loss_is_ln_2(loss):
    history = align_dpo.train(small(), DATA, CONFIG._replace(loss=loss, epochs=1), seed=0).history
    assert history["loss"][0] == pytest.approx(np.log(2), abs=1e-6)
    assert history["rewards/margins"][0] == pytest.approx(0, abs=1e-4)


def test_the_first_loss_of_ipo_is_its_target_squared():
    history = align_dpo.train(small(), DATA, CONFIG._replace(loss="ipo", epochs=1), seed=0).history
    assert history["loss"][0] == pytest.approx((1 / (2 * 0.1)) ** 2, rel=1e-5)


@pytest.mark.parametrize("loss", ["dpo", "cdpo", "ipo"])
def test_losses_are_those_of_the_papers(loss):
    # One batch of all pairs, twice: the second loss is that of the policy after the first step.
    before, start = small(0), small(1)
    known = lambda _, tokens: align_dpo.reference_log_probabilities(before, tokens)  # noqa: E731
    config = ONE._replace(loss=loss, label_smoothing=0.3)
    logged = align_dpo.train(start, DATA, config, seed=0, reference=known).history["loss"][0]
    summed, mean = margins(start, before)
    sigmoid = lambda m: np.logaddexp(0, -0.1 * m)  # noqa: E731
    expected = {
        "dpo": sigmoid(summed),
        "cdpo": 0.7 * sigmoid(summed) + 0.3 * sigmoid(-summed),
        "ipo": (mean - 5) ** 2,
    }[loss]
    assert np.ptp(summed) > 1 and logged == pytest.approx(expected.mean(), rel=1e-4)


def test_the_reference_is_computed_once_for_the_same_texts_and_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("ELEPHANT_CACHE", str(tmp_path))
    computed = []
    plain = align_dpo.reference_log_probabilities

    def counted(policy, tokens):
        computed.append(len(tokens))
        return plain(policy, tokens)

    monkeypatch.setattr(align_dpo, "reference_log_probabilities", counted)
    recall = align_dpo.remembered_log_probabilities
    tokens = policies.encode(small(), DATA["prompt"].tolist(), DATA["chosen"].tolist())
    tokens += tokens[:3]  # texts that occur twice
    first, again = recall(small(), tokens), recall(small(), tokens)
    assert computed == [67] and first.tolist() == again.tolist()
    np.testing.assert_allclose(first, plain(small(), tokens), atol=1e-4)
    recall(small(1), tokens)
    recall(small(), tokens[:-1])
    recall(small(), [t._replace(begin=t.begin + 1) for t in tokens])
    assert computed == [67, 67, 66, 67], "other weights, other lists, other beginnings"
    logs = [
        align_dpo.train(small(), DATA, CONFIG, 0, reference).history["loss"].tolist()
        for reference in (recall, recall, plain)
    ]
    assert computed[4:] == [64, 64] and logs[0] == logs[1] == pytest.approx(logs[2], rel=1e-4)


def test_cdpo_without_wrong_labels_is_dpo():
    plain, smooth = (
        align_dpo.train(small(), DATA, CONFIG._replace(loss=x, label_smoothing=0), seed=0).history
        for x in ("dpo", "cdpo")
    )
    np.testing.assert_allclose(plain["loss"], smooth["loss"], rtol=1e-4)
    with pytest.raises(ValueError, match="below one half"):
        align_dpo.train(small(), DATA, CONFIG._replace(loss="cdpo", label_smoothing=0.5), seed=0)


def test_the_same_seed_gives_the_same_log_and_another_another():
    torch.manual_seed(12345)  # what happened before must not matter
    logs = [align_dpo.train(small(), DATA, CONFIG, seed=s).history for s in (0, 0, 1)]
    noise = ["eval_runtime"]
    pd.testing.assert_frame_equal(*(h.drop(columns=noise, errors="ignore") for h in logs[:2]))
    assert logs[0]["loss"].tolist() != logs[2]["loss"].tolist()


def test_accumulated_batches_are_one_batch():
    whole, parts = (
        align_dpo.train(small(), DATA, CONFIG._replace(batch_size=b, accumulation=a), seed=0)
        for b, a in ((8, 1), (1, 8))
    )
    np.testing.assert_allclose(whole.history["loss"], parts.history["loss"], rtol=2e-3)


def test_with_the_adapter_off_it_is_the_policy_that_was_given():
    texts = DATA["prompt"].tolist(), DATA["chosen"].tolist()
    config = CONFIG._replace(lora_rank=2, epochs=1, kl_every=1, kl_prompts=4, kl_tokens=4)
    done = align_dpo.train(small(), DATA, config, seed=0)
    assert done.history["loss"][0] == pytest.approx(np.log(2), abs=1e-6)
    before = policies.log_probabilities(small(), *texts)
    assert np.abs(policies.log_probabilities(done.policy, *texts) - before).max() > 0.1
    with policies.adapter_off(done.policy) as reference:
        np.testing.assert_array_equal(policies.log_probabilities(reference, *texts), before)
    own, given = (
        policies.kl(done.policy, r, texts[0], seed=0, max_new_tokens=4) for r in (None, small())
    )
    np.testing.assert_allclose(own, given, atol=1e-5)


def test_stages_with_adapters_follow_each_other_once_merged():
    texts = DATA["prompt"].tolist(), DATA["chosen"].tolist()
    config = CONFIG._replace(lora_rank=2, epochs=1)
    first = align_dpo.train(small(), DATA, config, seed=0).policy
    whole = policies.merged(first)
    assert type(whole.model) is type(small().model)
    likely = policies.log_probabilities(first, *texts)
    np.testing.assert_allclose(policies.log_probabilities(whole, *texts), likely, atol=1e-2)
    second = align_dpo.train(whole, DATA, config, seed=0)
    assert second.history["loss"][0] == pytest.approx(np.log(2), abs=1e-6)


def test_runs_that_diverge_are_stopped_and_kept():
    config = CONFIG._replace(kl_every=1, kl_prompts=4, kl_tokens=4)
    far = align_dpo.train(small(), DATA, config._replace(most_kl=1e-6), seed=0)
    assert "above the bound of 1e-06" in far.stopped and len(far.history) == 2
    lost = align_dpo.train(small(), DATA, CONFIG._replace(learning_rate=float("inf")), seed=0)
    assert "is nan at step" in lost.stopped and len(lost.history) == 2


def test_each_side_has_its_own_prompt():
    first, second = DATA["prompt"][0], DATA["prompt"][1]
    data = DATA.head(1).assign(rejected_prompt=[second])
    (row,) = align_dpo._rows(small(), data, align_dpo.reference_log_probabilities)
    for side, prompt in (("chosen", first), ("rejected", second)):
        (tokens,) = policies.encode(small(), [prompt], [data[side].iloc[0]])
        assert (row[f"{side}_ids"], row[f"{side}_begin"]) == tokens
    batch = align_dpo._batch([row], pad=1)
    assert batch["completion_mask"].sum(1).tolist() == [
        len(row[f"{side}_ids"]) - row[f"{side}_begin"] for side in ("chosen", "rejected")
    ]
    with pytest.raises(ValueError, match="no pairs"):
        align_dpo.train(small(), data.head(0), CONFIG, seed=0)
