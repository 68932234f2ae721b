"""Work of minutes, done once: each job in a process beside the caller's, what it made in a folder.

A job is a function of this package, its settings and the jobs that it needs. Its key is a hash of
all three and of the code that the function stands on, so a finished job is run again only where
something that decides its result has changed. A killed one is started again and finds what it has
left in its folder (:func:`checkpoints`, where it writes some).
"""

import contextlib
import gc
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from types import MappingProxyType
from typing import NamedTuple

import psutil
from filelock import FileLock
from tqdm import tqdm

from helpers import cores, ledger, progress, sources

# More threads make small models slower, and two jobs on one core tenfold so. All of the names:
# Snakemake sets them to a notebook's cores, and torch believes MKL's before OpenMP's.
ONE_THREAD: Mapping = MappingProxyType(
    {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}
)
_NONE: Mapping = MappingProxyType({})
_ASIDE = ".partial"
_LOOK_AGAIN = 10.0  # seconds between two looks at how far the running jobs are
_LIBRARIES = ("torch", "transformers", "trl", "peft")


class Job(NamedTuple):
    """``call``: ``module.function`` of this package, called as ``function(folder, **settings,
    **needs)``: a folder to write into, what JSON can hold, and the folders of the jobs it needs.
    It returns a dict that JSON can hold: its record. ``name`` is for people and decides nothing."""

    name: str
    call: str
    settings: Mapping[str, object] = _NONE
    needs: Mapping[str, "Job"] = _NONE


class JobsFailed(RuntimeError):
    """Some jobs ended with an error; the message has the last line of each and its log."""


def key(job: Job) -> str:
    """Hash of everything that decides what the job makes: also of the libraries that train, and of
    the kind of device, on which sums come out otherwise."""
    module = job.call.split(".")[0]
    needs = {name: key(need) for name, need in job.needs.items()}
    parts = [job.call, dict(job.settings), needs, _code(module), *_ground()]
    return sources.digest(json.dumps(parts, sort_keys=True).encode())


def folder(job: Job) -> Path:
    """Where the finished job's files lie, whether or not it is finished."""
    return _home() / key(job)


def done(job: Job) -> bool:
    """Whether its record is there, which is moved into place last."""
    return (folder(job) / "record.json").is_file()


def record(job: Job) -> dict:
    """What the finished job returned, with its ``seconds``, ``peak_mb`` (of its process meanwhile)
    and ``device``. FileNotFoundError where it has not been run."""
    return json.loads((folder(job) / "record.json").read_text(encoding="utf-8"))


def checkpoints(folder: Path) -> Path:
    """Where a job may keep what it needs to go on after a kill; deleted when it is finished."""
    return folder / "checkpoints"


def run(wanted: Iterable[Job], *, workers: int | None = None) -> list[dict]:
    """Run what is not finished of the jobs and of all that they need; the records of ``wanted``.

    As many ``workers`` as there are cores (None), each of one thread; one where there is a GPU. A
    job that fails stops those that need it and no others; then JobsFailed is raised. A run that
    diverged is no failure: it is recorded as such by the job.
    """
    wanted = list(wanted)
    waiting = {key(job): job for job in _with_needs(wanted) if not done(job)}
    failed: dict[str, str] = {}
    running: dict[Future, str] = {}
    asked = dict(waiting)
    # A process serves one job after the other: to import torch and TRL takes longer than a short
    # training.
    n = min(workers or _workers(), len(waiting))
    idle: SimpleQueue = SimpleQueue()
    processes = [_start() for _ in range(n)]
    over = Event()
    for process in processes:
        idle.put(process)
    bar = tqdm(total=len(waiting), unit="job", disable=not waiting, mininterval=5)
    with ThreadPoolExecutor(max(1, n)) as threads, bar:
        try:
            while waiting or running:
                for name, job in list(waiting.items()):
                    if lost := [k for k in map(key, job.needs.values()) if k in failed]:
                        cause = failed[lost[0]].split(":")[0]
                        failed[name] = f"{job.name}: not started, {cause} failed"
                        del waiting[name]
                        bar.update()
                    elif len(running) < n and all(map(done, job.needs.values())):
                        running[threads.submit(_hand_over, job, idle, processes, over)] = name
                        del waiting[name]
                bar.set_postfix_str(_how_far([asked[name] for name in running.values()]))
                for ended in wait(running, _LOOK_AGAIN, FIRST_COMPLETED).done:
                    if problem := ended.result():
                        failed[running[ended]] = problem
                    del running[ended]
                    bar.update()
            bar.set_postfix_str("")
        finally:
            # Also on an interrupt: what is left alone would go on computing.
            over.set()
            for process in processes:
                _kill(process)
    if failed:
        raise JobsFailed("\n".join(failed.values()))
    return [record(job) for job in wanted]


def sweep(days: float) -> int:
    """Delete what no run has asked for in so many days; returns how many jobs. For those who look
    after the disk: a change of the code leaves all older results behind."""
    old = [p for p in _home().glob("*/job.json") if time.time() - p.stat().st_mtime > days * 86_400]
    for path in old:
        shutil.rmtree(path.parent)
    return len(old)


