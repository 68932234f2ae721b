"""PRO, RRHF and Chain of Hindsight: policies trained on ranked responses by transformers' Trainer.

No library has these losses; they are in :mod:`helpers.ranking_losses` and :mod:`helpers.hindsight`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
import torch
import torch.distributed as dist
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer, TrainingArguments

from helpers import hindsight, policies, ranking_losses, training
from helpers.hindsight import Markers
from helpers.policies import Policy
from helpers.ranking_losses import IGNORED


class Ranking(NamedTuple):
    """A dialogue up to and including its last ``Assistant:``, two or more responses to it, and the
    reward model's score of each, in the same order. Who wrote the responses does not matter."""

    prompt: str
    responses: tuple[str, ...]
    rewards: tuple[float, ...]


class Config(NamedTuple):
    """How a policy is tuned on rankings. The defaults suit one of a million parameters."""

    # "pro": the published code's loss; "pro_printed": Eq. 3 of this paper on mean log-probabilities
    # (Song et al. 2024 define them so); "rrhf"; "coh": plain language modelling on both ends of a
    # ranking, marked good and bad.
    method: Literal["pro", "pro_printed", "rrhf", "coh"] = "pro"
    # The paper's 5e-6 is for 7B parameters. Constant, as in PRO's code. From the gold world's start
    # policy (gold 0.55, 91 % well-formed), 800 pairs ranked by the best reward model, one run each,
    # 300 prompts (differences within 0.07 are noise): "pro" gained 0.08 at 5e-5 (KL 0.1), 0.03 at
    # 2e-4, 0.09 at 1e-3 (KL 1.3), 0.01 at 3e-3 (72 % well-formed). "rrhf" gained 0.07 at 2e-4 and
    # 0.06 at 1e-3. "pro_printed" without its SFT term lost 0.03 at 2e-4 and went to pieces at 1e-3
    # (KL 341, nothing well-formed); with it, it gained 0.05 at 2e-4. "coh" lost 0.11 at 2e-4 and
    # 0.22 at 1e-3.
    learning_rate: float = 2e-4
    # Over rankings; the paper's, for PRO.
    epochs: int = 2
    # Prompts a step on one device, each with all of its responses, times `accumulation`; 16 is the
    # paper's. (The script that PRO's authors published comes to 112.) For "coh", texts.
    batch_size: int = 16
    # Batches whose gradients are averaged to a step: more changes memory, not the result.
    accumulation: int = 1
    # Weight of the SFT term: 0.05 in PRO's training script. RRHF weighs it 1, Eq. 3 has none.
    sft_weight: float = 0.05
    # AdamW's decay: none, as Transformers and TRL have it.
    weight_decay: float = 0.0
    # What tells a good answer from a bad one ("coh" only).
    markers: Markers = hindsight.MARKERS
    # Rank of LoRA adapters on all linear layers; None trains all weights.
    lora_rank: int | None = None
    # Steps between two rows of the history, which has one at least.
    logging_steps: int = 10
    # Every so many rows the KL from the start is measured; 0 never. It costs a batch of samples.
    kl_every: int = 5
    # Prompts on which it is measured, the first of the data.
    kl_prompts: int = 64
    # Longest response sampled for it: none of the gold world is longer.
    kl_tokens: int = 96
    # Nats a response above which a run counts as diverged; see helpers.align_dpo. These losses
    # have no reference that would hold the policy back.
    most_kl: float = 100.0
    # bfloat16 in the products, float32 weights. Off: bfloat16 alone moves a sum by half a nat.
    autocast: bool = False
    # One thread: sums then have one order and a run repeats to the last digit. None: as torch has.
    threads: int | None = 1


# Eq. 3 as printed: no SFT term.
PRINTED = Config(method="pro_printed", sft_weight=0.0)
# Yuan et al. (2023): ranking loss and SFT term weigh the same.
RRHF = Config(method="rrhf", sft_weight=1.0)
COH = Config(method="coh")
# The paper's run of PRO on LLaMA-7B. It states neither SFT weight nor lengths.
PAPER = Config(learning_rate=5e-6, autocast=True, threads=None, kl_prompts=16, kl_tokens=128)


