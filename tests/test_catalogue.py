import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import errors

from helpers import catalogue, claims, hh, ledger, paper, stats, templates

TABLE_4 = [model for model in catalogue.rows() if model.paper]
FACTS = set(catalogue.Row._fields) - {"name", "paper", "kind", "note", "known_by", "status"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that answers, an empty local cache, and much memory; returns who was asked for."""
    asked = []

    def auth_check(hub_id):
        asked.append(hub_id)
        if "Starling-RM-7B" in hub_id:
            raise errors.GatedRepoError("gated", response=_Response())
        if "Ziya" in hub_id:
            raise errors.RepositoryNotFoundError("gone", response=_Response())
        if "beaver" in hub_id:
            raise RuntimeError("a network library's own error")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.auth_check", auth_check)
    monkeypatch.setattr(hh, "hub_reachable", lambda: True)
    monkeypatch.setattr(catalogue, "memory_gib", lambda: 1000.0)
    monkeypatch.setattr(catalogue, "_cached", lambda hub_id, revision: False)
    catalogue._refusal.cache_clear()
    yield asked
    catalogue._refusal.cache_clear()


class _Response:
    headers = {}
    request = None
    status_code = 403


def test_every_model_of_table_4_has_one_row_in_the_papers_order():
    assert [model.paper for model in TABLE_4] == list(paper.table_4())
    names = [model.name for model in catalogue.rows()]
    assert len(names) == len(set(names))


def test_every_fact_says_how_it_is_known_and_an_unknown_one_says_nothing():
    for model in catalogue.rows():
        assert set(model.known_by.values()) <= {"verified", "searched", "memory"}
        stated = {fact for fact in FACTS if getattr(model, fact) not in (None, (), {})}
        if model.status == "released":
            stated.add("overlaps")
        assert stated == set(model.known_by) - {"status"}, model.name
    # One fact, one tag: a fact listed twice would be lost in the mapping.
    text = Path(catalogue.__file__).parent / "facts" / "reward_models.yaml"
    for entry in yaml.safe_load(text.read_text(encoding="utf-8"))["models"]:
        tags = [f for tag in ("verified", "searched", "memory") for f in entry.get(tag, ())]
        assert len(tags) == len(set(tags)), entry["name"]


def test_a_released_model_has_all_that_scoring_it_needs():
    fixed = {*templates.FIXED, "hh_raw_eos", "chat"}
    for model in catalogue.rows():
        assert model.kind in ("reward", "implicit") and model.template in fixed
        assert model.status in ("released", "unidentified", "not released")
        if model.status != "released":
            assert model.hub_id is None and model.note
            continue
        assert model.hub_id and model.architecture and model.pooling
        assert model.truncation in ("left", "right") and model.max_tokens >= 512
        assert (model.kind == "implicit") == bool(model.reference)


def test_contaminated_models_are_marked():
    marked = {model.paper for model in TABLE_4 if "hh-rlhf" in model.overlaps}
    assert {"GPT-J", "Pythia-1.4B", "Pythia-6.9B", "Ziya-7B"} <= marked
    assert "Starling-7B" not in marked


def test_a_model_is_found_by_any_of_its_names():
    assert catalogue.row("Ziya-7B") is catalogue.row("IDEA-CCNL/Ziya-LLaMA-7B-Reward")
    assert catalogue.row("ziya-7b").remap == "ziya"
    with pytest.raises(KeyError, match="no reward model 'Ziya'.*oasst-pythia-1.4b"):
        catalogue.row("Ziya")


def test_sizes_are_those_of_the_parameters():
    # Two bytes a parameter, in GiB; the names state the parameters in thousand millions.
    for name, billions in (("Pythia-6.9B", 6.65), ("Starling-34B", 33.9), ("GPT-J", 5.85)):
        assert catalogue.row(name).size_gib == pytest.approx(2e9 * billions / 2**30, rel=0.02)


def test_what_the_authors_kept_says_so_without_asking_anyone(hub):
    assert catalogue.reach(catalogue.row("Pythia-2.8B")) == (
        False,
        "unidentified: the paper does not say which checkpoint it used",
    )
    assert catalogue.reach(catalogue.row("DPO-LLaMA-7B")) == (False, "not released by the authors")
    assert hub == []


def test_each_way_of_not_being_there_has_its_reason(hub, monkeypatch):
    reach = {model.paper: catalogue.reach(model) for model in TABLE_4}
    assert reach["Pythia-1.4B"] == (
        True,
        "on the hub; needs pickled weights, to be allowed by name",
    )
    assert reach["Starling-7B"][1].startswith("berkeley-nest/Starling-RM-7B-alpha: gated")
    assert reach["Ziya-7B"][1].endswith("not on the hub, or private")
    assert "RuntimeError" in reach["Beaver-7B"][1]
    assert not any(reach[name][0] for name in ("Starling-7B", "Ziya-7B", "Beaver-7B"))

    before = list(hub)
    catalogue.reach(catalogue.row("Pythia-1.4B"))
    assert hub == before, "the hub is asked once a model"

    monkeypatch.setattr(catalogue, "memory_gib", lambda: 24.0)
    assert catalogue.reach(catalogue.row("Starling-34B")) == (
        False,
        "too big: needs about 79 GiB of memory, this machine has 24",
    )
    monkeypatch.setattr(hh, "hub_reachable", lambda: False)
    assert "does not answer" in catalogue.reach(catalogue.row("Pythia-1.4B"))[1]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in catalogue.reach(catalogue.row("Pythia-1.4B"))[1]


def test_a_model_in_the_local_cache_needs_no_hub(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(catalogue, "_cached", lambda hub_id, revision: True)
    found = catalogue.reach(catalogue.row("skywork-v2-qwen3-0.6b"))
    assert found == (True, "in the local cache")
    assert hub == []


def test_a_revision_is_asked_of_the_models_own_repository_only(hub, monkeypatch):
    asked = {}

    def cached(hub_id, revision):
        asked[hub_id] = revision
        return True

    monkeypatch.setattr(catalogue, "_cached", cached)
    model = catalogue.row("GPT-J")._replace(revision="a" * 40, reference="someone/reference")
    assert catalogue.reach(model)[0]
    assert asked == {model.hub_id: "a" * 40, model.tokenizer: None, "someone/reference": None}


def test_the_local_cache_counts_only_with_files_that_can_be_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert not catalogue._cached("someone/model", None)
    repository = tmp_path / "models--someone--model"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    (snapshot / "config.json").write_text("{}")
    assert not catalogue._cached("someone/model", None)
    (snapshot / "model.safetensors").write_bytes(b"")
    assert catalogue._cached("someone/model", None)


def test_memory_is_a_plausible_number():
    assert 0.5 < catalogue.memory_gib() < 100_000


def test_what_is_measured_of_a_model_stands_beside_its_cell_of_table_4(tmp_path, monkeypatch):
    model = catalogue.row("Pythia-6.9B")
    monkeypatch.setenv("ELEPHANT_RUN", str(tmp_path / "context.json"))
    context = dict(notebook="x", ledger=str(tmp_path / "x.jsonl"), artifacts=str(tmp_path / "x"))
    context |= dict(upstream={}, commit="", data={}, code="", device="")
    (tmp_path / "context.json").write_text(json.dumps(context), encoding="utf-8")
    run = ledger.start("x", profile="smoke", seed=0)
    options = dict(unit="share", labels="original", scope="substitute")
    name = ledger.slug(model.name)
    share = stats.wilson(120, 200)
    run.record(f"rm.harmless-base.{name}.accuracy", share, **options)
    run.record(f"rm.mixture.{name}.accuracy", stats.wilson(500, 800), **options)
    run.record(f"rm.helpful-base.{name}.accuracy", None, **options)
    run.record(f"rmworld.helpful-online.{name}.accuracy", share, **options)
    found = catalogue.table_4(run.rows)
    assert [cell.id for cell, *_ in found] == [c.id for c in paper.cells() if c.table == 4]
    assert all(row.paper == cell.row for cell, row, _ in found)
    beside = {cell.column: e for cell, row, e in found if e is not None}
    assert all(row is model for _, row, e in found if e is not None)
    assert set(beside) == {"harmless_base", "test_mixed"}
    assert beside["harmless_base"] == (60, 100 * share.low, 100 * share.high, 200, share.method)
    assert beside["test_mixed"].value == 62.5

    for cell, row, estimate in found:
        options = dict(unit=cell.unit, published=cell.value)
        run.record(cell.id, None, labels="humans", scope="paper", note="not run", **options)
        if estimate is not None:
            options |= dict(labels="original", scope="substitute", model=row.name)
            run.record(f"{cell.id}.substitute", estimate, **options)
    verdicts = {
        (v.id, v.scope): v.outcome
        for v in claims.verdicts(run.rows)
        if v.what.startswith("Table 4")
    }
    ran = {key for key, outcome in verdicts.items() if outcome != claims.NOT_RUN}
    assert ran == {(c.id, "substitute") for c, _, e in found if e is not None}
