"""Jobs by real processes, in a project of its own: a copy of the package with one more module."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import jobs, progress, sources
from helpers.jobs import Job

CHORES = '''"""Jobs of a moment. Each leaves a line in calls.txt, so that none runs unseen."""

import json
import os
import signal
import time
from pathlib import Path

from helpers import errands


def _called(name):
    with open("calls.txt", "a") as calls:
        print(name, os.getpid(), file=calls)


def add(folder, *, value, **needs):
    """The value, and what the jobs that it needs have come to."""
    _called(f"add{value}")
    total = errands.twice(value) / 2
    total += sum(json.loads((path / "total.json").read_text()) for path in needs.values())
    (folder / "total.json").write_text(json.dumps(total))
    return {"total": total}


def fail(folder, *, until=None):
    _called("fail")
    Path(folder, "checkpoints").mkdir(exist_ok=True)
    if not until or not Path(until).exists():
        raise ValueError("no such luck")
    (folder / "total.json").write_text("0")


def killed_once(folder):
    _called("killed")
    mine = Path(folder, "half-way")
    if not mine.exists():
        mine.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"went_on": True}


def slow(folder, *, until):
    _called("slow")
    while not Path(until).exists():
        time.sleep(0.02)
    return {}


def threads(folder):
    import torch

    return {"threads": torch.get_num_threads()}


def ppo(folder, *, seed):
    from helpers import align_ppo, policies, standardised, world

    def score(prompts, responses):
        return [float(len(text)) for text in responses]

    prompts = world.make(8, seed=seed).pairs["prompt"].tolist()
    config = align_ppo.Config(updates=1, batch_size=4, response_length=4)
    plain = standardised.Standard(0.0, 1.0)
    align_ppo.ppo(policies.neox(seed), score, plain, prompts, config, seed)


def sft(folder, *, seed):
    from helpers import align_sft, policies, world

    data = world.make(16, seed=seed).pairs
    texts = data["prompt"].tolist(), data["chosen"].tolist()
    config = align_sft.Config(epochs=2, logging_steps=1)
    trained = align_sft.train(policies.neox(seed), *texts, config, seed)
    sums = [float(weights.double().sum()) for weights in trained.policy.model.parameters()]
    return {"losses": trained.history["loss"].tolist(), "sums": sums, "pid": os.getpid()}
'''
ERRANDS = "def twice(value):\n    return 2 * value\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The copied package; the current folder is its project."""
    copied = tmp_path / "src" / "helpers"
    shutil.copytree(sources.PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    (copied / "chores.py").write_text(CHORES)
    (copied / "errands.py").write_text(ERRANDS)
    (tmp_path / "Snakefile").touch()
    monkeypatch.setattr(sources, "PACKAGE", copied)
    monkeypatch.setenv("PYTHONPATH", str(copied.parent))
    monkeypatch.delenv("ELEPHANT_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    jobs._code.cache_clear()
    yield copied
    jobs._code.cache_clear()


def add(value, **needs):
    return Job(f"add {value}", "chores.add", {"value": value}, needs)


def calls():
    path = Path("calls.txt")
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, "nothing happened for five minutes"
        time.sleep(0.02)


def caller(*lines):
    """Another process that asks for jobs."""
    code = "\n".join(["from helpers import jobs", "from helpers.jobs import Job", *lines])
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


def test_jobs_run_once_after_those_they_need(package):
    base = add(1)
    left, right = add(10, base=base), add(100, base=base)
    whole = add(1000, left=left, right=right)
    assert not jobs.done(whole)
    (found,) = jobs.run([whole], workers=2)
    assert found["total"] == 1000 + 11 + 101
    assert found["seconds"] >= 0 and found["peak_mb"] > 1 and found["device"]
    assert sorted(calls()) == ["add1", "add10", "add100", "add1000"]
    assert calls()[0] == "add1" and calls()[-1] == "add1000"
    again = jobs.run([whole, left], workers=2)
    assert again == [found, jobs.record(left)] and len(calls()) == 4
    assert jobs.run([], workers=2) == []


def test_a_job_has_one_thread_whatever_the_caller_was_given(package, monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "2")  # as Snakemake does
    (found,) = jobs.run([Job("threads", "chores.threads")])
    assert found["threads"] == 1


def test_a_key_is_what_decides_the_result(package):
    job = add(1, base=add(2))
    key = jobs.key(job)

    def now():
        jobs._code.cache_clear()
        return jobs.key(job)

    assert key == now() == jobs.key(job._replace(name="another name"))
    assert key != jobs.key(add(3, base=add(2))) and key != jobs.key(add(1, base=add(3)))
    assert key != jobs.key(add(1, other=add(2))) and key != jobs.key(add(1))
    (package / "chores.py").write_text(CHORES.replace("The value, and", "Words:") + "\n# words\n")
    (package / "errands.py").write_text('"""Words."""\n\n' + ERRANDS)
    assert now() == key, "docstrings, comments and layout decide nothing"
    (package / "errands.py").write_text(ERRANDS.replace("2 *", "4 *"))
    assert now() != key, "code that the module imports does"
    (package / "errands.py").write_text(ERRANDS)
    (package / "book.py").write_text("CHANGED = 1\n")
    assert now() == key, "code that it does not import does not"
    (package / "chores.py").write_text(CHORES.replace('"half-way"', '"halfway"'))
    assert now() != key


def test_changed_code_is_run_again(package):
    job = add(1)
    assert jobs.run([job], workers=1)[0]["total"] == 1
    (package / "errands.py").write_text(ERRANDS.replace("2 *", "4 *"))
    jobs._code.cache_clear()
    assert jobs.run([job], workers=1)[0]["total"] == 2
    assert calls() == ["add1", "add1"]


def test_a_failure_is_named_and_stops_only_what_needs_it(package):
    bad = Job("the bad one", "chores.fail", {"until": "mended"})
    above = Job("above it", "chores.add", {"value": 5}, {"bad": bad})
    higher = Job("higher still", "chores.add", {"value": 6}, {"above": above})
    with pytest.raises(jobs.JobsFailed) as failure:
        jobs.run([higher, add(1), add(2)], workers=1)
    lines = str(failure.value).splitlines()
    assert lines[0].startswith("the bad one: ValueError: no such luck (log: build/cache/jobs/")
    assert lines[1] == "above it: not started, the bad one failed"
    assert lines[2] == "higher still: not started, above it failed"
    log = Path(lines[0].split("log: ")[1].rstrip(")")).read_text()
    assert "Traceback" in log
    assert sorted(calls()) == ["add1", "add2", "fail"] and jobs.done(add(1)) and jobs.done(add(2))
    assert not jobs.done(bad)
    partial = jobs.folder(bad).with_name(jobs.key(bad) + ".partial")
    assert jobs.checkpoints(partial).is_dir(), "what it needs to go on is kept"
    Path("mended").touch()
    assert jobs.run([higher], workers=1)[0]["total"] == 11
    assert not jobs.checkpoints(jobs.folder(bad)).exists() and not partial.exists()


def test_a_process_that_is_killed_takes_no_other_job_with_it(package):
    job = Job("the killed one", "chores.killed_once")
    with pytest.raises(jobs.JobsFailed, match="the killed one: its process ended with status -9"):
        jobs.run([job, add(1), add(2)], workers=1)
    assert sorted(calls()) == ["add1", "add2", "killed"]
    assert jobs.run([job, add(1)], workers=1)[0]["went_on"], "it finds what it had left"
    assert sorted(calls()) == ["add1", "add2", "killed", "killed"]


def test_two_runs_at_once_do_a_job_once(package):
    line = "jobs.run([Job('slow', 'chores.slow', {'until': 'go'})], workers=1)"
    others = [caller(line), caller(line)]
    wait_for(lambda: calls() == ["slow"])
    time.sleep(1)  # time for the other to start it too, if it would
    Path("go").touch()
    assert [other.wait(300) for other in others] == [0, 0]
    assert calls() == ["slow"]
    assert not list(Path("build/cache/jobs").glob("*.partial"))


def test_after_a_kill_of_the_caller_nothing_is_done_twice(package):
    job = Job("slow", "chores.slow", {"until": "go"})
    line = "jobs.run([Job('add 1', 'chores.add', {'value': 1}),"
    other = caller(line, " Job('slow', 'chores.slow', {'until': 'go'})], workers=1)")
    wait_for(lambda: "slow" in calls())
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert jobs.done(add(1)) and not jobs.done(job)
    # The orphan is still at it: a second run waits for it and takes its result.
    second = caller("jobs.run([Job('slow', 'chores.slow', {'until': 'go'})], workers=1)")
    time.sleep(1)
    Path("go").touch()
    assert second.wait(300) == 0
    jobs.run([add(1), job], workers=1)
    assert calls() == ["add1", "slow"]


def test_after_a_kill_of_all_only_what_was_not_finished_is_done_again(package):
    other = caller(
        "jobs.run([Job('add 1', 'chores.add', {'value': 1}),",
        " Job('slow', 'chores.slow', {'until': 'go'})], workers=1)",
    )
    wait_for(lambda: "slow" in calls())
    other.send_signal(signal.SIGKILL)
    other.wait()
    worker = int(Path("calls.txt").read_text().splitlines()[-1].split()[1])
    os.kill(worker, signal.SIGKILL)
    Path("go").touch()
    jobs.run([add(1), Job("slow", "chores.slow", {"until": "go"})], workers=1)
    assert calls() == ["add1", "slow", "slow"]


def test_sweep_deletes_what_nobody_asks_for(package):
    old, used, new = add(1), add(2), add(3)
    jobs.run([old, used, new], workers=1)
    for job in (old, used):
        path = jobs.folder(job) / "job.json"
        os.utime(path, (time.time() - 10 * 86_400,) * 2)
    jobs.run([used], workers=1)
    assert jobs.sweep(days=9) == 1
    assert [jobs.done(job) for job in (old, used, new)] == [False, True, True]
    assert jobs.run([old], workers=1)[0]["total"] == 1


def test_what_a_finished_job_was_made_from_is_kept_and_made_again_alone(package):
    # A chapter asks for judgements and reads the trainings that they are of.
    base = add(1)
    result = add(10, base=base)
    jobs.run([result], workers=1)
    for job in (base, result):
        os.utime(jobs.folder(job) / "job.json", (time.time() - 10 * 86_400,) * 2)
    jobs.run([result], workers=1)
    assert jobs.sweep(days=9) == 0
    shutil.rmtree(jobs.folder(base))
    jobs.run([result], workers=1)
    assert jobs.record(base)["total"] == 1
    assert calls() == ["add1", "add10", "add1"]


def test_what_cannot_be_kept_as_json_is_a_failure(package):
    text = CHORES.replace('return {"total": total}', 'return {"total": float("nan")}')
    (package / "chores.py").write_text(text)
    jobs._code.cache_clear()
    with pytest.raises(jobs.JobsFailed, match="add 1: ValueError: Out of range float"):
        jobs.run([add(1)], workers=1)


def test_a_training_after_another_in_one_process_is_as_it_is_alone(package):
    first = Job("ppo", "chores.ppo", {"seed": 0})
    second = Job("sft", "chores.sft", {"seed": 0})
    _, after = jobs.run([first, second], workers=1)
    shutil.rmtree(jobs.folder(second))
    (alone,) = jobs.run([second], workers=1)
    assert after["pid"] != alone["pid"] and len(after["losses"]) == 4
    assert (after["losses"], after["sums"]) == (alone["losses"], alone["sums"])


def test_a_training_in_a_job_says_how_far_it_is(package):
    job = Job("SFT", "chores.sft", {"seed": 0})
    jobs.run([job])
    lines = (jobs.folder(job) / "log.txt").read_text()
    last = progress.of_log(jobs.folder(job) / "log.txt")
    steps, _, numbers = last.partition(" steps")
    done, total = map(int, steps.split("/"))
    assert done == total > 0 and "loss=" in numbers and "tokens/s=" in numbers, lines


def test_what_runs_is_named_with_its_numbers(package):
    job, quiet = Job("slow one", "chores.slow", {"until": "go"}), Job("other", "chores.add")
    for one in (job, quiet):
        aside = jobs.folder(one).with_name(jobs.key(one) + ".partial")
        aside.mkdir(parents=True)
    (jobs.folder(job).with_name(jobs.key(job) + ".partial") / "log.txt").write_text(
        "0/9 steps\r4/9 steps, loss=0.6, kl=2.1\n"
    )
    far = "4/9 steps, loss=0.6, kl=2.1"
    assert jobs._how_far([job, quiet]) == f"slow one: {far}; other"
