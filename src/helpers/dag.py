"""From a plan to executed notebooks: one run of a profile at a time, ordered by Snakemake."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from helpers import budget, devices, hh, ledger, plan, runner
from helpers import cores as cores_

# Where the notebooks run: here, by SLURM, or by whatever command profiles/cluster names.
EXECUTORS = ("local", "slurm", "cluster")


@contextmanager
def alone(build: Path):
    """Hold the profile's build folder: a second run or book would pull it from under the first."""
    build.mkdir(parents=True, exist_ok=True)
    lock = FileLock(build / ".run.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise plan.PlanError(
            f"another run of the profile {build.name!r} is under way; wait for it to end"
        ) from None
    try:
        yield
    finally:
        lock.release()


def make_plan(profile: str, names: list[str] | None = None) -> tuple[Path, dict]:
    """The checkout and its plan (:func:`plan.make`); says so where HH-RLHF cannot be reached."""
    root = ledger.project_root()
    todo = plan.make(root, profile, names)
    if any(entry["data"].get("hh_rlhf") == "none" for entry in todo["notebooks"].values()):
        print(f"elephant: {hh.HELP}", file=sys.stderr)
    return root, todo


def execute(
    root: Path,
    todo: dict,
    cores: int,
    force: bool = False,
    executor: str = "local",
    anyway: bool = False,
) -> int:
    """Let Snakemake order the notebooks and call the runner for each that is not done.

    ``cores``: computations at a time (:mod:`helpers.cores`); one where there is a GPU, which two
    would fight for. One notebook that trains runs at a time. A cluster's limit stands in
    ``profiles/<executor>/config.yaml``. Raises PlanError for a plan that does not fit this machine,
    unless it is to run elsewhere or ``anyway``.
    """
    build = Path(todo["build"])
    for name, entry in todo["notebooks"].items():
        runner.drop_stale_receipt(build, name, entry, force)
    waiting = [name for name in todo["notebooks"] if not runner.has_receipt(build, name)]
    if executor == "local" and not anyway:
        check_fits(root, dict(todo, notebooks={name: todo["notebooks"][name] for name in waiting}))
    plan_file = build / "plan.json"
    asked = budget.resources(root, todo) if waiting else {}
    runner.write_text(plan_file, json.dumps(todo | {"resources": asked}, indent=1))
    if not waiting:
        print(f"elephant: {len(todo['notebooks'])} notebook(s) up to date", file=sys.stderr)
        return 0
    # Snakemake's own lock would outlive a killed run; ours is released by the system. Incomplete
    # outputs cannot be: the runner writes the receipt in one step, last.
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")]
    command += ["--directory", str(build), "--config", f"plan={plan_file}"]
    command += ["--nolock", "--rerun-incomplete", "--keep-going"]
    command += ["--rerun-triggers", "mtime"]
    environment = dict(os.environ)
    for setting in (cores_.SETTING, runner.LEADER):
        environment.pop(setting, None)
    if executor == "local":
        number = str(1 if devices.here().cards else cores)
        command += ["--cores", number, "--resources", "training=1"]
        environment[cores_.SETTING] = number
        environment[runner.LEADER] = str(os.getpid())
    else:
        command += ["--profile", str(root / "profiles" / executor)]
    command += ["--quiet", "all", "--"]
    # Killed with us, as is each runner with it: else they go on while our lock is free.
    with_us = runner.end_with_parent
    done = subprocess.run(command, check=False, env=environment, preexec_fn=with_us)
    failed = [name for name in todo["notebooks"] if not runner.has_receipt(build, name)]
    if failed:
        print(f"elephant: not complete: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed or done.returncode else 0


def check_fits(root: Path, todo: dict) -> None:
    """Raise PlanError with the reasons where a plan does not fit this machine."""
    if todo["notebooks"] and (reasons := budget.why_not(root, todo)):
        raise plan.PlanError(
            f"the profile {todo['profile']!r} does not fit this machine: {'; '.join(reasons)} "
            f"(`elephant plan --profile {todo['profile']}` shows the work; --anyway runs it)"
        )
