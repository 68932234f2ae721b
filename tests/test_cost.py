"""What a profile costs: arithmetic by hand, measured before estimated, refusals, resources."""

import json
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from small_project import ROOT, A, C, Project

from helpers import budget, catalogue, cost, devices, ledger, plan, recorded, study_real
from helpers.devices import Machine

H100 = Machine("1 x NVIDIA H100 80GB HBM3", "H100", 1, 989.0, 79.0)
ONE = "03_reward_model_accuracy"
HEAD = "scoring.smollm2-head.tokens_per_second"


def todo(profile: str, **parameters) -> dict:
    entry = dict(
        source=str(ROOT / "notebooks" / f"{ONE}.ipynb"),
        parameters=dict(parameters, profile=profile),
        upstream=[],
        data={},
    )
    return dict(profile=profile, notebooks={ONE: entry})


def write_row(root, device: str, value: float, id: str = HEAD):
    row = dict(id=id, kind="measurement", value=value, unit="tokens/s", device=device)
    row |= dict(date="2026-11-20T01:02:03+00:00", profile="gpu", notebook=ONE)
    path = root / "build" / "gpu" / "ledger" / f"{ONE}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(row) + "\n")


def item(found, what: str):
    return next(i for chapter in found for i in chapter.items if i.what == what)


def test_tokens_flops_and_seconds_by_hand(tmp_path):
    given = todo("gpu", smollm2_pairs=100, loglik_pairs=None, minilm_pairs=0, hub_pairs=0)
    found = cost.chapters(tmp_path, given, H100)
    one = item(found, "features of SmolLM2")
    # 100 pairs in each of 4 test sets, both sides, 200 tokens each; two FLOPs a parameter.
    assert one.tokens == 100 * 4 * 2 * 200
    assert one.flops == pytest.approx(one.tokens * 2 * 1.345e8)
    assert one.rate == 200_000 and one.how.startswith("estimate: at most")
    assert one.seconds == pytest.approx(160_000 / 200_000)
    # None: all pairs, however many sets. Zero: no such work.
    assert item(found, "log-likelihoods of SmolLM2").tokens == 8552 * 2 * 200
    assert not [i for c in found for i in c.items if i.model == "minilm"]


def test_an_estimate_is_the_peak_at_the_stated_share(tmp_path):
    given = todo("gpu", smollm2_pairs=0, loglik_pairs=0, minilm_pairs=0, hub_pairs=10)
    found = cost.chapters(tmp_path, given, H100)
    models = {i.model: i for c in found if c.name == ONE for i in c.items}
    beaver = models["beaver-7b"]
    parameters = 12.3 * 2**30 / 2
    assert beaver.rate == pytest.approx(989e12 * 0.40 / (2 * parameters))
    assert "989 TFLOP/s at 40%; never measured on H100" in beaver.how
    assert beaver.gib == pytest.approx(12.3 * 1.2 + 2)
    # Only what is released and fits the card.
    released = {row.name for row in catalogue.rows() if row.status == "released"}
    assert models.keys() <= released and "dpo-llama-7b" not in models
    small = cost.chapters(tmp_path, given, H100._replace(gib=20.0))
    assert all(i.gib <= 20 for c in small if c.name == ONE for i in c.items)


def test_a_measured_speed_of_the_same_kind_of_card_counts_and_no_other(tmp_path):
    given = todo("gpu", smollm2_pairs=100)
    write_row(tmp_path, "1 x NVIDIA H100 PCIe", 5000.0)
    one = item(cost.chapters(tmp_path, given, H100), "features of SmolLM2")
    assert one.rate == 5000 and one.how == f"measured: {HEAD}, 2026-11-20"
    two = item(cost.chapters(tmp_path, given, H100._replace(cards=2)), "features of SmolLM2")
    assert two.rate == 10_000
    write_row(tmp_path, "1 x NVIDIA A100-SXM4-80GB", 5000.0)
    assert "estimate" in item(cost.chapters(tmp_path, given, H100), "features of SmolLM2").how
    write_row(tmp_path, "cpu x86_64, 64 cores", 5000.0)
    cpu = Machine("cpu x86_64, 2 cores", "cpu", 0, 0.2, None)
    assert "estimate" in item(cost.chapters(tmp_path, given, cpu), "features of SmolLM2").how
    same = cpu._replace(device="cpu x86_64, 64 cores")
    assert item(cost.chapters(tmp_path, given, same), "features of SmolLM2").rate == 5000


