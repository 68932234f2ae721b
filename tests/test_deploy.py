"""What a timer calls: the real script, on a checkout of its own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from small_project import ROOT


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose `elephant` is a script; what it was asked stands in ``asked``."""
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy" / "night.sh", tmp_path / "deploy")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)

    def elephant(text: str) -> None:
        path = tmp_path / ".venv" / "bin" / "elephant"
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)

    return tmp_path, elephant


def night(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    alarm = "sh -c 'echo $ELEPHANT_ALARM_STATE $ELEPHANT_ALARM_PROFILE >> told; cat >> told'"
    environment = os.environ | {"ELEPHANT_ALARM": alarm, "PROFILE": "smoke"}
    command = [str(folder / "deploy" / "night.sh"), *arguments]
    # From elsewhere, as cron does.
    return subprocess.run(
        command, cwd="/", env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("status", [0, 1, 3])
def test_the_night_is_called_as_asked_and_its_status_is_kept(checkout, status):
    folder, elephant = checkout
    elephant(f'[ "$2" = --help ] && exit 0\necho "$@" >> asked\nexit {status}\n')
    assert night(folder, "--profile", "smoke", "--check", "36").returncode == status
    assert (folder / "asked").read_text() == "nightly --profile smoke --check 36\n"
    assert not (folder / "told").exists(), "the night tells of itself"


def test_a_package_that_does_not_start_is_told(checkout):
    folder, elephant = checkout
    elephant('echo "ModuleNotFoundError: torch" >&2\nexit 1\n')
    done = night(folder, "--profile", "smoke")
    told = (folder / "told").read_text()
    assert done.returncode == 1 and told.startswith("open smoke\n")
    assert "does not start" in told and "ModuleNotFoundError: torch" in told


def test_no_environment_at_all_is_told(checkout):
    folder, _ = checkout
    assert night(folder, "--profile", "smoke").returncode == 1
    assert "does not start" in (folder / "told").read_text()


def test_the_workflow_gives_every_step_what_the_alarm_needs():
    flow = yaml.safe_load((ROOT / "deploy" / "github-nightly.yml").read_text(encoding="utf-8"))
    job = flow["jobs"]["night"]
    assert {"ELEPHANT_ALARM", "GH_TOKEN", "GH_REPO"} <= job["env"].keys()
    steps = {step.get("name", step.get("id", "")): step for step in job["steps"]}
    assert "night.sh" in steps["Night"]["run"]
    check = steps["See that the night ended and was kept"]
    assert check["if"] == "always()" and "--check" in check["run"]
    assert "failure" in steps["Tell of a set-up that failed"]["if"]


def test_units_and_cron_lines_call_files_that_are_there():
    for name in ("elephant-nightly.service", "elephant-check.service", "crontab"):
        text = (ROOT / "deploy" / name).read_text(encoding="utf-8")
        assert "/elephant/deploy/night.sh --profile" in text
    assert os.access(ROOT / "deploy" / "night.sh", os.X_OK)
