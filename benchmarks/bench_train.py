"""Tokens a second and memory of each training here, against the plain call of the library.

    python benchmarks/bench_train.py [--methods sft dpo ...] [--texts 384] [--rounds 3]

The policy, of a million parameters, pairs and prompts are of the gold world. The plain call is
TRL's trainer on the same model, texts, batches, epochs and number format, with a frozen copy as
reference where it needs one and a reward model of the same tokenizer where it takes one. PRO and
RRHF are in no library: their plain way is transformers' Trainer in random order, with the logits of
all tokens. cDPO and IPO cost what DPO does, Chain of Hindsight what SFT does on as many tokens.
Activation checkpointing is off on both sides.

Both ways are timed as whole calls, tokenisation and reference included. Each call is a process of
its own, forked from one that has imported everything; ways and methods take turns (plain, ours,
plain, ...), so that other work on the machine slows down all alike. A time is the least of the
rounds. Memory is what the call adds to the process at its peak. The tokens are those of the texts
without padding, for PPO and RLOO the places that are sampled; they are the same for both ways.
"""

import argparse
import copy
import multiprocessing
import os
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from helpers import (
    align_dpo,
    align_ppo,
    align_pro,
    align_reward,
    align_sft,
    graded,
    policies,
    ranking_losses,
    scoring,
    standardised,
    training,
    world,
)

SEED = 0
BATCH = 16
# Sampling is slow: this many updates of this many responses.
UPDATES, RESPONSES, LENGTH = 4, 32, 24


class Task:
    """The models and texts that all ways get."""

    def __init__(self, texts: int):
        self.data = world.make(texts, seed=SEED).pairs
        self.prompts, self.chosen, self.rejected = (
            self.data[column].tolist() for column in ("prompt", "chosen", "rejected")
        )
        self.policy, self.network = policies.neox(SEED), graded.neox(SEED)
        self.asked = list(dict.fromkeys(self.prompts))[: 4 * RESPONSES]

    def model(self):
        return copy.deepcopy(self.policy.model).requires_grad_(True)

    def tokens(self, method: str) -> int:
        if method in ("ppo", "rloo"):
            return UPDATES * RESPONSES * LENGTH
        sides = [self.chosen] if method == "sft" else [self.chosen, self.rejected]
        return sum(len(t.ids) for s in sides for t in policies.encode(self.policy, self.prompts, s))


def plain_arguments(folder: str) -> dict:
    cuda = torch.cuda.is_available()
    return dict(
        output_dir=folder,
        seed=SEED,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        learning_rate=1e-4,
    )


def passes(folder: str) -> dict:
    return plain_arguments(folder) | dict(
        per_device_train_batch_size=BATCH, num_train_epochs=1, logging_steps=10
    )


def plain_sft(task: Task, folder: str) -> None:
    from trl import SFTConfig, SFTTrainer

    rows = {"prompt": task.prompts, "completion": task.chosen}
    SFTTrainer(
        model=task.model(),
        args=SFTConfig(**passes(folder)),
        train_dataset=Dataset.from_dict(rows),
        processing_class=task.policy.tokenizer,
    ).train()


def our_sft(task: Task, folder: str) -> None:
    config = align_sft.Config(learning_rate=1e-4, epochs=1, batch_size=BATCH)
    align_sft.train(task.policy, task.prompts, task.chosen, config, SEED)


def plain_dpo(task: Task, folder: str) -> None:
    from trl import DPOConfig, DPOTrainer

    rows = {"prompt": task.prompts, "chosen": task.chosen, "rejected": task.rejected}
    DPOTrainer(
        model=task.model(),
        ref_model=copy.deepcopy(task.policy.model),
        args=DPOConfig(**passes(folder)),
        train_dataset=Dataset.from_dict(rows),
        processing_class=task.policy.tokenizer,
    ).train()


def our_dpo(task: Task, folder: str) -> None:
    config = align_dpo.Config(learning_rate=1e-4, batch_size=BATCH, kl_every=0)
    align_dpo.train(task.policy, task.data, config, SEED)