def serve() -> None:
    """Run the jobs whose folders come on the standard input, a line each; answer each by a line.
    Called in a process of its own; what a job prints goes to the log in its folder."""
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        aside = Path(line.strip())
        aside.mkdir(exist_ok=True)  # gone where another run has just finished the job
        with open(aside / "log.txt", "ab") as log:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            try:
                _execute(aside)
                answer = "done"
            except Exception:
                traceback.print_exc()
                answer = "failed"
        # A model of one job must not count as memory of the next.
        gc.collect()
        print(answer, file=answers, flush=True)


def _execute(aside: Path) -> None:
    target = aside.with_name(aside.name.removesuffix(_ASIDE))
    # A process whose parent was killed may still be at it; its result is as good as ours.
    with FileLock(f"{target}.lock"):
        if (target / "record.json").is_file():
            shutil.rmtree(aside, ignore_errors=True)
            return
        todo = json.loads((aside / "job.json").read_text(encoding="utf-8"))
        module, function = todo["call"].split(".")
        needs = {name: _home() / need for name, need in todo["needs"].items()}
        call = getattr(importlib.import_module(f"helpers.{module}"), function)
        _forget_peak()
        began = time.perf_counter()
        found = call(aside, **todo["settings"], **needs) or {}
        found |= {"seconds": time.perf_counter() - began, "device": ledger.device()}
        found["peak_mb"] = _peak_mb()
        shutil.rmtree(checkpoints(aside), ignore_errors=True)
        text = json.dumps(found, indent=1, sort_keys=True, allow_nan=False)
        (aside / "record.json").write_text(text, encoding="utf-8")
        aside.rename(target)


def _hand_over(job: Job, idle: SimpleQueue, processes: list[subprocess.Popen], over: Event) -> str:
    """Have an idle process run the job, when there is a core for it; why it failed, "" where it did
    not."""
    with cores.one(over.is_set):
        return _on_a_core(job, idle, processes, over)


def _on_a_core(job: Job, idle: SimpleQueue, processes: list[subprocess.Popen], over: Event) -> str:
    aside = folder(job).with_name(key(job) + _ASIDE)
    aside.mkdir(parents=True, exist_ok=True)
    needs = {name: key(need) for name, need in job.needs.items()}
    todo = dict(name=job.name, call=job.call, settings=dict(job.settings), needs=needs)
    partial = aside / f"job.json.{os.getpid()}"
    try:
        partial.write_text(json.dumps(todo, indent=1, sort_keys=True), encoding="utf-8")
        partial.replace(aside / "job.json")
    except FileNotFoundError:
        if done(job):  # by another run, just now
            return ""
        raise
    process = idle.get()
    print(aside, file=process.stdin, flush=True)
    answer = process.stdout.readline().strip()
    if answer:
        idle.put(process)
    else:
        # It died (killed for memory, say), and takes no other job with it.
        status = process.wait()
        if over.is_set():  # killed by us: nothing is to be started any more
            return f"{job.name}: interrupted"
        processes.append(_start())
        idle.put(processes[-1])
    if answer == "done":
        return ""
    lines = (aside / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    said = lines[-1] if answer and lines else f"its process ended with status {status}"
    shown = os.path.relpath(aside / "log.txt", ledger.project_root())
    return f"{job.name}: {said} (log: {shown})"


def _how_far(running: list[Job]) -> str:
    """Each running job by its name, with the last line of its training's bar."""
    logs = [folder(job).with_name(key(job) + _ASIDE) / "log.txt" for job in running]
    far = map(progress.of_log, logs)
    return "; ".join(f"{job.name}: {line}" if line else job.name for job, line in zip(running, far))


def _start() -> subprocess.Popen:
    environment = os.environ | dict(ONE_THREAD) | {"TOKENIZERS_PARALLELISM": "false"}
    environment[progress.SETTING] = "1"
    # The ledger is the notebook's: a job has none.
    environment.pop("ELEPHANT_RUN", None)
    command = [sys.executable, "-c", "from helpers import jobs; jobs.serve()"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)


def _kill(process: subprocess.Popen) -> None:
    """With all that it has started: a training by several processes is a tree of them, and what is
    left of it would write into the folder of the next try."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    for one in (process, *family):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def _with_needs(jobs: Iterable[Job]) -> list[Job]:
    """Needs before what needs them, each once. Also of a finished job: who asks for a judgement
    reads the training that it is of, and neither may be swept away or missing."""
    found: dict[str, Job] = {}
    for job in jobs:
        found |= {key(need): need for need in _with_needs(job.needs.values())}
        if done(job):
            os.utime(folder(job) / "job.json")  # see sweep
        found[key(job)] = job
    return list(found.values())


def _workers() -> int:
    from torch.cuda import is_available

    return 1 if is_available() else len(os.sched_getaffinity(0))


def _home() -> Path:
    return ledger.cache_folder() / "jobs"


def _forget_peak() -> None:
    # Linux: from now on the peak is that of this job. Elsewhere it stays that of the process.
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float | None:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


@lru_cache
def _ground() -> tuple[str, ...]:
    device = ledger.device().split(",")[0]  # not how many cores: a job has one thread
    return device, *(f"{name} {version(name)}" for name in _LIBRARIES)


@lru_cache
def _code(module: str) -> str:
    return sources.meaning_hash(sources.closure({module}))
