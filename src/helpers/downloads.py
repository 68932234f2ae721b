"""Public files at one fixed revision: locating, fetching, checking and caching them.

Nothing here knows what is in a file. A set of files is read from the folder in ``ELEPHANT_DATA``
(default: ``../shared/data`` beside the checkout); else from an earlier download in
``build/cache/corpora``; else from its public source.
"""

import gzip
import hashlib
import json
import os
import threading
import urllib.request
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from helpers import ledger

# Seconds to wait for a sign of life of a public source, and for each read of a download.
PROBE_SECONDS = 2.5
DOWNLOAD_SECONDS = 20


class File(NamedTuple):
    """A file in the data folder, its public address, and its size and hash when unpacked."""

    name: str
    revision: str
    url: str
    size: int
    sha256: str


class HubFile(NamedTuple):
    """A split of a data set on the hub, kept as sorted JSON lines of some columns; the revision
    fixes its content, ``rows`` is what it must have."""

    name: str
    revision: str
    repo: str
    split: str
    rows: int
    columns: tuple[str, ...]
    sort_by: tuple[str, ...]

    @property
    def url(self) -> str:
        """Where to look whether it is there; empty if the hub must not be asked."""
        if hub_offline():
            return ""
        return f"{hub_address()}/datasets/{self.repo}/resolve/{self.revision}/README.md"


class Bundle(NamedTuple):
    """The files of one data set: its name, its folder in ``ELEPHANT_DATA``, and the files."""

    name: str
    folder: str
    files: tuple[File | HubFile, ...]

    @property
    def revision(self) -> str:
        return "+".join(dict.fromkeys(file.revision for file in self.files))


def github(name: str, repo: str, revision: str, path: str, size: int, sha256: str) -> File:
    """A file of a GitHub repository at a commit."""
    url = f"https://raw.githubusercontent.com/{repo}/{revision}/{path}"
    return File(name, revision, url, size, sha256)


def data_folder() -> Path | None:
    """The folder in ``ELEPHANT_DATA``, or ``../shared/data`` beside the checkout if it is there.

    Raises FileNotFoundError if ``ELEPHANT_DATA`` names no folder: a wrong setting must not turn
    into a download in silence.
    """
    setting = os.environ.get("ELEPHANT_DATA", "").strip()
    if setting:
        folder = Path(setting).expanduser().resolve()
        if not folder.is_dir():
            raise FileNotFoundError(
                f"ELEPHANT_DATA is {setting!r} ({folder}), which is no folder; correct it, or "
                "unset it to use the public sources"
            )
        return folder
    folder = ledger.project_root().parent / "shared" / "data"
    return folder if folder.is_dir() else None


def locate(bundle: Bundle) -> Path | str | None:
    """Where the files would be read from; downloads nothing.

    A Path is a folder that holds all of them (the data folder, else an earlier download); a string
    is the address of their public source, which answered; None means neither, within three seconds.
    """
    for folder in _folders(bundle):
        if all((folder / file.name).is_file() for file in bundle.files):
            return folder
    address = bundle.files[0].url
    return address if address and answers(address) else None


def fingerprint(bundle: Bundle) -> str:
    """What decides whether a chapter must run again: ``sha256:...`` of the files in the data
    folder, ``public:<revision>`` if they were or would be downloaded, else ``none``."""
    where = locate(bundle)
    if where is None:
        return "none"
    if isinstance(where, str) or where == _cache(bundle):
        return f"public:{bundle.revision}"
    return content_hash({file.name: where / file.name for file in bundle.files})


def content_hash(files: dict[str, Path]) -> str:
    """``sha256:...`` of files by name and content, so that a copy elsewhere is the same data."""
    digest = hashlib.sha256()
    for name in sorted(files):
        with files[name].open("rb") as data:
            digest.update(name.encode())
            digest.update(hashlib.file_digest(data, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:16]}"


