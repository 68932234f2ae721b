"""A profile is checked before anything runs."""

import pytest
from small_project import A, B, C, Project

from helpers import plan


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def test_an_unknown_parameter_is_an_error_not_a_warning(project):
    project.write_profile({A: {"stepp": 1}, B: {}, C: {}})
    with pytest.raises(plan.PlanError, match=r"00_a stepp: .* its parameters are profile, seed"):
        plan.make(project.root, "smoke")


@pytest.mark.parametrize(
    ("listed", "names", "message"),
    [
        ({A: {}, B: {}}, None, "does not list '02_c'"),
        ({A: {}, B: {}, C: {}, "03_d": {}}, None, "lists '03_d'"),
        ({A: {}, B: {}, C: {}}, ["09_x"], "no notebook '09_x'; there are 00_a"),
    ],
)
def test_profile_and_notebooks_must_fit(project, listed, names, message):
    project.write_profile(listed)
    with pytest.raises(plan.PlanError, match=message):
        plan.make(project.root, "smoke", names)


def test_an_unknown_profile_names_the_known_ones(project):
    with pytest.raises(plan.PlanError, match="no profile 'gpu'; there are smoke"):
        plan.make(project.root, "gpu")


def test_a_profile_of_another_form_is_refused(project):
    (project.root / "profiles" / "smoke.yaml").write_text("notebooks: {}\n")
    with pytest.raises(plan.PlanError, match="exactly the keys"):
        plan.make(project.root, "smoke")


def test_an_upstream_that_is_not_there_is_named(project):
    import nbformat

    path = project.root / "notebooks" / f"{B}.ipynb"
    nb = nbformat.read(path, 4)
    nb.metadata["elephant"]["upstream"] = ["00_gone"]
    nbformat.write(nb, path)
    with pytest.raises(plan.PlanError, match="01_b declares upstream '00_gone'"):
        plan.make(project.root, "smoke")


def test_a_cell_that_is_no_python_is_named(project):
    project.write_notebook(A, ["x = ("])
    with pytest.raises(plan.PlanError, match=r"00_a\.ipynb: cell cell-3 is no Python"):
        plan.make(project.root, "smoke")


def test_an_unknown_data_source_is_named(project):
    import nbformat

    path = project.root / "notebooks" / f"{A}.ipynb"
    nb = nbformat.read(path, 4)
    nb.metadata["elephant"]["data"] = ["moon"]
    nbformat.write(nb, path)
    with pytest.raises(plan.PlanError, match="'moon'; known are hh_rlhf"):
        plan.make(project.root, "smoke")


def test_inputs_are_parameters_data_code_helpers_and_upstream():
    entry = dict(parameters={"step": 1}, data={"hh_rlhf": "x"}, code="c", helpers="h")
    assert plan.inputs(dict(entry, modules=["other"]), {"up": "1"}) == entry | {
        "upstream": {"up": "1"}
    }


def test_data_changes_the_key(project, monkeypatch, tmp_path):
    import nbformat

    path = project.root / "notebooks" / f"{A}.ipynb"
    nb = nbformat.read(path, 4)
    nb.metadata["elephant"]["data"] = ["hh_rlhf"]
    nbformat.write(nb, path)
    data = tmp_path / "hh"
    data.mkdir()
    (data / "harmless-base-test.jsonl").write_text("one")
    monkeypatch.setenv("HH_RLHF_DIR", str(data))
    first = plan.make(project.root, "smoke")["notebooks"]
    (data / "harmless-base-test.jsonl").write_text("two")
    second = plan.make(project.root, "smoke")["notebooks"]
    assert first[A]["data"] != second[A]["data"]
    assert first[C] == second[C]


def test_every_profile_of_the_repository_lists_every_notebook():
    from small_project import ROOT

    for profile in plan.PROFILES:
        todo = plan.make(ROOT, profile)
        assert list(todo["notebooks"]) == sorted(
            p.stem for p in (ROOT / "notebooks").glob("*.ipynb")
        )
        text = (ROOT / "profiles" / f"{profile}.yaml").read_text(encoding="utf-8")
        for line in text.splitlines():
            value = line.split(":", 1)[1].strip() if ":" in line and line[0] != "#" else ""
            assert not value or "#" in value, f"{profile}.yaml gives no reason: {line}"
