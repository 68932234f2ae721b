"""Real text for the alignment chapters: pairs of HH-RLHF by part, the policy that starts, and
reward models that learn from one part and are asked about another.

The parts are those of :mod:`helpers.splits`: policies learn from ``policy``, the reward models that
drive them from ``panel``, the judge from ``judge``; all are measured on ``test``.
"""

import json
from collections.abc import Collection, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from helpers import (
    accuracy,
    bundled,
    catalogue,
    checkpoints,
    downloads,
    embeddings,
    hh,
    pairs,
    policies,
    rewards,
    smollm2,
    splits,
    stats,
    templates,
)

# The bundled policy; any other name is a folder or a hub id.
SMOLLM2 = "smollm2"
# SmolLM2's own format, less its system message and the newline after the end marker, which would
# be the last token of every response.
_TURN = "<|im_start|>{}\n{{}}<|im_end|>"
_CHATML = templates.Template(
    "chatml",
    user=_TURN.format("user") + "\n",
    past=_TURN.format("assistant") + "\n",
    answer=_TURN.format("assistant"),
)
# What a reward model can be made with; any other name is one of helpers.checkpoints.load.
LEARNERS: Mapping[str, embeddings.Learner] = {
    "length": rewards.length_bt,
    "features": rewards.features_bt,
    "tfidf-words": rewards.tfidf_bt,
    "tfidf-characters": partial(rewards.tfidf_bt, analyzer="char_wb"),
    "minilm": embeddings.minilm_bt,
    "minilm-prompt": embeddings.minilm_prompt_bt,
    "smollm2": embeddings.smollm2_bt,
}


class Text(NamedTuple):
    """What all jobs of a chapter's real arm share."""

    # Of helpers.hh: other data, other jobs.
    fingerprint: str
    # One reward model serves all of them. HH-RLHF's subsets want opposite things: learned from the
    # mixture of the test sets, none was right in more than 56 % of the test part.
    subsets: tuple[str, ...] = ("harmless-base",)
    # The training sets are on the hub only.
    splits: tuple[str, ...] = ("test",)
    policy: str = SMOLLM2
    # Of prompt and response in the policy's tokens; pairs with more are left out. 0.34 of the
    # test sets' pairs have at most 150.
    max_tokens: int = 160
    # Longest response that is sampled.
    new_tokens: int = 48


def text(source: hh.Source, **settings) -> Text:
    """The settings of an arm on the data that are there."""
    return Text(hh.fingerprint(source), **settings)


def missing(source: hh.Source, pairs: int, subsets: Collection, parts: Collection) -> str:
    """Why the arm cannot run on ``pairs`` pairs of these files; empty where it can."""
    if not pairs:
        return "left out in this profile"
    if source.kind == "none":
        return "no HH-RLHF is reachable"
    had = hh.available(source)
    lost = [f"{a} {b}" for a in subsets for b in parts if (a, b) not in had]
    return f"not reachable: {', '.join(lost)}" if lost else ""


def of(settings: Mapping) -> Text:
    """A :class:`Text` from what JSON has made of it."""
    lists = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    return Text(**lists)


@lru_cache(maxsize=2)
def read(where: Text) -> pd.DataFrame:
    """All pairs, each once, of one prompt and with two responses, with their part in ``part``.

    A pair whose sides have different prompts could belong to two parts. Raises
    :class:`helpers.hh.Unreachable` without data and ValueError where they are others than named.
    """
    source = hh.locate()
    if source.kind == "none":
        raise hh.Unreachable(hh.HELP)
    if hh.fingerprint(source) != where.fingerprint:
        raise ValueError(f"the data are {hh.fingerprint(source)}, not {where.fingerprint}")
    data, _ = hh.load(source, [(s, t) for s in where.subsets for t in where.splits])
    told = data["chosen"].str.strip().ne("") & data["rejected"].str.strip().ne("")
    data = data[data["rejected_prompt"].isna() & told].drop_duplicates("pair_id")
    return data.assign(part=data["prompt"].map(splits.split_of)).reset_index(drop=True)


