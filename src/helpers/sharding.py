"""Scoring shared between processes, one a card (or a processor's core), by ``torch.distributed``.

Run it by ``torch.distributed.run``, which starts the processes and names each its rank::

    python -m torch.distributed.run --standalone --nproc_per_node 2 -m helpers.sharding \\
        --model FOLDER --texts texts.parquet --out scores.parquet --processes 2

``--processes`` is what was asked for; fewer is an error. ``accelerate launch --cpu`` starts one
process whatever it is asked for, and says nothing.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist

from helpers import checkpoints, scoring


def shares(prompts: Sequence[str], lengths: Sequence[int], processes: int) -> np.ndarray:
    """Which process scores each text: shape (n,), numbers 0 to ``processes`` - 1.

    Texts with one prompt stay together, so that their common beginning is still computed once.
    Prompts go to the process with the least to do, the longest first; ``lengths`` are any measure
    of the work of a text, e.g. characters. Raises ValueError for fewer than one process.
    """
    if processes < 1:
        raise ValueError(f"processes is {processes}; it must be at least 1")
    work = pd.Series(np.asarray(lengths, dtype=float)).groupby(np.asarray(prompts, object)).sum()
    load, owner = np.zeros(processes), {}
    # Sorted by name among equals: every process must come to the same shares on its own.
    for prompt, size in sorted(work.items(), key=lambda item: (-item[1], item[0])):
        owner[prompt] = int(load.argmin())
        load[owner[prompt]] += size
    return np.array([owner[prompt] for prompt in prompts], dtype=int)


def scores(
    network: scoring.Network,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    processes: int,
    **options,
) -> tuple[np.ndarray, list[scoring.Report]]:
    """Scores of all texts, the same in every process of the group, and each process's report.

    Called by every process with the same texts; each computes its share, with ``options`` of
    :func:`helpers.scoring.scores`. Raises RuntimeError unless the group has exactly ``processes``
    members: a launcher that starts fewer would otherwise pass for a fast machine; and ValueError in
    all processes, with the kind of error, for whatever one of them ran into.
    """
    have = dist.get_world_size() if dist.is_initialized() else 1
    if have != processes:
        raise RuntimeError(
            f"{processes} processes were asked for, but {have} run; start them by "
            f"`python -m torch.distributed.run --nproc_per_node {processes}`"
        )
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    rank = dist.get_rank() if dist.is_initialized() else 0
    mine = np.flatnonzero(shares(prompts, lengths, processes) == rank)
    problem, cause, found, report = "", None, np.zeros(0), None
    try:
        found, report = scoring.scores(
            network, [prompts[i] for i in mine], [responses[i] for i in mine], **options
        )
    except Exception as error:  # any: the others would wait for this process, see below
        what = f"{type(error).__name__}: {error}".removesuffix(": ")
        cause = error
        problem = f"process {rank} of {processes}: {what} (numbers count its share only)"
    parts: list = [(mine, found, report, problem)]
    if have > 1:
        parts = [None] * have
        dist.all_gather_object(parts, (mine, found, report, problem))
    if problems := [part[3] for part in parts if part[3]]:
        raise ValueError("; ".join(problems)) from cause
    values = np.full(len(prompts), np.nan)
    for where, part, _, _ in parts:
        values[where] = part
    return values, [part[2] for part in parts]


def main(arguments: Sequence[str] | None = None) -> None:
    """Score a Parquet file with columns ``prompt`` and ``response``; writes it with ``score``."""
    parser = argparse.ArgumentParser(prog="helpers.sharding", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model", required=True, help="a folder, a name of the catalogue, a hub id"
    )
    parser.add_argument("--texts", type=Path, required=True, help="Parquet: prompt, response")
    parser.add_argument("--out", type=Path, required=True, help="Parquet: the same with score")
    parser.add_argument("--processes", type=int, required=True, help="how many must run")
    parser.add_argument("--dtype", default="float32", help="torch's name of a number type")
    parser.add_argument("--cache", type=Path, help="file of scores that are known")
    options = parser.parse_args(arguments)
    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if cuda else "cpu"
        if cuda:
            torch.cuda.set_device(device)
        table = pd.read_parquet(options.texts)
        network = checkpoints.load(options.model, dtype=options.dtype, device=device)
        values, reports = scores(
            network,
            table["prompt"].tolist(),
            table["response"].tolist(),
            processes=options.processes,
            cache=options.cache,
        )
        if dist.get_rank() == 0:
            table.assign(score=values).to_parquet(options.out, index=False)
            print(json.dumps([report._asdict() for report in reports]))
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
