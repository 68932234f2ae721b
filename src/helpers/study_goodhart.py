"""Chapter 09: how far a proxy can be followed before gold falls, along best-of-n and along KL.

Best-of-n chooses among samples of the start policy that all reward models score; the trajectories
of reinforcement are the logs of chapter 07, and the ends of rankings those of chapter 08. A job of
its own trains a policy on an ensemble of reward models.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from helpers import (
    align_ppo,
    arms,
    crossed,
    gold,
    goodhart,
    jobs,
    lexicon,
    rewards,
    standardised,
    study_ppo,
)
from helpers.stats import Estimate

# What each sweep changes; the first is what the others are compared with.
SWEEPS: Mapping[str, tuple[str, ...]] = {
    "data size": (
        "3,000 right labels",
        "1,000 right labels",
        "300 right labels",
        "100 right labels",
    ),
    "label noise": (
        "1,000 right labels",
        "1,000 labels, 20 % wrong",
        "1,000 labels, 40 % wrong",
    ),
    # The friends err at random as often as the first; what they lean to comes on top.
    "annotator bias": (
        "1,000 labels, 20 % wrong",
        "1,000 labels by friends of length",
        "1,000 labels by friends of style",
    ),
}
KINDS = ("mean", "min", "uwo")


class Samples(NamedTuple):
    """What best-of-n chooses from. ``gold`` and ``words`` (length in words and marks) have shape
    (prompts, samples); ``alike`` is the share of samples whose text another sample of the same
    prompt has, too, so that the KL of best-of-n is an upper bound."""

    table: pd.DataFrame
    gold: np.ndarray
    words: np.ndarray
    alike: float


def samples(job: jobs.Job) -> Samples:
    """What :func:`helpers.arms.sampled` has written."""
    table = arms.read(jobs.folder(job) / "samples.jsonl")
    shape = (job.settings["prompts"], job.settings["samples"])
    if len(table) != shape[0] * shape[1]:
        raise ValueError(f"{len(table)} samples, where {job.name} should have made {shape}")
    words = np.array([len(lexicon.words(text)) for text in table["response"]], dtype=float)
    alike = table.duplicated(["prompt", "response"], keep=False).mean()
    true = table["gold"].to_numpy(float)
    return Samples(table, true.reshape(shape), words.reshape(shape), float(alike))


def scores(job: jobs.Job, shape: tuple[int, int]) -> np.ndarray:
    """What :func:`helpers.arms.scored` has written, shape (prompts, samples), in standard
    deviations of all samples: one reference set for all reward models, so that they can share an
    axis and an ensemble. ValueError where all scores are the same."""
    found = np.load(jobs.folder(job) / "scores.npy").reshape(shape)
    return standard_scores(found)


def standard_scores(values: ArrayLike) -> np.ndarray:
    """Values less their mean, in their standard deviations."""
    values = np.asarray(values, dtype=float)
    if not values.std() > 0:
        raise ValueError(
            "all scores are the same; a reward model that sees nothing selects nothing"
        )
    return (values - values.mean()) / values.std()


def powers(most: int) -> list[int]:
    """1, 2, 4, … up to ``most``, which ends the list whether or not it is a power of two."""
    return sorted({2**k for k in range(most.bit_length()) if 2**k <= most} | {most})


def gains(proxies: ArrayLike, values: ArrayLike, ns: Sequence[int]) -> np.ndarray:
    """Expected ``values`` of the best of n by each proxy, less the mean of all samples: shape
    (proxies, prompts, len(ns)), from ``proxies`` (proxies, prompts, samples) and ``values``
    (prompts, samples), or one for each proxy."""
    proxies = np.asarray(proxies, dtype=float)
    values = np.broadcast_to(np.asarray(values, dtype=float), proxies.shape)
    return np.stack(
        [
            goodhart.best_of_n(proxy, own, ns) - own.mean(1, keepdims=True)
            for proxy, own in zip(proxies, values)
        ]
    )


def mean(cells: ArrayLike) -> Estimate:
    """Mean of (proxies, prompts) values. With one proxy a t interval over prompts, which holds for
    that proxy alone; with more, :func:`helpers.crossed.mean`, which holds for others like them."""
    cells = np.asarray(cells, dtype=float)
    if len(cells) > 1:
        return crossed.mean(cells).estimate
    row = goodhart.band(cells[0][:, None]).iloc[0]
    method = "t interval over prompts, one reward model"
    return Estimate(row["value"], row["low"], row["high"], cells.shape[1], method)


def band(curves: ArrayLike) -> pd.DataFrame:
    """:func:`mean` at each point of curves (proxies, prompts, points): value, low, high, n."""
    curves = np.asarray(curves, dtype=float)
    return pd.DataFrame([mean(curves[:, :, at]) for at in range(curves.shape[2])])


def agreement(proxy: np.ndarray, true: np.ndarray) -> Estimate:
    """Mean over prompts of the correlation between proxy and gold among samples of one prompt: what
    best-of-n has to go by. Prompts where one of the two is the same throughout count as 0."""
    centred = [x - x.mean(1, keepdims=True) for x in (proxy, true)]
    scale = np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
    both = (centred[0] * centred[1]).sum(1)
    return mean(np.divide(both, scale, out=np.zeros_like(both), where=scale > 1e-12)[None])


def fit(form: str, d: ArrayLike, curves: ArrayLike, *, seed: int) -> goodhart.Fit | None:
    """:func:`helpers.goodhart.fit` on curves (units, points); None where fewer than two curves or
    three distances are there to fit a form of two parameters to."""
    d, curves = np.asarray(d, dtype=float), np.asarray(curves, dtype=float)
    if len(curves) < 2 or len(np.unique(d[d > 0])) < 3:
        return None
    return goodhart.fit(form, d, curves, seed=seed)


# Along KL


def trajectories(
    log: pd.DataFrame, before: float, span: int
) -> dict[tuple[str, str], list[pd.DataFrame]]:
    """For each method and reward model of :func:`helpers.study_ppo.logs`, a table a seed: ``d``
    (root of the KL in nats), ``proxy`` (standardised reward) and ``gold`` (less ``before``, the
    start policy's), a row an update, all smoothed as in chapter 07. A KL is estimated from a
    batch and can come out below 0: that is 0."""
    found: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for (method, grade, _), own in log.groupby(["method", "grade", "seed"], sort=False):
        kl, proxy, true = (study_ppo.smoothed(own[c], span) for c in ("kl", "reward", "gold"))
        table = pd.DataFrame(
            {"d": np.sqrt(np.clip(kl, 0, None)), "proxy": proxy, "gold": true - before}
        )
        found.setdefault((method, grade), []).append(table)
    return found


def shared(runs: Sequence[pd.DataFrame], points: int) -> np.ndarray:
    """Distances above 0 that all runs have passed through, evenly spaced; empty if there are none.

    Where one run has gone further than the others there is no band, so the curve ends before.
    """
    low = max(run["d"].min() for run in runs)
    high = min(run["d"].max() for run in runs)
    if not high > low:
        return np.array([])
    grid = np.linspace(low, high, points)
    return grid[grid > 0]


def ends(
    answers: pd.DataFrame,
    before: pd.DataFrame,
    proxies: Mapping[str, tuple[rewards.Scorer, standardised.Standard]],
) -> pd.DataFrame:
    """Where the runs of chapter 08 ended, a row each: method, ranking, grade, seed, ``kl``, ``d``,
    and mean gain over the start policy's response to the same prompt, ``gold`` and ``proxy`` (by
    the reward model that ranked, standardised). A run that wrote nothing has no KL and stays.

    ``before`` are the start policy's responses; only prompts that it has answered count.
    """
    rows = []
    keys = ["method", "ranking", "grade", "seed"]
    start = before.set_index("pair_id")
    asked, texts = start["prompt"].tolist(), start["response"].tolist()
    # The start policy's responses are the same for all runs of a reward model: scored once.
    then = {
        grade: pd.Series(scorer.score(asked, texts), index=start.index)
        for grade, (scorer, _) in proxies.items()
    }
    for key, own in answers.groupby(keys, sort=False):
        own = own[own["pair_id"].isin(start.index)]
        scorer, scale = proxies[key[2]]
        now = np.asarray(scorer.score(own["prompt"].tolist(), own["response"].tolist()))
        old = then[key[2]].loc[own["pair_id"]].to_numpy()
        theirs = start["gold"].loc[own["pair_id"]].to_numpy()
        kl = float(own["kl"].mean()) if "kl" in own else np.nan
        rows.append(
            dict(zip(keys, key))
            | {"kl": kl, "d": np.sqrt(max(kl, 0)) if np.isfinite(kl) else np.nan}
            | {"gold": float((own["gold"].to_numpy() - theirs).mean())}
            | {"proxy": float((now - old).mean() / scale.deviation)}
        )
    return pd.DataFrame(rows)


# Ensembles as rewards


def planned(
    kinds: Sequence[str],
    grade: str,
    members: int,
    seeds: int,
    start: jobs.Job,
    *,
    weight: float,
    measure: int,
    tested: int,
    config: Mapping[str, float],
) -> list[study_ppo.Run]:
    """PPO on ensembles of ``members`` reward models of one grade, as
    :func:`helpers.study_ppo.planned` does it on one; the kind of ensemble stands in ``grade``."""
    needs = {f"member_{k}": arms.proxy_job(grade, k, tested) for k in range(members)}
    needs["start"] = start
    prompts = config["updates"] * config["batch_size"]
    settings = dict(prompts=prompts, measure=measure, config=dict(config))
    found = []
    for kind in kinds:
        own = settings | dict(kind=kind, weight=weight if kind == "uwo" else None)
        for seed in range(seeds):
            name = f"ppo, {kind} of {members} × {grade}, seed {seed}"
            job = jobs.Job(name, "study_goodhart.reinforced", own | {"seed": seed}, needs)
            found.append(study_ppo.Run("ppo", f"{kind} of {members} × {grade}", seed, job))
    return found


def reinforced(
    folder: Path,
    *,
    kind: str,
    weight: float | None,
    prompts: int,
    seed: int,
    measure: int,
    config: dict,
    start: Path,
    **members: Path,
) -> dict:
    """As :func:`helpers.arms.reinforce` with PPO, on an ensemble (:func:`goodhart.ensemble`) of
    reward models, each standardised on the same reference responses, as is the ensemble."""
    base = arms.load_policy(start)
    scorers = [arms.load_scorer(members[name]) for name in sorted(members)]
    scales = [arms.reference_of(base, scorer) for scorer in scorers]

    def score(asked, texts) -> np.ndarray:
        each = [(s.score(asked, texts) - z.mean) / z.deviation for s, z in zip(scorers, scales)]
        return goodhart.ensemble(np.stack(each), kind, weight)

    scale = arms.reference_of(base, scorers[0]._replace(name=f"{kind} ensemble", score=score))
    asked = arms.prompts_of(prompts, "policy", seed=arms.PROMPTS_SEED + seed)
    settings = align_ppo.Config(**config)
    done = align_ppo.ppo(base, score, scale, asked, settings, seed, gold=gold.scores)
    return arms.finish(folder, done, base, measure)
