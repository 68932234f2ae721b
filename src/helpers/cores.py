"""The cores of one run, each held by one computation at a time.

Snakemake counts notebooks, but a notebook that trains computes in processes of its own: while the
last notebook of one core is at it, a training one can use the other cores, and all of them later.
So everything that computes holds a core for as long: a notebook that does not train for all of its
time, a job for its own. The kernel of a notebook that trains holds none: it waits for its jobs.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from helpers import ledger

# How many cores the run may use. Where it is not set (in a notebook of one's own, or on a cluster's
# node, which hands out cores itself), there is nothing to share and nobody waits.
SETTING = "ELEPHANT_CORES"
_LOOK_AGAIN = 0.2  # seconds


class Abandoned(Exception):
    """The wait for a core was given up."""


@contextmanager
def one(given_up: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold a core, as soon as one is free.

    The system frees it where the process is killed. Raises Abandoned when ``given_up`` says so.
    """
    if not (cores := int(os.environ.get(SETTING) or 0)):
        yield
        return
    folder = ledger.cache_folder() / "cores"
    folder.mkdir(parents=True, exist_ok=True)
    locks = [FileLock(folder / f"{n}.lock", timeout=0) for n in range(cores)]
    lock = None
    while lock is None:
        if given_up():
            raise Abandoned
        lock = next(filter(_acquired, locks), None)
        if lock is None:
            time.sleep(_LOOK_AGAIN)
    try:
        yield
    finally:
        lock.release()


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire()
    except Timeout:
        return False
    return True
