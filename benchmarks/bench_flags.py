"""Time and memory of reading preference pairs and of all their deterministic flags.

    python benchmarks/bench_flags.py [--sizes 8500 85000 850000] [--data DIR]

Writes files of the given sizes in the form of HH-RLHF and reads and flags each of them in a process
of its own, one after the other. The texts are those of the test sets where they are reachable: the
first copy as it is, all others with the words of every sentence in a random order, so that copies
are no duplicates of each other. Without them the pairs are planted ones.

Seconds and pairs/s are by the wall clock. Whether the cost is linear is told by processor time,
which other work on the machine changes little. The exit status is 1 where the cost is not linear or
the memory is over the limit.
"""

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

from helpers import bundled, duplicates, hh, pairs, pitfalls, planted

SIZES = (8_500, 85_000, 850_000)
MEMORY_LIMIT_GB = 3.0
# A pair of a large file may cost this many times as much as one of the smallest: sorting and the
# processor's caches add a little, a quadratic step would add a factor of 10 a row of the table.
LINEAR = 1.5
_SENTENCE = re.compile(r"[^.!?\n]+")


def dialogues(seed: int) -> tuple[str, Iterator[tuple[str, str]]]:
    """What the texts are, and an endless stream of chosen and rejected dialogues."""
    source = hh.locate()
    if source.kind == "none":
        return "planted pairs", _planted()
    keys = [key for key in hh.available(source) if key[1] == "test"]
    data, _ = hh.load(source, keys)
    texts = list(zip(*pitfalls.dialogues(data)))
    random.Random(seed).shuffle(texts)
    return f"{len(texts):,} test pairs of {source.kind}, words shuffled", _shuffled(texts, seed)


def _shuffled(texts: list[tuple[str, str]], seed: int) -> Iterator[tuple[str, str]]:
    yield from texts
    draw = random.Random(seed).random

    def sentence(match: re.Match) -> str:
        return " ".join(sorted(match.group().split(" "), key=lambda _: draw()))

    def text(dialogue: str) -> str:
        turns = pairs.split_turns(dialogue)
        return "".join(f"\n\n{role}:{_SENTENCE.sub(sentence, said)}" for role, said in turns)

    while True:
        for sides in texts:
            # A prompt that both sides share is shuffled once, the answers each on its own.
            parts = [pairs.split_dialogue(side) for side in sides]
            prompts = {prompt: text(prompt) for prompt, _ in parts}
            yield tuple(prompts[prompt] + _SENTENCE.sub(sentence, said) for prompt, said in parts)


def _planted() -> Iterator[tuple[str, str]]:
    for seed in count():
        yield from zip(*pitfalls.dialogues(planted.planted_pairs(2_000, seed=seed)[0]))


def write(sizes: list[int], folder: Path, seed: int) -> tuple[str, list[Path]]:
    """One file a size; the smaller ones are the beginning of the larger ones."""
    origin, stream = dialogues(seed)
    paths = [folder / f"{size}.jsonl" for size in sizes]
    done = 0
    for i, size in enumerate(sizes):
        more = (json.dumps({"chosen": c, "rejected": r}) for c, r in islice(stream, size - done))
        if i:
            paths[i].write_bytes(paths[i - 1].read_bytes())
        with paths[i].open("a", encoding="utf-8") as out:
            out.writelines(f"{line}\n" for line in more)
        done = size
    return origin, paths


def measure(path: Path) -> dict:
    """Seconds of each step, processor seconds of all, and this process's peak memory in bytes."""
    tokenizer = bundled.smollm2_tokenizer()
    key = (hh.SUBSETS[0], "test")
    clock, processor = [time.perf_counter()], time.process_time()
    data, _ = hh.load(hh.Source("folder", str(path.parent), {key: path}))
    clock.append(time.perf_counter())
    flags = pitfalls.flag(data, tokenizer, limits=(512, 1024))
    clock.append(time.perf_counter())
    flags = flags.join(duplicates.flag(data))
    clock.append(time.perf_counter())
    unit = 1 if sys.platform == "darwin" else 1024
    return dict(
        pairs=len(flags),
        steps=[end - start for start, end in zip(clock, clock[1:])],
        processor=time.process_time() - processor,
        near=int(flags["near_duplicate"].sum()),
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="pairs a file")
    parser.add_argument("--data", help="folder of HH-RLHF (default: HH_RLHF_DIR, else the hub)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return 0
    if options.data:
        os.environ["HH_RLHF_DIR"] = options.data
    with tempfile.TemporaryDirectory() as folder:
        origin, paths = write(sorted(options.sizes), Path(folder), options.seed)
        print(f"{origin}; seed {options.seed}")
        head = "pairs,read,pitfalls,duplicates,pairs/s,ratio,cpu us/pair,ratio,peak GB,near"
        print("".join(f"{name:>13}" for name in head.split(",")), flush=True)
        rates, costs, memory = [], [], []
        for path in paths:
            # A fresh process each: peak memory never falls again in one that lives on.
            command = [sys.executable, __file__, "--measure", str(path)]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(run.stdout)
            rates.append(found["pairs"] / sum(found["steps"]))
            memory.append(found["memory"] / 1e9)
            costs.append(found["processor"] / found["pairs"] * 1e6)
            print(
                f"{found['pairs']:13,}",
                *(f"{seconds:13.1f}" for seconds in found["steps"]),
                f"{rates[-1]:13,.0f}{rates[-1] / rates[0]:13.2f}",
                f"{costs[-1]:13,.0f}{costs[-1] / costs[0]:13.2f}",
                f"{memory[-1]:13.2f}{found['near']:13,}",
                sep="",
                flush=True,
            )
            path.unlink()
    linear, small = max(costs) <= LINEAR * costs[0], max(memory) <= MEMORY_LIMIT_GB
    print(
        f"processor time per pair {'is' if linear else 'is NOT'} the same within a factor of "
        f"{LINEAR}; memory {'stays below' if small else 'is OVER'} {MEMORY_LIMIT_GB:g} GB"
    )
    return 0 if linear and small else 1


if __name__ == "__main__":
    sys.exit(main())
