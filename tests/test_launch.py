"""Two real processes train as one does; a launcher that starts fewer is an error."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands.config import load_config_from_file

from helpers import jobs, launch, sources
from helpers.jobs import Job

ROOT = Path(__file__).parents[1]
DRILL = '''"""Each method for a few steps, with batches of the given size in each process."""

import torch
import torch.distributed as dist
from helpers import align_dpo, align_ppo, align_pro, align_reward, align_sft
from helpers import graded, jobs, policies, restart, standardised, world
from transformers import Trainer


def train(folder, *, batch):
    data = world.make(32, seed=0).pairs
    prompts, chosen, rejected = (data[c].tolist() for c in ("prompt", "chosen", "rejected"))
    rankings = [
        align_pro.Ranking(p, (a, b), (1.0, -1.0)) for p, a, b in zip(prompts, chosen, rejected)
    ]
    # Sums of other orders differ in their last digits, which AdamW's first steps make visible.
    how = dict(learning_rate=3e-4, epochs=1, batch_size=batch, logging_steps=1)
    kl = dict(kl_every=2, kl_prompts=4, kl_tokens=4)
    start = policies.neox(0)
    runs = {
        "sft": align_sft.train(start, prompts, chosen, align_sft.Config(**how), 0),
        "dpo": align_dpo.train(start, data, align_dpo.Config(**how, **kl), 0),
        "pro": align_pro.train(start, rankings, align_pro.Config(**how, **kl), 0),
        "reward": align_reward.train(graded.neox(0), data, align_reward.Config(**how), 0),
        "sft, stopped": stopped(folder, start, prompts, chosen, align_sft.Config(**how), 0),
    }
    (folder / "mine.txt").write_text("of the first process, and once")
    rows = {name: run.history.to_dict("list") for name, run in runs.items()}
    names = ("loss", "kl", "num_tokens", "margin", "rewards/margins", "rank_loss", "accuracy")
    found = {n: {c: r[c] for c in names if c in r} for n, r in rows.items()}
    for columns in found.values():
        columns.update({c: [v for v in values if v == v] for c, values in columns.items()})
    models = [run[0].model for run in runs.values()]
    sums = [sum(float(w.double().abs().sum()) for w in m.parameters()) for m in models]
    every = [sums]
    if dist.is_initialized():
        every = [None] * dist.get_world_size()
        dist.all_gather_object(every, sums)
    return {"histories": found, "sums": every}


def stopped(folder, *task):
    """SFT that ends within its third step and goes on from a checkpoint after its second."""
    restart.SECONDS, restart.SHARE = 0.0, float("inf")
    step, seen = Trainer.training_step, []

    def counted(*args, **kwargs):
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    Trainer.training_step = counted
    kept = jobs.checkpoints(folder)
    try:
        align_sft.train(*task, checkpoints=kept)
    except KeyboardInterrupt:
        pass
    done = align_sft.train(*task, checkpoints=kept)
    assert len(seen) == 5, "two steps, the one that failed, and the last two"
    return done


def shorter(prompts, responses):
    return [-float(len(text)) for text in responses]


def reinforced(folder, *, method):
    """Two updates; of each process its weights and all that its log says."""
    prompts = world.make(16, seed=0).pairs["prompt"].tolist()
    config = align_ppo.Config(updates=2, batch_size=8, response_length=8, epochs=1)
    scale, start = standardised.Standard(-20.0, 5.0), policies.neox(0)
    run = getattr(align_ppo, method)(start, shorter, scale, prompts, config, 0)
    weights = sum(float(w.double().abs().sum()) for w in run.policy.model.parameters())
    before = sum(float(w.double().abs().sum()) for w in start.model.parameters())
    own = {"weights": weights, "moved": weights != before, "stopped": run.stopped}
    own |= run.history[["reward", "raw_reward", "length", "eos_rate", "kl"]].to_dict("list")
    every = [None] * dist.get_world_size()
    dist.all_gather_object(every, own)
    return {"every": every}


def sharded(folder):
    """What comes back from a model that FSDP has shared: the whole, with the weights of now."""
    from torch.distributed.fsdp import fully_shard

    from helpers import training

    same, split = [], []
    torch.manual_seed(0)  # adapters begin at random, and must be the same in all processes
    for rank in (None, 2):
        before = policies.neox(0).model
        changed = policies.duplicate(policies.neox(0)).model
        if rank:
            from peft import get_peft_model

            changed = get_peft_model(changed, training.lora(rank, "CAUSAL_LM"))
        with torch.no_grad():
            for number, weights in enumerate(changed.parameters()):
                weights.add_(0.001 * number)
        expected = {name: weights.clone() for name, weights in changed.state_dict().items()}
        for module in (*changed.modules(),):
            if type(module).__name__ == "GPTNeoXLayer":
                fully_shard(module)
        fully_shard(changed)
        split.append(sum(w.to_local().numel() for w in changed.parameters()))
        found = training.finished(changed, before).state_dict()
        assert found.keys() == expected.keys()
        same.append(all(torch.equal(found[name], expected[name]) for name in expected))
    total = sum(w.numel() for w in policies.neox(0).model.parameters())
    return {"same": same, "share": split[0] / total}


def fail(folder):
    if dist.get_rank() == 1:
        raise ValueError("no such luck")
    dist.barrier()
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    copied = tmp_path / "src" / "helpers"
    shutil.copytree(sources.PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    (copied / "drill.py").write_text(DRILL)
    (tmp_path / "Snakefile").touch()
    monkeypatch.setattr(sources, "PACKAGE", copied)
    monkeypatch.setenv("PYTHONPATH", str(copied.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("ELEPHANT_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    jobs._code.cache_clear()
    yield copied
    jobs._code.cache_clear()


def test_two_processes_train_as_one_with_batches_of_twice_the_size(package):
    # 32 texts: pools of 8 with either size of batch, hence the same texts in a step.
    one, two = Job("drill", "drill.train", {"batch": 8}), Job("drill", "drill.train", {"batch": 4})
    alone, both = jobs.run([one, launch.spread(two, 2)], workers=1)
    assert both["processes"] == 2 and len(both["sums"]) == 2
    assert both["sums"][0] == both["sums"][1], "both end with the same weights"
    assert both["sums"][0] == pytest.approx(alone["sums"][0], rel=1e-5)
    runs = both["histories"]
    assert runs.keys() == {"sft", "sft, stopped", "dpo", "pro", "reward"}
    assert runs["sft, stopped"] == runs["sft"]
    assert both["sums"][0][0] == both["sums"][0][-1], "a restart changes nothing"
    for method, columns in alone["histories"].items():
        assert len(columns["loss"]) == 4, "32 texts, 8 a step"
        for name, values in columns.items():
            found = both["histories"][method][name]
            np.testing.assert_allclose(found, values, rtol=2e-3, atol=2e-4, err_msg=name)
    folder = jobs.folder(launch.spread(two, 2))
    assert (folder / "mine.txt").is_file()


@pytest.mark.parametrize("method", ["ppo", "rloo"])
def test_two_processes_learn_from_their_own_responses_together(package, method):
    job = launch.spread(Job(method, "drill.reinforced", {"method": method}), 2)
    first, second = jobs.run([job], workers=1)[0]["every"]
    assert first == second, "the same weights, and a log of both processes' responses"
    assert first["moved"] and first["stopped"] == ""
    assert len(first["kl"]) == 2, "as many updates as were asked for"
    assert first["kl"][0] == pytest.approx(0, abs=1e-5)
    for raw, reward in zip(first["raw_reward"], first["reward"]):
        assert reward == pytest.approx((raw + 20) / 5)


def test_a_shared_model_comes_back_whole(package):
    (found,) = jobs.run([launch.spread(Job("sharded", "drill.sharded"), 2)], workers=1)
    assert found["same"] == [True, True] and found["share"] == pytest.approx(0.5, abs=0.01)


def test_what_a_process_says_when_it_fails_is_passed_on(package):
    with pytest.raises(jobs.JobsFailed, match="process 1: ValueError: no such luck"):
        jobs.run([launch.spread(Job("bad", "drill.fail"), 2)], workers=1)


def test_one_process_where_two_were_asked_for_is_an_error(package, tmp_path):
    (tmp_path / "launch.json").write_text('{"call": "drill.fail", "settings": {}, "needs": {}}')
    command = [sys.executable, "-m", "helpers.launch", str(tmp_path), "--processes", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode and "2 processes were asked for, but 1 run" in done.stderr
    assert "but 1 run" in (tmp_path / "failed-0.txt").read_text()


def test_the_key_stands_on_the_code_of_the_job(package):
    job = Job("drill", "drill.train", {"batch": 4})
    keys = {jobs.key(launch.spread(job, n)) for n in (1, 2)} | {jobs.key(job)}
    assert len(keys) == 3
    (package / "drill.py").write_text(DRILL.replace("3e-4", "4e-4"))
    assert jobs.key(launch.spread(job, 2)) not in keys


def test_cards_are_launched_by_accelerate_with_the_profile(monkeypatch):
    monkeypatch.chdir(ROOT)
    on_cpu = launch._launcher(3)
    assert "torch.distributed.run" in on_cpu and on_cpu[-1] == "3"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    command = launch._launcher(3)
    assert "accelerate.commands.launch" in command and command[-2:] == ["--num_processes", "3"]
    config = load_config_from_file(command[command.index("--config_file") + 1])
    assert config.num_processes == 8 and str(config.distributed_type).endswith("FSDP")
    assert config.mixed_precision == "bf16" and config.fsdp_config["fsdp_version"] == 2
    # Else the other processes' reference would be that of weights that were never loaded.
    assert config.fsdp_config["fsdp_cpu_ram_efficient_loading"] is False
