"""Executing one notebook by papermill so that a run can be killed at any moment.

Everything is written aside and moved into place when the notebook is complete; a record of what was
moved is written last. Snakemake calls this module once a notebook::

    python -m helpers.runner build/cpu/plan.json 00_paper_audit
"""

import ctypes
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import nbformat
import papermill
from filelock import FileLock
from filelock import Timeout as LockTimeout
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from helpers import cores, jobs, ledger, machine, notebooks, plan, progress, sources

LEADER = "ELEPHANT_LEADER"  # process id of the `elephant` that started this here; no cluster's


def main(arguments: list[str]) -> int:
    """Run one notebook of a plan; exit status 1 where it fails."""
    plan_file, name = arguments
    if os.environ.get(LEADER):
        end_with_parent()
        os.kill(int(os.environ[LEADER]), 0)  # raises where it was killed before we came here
    return 0 if run_notebook(json.loads(Path(plan_file).read_text(encoding="utf-8")), name) else 1


def end_with_parent() -> None:
    """Let the system kill this process when the one that started it is gone (Linux only).

    A ``kill -9`` of `elephant` alone reaches no child and frees its lock: a second run would put a
    second notebook on the card. The trap: the end of the thread that forked counts as the parent's.
    SIGKILL, because Snakemake answers SIGTERM by first finishing what runs.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def run_notebook(todo: dict, name: str) -> bool:
    """Execute ``name``, or keep what is there if its key says that it is up to date.

    Writes ``receipts/<name>.json``, which tells the DAG that the notebook is done. Returns False
    after a failure, with the executed copy kept and its path printed.
    """
    build, entry = Path(todo["build"]), todo["notebooks"][name]
    inputs = plan.inputs(entry, {up: made_hash(build, up) for up in entry["upstream"]})
    (build / "locks").mkdir(parents=True, exist_ok=True)
    lock = FileLock(build / "locks" / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except LockTimeout:
        # A run whose parent was killed may still be at it; its result is as good as ours.
        _say(name, "another run executes this notebook; waiting for it")
        lock.acquire()
    try:
        reason = why_run(build, name, inputs)
        if not reason:
            _say(name, "up to date")
        elif not _on_its_core(todo, name, inputs, reason):
            return False
        _write_json(build / "receipts" / f"{name}.json", _made(build, name))
    finally:
        lock.release()
    return True


def has_receipt(build: Path, name: str) -> bool:
    """Whether the DAG counts the notebook as done."""
    return (build / "receipts" / f"{name}.json").is_file()


def drop_stale_receipt(build: Path, name: str, entry: dict, force: bool = False) -> None:
    """Remove the receipt of a notebook that may have to run: then the DAG calls the runner for it.

    Decided from our own records, not from Snakemake's, which may have been lost. What upstream made
    is not known yet; the runner looks at it again. ``force`` makes the notebook run in any case.
    """
    if force:
        (build / "done" / f"{name}.json").unlink(missing_ok=True)
    receipt = build / "receipts" / f"{name}.json"
    own = plan.inputs(entry, {})
    del own["upstream"]
    current = receipt.is_file() and json.loads(receipt.read_text(encoding="utf-8"))
    if why_run(build, name, own) or current != _made(build, name):
        receipt.unlink(missing_ok=True)


def why_run(build: Path, name: str, inputs: dict) -> str:
    """Why the notebook must be executed, in words; "" where all that it makes is there and was made
    from these inputs."""
    record = build / "done" / f"{name}.json"
    if not record.is_file():
        return "not run yet"
    done = json.loads(record.read_text(encoding="utf-8"))
    # A record of an older version of this file has no inputs: then all of them count as changed.
    then = done.get("inputs", {})
    changed = [field for field in inputs if then.get(field) != inputs[field]]
    if changed:
        return f"changed: {', '.join(changed)}"
    return "" if done["made"] == _made(build, name) else "what it made was changed or deleted"


def paths(build: Path, name: str) -> dict[str, Path]:
    """Where a notebook's executed copy, ledger and artefacts lie."""
    return dict(
        notebook=build / "notebooks" / f"{name}.ipynb",
        ledger=build / "ledger" / f"{name}.jsonl",
        artifacts=build / "artifacts" / name,
    )


