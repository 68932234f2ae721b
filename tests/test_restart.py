"""Trainings that were killed (kill -9, within a step) end as if they had not been."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_align_reward
import torch
import transformers
from test_policies import small

from helpers import align_dpo, align_pro, align_reward, align_sft, hindsight, restart, world

DATA = world.make(48, seed=0).pairs
TEXTS = DATA["prompt"].tolist(), DATA["chosen"].tolist()
RANKINGS = [
    align_pro.Ranking(p, (c, r), (1.0, -1.0))
    for p, c, r in zip(DATA["prompt"], DATA["chosen"], DATA["rejected"])
]
# 48 texts, 8 a step: 6 steps an epoch, 18 in all.
SHAPE = dict(learning_rate=3e-3, epochs=3, batch_size=8, logging_steps=2)
KL = dict(kl_every=2, kl_prompts=4, kl_tokens=4)


def sft(**how):
    return lambda folder: align_sft.train(
        small(), *TEXTS, align_sft.Config(**SHAPE | how), seed=0, checkpoints=folder
    )


def dpo(**how):
    return lambda folder: align_dpo.train(
        small(), DATA, align_dpo.Config(**SHAPE | KL | how), seed=0, checkpoints=folder
    )


def pro(**how):
    return lambda folder: align_pro.train(
        small(), RANKINGS, align_pro.Config(**SHAPE | KL | how), seed=0, checkpoints=folder
    )


def reward(**how):
    return lambda folder: align_reward.train(
        test_align_reward.small(),
        DATA,
        align_reward.Config(**SHAPE | how),
        seed=0,
        checkpoints=folder,
    )


# What is trained, and after how many batches it is killed: in any epoch, or at its beginning.
CASES = {
    "sft": (sft(), 10),
    "sft, parts of a step": (sft(batch_size=4, accumulation=2), 31),
    "dpo": (dpo(), 13),
    "dpo, adapters": (dpo(lora_rank=2), 9),
    "pro": (pro(), 16),
    "rrhf": (pro(method="rrhf", sft_weight=1.0), 5),
    "coh": (pro(method="coh", epochs=1, markers=hindsight.WORLD), 20),
    "reward model": (reward(), 15),
    "reward model, adapters": (reward(lora_rank=2), 9),
}


def killed_by_itself(root: str) -> None:
    """Run each case in a process of its own that ends by SIGKILL; called in a fresh interpreter."""
    restart.SECONDS = 0.0
    restart.SHARE = float("inf")
    step = transformers.Trainer.training_step
    for name, (train, last) in CASES.items():
        child = os.fork()
        if not child:
            seen = []

            def counted(*args, seen=seen, last=last, **kwargs):
                seen.append(1)
                if len(seen) > last:
                    os.kill(os.getpid(), signal.SIGKILL)
                return step(*args, **kwargs)

            transformers.Trainer.training_step = counted
            train(Path(root, name))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, name


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    root = tmp_path_factory.mktemp("killed")
    code = f"import test_restart; test_restart.killed_by_itself({str(root)!r})"
    paths = [str(Path(__file__).parent), str(Path(restart.__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root


def state(trained) -> dict:
    made = trained.policy if hasattr(trained, "policy") else trained.network
    return made.model.state_dict()


@pytest.mark.parametrize("name", CASES)
def test_a_killed_training_ends_with_the_same_weights_and_the_same_log(name, killed, monkeypatch):
    train, last = CASES[name]
    start = restart.latest(killed / name)
    assert start is not None and 0 < int(start.name.split("-")[1]) <= last
    assert len(list((killed / name).glob("checkpoint-*"))) == 1, "older ones are deleted"
    ran = []
    step = transformers.Trainer.training_step
    monkeypatch.setattr(
        transformers.Trainer, "training_step", lambda *a, **k: ran.append(1) or step(*a, **k)
    )
    again = train(killed / name)
    went_on, ran[:] = len(ran), []
    whole = train(None)
    assert 0 < went_on < len(ran), "it did not begin anew"
    pd.testing.assert_frame_equal(again.history, whole.history)
    assert (
        again.history["step"].is_monotonic_increasing
        and not again.history["step"].duplicated().any()
    )
    found, expected = state(again), state(whole)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert again.seconds > 0 and again.stopped == ""


def test_a_checkpoint_whose_writing_was_cut_off_does_not_count(killed, tmp_path):
    folder = tmp_path / "sft"
    shutil.copytree(killed / "sft", folder)
    whole = restart.latest(folder)
    later = folder / "checkpoint-999"
    shutil.copytree(whole, later)
    (later / "restart.pt").unlink()
    assert restart.latest(folder) == whole
    (whole / "restart.pt").unlink()
    assert restart.latest(folder) is None and restart.latest(tmp_path / "none") is None


def test_a_folder_of_another_training_is_refused(killed):
    with pytest.raises(ValueError, match="belongs to a training with"):
        sft(learning_rate=1e-3)(killed / "sft")


def test_short_trainings_write_nothing(tmp_path):
    sft()(tmp_path / "none")
    assert not list(tmp_path.rglob("checkpoint-*"))


def test_writing_takes_its_share_of_the_time_and_no_more(monkeypatch, tmp_path):
    """With a clock of its own: a step takes 1 s, a checkpoint 5 s."""
    now, saved = [0.0], []
    monkeypatch.setattr(restart.time, "perf_counter", lambda: now[0])
    step, save = transformers.Trainer.training_step, transformers.Trainer._save_checkpoint

    def slow_step(*args, **kwargs):
        now[0] += 1.0
        return step(*args, **kwargs)

    def slow_save(trainer, *args, **kwargs):
        now[0] += 5.0
        saved.append(trainer.state.global_step)
        return save(trainer, *args, **kwargs)

    monkeypatch.setattr(transformers.Trainer, "training_step", slow_step)
    monkeypatch.setattr(transformers.Trainer, "_save_checkpoint", slow_save)
    monkeypatch.setattr(restart, "SECONDS", 3.0)
    monkeypatch.setattr(restart, "SHARE", 0.5)
    sft(logging_steps=1)(tmp_path)
    # After 3 s the first; then after 5 s of steps each, as much as the writing takes.
    assert saved[0] == 3 and set(np.diff(saved)) == {5}
