"""The machine and the packages that a night runs on, as far as numbers may depend on them."""

import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path


def environment(device: str) -> dict:
    """What the numbers may depend on besides code, data and models."""
    packages = {d.metadata["Name"].lower(): d.version for d in distributions()}
    return dict(
        device=device,
        python=platform.python_version(),
        system=platform.platform(),
        processor=_processor(),
        driver=_smi("driver_version") or "none",
        packages=dict(sorted(packages.items())),
    )


def gpu_memory() -> str:
    """Free and total memory of each GPU, in words."""
    lines = _smi("memory.free,memory.total").splitlines()
    pairs = [[float(part) / 1024 for part in line.split(",")] for line in lines]
    free = (f"{free:.1f} of {total:.1f} GiB free" for free, total in pairs)
    return "GPU memory " + "; ".join(free) if pairs else "no GPU"


def _smi(fields: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _processor() -> str:
    """Its model: linear algebra picks other kernels on another one."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
