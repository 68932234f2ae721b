"""Two real processes give the scores of one; fewer than asked for is an error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification

from helpers import checkpoints, scoring, sharding

WORDS = [" Water.", " I don't know.", " It rains because it rains, and so on.", " No."]


@given(
    st.lists(st.tuples(st.sampled_from("abcdefg"), st.integers(0, 50)), max_size=30),
    st.integers(1, 5),
)
def test_shares_keep_a_prompt_together_and_balance_the_work(texts, processes):
    prompts, lengths = [p for p, _ in texts], [n for _, n in texts]
    of = sharding.shares(prompts, lengths, processes)
    assert len(of) == len(texts) and set(of) <= set(range(processes))
    assert all(len({o for o, q in zip(of, prompts) if q == p}) == 1 for p in set(prompts))
    # Greedy placement: the fullest exceeds the emptiest by at most one prompt's work.
    load = [sum(n for o, n in zip(of, lengths) if o == k) for k in range(processes)]
    largest = max((sum(n for q, n in texts if q == p) for p in set(prompts)), default=0)
    assert max(load) - min(load) <= largest


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = tiny_models.config("llama", num_labels=1, pad_token_id=0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    (folder / checkpoints.SIDECAR).write_text(json.dumps({"template": "hh_raw", "max_tokens": 200}))
    prompts = [prompt for prompt in tiny_models.PROMPTS for _ in WORDS]
    texts = pd.DataFrame({"prompt": prompts, "response": WORDS * len(tiny_models.PROMPTS)})
    texts.to_parquet(folder / "texts.parquet", index=False)
    return folder, texts


def launch(folder: Path, processes: int) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(processes), "-m", "helpers.sharding"]
    command += ["--model", str(folder), "--texts", str(folder / "texts.parquet")]
    command += ["--out", str(folder / "scores.parquet"), "--processes", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    package = str(Path(sharding.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join([package, environment.get("PYTHONPATH", "")])
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=180, check=False
    )


def test_two_processes_give_the_scores_of_one(saved):
    folder, texts = saved
    network = checkpoints.load(folder)
    alone, report = scoring.scores(network, texts["prompt"].tolist(), texts["response"].tolist())
    done = launch(folder, processes=2)
    assert done.returncode == 0, done.stderr[-2000:]
    written = pd.read_parquet(folder / "scores.parquet")
    assert written[["prompt", "response"]].equals(texts)
    np.testing.assert_allclose(written["score"], alone, atol=1e-5)
    reports = json.loads(done.stdout.splitlines()[-1])
    assert len(reports) == 2 and all(r["texts"] for r in reports)
    assert sum(r["texts"] for r in reports) == report.texts


# Rank 1 of 2 fails with an error that nobody foresaw; both must end, and say whose it was.
BROKEN = """
import sys
import torch.distributed as dist
from helpers import scoring, sharding
dist.init_process_group("gloo")
def scores(network, prompts, responses, **options):
    if dist.get_rank() == 1:
        raise KeyError("a lost table")
    return [1.0] * len(prompts), None
scoring.scores = scores
try:
    sharding.scores(None, list("abcd"), list("wxyz"), processes=2)
except ValueError as error:
    print(error, flush=True)
dist.destroy_process_group()
"""


def test_an_error_in_one_process_ends_all_with_its_kind(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", str(tmp_path / "broken.py")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    package = str(Path(sharding.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join([package, environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # The two share a pipe, and print writes a text and its end of line separately.
    assert done.stdout.count("process 1 of 2: KeyError: 'a lost table'") == 2


def test_one_process_where_two_were_asked_for_is_an_error(saved):
    network = checkpoints.load(saved[0])
    with pytest.raises(RuntimeError, match="2 processes were asked for, but 1 run"):
        sharding.scores(network, ["a"], ["b"], processes=2)
