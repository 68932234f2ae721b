"""Policies that learn from a reward model by reinforcement: PPO (Ouyang et al. 2022, equation 2;
the paper's 4.1) and, beside it, RLOO (Ahmadian et al. 2024), which has no value model and samples
several responses to each prompt instead.

TRL removed its PPOTrainer after 1.12.0; all that depends on it is in :func:`ppo`. Any text reward
model drives both, with whatever tokenizer: it gets prompts and responses as texts. Rewards are
standardised on fixed reference responses, since raw scales differ between reward models by orders
of magnitude, and with them what a KL coefficient means.
"""

import copy
import gc
import io
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from typing import NamedTuple

import pandas as pd

from helpers import policies, rewards, sequences, training
from helpers.standardised import Rewards, Standard


class Config(NamedTuple):
    """How a policy is trained on rewards. The defaults suit one of a million parameters."""

    # TRL's default of 3e-6 and the paper's 1.41e-5 are for billions of parameters. In the gold
    # world, with a reward model that is right on 85 % of pairs and 30 updates of one seed, 3e-4
    # raised the reward by half a deviation within 2 nats, and gold stayed as it was (0.53 to 0.54);
    # 1e-3 raised it by 0.9 within 5 nats, and gold fell to 0.37.
    learning_rate: float = 3e-4
    # Batches of responses that are sampled; the rate falls linearly to 0 over them.
    updates: int = 30
    # Responses an update and process. TRL <= 0.11, the paper's, took 128; RLOO's form groups.
    batch_size: int = 64
    # PPO: passes over a batch of responses. 4 is that of TRL and of the paper's TRL.
    epochs: int = 4
    # PPO: steps in a pass; TRL's default.
    mini_batches: int = 1
    # RLOO: responses to one prompt, the others' mean reward being the baseline of each. Ahmadian
    # et al. took 2 and 4; more did better.
    generations: int = 4
    # Most tokens of a response: 99 % of the gold world's have fewer.
    response_length: int = 64
    # 1 samples the policy itself, so that the KL logged is the policy's. TRL's PPO has 0.7.
    temperature: float = 1.0
    # Reward a nat of KL from the reference. TRL's 0.05, with rewards of standard deviation 1; the
    # paper's TRL adapted its 0.2. In the gold world 0.2 held a run (as above, 24 updates) at half a
    # nat, and gold rose from 0.53 to 0.66: the reward model is soon exploited beyond that. With two
    # passes a batch, from a better start: 0.72 to 0.81 at half a nat. All are single runs.
    kl_coef: float = 0.05
    # Standard deviations that a response without an end loses; TRL's documentation advises 1.
    missing_eos_penalty: float = 1.0
    # PPO: weight of the value loss, discount, and bias of the advantages; TRL's and the paper's.
    value_coef: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    # Clip range of the probability ratios, TRL's and the paper's.
    clip: float = 0.2
    # Nats a response above which a run counts as diverged; as in helpers.align_dpo.
    most_kl: float = 100.0
    # Rank of LoRA adapters on all linear layers; None trains all weights. With adapters the value
    # model trains its head only.
    lora_rank: int | None = None
    # bfloat16 in the products, float32 weights. Off: ratios of probabilities need digits.
    autocast: bool = False
    # One thread: sums then have one order and a run repeats to the last digit. None: as torch has.
    threads: int | None = 1


class Trained(NamedTuple):
    """The trained policy (that which was given is left as it is: it is the reference); the log, a
    row an update; the seconds; and why the run was stopped (empty: it was not).

    Columns that both methods have: ``step``, ``loss``, ``reward`` (mean, in standard deviations of
    the reference responses' rewards, without penalties), ``raw_reward`` (as the reward model gives
    it), ``kl`` (mean log-probability ratio in nats a response, from the reference), ``length``
    (tokens, end marker included), ``eos_rate`` (share of responses that came to an end) and
    ``entropy`` (PPO: nats a response; RLOO: nats a token). Others keep TRL's names.
    """

    policy: policies.Policy
    history: pd.DataFrame
    seconds: float
    stopped: str


