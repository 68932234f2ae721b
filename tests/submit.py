"""A scheduler in miniature for the generic cluster executor: starts the job script it is given as a
detached process with nothing of ours but the environment, prints its id, and keeps a list."""

import os
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    script = sys.argv[-1]
    job = subprocess.Popen(
        ["sh", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with Path(os.environ["SUBMITTED"]).open("a", encoding="utf-8") as jobs:
        jobs.write(f"{job.pid} {' '.join(sys.argv[1:])}\n")
    print(job.pid)
