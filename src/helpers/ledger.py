"""The ledger: every number with its interval, its origin and where it was made.

A notebook opens a run once and records each number by one call; tables, figures, prose and claims
read the rows back. One JSON object a line, one file a notebook::

    run = ledger.start("01_data_pitfalls", profile=profile, seed=seed)
    run.record("hh.harmless_base.empty", stats.wilson(4, 2312), unit="share", labels="none")
    run.measure("hh.flags.pairs_per_second", 3100, unit="pairs/s")

A row is a ``result`` (the same code, data and seed must give it again: runs are compared on it) or
a ``measurement`` (seconds, pairs per second, memory: shown, never compared for equality).
"""

import contextlib
import json
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from helpers.stats import Estimate

# Which world a number speaks of. A substitute never fills a cell of the paper.
SCOPES = ("paper", "substitute", "world")
# Whose votes the labels behind a number rest on.
LABELS = ("none", "original", "humans", "panel", "simulation", "printed")
KINDS = ("result", "measurement")
# Compared between runs; all other fields are provenance and may change from night to night.
RESULT_FIELDS = ("id", "kind", "value", "low", "high", "n", "method", "unit", "scope", "labels")

_ID = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+")


class Run:
    """An open ledger of one notebook. Rows are appended as they are made, so a killed run shows
    how far it came; the runner replaces the published ledger only when the notebook is complete.
    """

    def __init__(self, notebook: str, profile: str, seed: int, context: dict):
        self.notebook, self.profile, self.seed = notebook, profile, seed
        self.context = context
        self.artifacts = Path(context["artifacts"])
        self.path = Path(context["ledger"])
        self.rows: dict[str, dict] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.artifacts.mkdir(parents=True, exist_ok=True)
        self.path.write_text("", encoding="utf-8")
        self._cell_started = time.perf_counter()
        shell = _shell()
        if shell is not None:
            shell.events.register("pre_run_cell", self._on_cell)

    def _on_cell(self, _info) -> None:
        self._cell_started = time.perf_counter()

    def record(
        self,
        id: str,
        value: float | Estimate,
        *,
        unit: str,
        labels: str,
        scope: str = "paper",
        n: int | None = None,
        method: str = "",
        published: float | None = None,
        beside: str = "",
        model: str = "",
        revision: str = "",
        note: str = "",
        tolerance: float | None = None,
    ) -> float | None:
        """Write one result row and return its value.

        ``value`` is a number, or a :class:`~helpers.stats.Estimate` that brings its interval, ``n``
        and method. ``published`` is the paper's printed number that it stands beside and
        ``beside`` says where that is printed. ``labels`` names whose votes the number rests on
        (one of ``LABELS``: "none" where no label is used, "printed" for arithmetic on the paper's
        tables). ``tolerance``, in the number's unit, is how far it may be from the last good
        night's where :func:`helpers.drift.tolerance` would allow less. Raises ValueError for a
        malformed or repeated id, an infinite value, or an interval that does not hold its value.
        """
        low = high = None
        if isinstance(value, Estimate):
            low, high = value.low, value.high
            n, method = value.n, value.method
            value = value.value
        row = dict(id=id, kind="result", value=value, low=low, high=high, n=n, method=method)
        row |= dict(unit=unit, scope=scope, labels=labels, published=published, beside=beside)
        row |= dict(model=model, revision=revision, note=note, tolerance=tolerance)
        return self._write(row)

    def measure(self, id: str, value: float, *, unit: str, note: str = "") -> float | None:
        """Write one measurement row: seconds, rates, memory. Never compared between runs."""
        row = dict(id=id, kind="measurement", value=value, low=None, high=None, n=None)
        row |= dict(method="", unit=unit, scope="paper", labels="none", published=None, beside="")
        row |= dict(model="", revision="", note=note, tolerance=None)
        return self._write(row)

    def _write(self, row: dict) -> float | None:
        row = _checked(row)
        if row["id"] in self.rows:
            raise ValueError(
                f"ledger id {row['id']!r} is recorded twice in {self.notebook}; an id is one "
                "number: rename one of the two"
            )
        shell = _shell()
        row |= dict(
            profile=self.profile,
            notebook=self.notebook,
            cell=_execution_count(shell),
            commit=self.context["commit"],
            data=self.context["data"],
            code=self.context["code"],
            seed=self.seed,
            device=self.context["device"],
            seconds=round(time.perf_counter() - self._cell_started, 3),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self.rows[row["id"]] = row
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        return row["value"]


def start(notebook: str, *, profile: str, seed: int) -> Run:
    """Open the ledger of ``notebook``.

    Under ``elephant run`` the runner says by the environment variable ``ELEPHANT_RUN`` where rows
    and artefacts go and what the data are; in a notebook opened by hand they go to
    ``build/interactive/`` and the provenance says so.
    """
    context_file = os.environ.get("ELEPHANT_RUN")
    if context_file:
        context = json.loads(Path(context_file).read_text(encoding="utf-8"))
        if context["notebook"] != notebook:
            raise ValueError(
                f"ledger.start says {notebook!r} but the runner executes {context['notebook']!r}; "
                "give ledger.start the notebook's own file name"
            )
    else:
        root = project_root() / "build" / "interactive"
        context = dict(
            ledger=str(root / "ledger" / f"{notebook}.jsonl"),
            artifacts=str(root / "artifacts" / notebook),
            commit=git_commit(),
            data={},
            code="interactive",
            device=device(),
        )
    return Run(notebook, profile, seed, context)


def read(path: str | os.PathLike) -> list[dict]:
    """All rows of one ledger file, or of every ``*.jsonl`` in a folder (sorted by name).

    Raises ValueError naming file and line for a broken row, and for an id that two notebooks claim.
    """
    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    rows, owner = [], {}
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{file}, line {number}: not a ledger row ({error}); delete the file and run "
                    "its notebook again"
                ) from error
            if row["id"] in owner:
                raise ValueError(
                    f"ledger id {row['id']!r} stands in both {owner[row['id']]} and {file.name}; "
                    "an id belongs to one notebook: rename one of the two"
                )
            owner[row["id"]] = file.name
            rows.append(row)
    return rows