def fetch(bundle: Bundle) -> Path:
    """The folder that holds the files, downloaded first if need be.

    Raises FileNotFoundError, which says what would help, where they are not reachable, and
    ValueError where the public source gives something else than what is known.
    """
    where = locate(bundle)
    if isinstance(where, Path):
        return where
    layout = ", ".join(f"{bundle.folder}/{file.name}" for file in bundle.files)
    on_hub = isinstance(bundle.files[0], HubFile)
    host = "the Hugging Face hub (unset HF_HUB_OFFLINE)" if on_hub else "raw.githubusercontent.com"
    helps = (
        f"the data set {bundle.name!r} is not reachable. Either of two things would help: (1) set "
        f"ELEPHANT_DATA to a folder that holds {layout}; (2) allow network access to {host}, "
        f"where it is read at {bundle.revision}."
    )
    if where is None:
        raise FileNotFoundError(helps)
    try:
        for file in bundle.files:
            content = hub_rows(file) if isinstance(file, HubFile) else _download(file)
            write(_cache(bundle) / file.name, content)
    except (OSError, HTTPException) as error:
        raise FileNotFoundError(f"{helps} The download failed: {error}") from error
    return _cache(bundle)


def hub_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids to ask the Hugging Face hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def hub_address() -> str:
    """The address of the Hugging Face hub, without a slash at its end."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


@cache
def answers(address: str, timeout: float | None = None) -> bool:
    """Whether the address answers within ``timeout`` seconds (default: ``PROBE_SECONDS``).

    The look-up runs in a thread because resolving a name has no time limit of its own and can hang
    for half a minute behind a closed network; urllib is asked, not a socket, because it knows the
    proxy. Asked once a process.
    """
    timeout = PROBE_SECONDS if timeout is None else timeout
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=timeout).close()
        except (OSError, HTTPException):
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return answered.is_set()


def hub_rows(file: HubFile) -> bytes:
    """The columns of one split on the hub as sorted JSON lines. Raises ValueError if it has not
    the known number of rows."""
    import datasets

    rows = datasets.load_dataset(file.repo, split=file.split, revision=file.revision)
    rows = rows.select_columns(list(file.columns)).to_list()
    if len(rows) != file.rows:
        raise ValueError(
            f"{file.repo} ({file.split}) at {file.revision} has {len(rows)} rows, expected "
            f"{file.rows}; nothing was kept"
        )
    rows.sort(key=lambda row: [row[key] for key in file.sort_by])
    lines = (json.dumps(row, sort_keys=True, separators=(",", ":")) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


def write(path: Path, content: bytes) -> None:
    """A file that is either whole or not there; gzipped if its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    partial.replace(path)


def _folders(bundle: Bundle) -> list[Path]:
    folder = data_folder()
    return [_cache(bundle)] if folder is None else [folder / bundle.folder, _cache(bundle)]


def _cache(bundle: Bundle) -> Path:
    # The revision is part of the path, so that a new pin never reads an old download.
    key = hashlib.sha256(bundle.revision.encode()).hexdigest()[:8]
    return ledger.project_root() / "build" / "cache" / "corpora" / f"{bundle.folder}-{key}"


def _download(file: File) -> bytes:
    """The public file's bytes. Raises ValueError unless they are the known ones."""
    with urllib.request.urlopen(file.url, timeout=DOWNLOAD_SECONDS) as answer:
        content = answer.read(file.size + 1)
    digest = hashlib.sha256(content).hexdigest()
    if len(content) != file.size or digest != file.sha256:
        size = f"over {file.size}" if len(content) > file.size else len(content)
        raise ValueError(
            f"{file.url} is not the known file: {size} bytes, sha256 {digest}, expected "
            f"{file.size} bytes, sha256 {file.sha256}; nothing was kept. Try again; if it stays, "
            "set ELEPHANT_DATA to a folder with a good copy"
        )
    return content
