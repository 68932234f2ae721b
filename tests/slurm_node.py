"""A real SLURM of one node, for tests: writes its configuration and starts controller and node.

Needs the programs of Debian's ``slurm-wlm`` on the PATH (installed, or unpacked anywhere with
``dpkg -x`` and named by PATH and LD_LIBRARY_PATH); neither munge nor root's folders. By hand::

    python tests/slurm_node.py FOLDER    # prints the SLURM_CONF to export; runs until Ctrl-C
"""

import contextlib
import getpass
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
PluginDir={plugins}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
# Finished jobs stay visible: squeue is all that says how they ended.
MinJobAge=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Which of the programs are not on the PATH."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


@contextlib.contextmanager
def node(folder: Path, *, memory: int = 16_000) -> Iterator[dict[str, str]]:
    """Run a node with ``memory`` MB; yields the environment in which ``sbatch`` finds it.

    Raises RuntimeError with the end of both logs where it does not come up.
    """
    # The programs may be links into a package's own folder; its plugins lie beside these.
    root = Path(shutil.which("slurmctld")).parent.parent
    plugins = next(path.parent for path in root.glob("lib/**/select_cons_tres.so"))
    for part in ("state", "spool"):
        (folder / part).mkdir(parents=True)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            controller_port=_free_port(),
            node_port=_free_port(),
            user=getpass.getuser(),
            folder=folder,
            plugins=plugins,
            cores=os.cpu_count(),
            memory=memory,
        )
    )
    # SLURM hands no SLURM_* variable of the submitter to a job, so a job finds the configuration
    # only in the system's own place, or by a program of ours that stands before the real one.
    wrapper = folder / "bin" / "srun"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f"#!/bin/sh\nSLURM_CONF={shlex.quote(str(configuration))} "
        f'exec {shlex.quote(shutil.which("srun"))} "$@"\n'
    )
    wrapper.chmod(0o755)
    environment = os.environ | {
        "SLURM_CONF": str(configuration),
        "PATH": f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}",
    }
    step = Path(shutil.which("slurmd")).with_name("slurmstepd")
    commands = [["slurmctld", "-D"], ["slurmd", "-D", "-d", str(step)]]
    running = [
        subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for command in commands
    ]
    try:
        _wait_until_idle(folder, environment)
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(timeout=60)


def _wait_until_idle(folder: Path, environment: dict[str, str]) -> None:
    for _ in range(120):
        asked = ["sinfo", "--noheader", "--format=%T"]
        done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)
        if done.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = [folder / name for name in ("slurmctld.log", "slurmd.log")]
    ends = (log.read_text()[-2000:] if log.is_file() else "no log" for log in logs)
    raise RuntimeError(f"SLURM did not come up: {done.stdout}{done.stderr}\n" + "\n".join(ends))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    with node(Path(sys.argv[1]).resolve()) as made:
        print(f"export SLURM_CONF={made['SLURM_CONF']}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(10**8)
