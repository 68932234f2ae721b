"""A cluster gives the same ledger as this machine: SLURM, or else real separate processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import slurm_node
import yaml
from small_project import ROOT, C, Project


class ClusterProject(Project):
    """The small project with the profiles of the executors, made quick, and jobs elsewhere."""

    def __init__(self, folder: Path, changes: dict):
        super().__init__(folder)
        for executor in ("slurm", "cluster"):
            made = yaml.safe_load((ROOT / "profiles" / executor / "config.yaml").read_text())
            made |= {
                key: value for key, value in changes.items() if key.startswith(made["executor"])
            }
            (folder / "profiles" / executor).mkdir()
            text = yaml.safe_dump(made)
            (folder / "profiles" / executor / "config.yaml").write_text(text)

    def run_on(self, executor: str, **environment: str) -> subprocess.CompletedProcess:
        arguments = ("run", "--profile", "smoke", "--executor", executor)
        return self.call(*arguments, timeout=900, **environment)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """What a run on this machine gives."""
    project = Project(tmp_path_factory.mktemp("here"))
    done = project.run()
    assert done.returncode == 0, done.stderr
    return project.results()


def test_separate_processes_give_the_same_ledger(tmp_path, here):
    submit = (
        f"{sys.executable} {ROOT / 'tests' / 'submit.py'} {{resources.mem_mb}} {{resources.gpu}}"
    )
    project = ClusterProject(tmp_path, {"cluster-generic-submit-cmd": submit})
    jobs = tmp_path / "jobs.txt"
    done = project.run_on("cluster", SUBMITTED=str(jobs))
    assert done.returncode == 0, done.stderr
    assert project.results() == here and len(here) == 3
    # One job a notebook, each in a session of its own, asking for what the plan says.
    lines = [line.split() for line in jobs.read_text().splitlines()]
    assert len(lines) == len({line[0] for line in lines}) == 3
    assert {(line[1], line[2]) for line in lines} == {("8192", "0")}
    again = project.run_on("cluster", SUBMITTED=str(jobs))
    assert "3 notebook(s) up to date" in again.stderr and len(jobs.read_text().splitlines()) == 3


def test_a_job_that_fails_elsewhere_fails_here(tmp_path):
    submit = f"{sys.executable} {ROOT / 'tests' / 'submit.py'}"
    project = ClusterProject(tmp_path, {"cluster-generic-submit-cmd": submit})
    project.write_notebook(C, ["1 / 0"])
    done = project.run_on("cluster", SUBMITTED=str(tmp_path / "jobs.txt"))
    assert done.returncode == 1
    assert f"not complete: {C}" in done.stderr
    assert (project.root / "build" / "smoke" / "failed" / f"{C}.ipynb").is_file()
    assert {row["id"] for row in project.results()} == {"a.value", "b.value"}


@pytest.mark.slow
def test_slurm_gives_the_same_ledger(tmp_path, here):
    if lacking := slurm_node.missing():
        pytest.skip(f"no SLURM here: {', '.join(lacking)} not on the PATH (Debian: slurm-wlm)")
    # This SLURM keeps no accounts of finished jobs; squeue knows them.
    quick = {"slurm-init-seconds-before-status-checks": 2, "slurm-status-command": "squeue"}
    project = ClusterProject(tmp_path / "p", quick)
    with slurm_node.node(tmp_path / "slurm") as environment:
        keys = {name: environment[name] for name in ("SLURM_CONF", "PATH")}
        done = project.run_on("slurm", **keys)
        shown = ["scontrol", "show", "job", "--oneliner"]
        jobs = subprocess.run(
            shown, env=os.environ | keys, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert project.results() == here
    assert len(jobs) == 3
    for job in jobs:
        assert "JobState=COMPLETED" in job and "TimeLimit=04:00:00" in job
        assert re.search(r"MinMemoryNode=8G|mem=8G", job), job


@pytest.mark.parametrize("executor", ["slurm", "cluster"])
def test_the_profiles_name_what_is_installed(tmp_path, executor):
    """A typo would show only on a cluster: a dry run reads the profile and asks nobody."""
    (tmp_path / "Snakefile").write_text('rule all:\n    output: "a"\n    shell: "touch a"\n')

    def dry_run(folder: Path) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "snakemake", "--dry-run", "--profile", str(folder)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    real = ROOT / "profiles" / executor
    assert dry_run(real).returncode == 0, dry_run(real).stderr
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    text = (real / "config.yaml").read_text()
    (wrong / "config.yaml").write_text(text.replace("latency-wait", "latency-wate"))
    assert dry_run(wrong).returncode != 0, "the test sees a typo"
