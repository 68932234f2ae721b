"""A project of three small notebooks with the real Snakefile, for tests of the runner.

``a`` writes an artefact, ``b`` reads it, ``c`` stands alone and imports a helper module.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
A = "00_a"
B = "01_b"
C = "02_c"

START = "from helpers import ledger\nrun = ledger.start({name!r}, profile=profile, seed=seed)"
CELLS = {
    A: [
        'run.record("a.value", step * 2, unit="count", labels="none")',
        '(run.artifacts / "a.txt").write_text(str(step % 2))',
    ],
    B: [
        "import pathlib\n"
        f'up = pathlib.Path(run.context["upstream"]["{A}"], "a.txt").read_text()\n'
        'run.record("b.value", int(up), unit="count", labels="none")',
    ],
    C: [
        "from helpers import nulls",
        'run.record("c.value", step, unit="count", labels="none")',
    ],
}


class Project:
    """A project in a temporary folder, with its own copy of the helpers to change."""

    def __init__(self, folder: Path, helpers: Path | None = None):
        self.root = folder
        self.package = folder / "src" / "helpers"
        shutil.copytree(ROOT / "src" / "helpers", self.package)
        shutil.copy(ROOT / "Snakefile", folder)
        (folder / "notebooks").mkdir()
        (folder / "profiles").mkdir()
        for name, cells in CELLS.items():
            self.write_notebook(name, cells)
        self.write_profile({A: {"step": 1}, B: {}, C: {"step": 1}})

    def write_notebook(self, name: str, cells: list[str], words: str = "Words.") -> None:
        parameters = nbformat.v4.new_code_cell(
            'profile = "cpu"\nseed = 0\nstep = 0', metadata={"tags": ["parameters"]}
        )
        nb = nbformat.v4.new_notebook(
            cells=[
                nbformat.v4.new_markdown_cell(words),
                parameters,
                nbformat.v4.new_code_cell(START.format(name=name)),
                *[nbformat.v4.new_code_cell(source) for source in cells],
            ],
            metadata={
                "kernelspec": {"name": "python3", "display_name": "Python 3"},
                "language_info": {"name": "python"},
                "elephant": {"data": [], "upstream": [A] if name == B else []},
            },
        )
        for number, cell in enumerate(nb.cells):
            cell.id = f"cell-{number}"
        nbformat.write(nb, self.root / "notebooks" / f"{name}.ipynb")

    def write_profile(self, notebooks: dict, cell_timeout: int = 60) -> None:
        text = json.dumps({"cell_timeout": cell_timeout, "notebooks": notebooks})
        (self.root / "profiles" / "smoke.yaml").write_text(text)

    def environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(self.package.parent), "OMP_NUM_THREADS": "1"}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "helpers", *arguments]

    def call(
        self, *arguments: str, timeout: float = 300, **environment: str
    ) -> subprocess.CompletedProcess:
        """``elephant`` with these arguments, to its end."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment() | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def run(self, *names: str) -> subprocess.CompletedProcess:
        return self.call("run", "--profile", "smoke", *names, timeout=180)

    def executed(self, done: subprocess.CompletedProcess) -> set[str]:
        """Which notebooks a run really executed, by its own words."""
        return {name for name in CELLS if f"[{name}] done in" in done.stderr}

    def kill_when(self, text: str) -> str:
        """Start a run, kill -9 its whole process group when ``text`` appears; what it had said."""
        process = subprocess.Popen(
            self.command("run", "--profile", "smoke"),
            cwd=self.root,
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        said = ""
        deadline = time.monotonic() + 120
        while text not in said:
            line = process.stderr.readline()
            assert line, f"the run ended before {text!r} appeared:\n{said}"
            assert time.monotonic() < deadline, said
            said += line
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
        return said

    def results(self) -> list[dict]:
        from helpers import ledger

        return ledger.results_only(ledger.read(self.root / "build" / "smoke" / "ledger"))