def ppo(
    policy: policies.Policy,
    score: rewards.Score,
    reference: Standard,
    prompts: Sequence[str],
    config: Config,
    seed: int,
    gold: rewards.Score | None = None,
) -> Trained:
    """Train a copy of the policy on rewards of its own responses to the prompts, by PPO.

    The reward of a response is its score, standardised by ``reference``, less the penalty for no
    end; at each token ``kl_coef`` times the log-probability ratio to the policy that was given is
    taken off. The value model has the policy's weights under a head of zeros: the mean of
    standardised rewards is 0. ``gold`` adds its mean to the log and does nothing else. Same seed,
    same policy, on one thread of one machine. Raises ValueError for fewer prompts than a batch has
    responses, and for a tokenizer whose padding is its end marker, which TRL's PPO cannot tell
    apart.
    """
    tokenizer = policy.tokenizer
    together = config.batch_size * training.processes()
    if len(prompts) < together:  # TRL would look for a batch for ever
        raise ValueError(f"{len(prompts)} prompts for batches of {together}")
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        raise ValueError(
            f"{policy.name}: the padding token {tokenizer.pad_token!r} must be another than the "
            "end marker, or no response would ever end; give the tokenizer one"
        )
    from datasets import Dataset

    known = policies.prompt_tokens(policy, prompts, config.response_length)
    seen = Rewards(policy, score, reference, gold)
    copied = policies.duplicate(policy)
    with training.session(seed, config.threads) as folder, redirect_stdout(io.StringIO()):
        os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # the pin is known: see the module's text
        from trl.experimental.ppo import PPOConfig, PPOTrainer

        arguments = PPOConfig(
            **training.arguments(folder, seed),
            learning_rate=config.learning_rate,
            total_episodes=config.updates * together,
            per_device_train_batch_size=config.batch_size,
            local_rollout_forward_batch_size=config.batch_size,
            num_ppo_epochs=config.epochs,
            num_mini_batches=config.mini_batches,
            response_length=config.response_length,
            temperature=config.temperature,
            kl_coef=config.kl_coef,
            missing_eos_penalty=config.missing_eos_penalty,
            vf_coef=config.value_coef,
            gamma=config.gamma,
            lam=config.lam,
            cliprange=config.clip,
            cliprange_value=config.clip,
            stop_token="eos",
            num_sample_generations=0,
            bf16=config.autocast,
            logging_steps=1,
        )
        data = Dataset.from_list([{"input_ids": ids} for ids in known])
        trainer = PPOTrainer(
            args=arguments,
            processing_class=tokenizer,
            model=copied.model,
            ref_model=None if config.lora_rank else policy.model,
            reward_model=_shim(seen, dict(zip(map(tuple, known), prompts))),
            value_model=_value_model(policy, head_only=config.lora_rank is not None),
            train_dataset=data,
            eval_dataset=data.select(range(1)),
            data_collator=partial(_left_padded, pad=tokenizer.pad_token_id),
            peft_config=training.lora(config.lora_rank, "CAUSAL_LM") if config.lora_rank else None,
        )

        def measure(row: dict) -> dict[str, float]:
            return seen.row() | {
                "num_tokens": seen.tokens,
                "loss": row["loss/policy_avg"] + config.value_coef * row["loss/value_avg"],
                "kl": row["objective/kl"],
                "entropy": row["objective/entropy"],
            }

        # TRL collects garbage twice an update. Looking each time through what was there before
        # is most of the time of a small run.
        gc.freeze()
        try:
            done = training.run(trainer, most_kl=config.most_kl, measure=measure)
        finally:
            gc.unfreeze()
    model = training.finished(trainer.policy_model, policy.model)
    return Trained(copied._replace(model=model), *done)


