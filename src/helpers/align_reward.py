"""Training of reward models by TRL's RewardTrainer: the Bradley-Terry loss of Ouyang et al. (2022,
equation 1) on the score that a stock sequence classifier gives at the last token."""

import math
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from helpers import pairs, scoring, training
from helpers.scoring import Network


class Config(NamedTuple):
    """How a reward model is trained. The defaults suit a small model trained from scratch."""

    # TRL's default of 1e-4 is for pretrained models; one of half a million that starts from
    # nothing needs about ten times as much (5e-4 to 2e-3 did equally well on 1,000 pairs).
    learning_rate: float = 1e-3
    # Over pairs. More passes over noisy labels learn the noise by heart: reward models are usually
    # trained for one (Ouyang et al. 2022, C.2), but theirs had been pretrained.
    epochs: int = 3
    # Pairs a step. Ouyang et al. took 64 for 6B parameters; a small model gains from more steps.
    batch_size: int = 16
    # Share of the steps over which the rate rises from 0; it falls linearly to 0 after (TRL's
    # schedule). Without it Adam's first steps at 1e-3 can undo a new network.
    warmup: float = 0.1
    # AdamW's decay: none, as Transformers and TRL have it.
    weight_decay: float = 0.0
    # Rank of LoRA adapters (Hu et al. 2021) on all linear layers; None trains all weights.
    lora_rank: int | None = None
    # Steps between two rows of the history, which has one at least; TRL's default.
    logging_steps: int = 10
    # bfloat16 in the products, float32 weights: 2 to 3 times as fast where the processor has it.
    # Off: a model trained from scratch is too small to gain, and float32 repeats exactly.
    autocast: bool = False
    # One thread: sums then have one order and a run repeats to the last digit. None: as torch has.
    threads: int | None = 1


# Adapters on all linear layers at 2e-4, as Dettmers et al. (2023) tuned 7B models; they found that
# the rank matters little then. One pass, four pairs a step for memory.
LORA = Config(learning_rate=2e-4, epochs=1, batch_size=4, lora_rank=16, logging_steps=1)


class Trained(NamedTuple):
    """The trained network, ready to score; TRL's log, a row every ``logging_steps`` (``step``,
    ``epoch``, ``loss``, ``accuracy``, ``margin``, ``learning_rate``, ...); the seconds that the
    training took; and why it was stopped (empty: it was not)."""

    network: Network
    history: pd.DataFrame
    seconds: float
    stopped: str


def train(
    network: Network,
    data: pd.DataFrame,
    config: Config,
    seed: int,
    *,
    checkpoints: Path | None = None,
) -> Trained:
    """Train ``network.model`` (in place) on the labels of ``data``.

    Texts are those that scoring sees: the network's template, tokenizer, limit and truncation side.
    A text beyond the limit is cut, where TRL would drop its pair in silence. With LoRA the adapters
    are merged, so that what comes back is a stock classifier again. Same seed, same model, on one
    thread of one machine. ``checkpoints``: see :func:`helpers.training.run`. Raises ValueError for
    an empty frame, and where the padding token ends the texts, because the score would be read one
    token too early.
    """
    pairs.check(data)
    if data.empty:
        raise ValueError("no pairs to train on")
    from datasets import Dataset

    examples = Dataset.from_list(_examples(network, data))
    steps = config.epochs * math.ceil(len(examples) / config.batch_size)
    with training.session(seed, config.threads, checkpoints) as folder:
        from trl import RewardConfig, RewardTrainer

        arguments = RewardConfig(
            **training.arguments(folder, seed),
            learning_rate=config.learning_rate,
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            warmup_steps=config.warmup,
            weight_decay=config.weight_decay,
            logging_steps=min(config.logging_steps, steps),
            max_length=None,  # cut above; TRL's limit leaves pairs out
            bf16=config.autocast,
            # Pairs of like length share a batch: 40 % of the tokens would be padding otherwise. The
            # collator ignores the column of lengths, which must therefore stay.
            train_sampling_strategy="group_by_length",
            remove_unused_columns=False,
        )
        trainer = RewardTrainer(
            model=network.model.requires_grad_(True),
            args=arguments,
            train_dataset=examples,
            processing_class=network.tokenizer,
            peft_config=training.lora(config.lora_rank, "SEQ_CLS") if config.lora_rank else None,
        )
        done = training.run(trainer, checkpoints=checkpoints)
    model = training.finished(trainer.model, network.model)
    if config.lora_rank:
        model = model.merge_and_unload()
    return Trained(network._replace(model=model), *done)


def _examples(network: Network, data: pd.DataFrame) -> list[dict]:
    """``chosen_ids`` and ``rejected_ids`` of each pair, which TRL takes as they are, and the longer
    one's ``length``."""
    other = data["rejected_prompt"].fillna(data["prompt"])
    sides = {"chosen_ids": (data["prompt"], data["chosen"])}
    sides["rejected_ids"] = (other, data["rejected"])
    columns = {
        name: [tokens.tolist() for tokens in scoring.tokens(network, [*prompts], [*responses])]
        for name, (prompts, responses) in sides.items()
    }
    pad = network.tokenizer.pad_token_id
    if any(tokens[-1:] == [pad] for ids in columns.values() for tokens in ids):
        raise ValueError(
            f"{network.name}: texts end in the padding token {network.tokenizer.pad_token!r}; a "
            "classifier reads the score at the last token that is not padding, so give the "
            "tokenizer another one"
        )
    columns["length"] = [max(map(len, both)) for both in zip(*columns.values())]
    return [dict(zip(columns, row)) for row in zip(*columns.values())]