def by_id(rows: Iterable[dict]) -> dict[str, dict]:
    """Rows by their id."""
    return {row["id"]: row for row in rows}


def slug(name: str) -> str:
    """A name as a part of a ledger id: lower case, and dashes for all but letters and digits."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def results_only(rows: Iterable[dict]) -> list[dict]:
    """The comparable part of the result rows, sorted by id: equal lists mean equal results."""
    kept = [{k: row[k] for k in RESULT_FIELDS} for row in rows if row["kind"] == "result"]
    return sorted(kept, key=lambda row: row["id"])


def _checked(row: dict) -> dict:
    if not _ID.fullmatch(row["id"]):
        raise ValueError(
            f"ledger id {row['id']!r} must be lower-case words joined by dots, e.g. "
            "'table4.gpt-j.charmless_base.accuracy'"
        )
    for field, allowed in (("kind", KINDS), ("scope", SCOPES), ("labels", LABELS)):
        if row[field] not in allowed:
            raise ValueError(f"{row['id']}: {field} is {row[field]!r}, not one of {allowed}")
    for field in ("value", "low", "high", "published", "tolerance"):
        row[field] = _number(row["id"], field, row[field])
    row["n"] = None if row["n"] is None else int(row["n"])
    value, low, high = row["value"], row["low"], row["high"]
    if (low is None) != (high is None):
        raise ValueError(f"{row['id']}: an interval needs both ends, got {low} and {high}")
    if (row["tolerance"] or 0.0) < 0:
        raise ValueError(f"{row['id']}: its tolerance is {row['tolerance']}, below zero")
    # A rounding error of the last place is no contradiction; anything larger is a mistake.
    slack = 1e-9 * max(1.0, abs(value or 0.0))
    if low is not None and not row["method"]:
        raise ValueError(f"{row['id']}: an interval needs the name of its method")
    # A percentile bootstrap of a biased statistic may miss its own point value; nothing else may.
    outside = low is not None and value is not None and not low - slack <= value <= high + slack
    if outside and "bootstrap" not in row["method"]:
        raise ValueError(f"{row['id']}: value {value} lies outside its interval [{low}, {high}]")
    return row


def _number(id: str, field: str, value) -> float | int | None:
    """A plain JSON number (numpy scalars unwrapped; an exact integer stays one)."""
    if value is None:
        return None
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{id}: {field} is {value!r}, not a number")
    if not math.isfinite(value):
        raise ValueError(f"{id}: {field} is {value}; record None and say why in note=")
    return value


def _execution_count(shell) -> int | None:
    """The number of the running cell; the runner turns it into the cell's id later.

    Counted from the inputs, the running one included: ``shell.execution_count`` is this number or
    the next, depending on the version of IPython.
    """
    return None if shell is None else len(shell.history_manager.input_hist_raw) - 1


def _shell():
    """The running IPython shell, or None outside a notebook (tests, plain scripts)."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    return get_ipython()


def project_root() -> Path:
    """The checkout: the nearest folder upwards of the working directory with a Snakefile."""
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "Snakefile").is_file():
            return folder
    raise FileNotFoundError(
        f"no Snakefile in {here} or above it: run this from inside a checkout of the supplement"
    )


def cache_folder() -> Path:
    """Where features and finished jobs are kept from run to run: ``build/cache``, or the folder
    that ``ELEPHANT_CACHE`` names. A nightly run names a new one, so that it computes everything."""
    return Path(os.environ.get("ELEPHANT_CACHE") or project_root() / "build" / "cache")


def git_commit() -> str:
    """The commit of the checkout, with ``+`` if tracked files differ from it; "" outside git."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return ""
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no"],
        capture_output=True,
        text=True,
        check=False,
    )
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def device() -> str:
    """What the numbers were computed on: the GPU's name, or the processor architecture."""
    smi = None
    with contextlib.suppress(FileNotFoundError):
        smi = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        )
    if smi is not None and smi.returncode == 0 and smi.stdout.strip():
        names = smi.stdout.strip().splitlines()
        return f"{len(names)} x {names[0]}"
    return f"cpu {platform.machine()}, {os.cpu_count()} cores"
