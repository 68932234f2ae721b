"""The arguments of the ``elephant`` command: names, defaults and help, nothing that acts."""

import argparse
from pathlib import Path

from helpers import claims, dag, devices, plan

DATA_HELP = "a .jsonl, .json or .parquet file of pairs, or hh (default): HH-RLHF's test sets"
PROFILE_HELP = "smoke (minutes), cpu (default), gpu (one card) or paper (the paper's own scale)"


class _Parser(argparse.ArgumentParser):
    """Bad arguments get one clear line; the long usage text stays with ``--help``."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see `{self.prog} --help`)\n")


def parser() -> argparse.ArgumentParser:
    """The arguments of ``elephant``."""
    top = _Parser(prog="elephant", description="The living supplement of 'Elephant in the Room'.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="execute the notebooks that are not up to date",
        description="Execute notebooks by papermill, each only if its code, parameters, data, "
        "upstream artefacts or helpers changed. A killed run goes on where it was.",
    )
    run.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="default: all of the profile")
    run.add_argument("--force", action="store_true", help="run even what is up to date")
    build = commands.add_parser(
        "book",
        help="run what is not up to date, then build the book",
        description="Run as `elephant run` does, then render build/<profile>/book/index.html.",
    )
    verdicts = commands.add_parser(
        "claims",
        help="print the verdict on every claim and table cell",
        description="Verdicts of the last run, one a scope. Without a run all are 'not run'.",
    )
    verdicts.add_argument("--scope", choices=list(claims.SCOPES), help="print this scope only")
    for command in (run, build, verdicts):
        command.add_argument("--profile", default="cpu", choices=plan.PROFILES, help=PROFILE_HELP)
    for command in (run, build):
        command.add_argument(
            "--cores",
            type=_positive,
            default=2,
            help="notebooks at a time (default: 2; 1 on a GPU)",
        )
        command.add_argument(
            "--executor",
            default="local",
            choices=dag.EXECUTORS,
            help="local (default), or slurm or cluster as profiles/<it>/config.yaml says",
        )
        command.add_argument(
            "--anyway", action="store_true", help="run a profile that does not fit this machine"
        )
    _add_plan(commands)
    _add_record(commands)
    _add_annotate(commands)
    cleaned = commands.add_parser(
        "clean",
        help="write a cleaned data set from votes",
        description="Same is kept, Opposite swapped, the rest dropped and named with its category.",
    )
    cleaned.add_argument("--votes", type=Path, required=True, help="Parquet, CSV or JSON lines")
    cleaned.add_argument("--out", type=Path, required=True, help="a new folder")
    cleaned.add_argument("--data", default="hh", help=DATA_HELP)
    audit = commands.add_parser(
        "audit-data",
        help="say what is wrong with a data set of pairs",
        description="Run the checks of chapters 01 and 02; write one HTML page and one JSON file.",
    )
    audit.add_argument(
        "data",
        nargs="+",
        metavar="FILE",
        help="hh, or .jsonl, .json or .parquet files of pairs: one file a split",
    )
    audit.add_argument("--votes", type=Path, help="Parquet, CSV or JSON lines (default: a panel)")
    audit.add_argument(
        "--out",
        type=Path,
        default=Path("build/audit-data"),
        help="folder (default: build/audit-data)",
    )
    audit.add_argument("--seed", type=int, default=0, help="of bootstraps and panel (default: 0)")
    _add_audit_rm(commands)
    _add_nightly(commands)
    commands.add_parser("doctor", help="say what is here: cores, memory, GPU, data, models, hub")
    return top


def _add_plan(commands) -> None:
    planned = commands.add_parser(
        "plan",
        help="say what a profile costs before it runs",
        description="Tokens, FLOPs, hours, memory of a card and disk of each chapter, by measured "
        "speeds where there are any; whether it fits this machine (exit status 1: it does not).",
    )
    planned.add_argument("--profile", default="cpu", choices=plan.PROFILES, help=PROFILE_HELP)
    planned.add_argument(
        "--device",
        choices=list(devices.facts()["devices"]),
        help="a card (default: the one that the profile is made for)",
    )
    planned.add_argument("--cards", type=_positive, help="how many of it")


def _add_record(commands) -> None:
    recorded = commands.add_parser(
        "record",
        help="keep the results of a finished GPU run for the book",
        description="Copy the ledger rows of finished notebooks, with their provenance, to "
        "results/recorded/<profile>/, which is committed; the book shows them beside fresh ones.",
    )
    recorded.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="default: all finished")
    recorded.add_argument("--profile", default="gpu", choices=plan.PROFILES, help=PROFILE_HELP)


def _add_audit_rm(commands) -> None:
    audit = commands.add_parser(
        "audit-rm",
        help="say what a reward model is fit for: judge, signal, or not shown",
        description="Accuracy over null baselines, invariance, probes, calibration, truncation and "
        "throughput of a reward model; write one HTML page and one JSON file.",
    )
    audit.add_argument("model", metavar="MODEL", help="a folder, a hub id, or a catalogue name")
    audit.add_argument(
        "--data",
        action="append",
        metavar="FILE",
        help="a .jsonl, .json or .parquet file of pairs, one a subset, may be repeated "
        "(default: HH-RLHF's test sets, or the gold world where these are not reachable)",
    )
    audit.add_argument(
        "--out", type=Path, default=Path("build/audit-rm"), help="folder (default: build/audit-rm)"
    )
    audit.add_argument(
        "--pairs", type=_positive, default=150, help="scored a subset (default: 150)"
    )
    audit.add_argument("--seed", type=int, default=0, help="of samples and bootstraps (default: 0)")
    audit.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    audit.add_argument("--template", metavar="NAME", help="how a dialogue becomes the model's text")
    audit.add_argument("--allow-pickle", action="store_true", help="read pickled weights")
    audit.add_argument(
        "--allow-remote-code", action="store_true", help="run code that comes with the model"
    )


def _add_annotate(commands) -> None:
    annotate = commands.add_parser(
        "annotate",
        help="votes by people, through Label Studio",
        description="Write tasks that Label Studio imports, or read its export back as votes.",
    )
    steps = annotate.add_subparsers(dest="step", required=True, metavar="STEP")
    export = steps.add_parser("export", help="write tasks.json and config.xml")
    export.add_argument("--task", choices=("relabel", "score"), default="relabel")
    export.add_argument("--out", type=Path, required=True, help="folder for the two files")
    back = steps.add_parser("import", help="read a JSON export of relabel tasks as votes")
    back.add_argument("export", type=Path, metavar="EXPORT", help="Label Studio's JSON export")
    back.add_argument("--out", type=Path, required=True, help="the votes, as Parquet")
    for step in (export, back):
        step.add_argument("--data", default="hh", help=DATA_HELP)
        # No default: with a known seed anybody could tell which side was chosen.
        step.add_argument("--seed", type=int, required=True, help="keep it from the annotators")


def _add_nightly(commands) -> None:
    nightly = commands.add_parser(
        "nightly",
        help="run everything, compare with the last good night, build the book, sound the alarm",
        description="One night. Exit status 0: good, 1: failed, 3: drift. Nights are kept under "
        "history/ (or ELEPHANT_HISTORY); ELEPHANT_ALARM is the command that is told.",
    )
    nightly.add_argument("--profile", default="cpu", choices=plan.PROFILES, help=PROFILE_HELP)
    nightly.add_argument(
        "--cores", type=_positive, default=2, help="computations at a time (default: 2; 1 on a GPU)"
    )
    nightly.add_argument("--keep", type=_positive, default=60, help="nights kept (default: 60)")
    nightly.add_argument(
        "--reuse", action="store_true", help="take features and trained models from the cache"
    )
    instead = nightly.add_mutually_exclusive_group()
    instead.add_argument(
        "--accept", metavar="WHY", help="only take the last night's drift as right"
    )
    instead.add_argument(
        "--test-alarm", action="store_true", help="only prove that the alarm reaches somebody"
    )
    instead.add_argument(
        "--check", metavar="HOURS", type=_positive, help="only see that a night ended since"
    )


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return number
