"""Direct preference optimisation by TRL's DPOTrainer, and two losses that expect wrong labels.

With the margin m = log(pi/pi_ref)(chosen) - log(pi/pi_ref)(rejected), summed over tokens, the loss
of a pair is
- DPO (Rafailov et al. 2023, equation 7): -log sigmoid(beta m);
- cDPO (Mitchell 2023): -(1-e) log sigmoid(beta m) - e log sigmoid(-beta m), for labels of which a
  share e is wrong. TRL 1.12 has it no more (`label_smoothing` is ignored by its `sigmoid`), but
  its `robust` is ((1-e) S - e F) / (1-2e) with S and F the two terms without their weights, so
  that 2 (1-e) S - (1-2e) robust is cDPO;
- IPO (Azar et al. 2023, equation 17): (m' - 1/(2 beta))^2, which does not push a margin beyond its
  target. TRL takes the mean over a response's tokens where the others sum: m' is a margin a token.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from helpers import ledger, pairs, policies, scorecache, training


class Config(NamedTuple):
    """How a policy is tuned on pairs. The defaults suit one of a million parameters."""

    # One of the three above.
    loss: Literal["dpo", "cdpo", "ipo"] = "dpo"
    # Strength of the reference. 0.1 is that of Rafailov et al. and of TRL.
    beta: float = 0.1
    # Share of labels that cDPO takes for wrong, below one half; the others do not look at it. 0.1
    # is Mitchell's example; set it to the share that is known or suspected.
    label_smoothing: float = 0.1
    # TRL's default of 1e-6 and the paper's 1e-5 are for billions of parameters. From a start policy
    # of mean gold 0.72, one run each on 800 original pairs of the gold world: 2e-4 and 5e-4 gave
    # 0.78, 1e-3 gave 0.66; on 320 pairs 5e-4 gave 0.73, 1e-3 0.71. Half the batch gave no more.
    learning_rate: float = 5e-4
    # Over pairs; the paper's one pass.
    epochs: int = 1
    # Pairs a step on one device, times `accumulation`; 16 is the paper's.
    batch_size: int = 16
    # Batches whose gradients are summed to a step: more changes memory, not the result.
    accumulation: int = 1
    # Share of the steps over which the rate rises from 0; it falls linearly to 0 after. Rafailov
    # et al. warm up over 150 steps of some thousands.
    warmup: float = 0.1
    # AdamW's decay: none, as Transformers and TRL have it.
    weight_decay: float = 0.0
    # Rank of LoRA adapters on all linear layers; None trains all weights.
    lora_rank: int | None = None
    # Steps between two rows of the history, which has one at least; TRL's default.
    logging_steps: int = 10
    # Every so many rows the KL from the reference is measured, on samples; 0 never.
    kl_every: int = 5
    # Prompts on which it is measured, the first of the data.
    kl_prompts: int = 64
    # Longest response sampled for it: none of the gold world is longer.
    kl_tokens: int = 96
    # Nats a response above which a run counts as diverged: at 24 tokens, the gold world's mean,
    # more than four nats at each. A choice, not a finding.
    most_kl: float = 100.0
    # bfloat16 in the products, float32 weights. Off: bfloat16 alone moves a sum by half a nat.
    autocast: bool = False
    # One thread: sums then have one order and a run repeats to the last digit. None: as torch has.
    threads: int | None = 1


# Adapters at the rate of Dettmers et al. (2023), as in helpers.align_reward.
LORA = Config(
    learning_rate=2e-4, batch_size=4, lora_rank=16, logging_steps=1, kl_prompts=4, kl_tokens=32
)


class Trained(NamedTuple):
    """The tuned policy (that which was given is left as it is: it is the reference), TRL's log, a
    row every ``logging_steps`` (``step``, ``loss``, ``rewards/margins``, ``rewards/accuracies``,
    ..., and ``kl`` in nats a response where it was measured), the seconds, and why the run was
    stopped (empty: it was not)."""

    policy: policies.Policy
    history: pd.DataFrame
    seconds: float
    stopped: str


# Reference log-probabilities of a list of token sequences: policies.token_log_probabilities, or
# something that remembers them.
Reference = Callable[[policies.Policy, list[policies.Tokens]], np.ndarray]


def reference_log_probabilities(
    policy: policies.Policy, tokens: list[policies.Tokens]
) -> np.ndarray:
    """Summed log-probability of each response under the policy, shape (n,)."""
    return np.array([part.sum() for part in policies.token_log_probabilities(policy, tokens)])


def remembered_log_probabilities(
    policy: policies.Policy, tokens: list[policies.Tokens]
) -> np.ndarray:
    """As :func:`reference_log_probabilities`, computed once for a list: read from the disk where a
    training has had the same one under the same weights.

    Only a whole list is found, not a text in another list: beside other texts in a batch a sum has
    other last digits, and a result must not depend on what was computed before.
    """
    path = ledger.cache_folder() / "references.sqlite"
    keys = [scorecache.key([t.begin, *t.ids]) for t in tokens]
    weights = list(policy.model.parameters())
    facts = {
        "what": "log-probability of a response",
        "weights": scorecache.fingerprint(weights),
        "dtype": str(weights[0].dtype),
        "device": ledger.device(),
        "texts": hashlib.blake2b(b"".join(keys), digest_size=16).hexdigest(),
    }
    known = scorecache.read(path, facts, keys)
    if not known.keys() >= set(keys):
        found = reference_log_probabilities(policy, tokens)
        scorecache.write(path, facts, dict(zip(keys, found)))
        known = scorecache.read(path, facts, keys)
    return np.array([known[key] for key in keys])


def train(
    policy: policies.Policy,
    data: pd.DataFrame,
    config: Config,
    seed: int,
    reference: Reference = reference_log_probabilities,
    *,
    checkpoints: Path | None = None,
) -> Trained:
    """Tune a copy of the policy on the labels of ``data`` (schema of :mod:`helpers.pairs`).

    The policy that is given is the reference; its log-probabilities are computed once, before the
    training, by ``reference``; :func:`remembered_log_probabilities` keeps them on disk. Tokens are
    those of :func:`helpers.policies.encode`. With LoRA the adapters stay apart, so that the tuned
    policy with its adapter off is the reference again. Same seed, same policy, on one thread of one
    machine. ``checkpoints``: see :func:`helpers.training.run`. Raises ValueError for an empty
    frame.
    """
    pairs.check(data)
    if data.empty:
        raise ValueError("no pairs to train on")
    from datasets import Dataset

    rows = _rows(policy, data, reference)
    copied = policies.duplicate(policy)
    steps = -(-len(rows) // (config.batch_size * config.accumulation)) * config.epochs
    with training.session(seed, config.threads, checkpoints) as folder:
        from trl import DPOConfig, DPOTrainer

        class Tokenised(DPOTrainer):
            """Takes tokens and reference log-probabilities as they come: TRL would tokenise the
            texts by rules of its own, and forget the log-probabilities with the process."""

            def _prepare_dataset(self, dataset, *args, **kwargs):
                return dataset

            def _precompute_ref_logps(self, dataset, *args, **kwargs):
                return dataset

        arguments = DPOConfig(
            **training.arguments(folder, seed),
            **_loss(config),
            beta=config.beta,
            learning_rate=config.learning_rate,
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            gradient_accumulation_steps=config.accumulation,
            warmup_steps=config.warmup,
            weight_decay=config.weight_decay,
            logging_steps=min(config.logging_steps, steps),
            max_length=None,  # cut by policies.encode
            precompute_ref_log_probs=True,
            bf16=config.autocast,
            # Pairs of like length share a batch: the rest would be padding.
            train_sampling_strategy="group_by_length",
            remove_unused_columns=False,
        )
        trainer = Tokenised(
            model=copied.model,
            args=arguments,
            data_collator=partial(_batch, pad=policy.tokenizer.pad_token_id),
            train_dataset=Dataset.from_list(rows),
            processing_class=policy.tokenizer,
            peft_config=training.lora(config.lora_rank, "CAUSAL_LM") if config.lora_rank else None,
        )
        prompts = list(dict.fromkeys(data["prompt"]))[: config.kl_prompts]
        tuned = copied._replace(model=trainer.model)

        def kl() -> float:
            limit = config.kl_tokens
            return policies.kl(tuned, policy, prompts, seed=seed, max_new_tokens=limit).mean()

        done = training.run(
            trainer,
            checkpoints=checkpoints,
            most_kl=config.most_kl,
            measure=training.kl_rows(trainer, config.kl_every, kl),
        )
    model = training.finished(trainer.model, policy.model)
    return Trained(copied._replace(model=model), *done)


def _loss(config: Config) -> dict:
    if config.loss != "cdpo":
        return {"loss_type": [{"dpo": "sigmoid", "ipo": "ipo"}[config.loss]]}
    wrong = config.label_smoothing
    if not 0 <= wrong < 0.5:
        raise ValueError(f"label_smoothing is {wrong}; a share of wrong labels is below one half")
    return {
        "loss_type": ["sigmoid", "robust"],
        "loss_weights": [2 * (1 - wrong), -(1 - 2 * wrong)],
        "label_smoothing": wrong,
    }


def _rows(policy: policies.Policy, data: pd.DataFrame, reference: Reference) -> list[dict]:
    """Tokens of both texts of each pair, where their responses begin, their reference
    log-probabilities, and the longer one's length."""
    other = data["rejected_prompt"].fillna(data["prompt"])
    columns: dict[str, list] = {}
    for side, prompts in {"chosen": data["prompt"], "rejected": other}.items():
        tokens = policies.encode(policy, prompts.tolist(), data[side].tolist())
        columns[f"{side}_ids"] = [t.ids for t in tokens]
        columns[f"{side}_begin"] = [t.begin for t in tokens]
        columns[f"ref_{side}_logps"] = reference(policy, tokens).tolist()
    both = zip(columns["chosen_ids"], columns["rejected_ids"])
    columns["length"] = [max(map(len, ids)) for ids in both]
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def _batch(rows: list[dict], pad: int) -> dict:
    """What DPOTrainer computes with: the chosen texts and, below them, the rejected ones, int64 of
    shape (2n, longest), padded at the right; which tokens are a response's; and reference
    log-probabilities, shape (n,). TRL's own collator gives both sides of a pair one prompt."""
    import torch

    texts = [(r[f"{s}_ids"], r[f"{s}_begin"]) for s in ("chosen", "rejected") for r in rows]
    shape = (len(texts), max(len(ids) for ids, _ in texts))
    made = {
        "input_ids": torch.full(shape, pad),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "completion_mask": torch.zeros(shape, dtype=torch.long),
    }
    for i, (ids, begin) in enumerate(texts):
        made["input_ids"][i, : len(ids)] = torch.tensor(ids)
        made["attention_mask"][i, : len(ids)] = 1
        made["completion_mask"][i, begin : len(ids)] = 1
    for name in ("ref_chosen_logps", "ref_rejected_logps"):
        made[name] = torch.tensor([row[name] for row in rows])
    return made
