"""What is here: processor, memory, GPU, data, bundled models, hub. Reads only, changes nothing."""

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

import psutil

from helpers import bundled, corpora, hh, ledger


def report() -> list[tuple[str, str]]:
    """``(what, finding)`` lines in reading order."""
    memory = psutil.virtual_memory()
    lines = [
        ("python", platform.python_version()),
        ("cores", str(os.cpu_count())),
        ("memory", f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB available"),
        ("disk", f"{shutil.disk_usage('.').free / 2**30:.1f} GiB free"),
        ("device", ledger.device()),
        ("HH-RLHF", _hh()),
    ]
    lines += [(f"data: {name}", corpora.fingerprint(name)) for name in corpora.NAMES]
    lines += [
        ("bundled SmolLM2", "present" if bundled.smollm2_folder() else "missing: run `make setup`"),
        ("hub", "reachable" if hh.hub_reachable() else "not reachable"),
    ]
    lines += [(package, _version(package)) for package in ("torch", "transformers", "papermill")]
    lines.append(("browser", shutil.which("chromium") or "no chromium: browser tests cannot run"))
    return lines


def _hh() -> str:
    try:
        source = hh.locate()
    except FileNotFoundError as error:
        return str(error)
    if source.kind == "none":
        return hh.HELP
    have = ", ".join("/".join(key) for key in hh.available(source))
    return f"{source.kind} {source.where}: {have}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing: run `make setup`"