def rloo(
    policy: policies.Policy,
    score: rewards.Score,
    reference: Standard,
    prompts: Sequence[str],
    config: Config,
    seed: int,
    gold: rewards.Score | None = None,
) -> Trained:
    """As :func:`ppo`, by REINFORCE with a leave-one-out baseline; KL is part of the reward of the
    whole response. An update samples ``generations`` responses to each of its prompts."""
    if config.batch_size % config.generations:
        raise ValueError(
            f"batches of {config.batch_size} do not consist of groups of {config.generations}"
        )
    from datasets import Dataset
    from safetensors.torch import save_model

    seen = Rewards(policy, score, reference, gold)
    copied = policies.duplicate(policy)

    def reward(prompts, completions, completion_ids, **_):
        found = seen(prompts, completion_ids)
        return (found - config.missing_eos_penalty * ~seen.ended(completion_ids)).tolist()

    with training.session(seed, config.threads) as folder:
        from trl import RLOOConfig, RLOOTrainer

        class Tokenised(RLOOTrainer):
            """Tokenises prompts as the policy does, by its template."""

            def _tokenize_prompts(self, prompts):
                return policies.prompt_tokens(policy, prompts, config.response_length), None, {}

        # TRL loads the reference from where the policy's configuration says it is. The library's
        # save_pretrained would write it in the first of several processes alone.
        settings = copy.deepcopy(policy.model.config)
        settings.architectures = [type(policy.model).__name__]
        settings.save_pretrained(f"{folder}/reference")
        weights = f"{folder}/reference/model.safetensors"
        save_model(policy.model, weights, metadata={"format": "pt"})
        named, copied.model.config._name_or_path = (
            copied.model.config._name_or_path,
            f"{folder}/reference",
        )
        arguments = RLOOConfig(
            **training.arguments(folder, seed),
            learning_rate=config.learning_rate,
            max_steps=config.updates,
            per_device_train_batch_size=config.batch_size,
            num_generations=config.generations,
            max_completion_length=config.response_length,
            temperature=config.temperature,
            beta=config.kl_coef,
            epsilon=config.clip,
            bf16=config.autocast,
            logging_steps=1,
        )
        trainer = Tokenised(
            model=copied.model,
            reward_funcs=reward,
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": list(prompts)}),
            processing_class=policy.tokenizer,
            peft_config=training.lora(config.lora_rank, "CAUSAL_LM") if config.lora_rank else None,
        )

        def measure(row: dict) -> dict[str, float]:
            # TRL's is a mean over tokens.
            found = seen.row()
            return found | {"kl": row.get("kl", 0.0) * found["length"], "kl_token": row.get("kl")}

        done = training.run(trainer, most_kl=config.most_kl, measure=measure)
        copied.model.config._name_or_path = named
    model = training.finished(trainer.model, policy.model)
    return Trained(copied._replace(model=model), *done)


def _left_padded(rows: list[dict], pad: int) -> dict:
    """TRL's own collator pads at the tokenizer's side, which would be the wrong one in silence."""
    ids, _ = sequences.padded([row["input_ids"] for row in rows], pad, "left")
    return {"input_ids": ids}


def _shim(seen: Rewards, texts: dict[tuple[int, ...], str]):
    """What TRL's PPO takes for a reward model: it calls ``backbone`` with padded tokens of prompts
    and responses, then ``score`` with what came back, and reads one position of each row.

    Prompts are found by their tokens among ``texts``. They all end at the same column, the last
    at which every row's tokens so far are a known prompt.
    """
    import torch

    class Backbone(torch.nn.Module):
        def forward(self, input_ids, attention_mask, **_):
            rows = [ids[mask].tolist() for ids, mask in zip(input_ids, attention_mask.bool())]
            padding = [int(mask.long().argmax()) for mask in attention_mask]
            width = input_ids.shape[1]
            for end in range(width - 1, 0, -1):
                begins = [tuple(row[: end - at]) for row, at in zip(rows, padding)]
                if all(begin in texts for begin in begins):
                    break
            else:
                raise ValueError("no prompt of the training data begins these rows")
            prompts = [texts[begin] for begin in begins]
            found = seen(prompts, [row[len(begin) :] for row, begin in zip(rows, begins)])
            values = torch.tensor(found, dtype=torch.float32, device=input_ids.device)

            class Output:
                hidden_states = (values[:, None, None].expand(-1, width, 1),)

            return Output

    class Shim(torch.nn.Module):
        base_model_prefix = "backbone"

        def __init__(self):
            super().__init__()
            self.backbone = Backbone()

        def score(self, hidden):
            return hidden

    return Shim()


def _value_model(policy: policies.Policy, head_only: bool):
    """A classifier with the policy's backbone under a head of zeros."""
    import torch
    from transformers import AutoModelForSequenceClassification

    settings = copy.deepcopy(policy.model.config)
    settings.num_labels, settings.pad_token_id = 1, policy.tokenizer.pad_token_id
    model = AutoModelForSequenceClassification.from_config(settings)
    backbone = getattr(model, model.base_model_prefix)
    backbone.load_state_dict(getattr(policy.model, policy.model.base_model_prefix).state_dict())
    torch.nn.init.zeros_(model.score.weight)
    backbone.requires_grad_(not head_only)
    return model
