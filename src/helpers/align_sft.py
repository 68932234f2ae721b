"""Supervised fine-tuning by TRL's SFTTrainer: the policy learns to write the responses it is
shown. The first stage of Ouyang et al. (2022) and of the paper; here also what makes a policy out
of an untrained model."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from helpers import policies, training


class Config(NamedTuple):
    """How a policy is tuned on responses. The defaults make one of a million parameters from
    nothing in the gold world."""

    # TRL's default of 2e-5 is for pretrained models; from nothing, the rate of the reward model of
    # helpers.align_reward.
    learning_rate: float = 1e-3
    # Over the responses. DPO's authors and the paper take one pass over a pretrained model's data;
    # from nothing the language itself has to be learned, and one pass over 1,000 is too few for it.
    epochs: int = 6
    # Responses a step on one device, times `accumulation`. Six passes over 2,000 responses of the
    # gold world: with steps of 8 at 1e-3 88 % of 200 samples are well-formed, with 32 at 2e-3 74 %,
    # in equal time. Neither is enough to start from: see helpers.arms.
    batch_size: int = 8
    # Batches whose gradients are summed to a step: more changes memory, not the result.
    accumulation: int = 1
    # Share of the steps over which the rate rises from 0; it falls linearly to 0 after.
    warmup: float = 0.05
    # AdamW's decay: none, as Transformers and TRL have it.
    weight_decay: float = 0.0
    # Rank of LoRA adapters on all linear layers; None trains all weights.
    lora_rank: int | None = None
    # Steps between two rows of the history, which has one at least; TRL's default.
    logging_steps: int = 10
    # bfloat16 in the products, float32 weights. Off: see helpers.align_reward.
    autocast: bool = False
    # One thread: sums then have one order and a run repeats to the last digit. None: as torch has.
    threads: int | None = 1


# A pretrained model: TRL's rate for LoRA is ten times that for all weights; one pass.
LORA = Config(learning_rate=2e-4, epochs=1, batch_size=4, lora_rank=16, logging_steps=1)


class Trained(NamedTuple):
    """The tuned policy (that which was given is left as it is), TRL's log, a row every
    ``logging_steps`` (``step``, ``epoch``, ``loss`` in nats a token, ...), the seconds, and why the
    run was stopped (empty: it was not)."""

    policy: policies.Policy
    history: pd.DataFrame
    seconds: float
    stopped: str


def train(
    policy: policies.Policy,
    prompts: Sequence[str],
    responses: Sequence[str],
    config: Config,
    seed: int,
    *,
    checkpoints: Path | None = None,
) -> Trained:
    """Tune a copy of the policy on responses to prompts.

    The loss is the mean negative log-probability of the responses' tokens and end markers; prompts
    do not count. Tokens are those of :func:`helpers.policies.encode`. With LoRA the adapters stay
    apart (:func:`helpers.policies.adapter_off`). Same seed, same policy, on one thread of one
    machine. ``checkpoints``: see :func:`helpers.training.run`. Raises ValueError where there is
    nothing to learn from.
    """
    if not len(prompts):
        raise ValueError("no responses to tune on")
    from datasets import Dataset

    rows = [
        {
            "input_ids": ids,
            "labels": [-100] * begin + ids[begin:],
            "length": len(ids),
        }
        for ids, begin in policies.encode(policy, prompts, responses)
    ]
    copied = policies.duplicate(policy)
    steps = -(-len(rows) // (config.batch_size * config.accumulation)) * config.epochs
    with training.session(seed, config.threads, checkpoints) as folder:
        from trl import SFTConfig, SFTTrainer

        arguments = SFTConfig(
            **training.arguments(folder, seed),
            learning_rate=config.learning_rate,
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            gradient_accumulation_steps=config.accumulation,
            warmup_steps=config.warmup,
            weight_decay=config.weight_decay,
            logging_steps=min(config.logging_steps, steps),
            max_length=None,  # cut by policies.encode
            bf16=config.autocast,
            # Responses of like length share a batch: the rest would be padding.
            train_sampling_strategy="group_by_length",
            remove_unused_columns=False,
        )
        trainer = SFTTrainer(
            model=copied.model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=policy.tokenizer,
            peft_config=training.lora(config.lora_rank, "CAUSAL_LM") if config.lora_rank else None,
        )
        done = training.run(trainer, checkpoints=checkpoints)
    model = training.finished(trainer.model, policy.model)
    return Trained(copied._replace(model=model), *done)
