"""What a profile asks for, checked before anything runs: parameters, data, code.

:func:`inputs` names all that a notebook's results depend on. Equal inputs: nothing to do.
"""

from pathlib import Path

import papermill
import yaml

from helpers import corpora, hh, ledger, notebooks, sources

PROFILES = ("smoke", "cpu", "gpu", "paper")


class PlanError(ValueError):
    """A profile or notebook that cannot be run as asked; the message says what to change."""


def build_folder(root: Path, profile: str) -> Path:
    """Where everything that a profile makes lies."""
    return root / "build" / profile


def read_profile(root: Path, profile: str) -> dict:
    """``{"cell_timeout": seconds, "notebooks": {name: parameters}}`` of ``profiles/<name>.yaml``.

    Raises PlanError for an unknown profile or a file of another form.
    """
    path = root / "profiles" / f"{profile}.yaml"
    if not path.is_file():
        have = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise PlanError(f"no profile {profile!r}; there are {have}")
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or set(data) != {"cell_timeout", "notebooks"}:
        raise PlanError(f"{path.name} must have exactly the keys 'cell_timeout' and 'notebooks'")
    return data


def make(root: Path, profile: str, names: list[str] | None = None) -> dict:
    """The plan of a run as a JSON-able dict.

    ``names`` limits it to these notebooks and what stands upstream of them. Raises PlanError for a
    notebook that does not exist, that the profile does not list, or that lists a parameter which
    the notebook does not have (papermill itself would only warn).
    """
    settings = read_profile(root, profile)
    files = {path.stem: path for path in sorted((root / "notebooks").glob("*.ipynb"))}
    listed = settings["notebooks"]
    for name in listed:
        if name not in files:
            raise PlanError(f"profiles/{profile}.yaml lists {name!r}: no such file in notebooks/")
    for name in names or files:
        if name not in files:
            raise PlanError(f"no notebook {name!r}; there are {', '.join(files)}")
        if name not in listed:
            raise PlanError(
                f"profiles/{profile}.yaml does not list {name!r}; add it with its parameters"
            )
    entries: dict[str, dict] = {}
    todo = list(names or files)
    fingerprints: dict[str, str] = {}
    while todo:
        name = todo.pop(0)
        if name in entries:
            continue
        entry = _entry(files[name], profile, listed[name] or {}, fingerprints)
        entries[name] = entry
        for up in entry["upstream"]:
            if up not in listed or up not in files:
                raise PlanError(f"{name} declares upstream {up!r}, which the profile does not have")
        todo += entry["upstream"]
    return dict(
        profile=profile,
        build=str(build_folder(root, profile)),
        cell_timeout=settings["cell_timeout"],
        commit=ledger.git_commit(),
        device=ledger.device(),
        notebooks=dict(sorted(entries.items())),
    )


def _entry(path: Path, profile: str, parameters: dict, fingerprints: dict[str, str]) -> dict:
    notebook = notebooks.read(path)
    try:
        known = papermill.inspect_notebook(str(path))
    except ValueError as error:
        raise PlanError(f"{path.name}: {error} Set its metadata language_info.name.") from error
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise PlanError(
            f"profiles/{profile}.yaml gives {path.stem} {', '.join(unknown)}: no parameter of it; "
            f"its parameters are {', '.join(known) or 'none (no cell tagged parameters)'}"
        )
    if "profile" not in known:
        raise PlanError(f"{path.name} needs a parameter 'profile' in its cell tagged 'parameters'")
    data = {}
    for source in notebooks.declared(notebook, "data"):
        if source not in fingerprints:
            fingerprints[source] = _fingerprint(path.name, source)
        data[source] = fingerprints[source]
    try:
        modules = notebooks.helper_modules(notebook)
    except (SyntaxError, ValueError) as error:
        raise PlanError(f"{path.name}: {error}") from error
    return dict(
        source=str(path),
        parameters=dict(parameters, profile=profile),
        upstream=notebooks.declared(notebook, "upstream"),
        data=data,
        # Trainings take all cores by themselves: one such notebook runs at a time.
        training=bool(notebook.metadata.get("elephant", {}).get("training")),
        code=notebooks.code_hash(notebook),
        helpers=sources.helpers_hash(modules),
        modules=sorted(modules),
    )


def _fingerprint(notebook: str, source: str) -> str:
    if source == "hh_rlhf":
        return hh.fingerprint(hh.locate())
    if source == "rm_static":
        return hh.RM_STATIC_ID if hh.hub_reachable() else "none"
    if source in corpora.NAMES:
        return corpora.fingerprint(source)
    known = ", ".join(("hh_rlhf", "rm_static", *corpora.NAMES))
    raise PlanError(f"{notebook} declares the data source {source!r}; known are {known}")


def inputs(entry: dict, upstream: dict[str, str]) -> dict:
    """All that a notebook's results depend on, by name.

    ``upstream`` maps each upstream notebook to the hash of what it made; in the plan, made before
    anything has run, it is empty.
    """
    return {k: entry[k] for k in ("parameters", "data", "code", "helpers")} | {"upstream": upstream}
