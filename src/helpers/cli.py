"""The ``elephant`` command (also ``python -m helpers``)."""

import math
import os
import sys
from pathlib import Path

from helpers import (
    arguments,
    book,
    budget,
    claims,
    cost,
    dag,
    devices,
    doctor,
    history,
    ledger,
    plan,
    recorded,
    relabelling,
    runner,
)


def main(words: list[str] | None = None) -> int:
    """Entry point; the exit status is 0 only if all that was asked for is done."""
    options = arguments.parser().parse_args(words)
    for variable in ("HH_RLHF_DIR", "ELEPHANT_DATA", "ELEPHANT_HISTORY", "ELEPHANT_CACHE"):
        # Jobs and kernels work in other folders; a relative path must mean the same to all.
        if os.environ.get(variable):
            os.environ[variable] = str(Path(os.environ[variable]).expanduser().resolve())
    try:
        return _COMMANDS[options.command](options)
    except (ValueError, book.BookError, FileNotFoundError, FileExistsError) as error:
        print(f"elephant: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("elephant: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _run_command(options) -> int:
    root, todo = dag.make_plan(options.profile, options.notebooks or None)
    with dag.alone(Path(todo["build"])):
        where = dict(executor=options.executor, anyway=options.anyway)
        return dag.execute(root, todo, options.cores, options.force, **where)


def _book_command(options) -> int:
    root, todo = dag.make_plan(options.profile)
    with dag.alone(Path(todo["build"])):
        where = dict(executor=options.executor, anyway=options.anyway)
        status = dag.execute(root, todo, options.cores, **where)
        if status:
            print("elephant: the book was not built; the last good one stays", file=sys.stderr)
            return status
        print(book.build(root, todo))
    return 0


def _nightly_command(options) -> int:
    from helpers import alarm, nightly

    profile, command = options.profile, os.environ.get("ELEPHANT_ALARM", "")
    try:
        if options.test_alarm:
            where = history.folder(ledger.project_root(), profile)
            print("\n".join(alarm.self_test(where, profile, command)))
            return 0
        if options.accept:
            print(nightly.accept(profile, options.accept, command))
            return 0
        if options.check:
            return nightly.check(profile, options.check, command)
        return nightly.run(
            profile, cores=options.cores, keep=options.keep, reuse=options.reuse, command=command
        )
    except (alarm.AlarmError, nightly.NightError, history.HistoryError) as error:
        print(f"elephant: {error}", file=sys.stderr)
        return 1


def _plan_command(options) -> int:
    root, todo = dag.make_plan(options.profile)
    machine = devices.made_for(options.profile, options.device, options.cards)
    found = cost.chapters(root, todo, machine)
    print(budget.table(found, machine))
    print(
        "\nMeasured speeds: `tokens/s` rows of past runs. Estimates: peak and share of it that\n"
        "facts/work.yaml names; several cards are taken to be as fast as their number."
    )
    built = [chapter for chapter in found if not chapter.planned]
    # Its disk is not known.
    there = budget.refusals(built, machine, machine.cards, math.inf)
    for reason in there:
        print(f"On {machine.device}: {reason}")
    reasons = budget.why_not(root, todo)
    here = ledger.device()
    print(f"This machine ({here}): {'it fits' if not reasons else '; '.join(reasons)}")
    return 1 if reasons or there else 0


def _record_command(options) -> int:
    for path in recorded.record(ledger.project_root(), options.profile, options.notebooks):
        print(f"recorded: {path}")
    return 0


def _claims_command(options) -> int:
    root = ledger.project_root()
    build = plan.build_folder(root, options.profile)
    # A ledger that a renamed or deleted notebook left behind is no evidence any more.
    ledgers = [runner.paths(build, p.stem)["ledger"] for p in (root / "notebooks").glob("*.ipynb")]
    rows = [row for path in sorted(ledgers) if path.is_file() for row in ledger.read(path)]
    verdicts = claims.verdicts(ledger.by_id(rows))
    for verdict in verdicts:
        if options.scope in (None, verdict.scope):
            value = claims.value_text(verdict) or "–"
            printed = verdict.published or "–"
            scope = claims.SCOPES[verdict.scope]
            print(f"{verdict.id:52} {scope:24} {printed:>16}  {verdict.outcome:30} {value}")
    for scope, text in claims.SCOPES.items():
        if options.scope in (None, scope):
            counts = claims.counts(verdicts, scope)
            print(f"{text}: " + ", ".join(f"{n} {outcome}" for outcome, n in counts.items()))
    return 0


def _annotate_command(options) -> int:
    if options.step == "export":
        made = relabelling.export_tasks(options.data, options.task, options.seed, options.out)
        print(
            f"{made.tasks:,} tasks: {made.tasks_file}; labelling configuration: {made.config_file}"
        )
        return 0
    report = relabelling.import_votes(options.export, options.data, options.seed, options.out)
    print(f"{report.used:,} of {report.found:,} annotations are votes: {options.out}")
    for reason, count in report.excluded["reason"].value_counts().items():
        print(f"left out, {reason}: {count:,}")
    print(f"tasks without a vote: {report.unvoted:,}")
    return 0


def _clean_command(options) -> int:
    table = relabelling.clean_data(options.votes, options.data, options.out)
    print(table.to_string())
    print(f"written: {options.out}; dropped pairs by category: {options.out / 'dropped.jsonl'}")
    return 0


def _audit_data_command(options) -> int:
    # Its models take seconds to import, which no other command should pay.
    from helpers import data_report

    written = data_report.write(options.data, options.votes, options.out, seed=options.seed)
    for sentence in written.summary:
        print(sentence)
    print(f"page: {written.page}; all numbers and flagged pairs: {written.numbers}")
    return 0


def _audit_rm_command(options) -> int:
    # torch takes seconds to import, which no other command should pay.
    from helpers import model_report

    written = model_report.write(
        options.model,
        options.data or [],
        options.out,
        pairs=options.pairs,
        seed=options.seed,
        dtype=options.dtype,
        template=options.template,
        allow_pickle=options.allow_pickle,
        allow_remote_code=options.allow_remote_code,
    )
    for sentence in written.summary:
        print(sentence)
    print(f"page: {written.page}; all numbers and margins: {written.numbers}")
    return 0


def _doctor_command(_options) -> int:
    for what, finding in doctor.report():
        print(f"{what:18} {finding}")
    return 0


_COMMANDS = {
    "run": _run_command,
    "book": _book_command,
    "nightly": _nightly_command,
    "plan": _plan_command,
    "record": _record_command,
    "claims": _claims_command,
    "annotate": _annotate_command,
    "clean": _clean_command,
    "audit-data": _audit_data_command,
    "audit-rm": _audit_rm_command,
    "doctor": _doctor_command,
}
