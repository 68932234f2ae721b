"""Lines of bars: found in a real log, in a real job, and passed on by a real notebook run."""

import time

import nbformat
from small_project import CELLS, A, Project

from helpers import progress

SAID = "0/9 steps\r3/9 steps, loss=0.7\r4/9 steps, loss=0.6, kl=2.1, tokens/s=812\n\n"


def test_the_last_state_of_a_bar_is_found_and_other_lines_are_not(tmp_path):
    log = tmp_path / "log.txt"
    assert progress.of_log(log) == ""
    log.write_text("x" * 10_000 + "\n" + SAID)
    assert progress.of_log(log) == "4/9 steps, loss=0.6, kl=2.1, tokens/s=812"
    log.write_text(SAID + "a warning of a library\n")
    assert progress.of_log(log) == ""
    log.write_bytes(b"")
    assert progress.of_log(log) == progress.latest("\r\n ") == ""


def test_a_teller_is_not_a_flood_and_passes_on_bars_alone():
    said = []
    teller = progress.Teller(said.append, every=0.2)
    bar = " 43%|####3     | 12/28 [05:10<06:40, 25.1s/job, PPO, seed 0: 9/20 steps, loss=0.1]"
    teller.write(f"\r{bar}")
    assert said == []  # too soon
    time.sleep(0.25)
    teller.write("something that a text of the data may be in\n")
    teller.write(f"\r 42%|####      | 11/28\r{bar}\n")
    teller.write(f"\r{bar}")
    teller.flush()
    assert said == [bar.strip()]


def test_a_notebooks_bar_reaches_the_terminal(tmp_path):
    project = Project(tmp_path)
    runner = project.package / "runner.py"
    often = runner.read_text().replace("progress.Teller(", "progress.Teller(every=0.2, say=")
    runner.write_text(often)
    bar = (
        "import sys, time\n"
        "from tqdm import tqdm\n"
        "for i in tqdm(range(6), unit='job', mininterval=0.05): time.sleep(0.2)"
    )
    project.write_notebook(A, [bar, *CELLS[A]])
    done = project.run(A)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "%|" in line]
    assert told and all(line.startswith(f"[{A}]") and "/6" in line for line in told)
    path = project.root / "build" / "smoke" / "notebooks" / f"{A}.ipynb"
    cells = nbformat.read(path, 4).cells
    shown = [o["text"] for c in cells for o in c.get("outputs", []) if o.get("name") == "stderr"]
    assert len(shown) == 1 and "6/6" in shown[0]
