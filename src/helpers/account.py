"""The account of a night: what ran, on what, with which numbers and verdicts."""

import time
from datetime import UTC, datetime
from pathlib import Path

from helpers import claims, ledger, notebooks, runner, sources, status
from helpers.history import GOOD, Night


def gather(todo: dict, id: str, began: float, environment: dict) -> Night:
    """The night as it is kept, but for what it is compared with."""
    build = Path(todo["build"])
    chapters, rows, modules, problems = {}, [], set(), []
    for name, entry in todo["notebooks"].items():
        fields = ("parameters", "data", "code", "helpers", "modules", "upstream")
        one = {field: entry[field] for field in fields}
        modules |= set(entry["modules"])
        if runner.has_receipt(build, name):
            where = runner.paths(build, name)
            one |= dict(state="done", **status.timing(notebooks.read(where["notebook"])))
            rows += ledger.read(where["ledger"])
        else:
            one |= dict(state="failed", problem=_reason(build, name))
            problems.append(f"failed: {name}: {one['problem']}")
        chapters[name] = one
    by_id = ledger.by_id(rows)
    if len(by_id) != len(rows):
        twice = sorted({row["id"] for row in rows if by_id[row["id"]] is not row})
        raise ValueError(f"two chapters record {', '.join(twice)}; an id is one number: rename one")
    full = head(id, todo["profile"], began) | dict(
        state=GOOD,
        commit=todo["commit"],
        environment=environment,
        modules={
            name: sources.digest((sources.PACKAGE / f"{name}.py").read_bytes())
            for name in sorted(modules)
        },
        notebooks=chapters,
        verdicts=_verdicts(by_id),
        # No chapter need import what judges its rows.
        judging=sources.helpers_hash(sources.closure({"claims"})),
        problems=problems,
    )
    return Night(full, by_id)


def head(id: str, profile: str, began: float) -> dict:
    """What is known of a night by its start alone: ``id`` (in UTC), ``began`` (monotonic s)."""
    now = datetime.now(UTC)
    minutes = (time.monotonic() - began) / 60
    started = datetime.strptime(id, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return dict(
        id=id,
        profile=profile,
        accepted="",
        started=started.isoformat(),
        finished=now.isoformat(timespec="seconds"),
        minutes=round(minutes, 2),
        cut_off="",
        findings=[],
    )


def _verdicts(rows: dict[str, dict]) -> dict[str, dict]:
    return {
        f"{verdict.id}, {claims.SCOPES[verdict.scope]}": dict(
            outcome=verdict.outcome,
            notebooks=sorted({row["notebook"] for row in verdict.rows}),
        )
        for verdict in claims.verdicts(rows)
    }


def _reason(build: Path, name: str) -> str:
    """Why a notebook did not finish, from the executed copy that was kept."""
    kept = build / "failed" / f"{name}.ipynb"
    if not kept.is_file():
        return "not run, because what stands upstream of it failed"
    for cell in notebooks.code_cells(notebooks.read(kept)):
        for output in cell.outputs:
            if output.output_type == "error":
                return f"{output.ename}: {output.evalue}".splitlines()[0] + f" (cell {cell.id})"
    return "it ended without an error of its own; see its executed copy"