def test_a_recorded_run_on_a_gpu_is_a_measured_speed(tmp_path):
    """In the format that `elephant record` writes: by its own writer, from a finished run."""
    project = Project(tmp_path)
    cell = f'run.measure("{HEAD}", 5000.0, unit="tokens/s")'
    project.write_notebook(C, [cell, 'run.measure("c.peak", 9, unit="bytes")'])
    assert project.run(C).returncode == 0
    build = project.root / "build" / "smoke"
    path = build / "ledger" / f"{C}.jsonl"
    rows = [json.loads(line) | {"device": H100.device} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recorded.record(project.root, "smoke", [C])
    # A reader has the recordings and no build folder.
    shutil.rmtree(project.root / "build")
    given = todo("gpu", smollm2_pairs=100)
    one = item(cost.chapters(project.root, given, H100), "features of SmolLM2")
    assert one.rate == 5000 and one.how.startswith(f"measured: {HEAD}, ")


def _written_ids() -> set[str]:
    """Ids of speeds by the names that the notebooks give their networks."""
    notebooks = {
        path.name[:2]: "\n".join(
            cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"
        )
        for path in (ROOT / "notebooks").glob("*.ipynb")
    }
    assert "scoring.{slug(name)}.{field}" in notebooks["03"]
    names = re.findall(r'(?:costs\[|behind_cache\()"([^"]+)"', notebooks["03"])
    assert len(names) >= 3, "the search sees the networks of chapter 03"
    names += [row.name for row in catalogue.rows()]
    found = {f"scoring.{ledger.slug(name)}.tokens_per_second" for name in names}
    for number, method in (("06", "dpo"), ("08", "pro")):
        written = f"align.{method}.{{study_real.model_name(where.policy)}}.tokens_per_second"
        assert written in notebooks[number]
        for profile in plan.PROFILES:
            (name,) = (n for n in plan.read_profile(ROOT, profile)["notebooks"] if n[:2] == number)
            given = plan.read_profile(ROOT, profile)["notebooks"][name]
            policies = given.get("real_policies", ["smollm2"])
            found |= {
                f"align.{method}.{study_real.model_name(policy)}.tokens_per_second"
                for policy in policies
            }
    return found


@pytest.mark.parametrize("profile", ["cpu", "gpu", "paper"])
def test_every_speed_that_the_facts_wait_for_is_one_that_a_chapter_writes(tmp_path, profile):
    machine = devices.made_for(profile)
    path = tmp_path / "build" / profile / "ledger" / "a.jsonl"
    path.parent.mkdir(parents=True)
    common = dict(value=7.0, unit="tokens/s", device=machine.device, date="2026-11-20T01:02:03")
    lines = (json.dumps(dict(common, id=id)) + "\n" for id in sorted(_written_ids()))
    path.write_text("".join(lines))
    timed = {
        (number, described["what"])
        for number, work in devices.facts()["chapters"].items()
        for described in work
        if described["measured"]
    }
    waiting = [
        (chapter.name, item.what, item.model)
        for chapter in cost.chapters(tmp_path, plan.make(ROOT, profile), machine)
        for item in chapter.items
        if (chapter.name[:2], item.what) in timed and not item.how.startswith("measured")
    ]
    assert waiting == []


def test_training_is_spread_over_the_cards_and_copies_are_not():
    given = plan.make(ROOT, "paper")
    eight = cost.chapters(ROOT, given, devices.made_for("paper"))
    one = cost.chapters(ROOT, given, devices.made_for("paper", cards=1))
    what = "DPO on original and on cleaned pairs"
    assert item(eight, what).gib == pytest.approx((item(one, what).gib - 2) / 8 + 2)
    assert item(eight, what).seconds == pytest.approx(item(one, what).seconds / 8)
    assert item(eight, "the judge's scores").gib == item(one, "the judge's scores").gib


def test_the_paper_fits_eight_cards_and_not_one_nor_none():
    given = plan.make(ROOT, "paper")
    made_for = devices.made_for("paper")
    assert (made_for.kind, made_for.cards) == ("A800", 8)
    found = cost.chapters(ROOT, given, made_for)
    assert budget.refusals(found, made_for, 8, free_gib=10_000) == []
    small = Machine("8 x RTX 4080", "RTX 4080", 8, 97.0, 15.0)
    reasons = budget.refusals(cost.chapters(ROOT, given, made_for), small, 8, 10_000)
    assert any(r.startswith("06_dpo") and "GiB of a card, which has 15" in r for r in reasons)
    none = Machine("cpu x86_64, 2 cores", "cpu", 0, 0.2, None)
    (reason,) = budget.refusals(found, none, 8, 10_000)
    assert reason.startswith("made for 8 GPU(s), here are 0 (for 03_reward_model_accuracy")
    (reason,) = budget.refusals(found, made_for, 8, free_gib=10)
    assert reason.startswith("needs ") and reason.endswith("GiB of disk, 10 are free")


def test_a_plan_for_a_named_device_is_refused_where_it_does_not_fit_there():
    command = [sys.executable, "-m", "helpers", "plan", "--profile", "paper"]
    command += ["--device", "RTX 4090", "--cards", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    there = [line for line in done.stdout.splitlines() if line.startswith("On 8 x RTX 4090: ")]
    (reason,) = (line for line in there if "GiB of a card" in line)
    assert re.search(r": 07_ppo_\w+ needs \d+ GiB of a card, which has 23$", reason)


def test_the_table_has_every_chapter_and_says_what_is_estimated():
    given = plan.make(ROOT, "paper")
    machine = devices.made_for("paper")
    text = budget.table(cost.chapters(ROOT, given, machine), machine)
    assert text.startswith("On 8 x A800:")
    for name in [*given["notebooks"], "all notebooks", "with planned ones"]:
        assert name in text
    assert "estimate: 312 TFLOP/s at 22%; never measured on A800" in text


def test_a_finished_run_says_how_long_it_takes(tmp_path):
    project = Project(tmp_path)
    assert project.run(C).returncode == 0
    given = plan.make(project.root, "smoke", [C])
    here = Machine(ledger.device(), "cpu", 0, 0.2, None)
    chapter = next(c for c in cost.chapters(project.root, given, here) if c.name == C)
    build = project.root / "build" / "smoke"
    took = nbformat.read(build / "notebooks" / f"{C}.ipynb", 4).metadata["papermill"]["duration"]
    assert chapter.seconds == took and chapter.how.startswith("measured: this profile's run of")
    # Other parameters: no measurement of this, but still the best that is known of the rest.
    given["notebooks"][C]["parameters"]["step"] = 9
    chapter = next(c for c in cost.chapters(project.root, given, here) if c.name == C)
    assert chapter.seconds == took and "the rest as all of it took at smoke" in chapter.how


def test_a_profile_that_does_not_fit_is_refused_unless_it_runs_anyway(tmp_path):
    project = Project(tmp_path)
    # Chapter 05's work is described, and the profile gpu is made for a card.
    name = "05_c"
    path = project.root / "notebooks" / f"{C}.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells[1].source += "\nn_slow = None"
    notebook.cells[2].source = notebook.cells[2].source.replace(C, name)
    nbformat.write(notebook, project.root / "notebooks" / f"{name}.ipynb")
    text = json.dumps({"cell_timeout": 60, "notebooks": {name: {}}})
    (project.root / "profiles" / "gpu.yaml").write_text(text)
    if not ledger.device().startswith("cpu"):
        pytest.skip("this machine has a GPU: the profile fits")

    def run(*more):
        return subprocess.run(
            project.command("run", "--profile", "gpu", name, *more),
            cwd=project.root,
            env=project.environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    refused = run()
    assert refused.returncode == 1 and "made for 1 GPU(s), here are 0" in refused.stderr
    assert not (project.root / "build" / "gpu" / "done").exists()
    assert run("--anyway").returncode == 0


def test_what_a_cluster_is_asked_for():
    given = plan.make(ROOT, "gpu")
    asked = budget.resources(ROOT, given)
    assert asked.keys() == given["notebooks"].keys()
    assert asked["00_paper_audit"]["gpu"] == 0 and asked[ONE]["gpu"] == 1
    assert all(a["mem_mb"] >= 8192 for a in asked.values())


def test_a_cluster_gives_hours_to_what_was_never_timed_as_a_whole(tmp_path):
    """Minutes of network work are known of chapter 07; its gold world takes hours."""
    name = "07_ppo_and_reward_model_quality"
    given = plan.make(ROOT, "gpu", [name])
    (chapter,) = (c for c in cost.chapters(tmp_path, given, H100) if c.name == name)
    assert "network work only" in chapter.how and chapter.seconds < 4 * 3600 / 3
    assert budget.resources(tmp_path, given)[name]["runtime"] == 240
    # A finished run of this profile is what it takes: half an hour is enough for seconds.
    project = Project(tmp_path / "project")
    assert budget.resources(project.root, plan.make(project.root, "smoke"))[C]["runtime"] == 240
    assert project.run(C).returncode == 0
    timed = budget.resources(project.root, plan.make(project.root, "smoke"))
    assert timed[C]["runtime"] == 30 and timed[A]["runtime"] == 240


def test_an_unknown_card_is_named_and_the_slowest_known_peak_assumed(monkeypatch):
    with pytest.raises(
        ValueError, match="no peak is known of the device 'abacus'; known are cpu, "
    ):
        devices.made_for("gpu", "abacus")
    assert devices.kind("8 x NVIDIA A100-SXM4-40GB") == "A100-SXM4-40GB"
    assert devices.kind("2 x NVIDIA A100-SXM4-80GB") == "A100"
    assert devices.kind("1 x Some Card") == ""
    monkeypatch.setattr(ledger, "device", lambda: "1 x Some Card")
    monkeypatch.setattr(
        devices.subprocess,
        "run",
        lambda *_, **__: type("Done", (), {"stdout": "24576\n24000\n"}),
    )
    here = devices.here()
    assert (here.kind, here.cards, here.tflops) == ("", 1, 165) and here.gib < 24


def test_the_facts_name_what_exists():
    facts = devices.facts()
    assert facts["machines"].keys() == set(plan.PROFILES)
    names = {path.name[:2]: path for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert names.keys() <= facts["chapters"].keys(), "a chapter whose work is not described"
    for number, work in facts["chapters"].items():
        for described in work:
            wanted = described["model"]
            for model in wanted.values() if isinstance(wanted, dict) else [wanted]:
                assert model == "catalogue" or model in facts["models"] or catalogue.row(model)
            assert described["stage"] in facts["utilisation"]
            rows = described["rows"]
            if isinstance(rows, dict) and "parameter" in rows and number in names:
                notebook = names[number].read_text(encoding="utf-8")
                assert f"{rows['parameter']} = " in notebook, described["what"]