def _on_its_core(todo: dict, name: str, inputs: dict, reason: str) -> bool:
    if todo["notebooks"][name]["training"]:
        return _execute(todo, name, inputs, reason)
    with cores.one():
        # What it starts computes on the core that it holds.
        os.environ.pop(cores.SETTING, None)
        return _execute(todo, name, inputs, reason)


def _execute(todo: dict, name: str, inputs: dict, reason: str) -> bool:
    build, entry = Path(todo["build"]), todo["notebooks"][name]
    # Fresh at each try: half of an earlier, killed run must not get into this one's results.
    work = build / "partial" / name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    device = ledger.device()  # of the machine that runs it, a cluster's node perhaps
    context = dict(
        notebook=name,
        ledger=str(work / "ledger.jsonl"),
        artifacts=str(work / "artifacts"),
        upstream={up: str(paths(build, up)["artifacts"]) for up in entry["upstream"]},
        commit=todo["commit"],
        data=entry["data"],
        code=entry["helpers"],
        device=device,
    )
    _write_json(work / "context.json", context)
    environment = machine.environment(device)
    _set_kernel_environment(work / "context.json", name, todo["profile"])
    executed = work / "notebook.ipynb"
    started = time.perf_counter()
    _say(name, f"start ({reason})")
    try:
        papermill.execute_notebook(
            entry["source"],
            str(executed),
            parameters=entry["parameters"],
            engine_name="announcing",
            # Named: a file's kernelspec can silently pick another interpreter or device.
            kernel_name="python3",
            cwd=str(ledger.project_root()),
            execution_timeout=todo["cell_timeout"],
            progress_bar=False,
            coalesce_streams=True,  # else each state of a bar would be a line on the page
            stderr_file=progress.Teller(lambda text: _say(name, text)),
        )
    except (PapermillExecutionError, CellTimeoutError, DeadKernelError) as error:
        kept = build / "failed" / f"{name}.ipynb"
        kept.parent.mkdir(parents=True, exist_ok=True)
        if executed.is_file():
            shutil.copy(executed, kept)
        _say(name, f"FAILED after {time.perf_counter() - started:.0f} s: {_reason(error)}")
        _say(name, f"executed copy: {kept}")
        return False
    problem = _incomplete(executed) or _changed_meanwhile(entry)
    if problem:
        _say(name, f"FAILED: {problem}")
        return False
    _publish(build, name, work, inputs, environment)
    _say(name, f"done in {time.perf_counter() - started:.0f} s")
    return True


def _incomplete(executed: Path) -> str:
    """Why an executed copy is not complete although papermill raised nothing; "" where it is.

    ``sys.exit()`` in a cell ends the kernel without an error, and the cells after it never run.
    """
    for cell in notebooks.code_cells(notebooks.read(executed)):
        if cell.source.strip() and cell.execution_count is None:
            return f"cell {cell.id} was not executed; a cell before it ended the kernel"
    return ""


def _changed_meanwhile(entry: dict) -> str:
    """Whether what ran may not be what was planned: results must not be filed under other code."""
    if code_now(Path(entry["source"])) != {field: entry[field] for field in ("code", "helpers")}:
        return "its code or a helper was edited while it ran; run it again"
    return ""


def code_now(source: Path) -> dict[str, str]:
    """``code`` and ``helpers`` as a plan of this checkout has them of a notebook."""
    notebook = notebooks.read(source)
    modules = notebooks.helper_modules(notebook)
    return dict(code=notebooks.code_hash(notebook), helpers=sources.helpers_hash(modules))