def plain_reward(task: Task, folder: str) -> None:
    from trl import RewardConfig, RewardTrainer

    form = task.network.template
    sides = {"chosen": task.chosen, "rejected": task.rejected}
    rows = {n: [form.render(p, r) for p, r in zip(task.prompts, s)] for n, s in sides.items()}
    RewardTrainer(
        model=copy.deepcopy(task.network.model),
        args=RewardConfig(**passes(folder)),
        train_dataset=Dataset.from_dict(rows),
        processing_class=task.network.tokenizer,
    ).train()


def our_reward(task: Task, folder: str) -> None:
    network = task.network._replace(model=copy.deepcopy(task.network.model))
    config = align_reward.Config(learning_rate=1e-4, epochs=1, batch_size=BATCH)
    align_reward.train(network, task.data, config, SEED)


def plain_pro(task: Task, folder: str) -> None:
    plain_ranking(task, folder, align_pro.Config())


def plain_rrhf(task: Task, folder: str) -> None:
    plain_ranking(task, folder, align_pro.RRHF)


def plain_ranking(task: Task, folder: str, config: align_pro.Config) -> None:
    class Plain(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels, rewards = inputs["labels"], inputs["rewards"]
            outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            log_probs = ranking_losses.token_log_probs(outputs.logits, labels)
            sums = log_probs.sum(1).view_as(rewards)
            counts = (labels != ranking_losses.IGNORED).sum(1).view_as(rewards)
            return sum(align_pro.losses(sums, counts, rewards, config)).mean()

    Plain(
        model=task.model(),
        args=TrainingArguments(**passes(folder), remove_unused_columns=False),
        train_dataset=Dataset.from_list(align_pro._ranked(task.policy, rankings(task))),
        data_collator=align_pro._collate,
    ).train()


def our_pro(task: Task, folder: str) -> None:
    our_ranking(task, align_pro.Config())


def our_rrhf(task: Task, folder: str) -> None:
    our_ranking(task, align_pro.RRHF)


def our_ranking(task: Task, config: align_pro.Config) -> None:
    settings = dict(learning_rate=1e-4, epochs=1, batch_size=BATCH, kl_every=0)
    align_pro.train(task.policy, rankings(task), config._replace(**settings), SEED)


def rankings(task: Task) -> list[align_pro.Ranking]:
    rows = zip(task.prompts, task.chosen, task.rejected)
    return [align_pro.Ranking(p, (a, b), (1.0, -1.0)) for p, a, b in rows]


def plain_ppo(task: Task, folder: str) -> None:
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = copy.deepcopy(task.policy.tokenizer)
    tokenizer.padding_side = "left"
    known = policies.prompt_tokens(task.policy, task.asked, LENGTH)
    data = Dataset.from_list([{"input_ids": ids} for ids in known])
    PPOTrainer(
        args=PPOConfig(
            **plain_arguments(folder),
            total_episodes=UPDATES * RESPONSES,
            per_device_train_batch_size=RESPONSES,
            local_rollout_forward_batch_size=RESPONSES,
            num_ppo_epochs=4,
            num_mini_batches=1,
            response_length=LENGTH,
            temperature=1.0,
            stop_token="eos",
            num_sample_generations=0,
            logging_steps=1,
        ),
        processing_class=tokenizer,
        model=task.model(),
        ref_model=copy.deepcopy(task.policy.model),
        reward_model=copy.deepcopy(task.network.model),
        value_model=copy.deepcopy(task.network.model),
        train_dataset=data,
        eval_dataset=data.select(range(1)),
    ).train()


def plain_rloo(task: Task, folder: str) -> None:
    from trl import RLOOConfig, RLOOTrainer

    # Where TRL finds the reference.
    model = task.model()
    model.save_pretrained(f"{folder}/reference")
    model.config._name_or_path = f"{folder}/reference"
    RLOOTrainer(
        model=model,
        reward_funcs=copy.deepcopy(task.network.model),
        reward_processing_classes=task.network.tokenizer,
        args=RLOOConfig(
            **plain_arguments(folder),
            max_steps=UPDATES,
            per_device_train_batch_size=RESPONSES,
            num_generations=4,
            max_completion_length=LENGTH,
            logging_steps=1,
        ),
        train_dataset=Dataset.from_dict({"prompt": task.asked}),
        processing_class=copy.deepcopy(task.policy.tokenizer),
    ).train()


def our_ppo(task: Task, folder: str) -> None:
    reinforced(task, align_ppo.ppo)


def our_rloo(task: Task, folder: str) -> None:
    reinforced(task, align_ppo.rloo)


def reinforced(task: Task, method) -> None:
    config = align_ppo.Config(
        learning_rate=1e-4, updates=UPDATES, batch_size=RESPONSES, response_length=LENGTH
    )
    network = task.network._replace(model=copy.deepcopy(task.network.model).eval())
    plain = standardised.Standard(0.0, 1.0)

    def score(prompts, responses):
        return scoring.scores(network, prompts, responses, progress=False)[0]

    method(task.policy, score, plain, task.asked, config, SEED)


WAYS = {
    "sft": (plain_sft, our_sft),
    "dpo": (plain_dpo, our_dpo),
    "reward": (plain_reward, our_reward),
    "pro": (plain_pro, our_pro),
    "rrhf": (plain_rrhf, our_rrhf),
    "ppo": (plain_ppo, our_ppo),
    "rloo": (plain_rloo, our_rloo),
}


def once(way, task: Task) -> tuple[float, float]:
    """Seconds, and MB at the peak above those before, of one call in a forked process."""
    here, there = multiprocessing.Pipe(duplex=False)

    def child():
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            started = time.perf_counter()
            with redirect_stdout(nowhere), training.quiet(), training.threads(1):
                way(task, folder)
            there.send((time.perf_counter() - started, status("VmHWM") - before))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        sys.exit(f"{way.__name__} failed; call it by itself to see why")
    finally:
        process.join()


def status(what: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=WAYS, default=tuple(WAYS))
    parser.add_argument("--texts", type=int, default=384, help="pairs (default 384)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    torch.set_num_threads(1)
    # What is imported here need not be imported by each process.
    from trl import DPOTrainer, RewardTrainer, RLOOTrainer, SFTTrainer  # noqa: F401
    from trl.experimental.ppo import PPOTrainer  # noqa: F401

    task = Task(options.texts)
    found = {(m, side): [] for m in options.methods for side in (0, 1)}
    for _ in range(options.rounds):
        for method in options.methods:
            for side in (0, 1):
                found[method, side].append(once(WAYS[method][side], task))
    print(
        f"{task.policy.model.num_parameters():,} parameters, {options.texts} pairs or {UPDATES} "
        f"updates of {RESPONSES} x {LENGTH} tokens; one thread, {options.rounds} rounds, "
        "the least of each"
    )
    heads = "tokens,plain s,ours s,plain tok/s,ours tok/s,ratio,rounds,plain MB,ours MB,ratio"
    print(f"{'':8}" + "".join(f"{head:>13}" for head in heads.split(",")))
    for method in options.methods:
        plain, ours = (np.array(found[method, side]).T for side in (0, 1))
        tokens, rounds = task.tokens(method), plain[0] / ours[0]
        seconds, memory = (plain[0].min(), ours[0].min()), (plain[1].min(), ours[1].min())
        cells = [f"{tokens:,}", *(f"{s:.1f}" for s in seconds)]
        cells += [f"{tokens / s:,.0f}" for s in seconds] + [f"{seconds[0] / seconds[1]:.2f}"]
        cells += [f"{rounds.min():.2f}-{rounds.max():.2f}", *(f"{m:,.0f}" for m in memory)]
        cells += [f"{memory[1] / memory[0]:.2f}"]
        print(f"{method:8}" + "".join(f"{cell:>13}" for cell in cells), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
