"""Pins stand in one place, and every other file that installs something points to it."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _pins() -> dict[str, str]:
    lines = [line for line in _read("constraints.txt").splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line) for line in lines), lines
    return dict(line.split("==") for line in lines)


def _names(file: str) -> list[str]:
    lines = [line.strip() for line in _read(file).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_every_requirement_is_pinned_and_versions_stand_in_constraints_only():
    pins = _pins()
    for file in ("requirements.txt", "requirements-nodeps.txt"):
        for name in _names(file):
            assert re.fullmatch(r"[a-z0-9-]+", name), f"{file}: {name} carries a version"
            assert name in pins, f"{file}: {name} is not pinned in constraints.txt"


def test_pins_that_the_stack_depends_on():
    pins = _pins()
    expected = {
        "torch": "2.13.0",
        "trl": "1.12.0",  # the last with a PPO trainer
        "sphinx-book-theme": "1.1.4",
        "pydata-sphinx-theme": "0.15.4",
    }
    assert {name: pins[name] for name in expected} == expected
    # alt-profanity-check pins these two itself; another version could not be installed.
    assert (pins["scikit-learn"], pins["joblib"]) == ("1.9.1", "1.6.0")


def test_installed_versions_are_the_pinned_ones():
    from importlib.metadata import distributions

    pins = _pins()
    installed = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in distributions()}
    listed = [*_names("requirements.txt"), *_names("requirements-nodeps.txt"), "torch"]
    for name in listed:
        assert installed[name].split("+")[0] == pins[name], name


def test_environment_and_dockerfile_point_to_the_pins():
    environment = yaml.safe_load(_read("environment.yml"))
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert "-c constraints.txt" in pip and "-r requirements.txt" in pip
    assert "python=3.11" in environment["dependencies"]
    dockerfile = _read("Dockerfile")
    assert "make setup" in dockerfile
    assert re.search(r"^USER (?!root)\w+", dockerfile, re.M), "the container must not run as root"
    assert "token=''" not in dockerfile and "--NotebookApp.token" not in dockerfile
    assert "ARG TORCH_INDEX" in dockerfile
    for text in (_read("environment.yml"), dockerfile):
        assert not re.search(r"==\d", text), "a version outside constraints.txt"


def test_makefile_installs_torch_first_under_the_constraints():
    makefile = _read("Makefile")
    installs = [line for line in makefile.splitlines() if "pip install" in line]
    assert all("-c constraints.txt" in line for line in installs)
    assert installs[0].rstrip().endswith("torch")


def test_a_second_setup_installs_nothing():
    stamp = ROOT / ".venv" / ".installed"
    if not stamp.is_file():
        pytest.skip("no .venv made by `make setup` in this checkout")
    done = subprocess.run(
        ["make", "--dry-run", "setup"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "pip install" not in done.stdout


def test_package_reads_its_requirements_from_the_one_list():
    project = tomllib.loads(_read("pyproject.toml"))
    assert project["project"]["dynamic"] == ["dependencies"]
    dynamic = project["tool"]["setuptools"]["dynamic"]
    assert dynamic == {"dependencies": {"file": ["requirements.txt"]}}


def test_nothing_written_names_a_registry_or_a_path_of_a_machine():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    # Put together here, so that this file does not find itself.
    forbidden = ["pypi" + ".org", "pythonhosted" + ".org", "npmjs" + ".com", "/home/" + "runner"]
    forbidden.append(str(ROOT.parent) + "/")
    for name in filter(None, tracked):
        path = ROOT / name
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not [word for word in forbidden if word in text], name