class Trained(NamedTuple):
    """The tuned policy (that which was given is left as it is); the log, a row every
    ``logging_steps``: ``step``, ``epoch``, ``loss``, ``rank_loss`` and ``sft_loss`` (its parts,
    means over prompts), ``margin`` (mean log-probability of the best response minus the worst, nats
    a token; not for "coh"), ``grad_norm``, ``num_tokens`` (so far, without padding), and ``kl`` in
    nats a response where it was measured; the seconds; and why the run was stopped (empty: it was
    not)."""

    policy: Policy
    history: pd.DataFrame
    seconds: float
    stopped: str


def train(
    policy: Policy,
    rankings: Sequence[Ranking],
    config: Config,
    seed: int,
    *,
    checkpoints: Path | None = None,
) -> Trained:
    """Tune a copy of the policy on rankings of one length.

    Each ranking is put in the order of its rewards, whatever a human said: to PRO and RRHF the
    reward model is the preference. Equal rewards keep the order that they came in. Tokens are those
    of :func:`helpers.policies.encode`. With LoRA the adapters stay apart, so that the tuned policy
    with its adapter off is the old one. Same seed, same policy, on one thread of one machine.
    ``checkpoints``: see :func:`helpers.training.run`.

    A policy tuned by "coh" is to be asked through the template that
    :func:`helpers.hindsight.conditioned` makes; the one returned has it.

    Raises ValueError for no rankings, rankings too short or of different lengths, and markers that
    the tokenizer reads as one.
    """
    lengths = {len(ranking.responses) for ranking in rankings}
    lengths |= {len(ranking.rewards) for ranking in rankings}
    if len(lengths) != 1 or min(lengths) < 2:
        raise ValueError(f"rankings have lengths {sorted(lengths)}; give one length of 2 or more")
    copied = policies.duplicate(policy)
    if config.method == "coh":
        examples = _marked(policy, rankings, config)
        asked = hindsight.conditioned(policy.template, config.markers)
        copied = copied._replace(template=asked)
    else:
        examples = _ranked(policy, rankings)
    steps = -(-len(examples) // (config.batch_size * config.accumulation)) * config.epochs
    with training.session(seed, config.threads, checkpoints) as folder:
        if config.lora_rank:
            from peft import get_peft_model

            adapters = training.lora(config.lora_rank, "CAUSAL_LM")
            copied = copied._replace(
                model=get_peft_model(copied.model.requires_grad_(False), adapters)
            )
        arguments = TrainingArguments(
            **training.arguments(folder, seed),
            learning_rate=config.learning_rate,
            lr_scheduler_type="constant",
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            gradient_accumulation_steps=config.accumulation,
            weight_decay=config.weight_decay,
            logging_steps=min(config.logging_steps, steps),
            bf16=config.autocast,
            # Prompts of like length share a batch: the rest would be padding.
            train_sampling_strategy="group_by_length",
            remove_unused_columns=False,
        )
        trainer = _Trainer(
            model=copied.model,
            args=arguments,
            train_dataset=Dataset.from_list(examples),
            data_collator=_collate,
        )
        trainer.config, trainer.parts, trainer.tokens = config, [], 0
        # Otherwise Trainer takes the loss for a sum over the tokens of the whole step, and does
        # not divide it by the number of batches.
        trainer.model_accepts_loss_kwargs = False
        prompts = list(dict.fromkeys(ranking.prompt for ranking in rankings))[: config.kl_prompts]
        started = policy._replace(template=copied.template)

        def kl() -> float:
            limit = config.kl_tokens
            return policies.kl(copied, started, prompts, seed=seed, max_new_tokens=limit).mean()

        done = training.run(
            trainer,
            checkpoints=checkpoints,
            most_kl=config.most_kl,
            measure=training.kl_rows(trainer, config.kl_every, kl),
        )
    model = training.finished(trainer.model, policy.model)
    return Trained(copied._replace(model=model), *done)


def losses(sums: Tensor, counts: Tensor, rewards: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """The ranking term and the weighted SFT term of each prompt, both of shape (B,).

    ``sums`` (B, n): summed log-probability of each response, best first; ``counts`` (B, n): its
    tokens; ``rewards`` (B, n). For "coh", n is 1 and the one term is the mean over tokens.
    """
    means = sums / counts
    if config.method == "coh":
        return torch.zeros_like(means[:, 0]), -means[:, 0]
    if config.method == "rrhf":
        sft = config.sft_weight * ranking_losses.rrhf_sft(sums, rewards)
        return ranking_losses.rrhf(means, rewards), sft
    if config.method == "pro":
        ranked = ranking_losses.pro(means, rewards)
    else:
        ranked = ranking_losses.pro_printed(means)
    return ranked, ranking_losses.pro_sft(sums, config.sft_weight)


class _Trainer(Trainer):
    """Adds the loss, and its parts to the log."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels, rewards = inputs["labels"], inputs["rewards"]
        # Logits of the prompts are not needed, and a vocabulary of 49,000 makes them large.
        keep = labels.shape[1] - int((labels != IGNORED).any(0).int().argmax()) + 1
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            logits_to_keep=keep,
        )
        log_probs = ranking_losses.token_log_probs(outputs.logits, labels[:, -keep:])
        sums = log_probs.sum(1).view_as(rewards)
        counts = (labels != IGNORED).sum(1).view_as(rewards)
        ranked, sft = losses(sums, counts, rewards, self.config)
        loss = (ranked + sft).mean()
        # Here, and not only when it is logged: the weights are still sound.
        sound = loss.detach().isfinite().int()
        if dist.is_initialized():  # all stop together: one alone would keep the others waiting
            dist.all_reduce(sound, dist.ReduceOp.MIN)
        if not sound:
            raise training.Diverged(
                f"loss is {loss.item()} after {self.state.global_step} steps; rewards span "
                f"{(rewards.max() - rewards.min()).item():.3g} in this batch: standardise them, or "
                f"lower learning_rate ({self.config.learning_rate})"
            )
        part = dict(rank_loss=ranked.mean().item(), sft_loss=sft.mean().item())
        if rewards.shape[1] > 1:
            means = (sums / counts).detach()
            part["margin"] = (means[:, 0] - means[:, -1]).mean().item()
        self.parts.append(part | {"num_tokens": int(inputs["attention_mask"].sum())})
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, start_time=None):
        if self.parts:
            parts = pd.DataFrame(gather_object(self.parts))  # of all processes
            self.tokens += int(parts["num_tokens"].sum())
            logs |= parts.mean().to_dict() | {"num_tokens": self.tokens}
            self.parts.clear()
        super().log(logs, start_time)


def _collate(examples: list[dict]) -> dict[str, Tensor]:
    """Tokens and labels of all responses, padded on the right, (B n, T); rewards, (B, n)."""
    rows = [row for example in examples for row in example["rows"]]
    ids = [torch.tensor(row["ids"]) for row in rows]
    labels = [one.clone() for one in ids]
    for row, one in zip(rows, labels):
        one[: row["begin"]] = IGNORED
    return {
        # Token 0 is as good as any: the mask comes from the lengths, and no real token sees it.
        "input_ids": pad_sequence(ids, True, 0),
        "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], True, 0),
        "labels": pad_sequence(labels, True, IGNORED),
        "rewards": torch.tensor([example["rewards"] for example in examples]).float(),
    }


def _example(tokens: Sequence[policies.Tokens], rewards: Sequence[float]) -> dict:
    length = max(len(one.ids) for one in tokens)
    return {"rows": [one._asdict() for one in tokens], "rewards": [*rewards], "length": length}


def _ranked(policy: Policy, rankings: Sequence[Ranking]) -> list[dict]:
    """Tokens and rewards of each ranking, best response first."""
    found = []
    for prompt, responses, rewards in rankings:
        order = sorted(range(len(rewards)), key=lambda i: -rewards[i])  # stable
        texts = [responses[i] for i in order]
        tokens = policies.encode(policy, [prompt] * len(texts), texts)
        found.append(_example(tokens, [float(rewards[i]) for i in order]))
    return found


def _marked(policy: Policy, rankings: Sequence[Ranking], config: Config) -> list[dict]:
    """The best and the worst response of each ranking in all orders, a text an example."""
    known = policy.tokenizer
    good, bad = (known(text, add_special_tokens=False).input_ids for text in config.markers)
    if good == bad or known.unk_token_id in good + bad:
        raise ValueError(
            f"the markers {config.markers.good!r} and {config.markers.bad!r} are the same to the "
            "tokenizer, or hold a word that it does not know; give others"
        )
    found = []
    for prompt, responses, rewards in rankings:
        best = max(range(len(rewards)), key=lambda i: rewards[i])
        worst = min(reversed(range(len(rewards))), key=lambda i: rewards[i])
        for order in hindsight.ORDERS:
            template, answer = hindsight.example(
                policy.template, responses[best], responses[worst], order, config.markers
            )
            tokens = policies.encode(policy._replace(template=template), [prompt], [answer])
            found.append(_example(tokens, [0.0]))
    return found
