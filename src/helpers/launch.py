"""One job by several processes, one a card (or a processor's core): what is too large for one.

On cards, ``accelerate launch`` with ``profiles/fsdp.yaml``; on a processor, where ``accelerate
launch --cpu`` starts one process whatever it is asked for and says nothing,
``torch.distributed.run``. Each process checks how many there are.

All run the same function; the trainers share the batches among them, so that ``batch_size`` is that
of one process. Losses are those of one process with batches of all together where these hold the
same texts. In general they do not: texts are grouped by length in pools whose size depends on
``batch_size``. What the first process writes is kept, what the others write is thrown away, except
for checkpoints, which they write together.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from helpers import jobs, ledger, sources

# The settings of a launch, and what its first process returned.
_TASK, _FOUND = "launch.json", "launched.json"


def spread(job: jobs.Job, processes: int) -> jobs.Job:
    """The same job by so many processes: its key stands on the job's own code as well."""
    module = job.call.split(".")[0]
    code = sources.meaning_hash(sources.closure({module}))
    settings = dict(call=job.call, settings=dict(job.settings), processes=processes, code=code)
    name = f"{job.name}, by {processes} processes"
    return jobs.Job(name, "launch.together", settings, job.needs)


def together(
    folder: Path, *, call: str, settings: dict, processes: int, code: str, **needs: Path
) -> dict:
    """Run ``module.function`` of this package in so many processes, each called as
    ``function(folder, **settings, **needs)``; the record of the first one.

    Called by :mod:`helpers.jobs`; ``code`` is part of the key and nothing else. Raises RuntimeError
    with what the first process to fail said, and where fewer ran than were asked for.
    """
    task = dict(call=call, settings=settings, needs={k: str(path) for k, path in needs.items()})
    (folder / _TASK).write_text(json.dumps(task), encoding="utf-8")
    jobs.checkpoints(folder).mkdir(exist_ok=True)
    for old in folder.glob("failed-*.txt"):
        old.unlink()
    arguments = ["-m", "helpers.launch", str(folder), "--processes", str(processes)]
    status = subprocess.run([*_launcher(processes), *arguments], check=False).returncode
    if status:
        # The others fail a moment later, since the first one does not answer them.
        said = sorted(folder.glob("failed-*.txt"), key=lambda path: path.stat().st_mtime_ns)
        reason = said[0].read_text(encoding="utf-8") if said else f"status {status}"
        raise RuntimeError(f"{call} by {processes} processes: {reason}")
    found = json.loads((folder / _FOUND).read_text(encoding="utf-8"))
    return found | {"processes": processes}


def main(arguments: Sequence[str] | None = None) -> None:
    """One of the processes; started by :func:`together`."""
    parser = argparse.ArgumentParser(prog="helpers.launch", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="with the task; for what it makes")
    parser.add_argument("--processes", type=int, required=True, help="how many must run")
    options = parser.parse_args(arguments)
    folder, rank = options.folder, os.environ.get("RANK", "0")
    try:
        _take_part(folder, options.processes)
    except Exception as error:
        text = f"process {rank}: {type(error).__name__}: {error}"
        (folder / f"failed-{rank}.txt").write_text(text, encoding="utf-8")
        raise


def _take_part(folder: Path, processes: int) -> None:
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    if state.num_processes != processes:
        raise RuntimeError(
            f"{processes} processes were asked for, but {state.num_processes} run; a launcher that "
            "starts fewer must not pass for the whole"
        )
    task = json.loads((folder / _TASK).read_text(encoding="utf-8"))
    module, function = task["call"].split(".")
    needs = {name: Path(path) for name, path in task["needs"].items()}
    call = getattr(importlib.import_module(f"helpers.{module}"), function)
    with ExitStack() as stack:
        own = folder
        if not state.is_main_process:
            own = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            jobs.checkpoints(own).symlink_to(jobs.checkpoints(folder).absolute())
        found = call(own, **task["settings"], **needs) or {}
        state.wait_for_everyone()
    if state.is_main_process:
        (folder / _FOUND).write_text(json.dumps(found, allow_nan=False), encoding="utf-8")
    state.destroy_process_group()


def _launcher(processes: int) -> list[str]:
    from torch.cuda import is_available

    if not is_available():
        run = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return [*run, "--nproc_per_node", str(processes)]
    profile = ledger.project_root() / "profiles" / "fsdp.yaml"
    run = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(profile)]
    return [*run, "--num_processes", str(processes)]


if __name__ == "__main__":
    main()