def _publish(build: Path, name: str, work: Path, inputs: dict, environment: dict) -> None:
    """Move a complete run into place; the record that makes it count is written last."""
    target = paths(build, name)
    record = build / "done" / f"{name}.json"
    record.unlink(missing_ok=True)
    (work / "artifacts").mkdir(exist_ok=True)
    shutil.rmtree(target["artifacts"], ignore_errors=True)
    target["artifacts"].parent.mkdir(parents=True, exist_ok=True)
    (work / "artifacts").replace(target["artifacts"])
    executed = notebooks.read(work / "notebook.ipynb")
    # Also here: a night deletes the records first, and where it fails this copy is on the page.
    executed.metadata["elephant_upstream"] = inputs["upstream"]
    rows = ledger.read(work / "ledger.jsonl") if (work / "ledger.jsonl").is_file() else []
    write_text(target["ledger"], "".join(_row_text(row, executed) for row in rows))
    write_text(target["notebook"], nbformat.writes(executed))
    (build / "failed" / f"{name}.ipynb").unlink(missing_ok=True)
    _write_json(record, dict(inputs=inputs, made=_made(build, name), environment=environment))
    shutil.rmtree(work)


def _row_text(row: dict, executed) -> str:
    """A ledger row with its cell named by id instead of by execution count."""
    for cell in notebooks.code_cells(executed):
        if cell.execution_count == row["cell"]:
            row = dict(row, cell=cell.id)
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _made(build: Path, name: str) -> dict[str, str]:
    """Hashes of what a notebook made: its result rows and each artefact. Seconds, dates and
    commits are not among them, so an identical result leaves what is downstream alone."""
    where = paths(build, name)
    if not (where["notebook"].is_file() and where["ledger"].is_file()):
        return {}
    results = json.dumps(ledger.results_only(ledger.read(where["ledger"])), sort_keys=True)
    made = {"results": hashlib.sha256(results.encode()).hexdigest()[:16]}
    for path in sorted(where["artifacts"].rglob("*")):
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            made[str(path.relative_to(where["artifacts"]))] = digest
    return made


def made_hash(build: Path, name: str) -> str:
    """Hash of all that a notebook made, as those downstream of it depend on it."""
    return hashlib.sha256(json.dumps(_made(build, name)).encode()).hexdigest()[:16]


def _set_kernel_environment(context: Path, name: str, profile: str) -> None:
    os.environ |= dict(jobs.ONE_THREAD) | {
        "ELEPHANT_RUN": str(context),
        "ELEPHANT_NOTEBOOK": name,
        "ELEPHANT_PROFILE": profile,
        # Sets of strings iterate in another order at each start without it.
        "PYTHONHASHSEED": "0",
        # A kernel of the user's own must not stand in for the one of this environment.
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _reason(error: Exception) -> str:
    failed = isinstance(error, PapermillExecutionError)
    return (f"{error.ename}: {error.evalue}" if failed else str(error)).strip().splitlines()[0]


def _say(name: str, text: str) -> None:
    print(f"[{name}] {text}", file=sys.stderr, flush=True)


def _write_json(path: Path, data: dict) -> None:
    write_text(path, json.dumps(data, indent=1, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file in one step, so that a reader or a kill never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


class AnnouncingEngine(NBClientEngine):
    """papermill's own engine, saying which cell runs and since when."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **arguments):
        name, started = os.environ["ELEPHANT_NOTEBOOK"], time.perf_counter()
        total = sum(cell.cell_type == "code" for cell in nb_man.nb.cells)
        count = 0
        begin = nb_man.cell_start

        def announce(cell, cell_index=None, **kwargs):
            nonlocal count
            if cell.cell_type == "code":
                count += 1
                elapsed = time.perf_counter() - started
                _say(name, f"cell {count}/{total} {cell.get('id', '')} at {elapsed:.1f} s")
            return begin(cell, cell_index, **kwargs)

        nb_man.cell_start = announce
        return super().execute_managed_notebook(nb_man, kernel_name, **arguments)


papermill_engines.register("announcing", AnnouncingEngine)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