def part(where: Text, *names: str) -> pd.DataFrame:
    """The pairs of these parts, in the schema of :mod:`helpers.pairs`."""
    data = read(where)
    return data.loc[data["part"].isin(names), list(pairs.COLUMNS)].reset_index(drop=True)


def fitting(policy: policies.Policy, data: pd.DataFrame, n: int, *, seed: int) -> pd.DataFrame:
    """The first ``n`` pairs in a random order of which both texts fit the policy's limit.

    Raises ValueError where there are fewer: arms of different sizes are not compared."""
    rows = []
    for row in data.sample(frac=1, random_state=seed).itertuples():
        both = [policy.template.render(row.prompt, r) for r in (row.chosen, row.rejected)]
        if all(len(policy.tokenizer(one).input_ids) <= policy.max_tokens for one in both):
            rows.append(row.Index)
        if len(rows) == n:
            return data.loc[rows].reset_index(drop=True)
    raise ValueError(
        f"{len(rows)} of {len(data)} pairs have at most {policy.max_tokens} tokens, {n} are "
        "wanted; ask for fewer, or allow longer ones"
    )


def policy(where: Text) -> policies.Policy:
    """The policy as it comes, on the GPU where there is one. Its padding is never its end marker.

    SmolLM2 is asked in its own format, any other in that of HH-RLHF. Raises FileNotFoundError where
    it cannot be had, and :class:`helpers.weights.Refused` for a tokenizer without padding."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    if where.policy == SMOLLM2:
        folder, made, name = bundled.smollm2_model(), smollm2.tokenizer(), bundled.SMOLLM2_NAME
        template, revision = _CHATML, smollm2.REVISION
    else:
        if not reachable(where.policy):
            raise FileNotFoundError(f"{where.policy!r}: no folder, and the hub does not give it")
        folder = name = where.policy
        made = AutoTokenizer.from_pretrained(folder)
        template, revision = templates.hh_raw(made.eos_token), ""
    # Weights in float32: ratios of probabilities need digits, and small steps would be rounded off.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if where.policy != SMOLLM2:
        revision = getattr(model.config, "_commit_hash", None) or "local"
        checkpoints.set_padding(made, model.config)
        if made.pad_token_id == made.eos_token_id and made.unk_token_id is not None:
            made.pad_token = made.unk_token  # LLaMA: bytes stand in for what it does not know
        if made.pad_token_id == made.eos_token_id:
            raise checkpoints.Refused(f"{name}: no token is free for padding")
    model.config.pad_token_id = made.pad_token_id
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval().requires_grad_(False)
    return policies.Policy(name, revision, template, made, model, where.max_tokens)


def reachable(name: str) -> bool:
    """Whether a policy of this name can be had: bundled, a folder, or on a hub that answers."""
    if name == SMOLLM2:
        return bundled.smollm2_folder() is not None
    if Path(name).is_dir():
        return True
    if downloads.hub_offline():
        return False
    return downloads.answers(f"{downloads.hub_address()}/{name}/resolve/main/config.json")


def first_reachable(names: Collection[str]) -> str:
    """The first policy that can be had. FileNotFoundError, naming them all, where none can."""
    for name in names:
        if reachable(name):
            return name
    raise FileNotFoundError(f"none of {list(names)} can be had here; `make setup` brings SmolLM2")


def learned(where: Text, name: str, own: str, labels: int | None, seed: int) -> rewards.Scorer:
    """A reward model of :data:`LEARNERS` that learned from ``labels`` pairs of the part ``own``
    (None: all), or a finished one by its name or folder, whatever it learned from.

    Same arguments, same model: it is fitted anew wherever it is needed, from features that are
    kept (:mod:`helpers.featurecache`)."""
    if name in LEARNERS:
        return LEARNERS[name](_labelled(where, own, labels, seed), seed)
    from torch.cuda import is_available

    device = "cuda" if is_available() else "cpu"
    made = checkpoints.load(name, device=device)
    try:
        named = ", ".join(catalogue.row(name).overlaps)
    except KeyError:
        named = ""
    none = frozenset()
    scorer = checkpoints.as_scorer(
        made, learned="as published", pair_ids=none, prompts=none, family=name
    )
    # circularity.guard looks here for data that the labels belong to.
    return scorer._replace(facts=dict(scorer.facts) | {"training_data": named})


def tested(scorer: rewards.Scorer, data: pd.DataFrame) -> pd.DataFrame:
    """Score of each side of pairs that the scorer has not learned from: ``pair_id``, ``prompt`` (a
    hash), ``chosen``, ``rejected``. ValueError where it has learned from one of their prompts."""
    if seen := scorer.prompts & set(data["prompt"]):
        raise ValueError(f"{scorer.name} has learned from {len(seen)} of the test's prompts")
    found = scorer.score([*data["prompt"]] * 2, [*data["chosen"], *data["rejected"]])
    return pd.DataFrame(
        {
            "pair_id": data["pair_id"],
            "prompt": data["prompt"].map(splits.prompt_hash),
            "chosen": found[: len(data)],
            "rejected": found[len(data) :],
        }
    )


def right(found: pd.DataFrame, *, seed: int) -> stats.Estimate:
    """Share of pairs of :func:`tested` whose chosen response scores higher; a tie is wrong (Eq. 2).
    Bootstrap by prompt."""
    return stats.cluster_bootstrap(
        accuracy.credit(found["chosen"] - found["rejected"]), found["prompt"], seed=seed
    )


def best(
    where: Text, candidates: Collection[str], own: str, labels: int | None, seed: int
) -> tuple[str, dict[str, float]]:
    """The candidate that is right most often on a quarter of the prompts of ``own`` after learning
    from the rest, the first of equals; and each one's share. Finished models just take the test.

    The part ``test`` is not looked at: what is chosen on it would look too good on it."""
    data = _labelled(where, own, labels, seed)
    held = data["prompt"].map(lambda p: int(splits.prompt_hash(p), 16) % 4 == 0).to_numpy()
    shares = {}
    for name in candidates:
        known = name in LEARNERS
        scorer = LEARNERS[name](data[~held], seed) if known else learned(where, name, own, 0, seed)
        found = tested(scorer, data[held])
        shares[name] = float(accuracy.credit(found["chosen"] - found["rejected"]).mean())
    return max(shares, key=shares.get), shares


def _labelled(where: Text, own: str, labels: int | None, seed: int) -> pd.DataFrame:
    data = part(where, own).sample(frac=1, random_state=seed)
    return data if labels is None else data.head(labels)


def write(table: pd.DataFrame, path: Path) -> None:
    """One JSON object a row."""
    table.to_json(path, orient="records", lines=True, force_ascii=False)


def table(path: Path) -> pd.DataFrame:
    """What :func:`write` has written."""
    with open(path, encoding="utf-8") as lines:
        return pd.DataFrame([json.loads(line) for line in lines])


def measured(
    policy: policies.Policy, reference: policies.Policy | None, where: Text, n: int, *, seed: int
) -> pd.DataFrame:
    """One response to each of ``n`` prompts of the part ``test``, a row each; the same prompts and
    random numbers for all policies.

    Columns: ``pair_id``, ``subset``, ``prompt``, ``chosen`` (HH-RLHF's), ``response``,
    ``finished``, ``length`` (tokens), ``kl`` in nats a response from ``reference`` (None: the
    policy with its adapter off)."""
    data = fitting(policy, part(where, "test").drop_duplicates("prompt"), n, seed=0)
    made = policies.sample(
        policy, data["prompt"].tolist(), seed=seed, max_new_tokens=where.new_tokens, batch_size=32
    )
    if reference is policy:
        kl = np.zeros(n)
    else:
        # A batch holds its probabilities of 49,000 tokens twice.
        kl = policies.kl_of(policy, reference, made.tokens, batch_size=8)
    return data[["pair_id", "subset", "prompt", "chosen"]].assign(
        response=made.texts,
        finished=np.asarray(made.finished),
        length=made.lengths,
        kl=kl,
    )
