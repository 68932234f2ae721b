"""Rewards of sampled responses in standard deviations of those of fixed reference responses."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from helpers import policies, rewards


class Standard(NamedTuple):
    """Mean and standard deviation of raw rewards on fixed reference responses."""

    mean: float
    deviation: float


def standard(score: rewards.Score, prompts: Sequence[str], responses: Sequence[str]) -> Standard:
    """What standardises the rewards of ``score``, from responses to prompts that no reward model
    has learned from. ValueError where their scores are not finite or all the same."""
    values = np.asarray(score(prompts, responses), dtype=float)
    if not np.isfinite(values).all() or len(np.unique(values)) < 2:
        raise ValueError(
            f"rewards of {len(values)} reference responses: {np.unique(values)[:5]}; they must be "
            "finite and differ"
        )
    return Standard(float(values.mean()), float(values.std()))


class Rewards:
    """Standardised rewards of responses, and what they were since the last row of the log.

    ``gold`` is a second score that is written down beside the first and rewards nothing: what the
    reward model is a proxy for, where it is known.
    """

    def __init__(
        self,
        policy: policies.Policy,
        score: rewards.Score,
        reference: Standard,
        gold: rewards.Score | None = None,
    ):
        self.policy, self.score, self.reference, self.gold = policy, score, reference, gold
        self.since: list[tuple[np.ndarray, list[int], np.ndarray, np.ndarray]] = []
        self.tokens = 0  # of the responses that the rows so far are about

    def __call__(self, prompts: Sequence[str], responses: Sequence[Sequence[int]]) -> np.ndarray:
        """Of responses given by their tokens without padding; float array of shape (n,)."""
        texts = [policies.text(self.policy, ids) for ids in responses]
        raw = np.asarray(self.score(list(prompts), texts), dtype=float)
        true = np.asarray(self.gold(list(prompts), texts) if self.gold else [], dtype=float)
        self.since.append((raw, [len(ids) for ids in responses], self.ended(responses), true))
        return (raw - self.reference.mean) / self.reference.deviation

    def ended(self, responses: Sequence[Sequence[int]]) -> np.ndarray:
        end = self.policy.tokenizer.eos_token_id
        return np.array([end in ids for ids in responses], dtype=bool)

    def row(self) -> dict[str, float]:
        """Means since the last call, over all processes that train together: each samples its own
        responses, and all have to call."""
        raw, lengths, ended, true = (np.concatenate(part) for part in zip(*_of_all(self.since)))
        self.since = []
        self.tokens += int(lengths.sum())
        return ({"gold": float(true.mean())} if self.gold else {}) | {
            "reward": float((raw.mean() - self.reference.mean) / self.reference.deviation),
            "raw_reward": float(raw.mean()),
            "length": float(lengths.mean()),
            "eos_rate": float(ended.mean()),
        }


def _of_all(own: list) -> list:
    import torch.distributed as dist

    if not dist.is_initialized():
        return own
    every: list = [None] * dist.get_world_size()
    dist.all_gather_object(every, own)
    return [part for parts in every for part in parts]
