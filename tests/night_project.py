"""A project of two small notebooks with a book of its own, for tests of whole nights."""

import shutil
import subprocess
from pathlib import Path

from small_project import CELLS, ROOT, A, B, C, Project

from helpers import history

CELL_B = [
    *CELLS[B],
    "from helpers import splits\n"
    'run.record("b.share", splits.SHARES["test"], unit="share", labels="none")',
]
INDEX = "# A small book\n\nThe share is {num}`b.share`. See the [status](status.md).\n"
TOC = """format: jb-book
root: index
chapters:
  - file: notebooks/00_a
  - file: notebooks/01_b
  - file: status
"""


class NightProject(Project):
    """Nights are kept in ``history/``; the alarm adds a line to ``told.txt``."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        (folder / "notebooks" / f"{C}.ipynb").unlink()
        self.write_notebook(A, CELLS[A], words="# First\n\nWords.")
        self.write_notebook(B, CELL_B, words="# Second\n\nWords.")
        self.write_profile({A: {"step": 1}, B: {}})
        (folder / "book" / "_static").mkdir(parents=True)
        shutil.copy(ROOT / "book" / "_static" / "book.css", folder / "book" / "_static")
        shutil.copy(ROOT / "book" / "references.bib", folder / "book")
        (folder / "book" / "index.md").write_text(INDEX)
        shutil.copy(ROOT / "_config.yml", folder)
        (folder / "_toc.yml").write_text(TOC)
        self.teller = folder / "tell.sh"
        self.teller.write_text(
            '#!/bin/sh\necho "$ELEPHANT_ALARM_STATE: $(head -2 | tail -1)" >> told.txt\n'
        )
        self.teller.chmod(0o755)

    @property
    def where(self) -> Path:
        return self.root / "history" / "smoke"

    @property
    def book(self) -> Path:
        return self.root / "build" / "smoke" / "book"

    def environment(self) -> dict[str, str]:
        return super().environment() | {"ELEPHANT_ALARM": str(self.teller)}

    def night(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return self.call("nightly", "--profile", "smoke", *arguments, **environment)

    def kept(self) -> list[history.Night]:
        return history.nights(self.where)

    def told(self) -> list[str]:
        path = self.root / "told.txt"
        return path.read_text().splitlines() if path.is_file() else []

    def change_share(self, old: str, new: str) -> None:
        """Plant a change in a helper that moves one number."""
        module = self.package / "splits.py"
        text = module.read_text(encoding="utf-8")
        assert f'"test": {old}' in text
        module.write_text(text.replace(f'"test": {old}', f'"test": {new}'), encoding="utf-8")
