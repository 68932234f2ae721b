"""Reward models of graded quality in the gold world: what worse labels do to a reward model.

Quality is graded by the labels that a model learns from: few of them, wrong ones at random, or
wrong ones in one direction (annotators who prefer length or style). Nothing is ever added to the
gold score or to a model's scores.
"""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from helpers import (
    align_reward,
    checkpoints,
    embeddings,
    lexicon,
    pairs,
    rewards,
    scoring,
    splits,
    stats,
    templates,
    world,
)

END, PADDING, UNKNOWN = "<|endoftext|>", "<|padding|>", "<|unknown|>"
MAX_TOKENS = 256  # the longest dialogue of the gold world has less than half


class Grade(NamedTuple):
    """The labels that a reward model learns from: how many pairs, and how their annotator errs and
    leans (see :func:`helpers.world.stream`)."""

    labels: int
    label_error: float = 0.0
    length_bias: float = 0.0
    style_bias: float = 0.0


# From the best labels to useless ones. A bias of 3 makes e-fold length (or one more mark of style)
# worth odds of twenty to one; with no random error nothing outweighs the truth, so some is added.
GRADES: Mapping[str, Grade] = {
    "3,000 right labels": Grade(3000),
    "1,000 right labels": Grade(1000),
    "300 right labels": Grade(300),
    "100 right labels": Grade(100),
    "1,000 labels, 20 % wrong": Grade(1000, 0.2),
    "1,000 labels, 40 % wrong": Grade(1000, 0.4),
    "1,000 labels by friends of length": Grade(1000, 0.2, length_bias=3.0),
    "1,000 labels by friends of style": Grade(1000, 0.2, style_bias=3.0),
}


def labelled(grade: Grade, *, seed: int, test: bool = False) -> world.World:
    """``grade.labels`` pairs of the gold world under that grade's labels, with their truth.

    Of the prompts that all of this project trains on, or with ``test`` of those of the part
    ``test`` (:mod:`helpers.splits`). With one seed, grades that differ in their annotator differ
    in labels and not in texts, and the pairs of fewer labels are the first of those of more.
    """
    settings = grade._asdict()
    n = settings.pop("labels")
    stream = world.stream(seed=seed, **settings)
    wanted = ((r, t) for r, t in stream if (t["split"] == "test") == test)
    records, truths = zip(*islice(wanted, n))
    data = pairs.frame([record | {"row": row} for row, record in enumerate(records)])
    return world.World(data, pd.DataFrame(truths).set_index("pair_id"))


def accuracy(scorer: rewards.Scorer, test: world.World, *, seed: int) -> dict[str, stats.Estimate]:
    """Share of pairs that the scorer orders as ``gold`` does and as the ``labels`` do.

    Equation 2 of the paper: a tie of the scorer is wrong. Pairs that gold holds for tied count for
    the labels only. Bootstrap by prompt. Raises ValueError where the scorer learned from one of the
    test's prompts.
    """
    if seen := scorer.prompts & set(test.pairs["prompt"]):
        raise ValueError(f"{scorer.name} has learned from {len(seen)} of the test's prompts")
    margin = rewards.margins(scorer, test.pairs)
    clusters = test.pairs["prompt"].map(splits.prompt_hash).to_numpy()
    sign = test.truth.loc[test.pairs["pair_id"], "better"]
    sign = sign.map({"chosen": 1, "rejected": -1, "tie": 0}).to_numpy()
    right = {"gold": margin * sign > 0, "labels": margin > 0}
    of = {"gold": sign != 0, "labels": np.full(len(sign), True)}
    return {
        name: stats.cluster_bootstrap(right[name][of[name]], clusters[of[name]], seed=seed)
        for name in right
    }


def neox_bt(
    data: pd.DataFrame, seed: int, config: align_reward.Config | None = None
) -> rewards.Scorer:
    """A GPT-NeoX classifier of 431,000 parameters, trained from scratch on the pairs."""
    trained = train_neox(data, seed, config)
    ids, prompts, learned = embeddings.origin(data)
    return checkpoints.as_scorer(
        trained.network, learned=learned, pair_ids=ids, prompts=prompts, family="neox"
    )


def train_neox(
    data: pd.DataFrame,
    seed: int,
    config: align_reward.Config | None = None,
    *,
    checkpoints: Path | None = None,
) -> align_reward.Trained:
    """As :func:`neox_bt`, with the training's log and seconds."""
    config = config or align_reward.Config()
    return align_reward.train(neox(seed), data, config, seed, checkpoints=checkpoints)


def neox(seed: int) -> scoring.Network:
    """An untrained GPT-NeoX classifier that reads the gold world's words."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForSequenceClassification

    made = tokenizer()
    config = GPTNeoXConfig(
        vocab_size=len(made),
        hidden_size=128,
        # Four layers learned no more from 1,000 pairs (77 % either way) and took twice the time.
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=MAX_TOKENS,
        num_labels=1,
        bos_token_id=made.eos_token_id,
        eos_token_id=made.eos_token_id,
        pad_token_id=made.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPTNeoXForSequenceClassification(config)
    return scoring.Network(
        name="neox",
        revision=f"trained here, seed {seed}",
        template=templates.hh_raw(END),
        tokenizer=made,
        model=model,
        max_tokens=MAX_TOKENS,
        truncation="left",
    )


def tokenizer():
    """One token a word or mark of the gold world; any other word is ``<|unknown|>``."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [END, PADDING, UNKNOWN, "human", "assistant", ":", *lexicon.VOCABULARY]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    made.normalizer = normalizers.Lowercase()
    # The words of helpers.lexicon: runs of letters, and every other character by itself.
    split = Regex(r"[a-z]+|[^\sa-z]")
    made.pre_tokenizer = pre_tokenizers.Split(split, behavior="removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=END, bos_token=END, pad_token=PADDING, unk_token=UNKNOWN
    )


LEARNERS: Mapping[str, embeddings.Learner] = {
    "features": rewards.features_bt,
    "tfidf-words": rewards.tfidf_bt,
    "neox": neox_bt,
}
