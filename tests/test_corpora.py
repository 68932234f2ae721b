import gzip
import hashlib
import itertools
import json
import re
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from sklearn.metrics import cohen_kappa_score

from helpers import corpora, downloads

DAVIDSON_HEAD = ",count,hate_speech,offensive_language,neither,class,tweet\n"
DAVIDSON_ROWS = '0,3,0,0,3,2,"fine, ""NA""\nsecond line"\n1,3,2,1,0,0,null\n'
TOXIGEN = [
    {"id": 0, "text": "a", "toxicity_score": 4.5, "label": "hate", "target_groups": ["women"]},
    {"id": 1, "text": "b", "toxicity_score": 1, "label": "neutral", "target_groups": []},
]
VOTE = dict(
    judge="expert_1", model_a="x", model_b="y", question_id=81, turn=1, winner="tie (inconsistent)"
)
COMPARISON = dict(
    idx=0, instruction="i", input="", response1="NA", response2=True,
    annotator1=0, annotator2=1, annotator3=2,
)  # fmt: skip
SUMMARY = dict(
    win_rate=49.1, standard_error=1.5, length_controlled_winrate=39.7, n_total=805, avg_length=1695
)


@pytest.fixture
def real(monkeypatch):
    """The real data: the one allowed skip. Nothing is downloaded."""
    folder = downloads.data_folder()
    folders = [each.folder for each in corpora.SETS.values()]
    if folder is None or not all((folder / each).is_dir() for each in folders):
        pytest.skip("no real data here: set ELEPHANT_DATA to a folder with the public sets")
    monkeypatch.setattr(downloads, "answers", lambda address: False)
    return folder


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty checkout without data and without network."""
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "Snakefile").touch()
    monkeypatch.chdir(root)
    monkeypatch.delenv("ELEPHANT_DATA", raising=False)
    monkeypatch.setattr(downloads, "answers", lambda address: False)
    return root


@pytest.fixture
def data(checkout, monkeypatch):
    """A data folder with one tiny good file of each kind."""
    folder = checkout.parent / "data"
    put(folder, "toxicity", corpora.DAVIDSON, DAVIDSON_HEAD + DAVIDSON_ROWS)
    put(folder, "toxicity", corpora.TOXIGEN, json.dumps(TOXIGEN))
    put(folder, "mt_bench", corpora.MT_HUMAN, json.dumps(VOTE) + "\n")
    put(folder, "mt_bench", corpora.MT_GPT4, json.dumps(VOTE | {"judge": "gpt4_pair"}) + "\n")
    put(folder, "pandalm", corpora.PANDALM, json.dumps([COMPARISON]))
    put(folder, "best_of_16", corpora.BEST_OF_16, json.dumps({"org/rm": SUMMARY}))
    monkeypatch.setenv("ELEPHANT_DATA", str(folder))
    return folder


def put(folder: Path, name: str, file, text: str) -> Path:
    path = folder / corpora.SETS[name].folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


# The real data against the published numbers


def test_davidson_rows_and_classes(real):
    data = corpora.davidson()
    assert list(data) == ["text", "votes", "hate", "offensive", "neither", "label"]
    assert len(data) == 24_783
    assert data["label"].value_counts().to_dict() == dict(hate=1430, offensive=19190, neither=4163)
    assert (data[["hate", "offensive", "neither"]].sum(axis=1) == data["votes"]).all()


def test_toxigen_rows_and_what_the_label_means(real):
    data = corpora.toxigen()
    assert list(data) == ["text", "toxicity_score", "label", "target_groups"]
    assert len(data) == 6_514
    assert ((data["label"] == "hate") == (data["toxicity_score"] > 3)).all()
    assert all(isinstance(groups, tuple) and groups for groups in data["target_groups"])


def agreement(human: pd.DataFrame, gpt4: pd.DataFrame | None, ties: bool) -> tuple[float, int]:
    """The authors' rule (FastChat, compute_agreement.py): every expert's vote against GPT-4's, or
    every pair of experts' votes, on the same answers; no majority. An inconsistent verdict is a
    tie. Without ties, a vote pair counts if neither side is a tie."""

    def votes(frame):
        frame = frame.assign(winner=frame["winner"].str.replace(r"^tie.*", "tie", regex=True))
        for row in frame.itertuples():
            swap = row.model_a > row.model_b
            winner = row.winner
            if swap and winner != "tie":
                winner = "model_b" if winner == "model_a" else "model_a"
            yield (row.question_id, *sorted((row.model_a, row.model_b))), winner

    cells: dict[tuple, list[str]] = {}
    for key, winner in votes(human):
        cells.setdefault(key, []).append(winner)
    if gpt4 is None:
        pairs = [p for cell in cells.values() for p in itertools.combinations(cell, 2)]
    else:
        pairs = [(w, verdict) for key, verdict in votes(gpt4) for w in cells.get(key, [])]
    pairs = [p for p in pairs if ties or "tie" not in p]
    return sum(a == b for a, b in pairs) / len(pairs), len(pairs)


@pytest.mark.parametrize(
    ("against", "ties", "share", "n"),
    [
        ("gpt4", True, 0.660, 1343),
        ("gpt4", False, 0.846, 859),
        ("human", True, 0.630, 721),
        ("human", False, 0.810, 479),
    ],
)
def test_mt_bench_agreement_is_the_published_one(real, against, ties, share, n):
    human, gpt4 = (frame[frame["turn"] == 1] for frame in corpora.mt_bench())
    experts = human[human["judge"].str.startswith("expert_")]
    found, count = agreement(experts, gpt4 if against == "gpt4" else None, ties)
    assert count == n
    assert round(found, 3) == share


def test_mt_bench_rows_and_judges(real):
    human, gpt4 = corpora.mt_bench()
    assert (len(human), len(gpt4)) == (3355, 2400)
    assert list(human) == list(gpt4) == corpora.MT_COLUMNS
    assert set(gpt4["judge"]) == {"gpt4_pair"}
    assert not human.duplicated(corpora.MT_COLUMNS[:-1]).any()


def test_pandalm_majority_and_kappa(real):
    data = corpora.pandalm()
    votes = data[["annotator1", "annotator2", "annotator3"]]
    assert len(data) == 999
    assert (votes.nunique(axis=1) < 3).all(), "no three-way splits"
    assert votes.mode(axis=1)[0].value_counts().to_dict() == {0: 105, 1: 422, 2: 472}
    kappas = [
        cohen_kappa_score(votes[a], votes[b]) for a, b in itertools.combinations(votes.columns, 2)
    ]
    assert np.round(kappas, 4).tolist() == [0.8520, 0.8789, 0.8617]
    assert data["response1"].eq("True").sum() + data["response2"].eq("True").sum() >= 6


def test_best_of_16_win_rates(real):
    data = corpora.best_of_16().set_index("name")
    models = data[data["kind"] == "reward model"]
    assert (data["n_total"] == 805).all()
    assert models["win_rate"].round(2).to_dict() == {
        "openbmb/UltraRM-13b": 49.10,
        "OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5": 38.24,
        "weqweasdas/hh_rlhf_rm_open_llama_3b": 38.16,
        "PKU-Alignment/beaver-7b-v1.0-reward": 36.18,
        "PKU-Alignment/beaver-7b-v1.0-cost": 35.85,
        "OpenAssistant/reward-model-deberta-v3-large-v2": 33.39,
    }
    # What the docstring says of the three other rows.
    single = data.loc[["random_max", "random_median", "random_min"]]
    assert single["length_controlled_winrate"].is_monotonic_decreasing
    assert single["win_rate"].is_monotonic_increasing
    assert single["avg_length"].is_monotonic_increasing


@pytest.mark.parametrize(
    "file", [corpora.DAVIDSON, corpora.TOXIGEN, corpora.PANDALM, corpora.BEST_OF_16]
)
def test_the_known_hashes_are_those_of_the_real_files(real, file):
    name = next(name for name, each in corpora.SETS.items() if file in each.files)
    content = (real / corpora.SETS[name].folder / file.name).read_bytes()
    content = gzip.decompress(content) if file.name.endswith(".gz") else content
    assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size, file.sha256)


def test_hub_rows_give_the_same_bytes_as_the_local_copy(real, monkeypatch):
    # The hub's rows in another order and with the texts that are not kept.
    frames = dict(zip(("human", "gpt4_pair"), corpora.mt_bench(), strict=True))

    def load_dataset(name, *, split, revision):
        assert (name, revision) == (corpora.MT_BENCH_ID, corpora.MT_BENCH_REVISION)
        shuffled = frames[split].sample(frac=1, random_state=0).assign(conversation_a="text")
        return Dataset.from_pandas(shuffled, preserve_index=False)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    for file in corpora.SETS["mt_bench"].files:
        assert downloads.hub_rows(file) == (real / "mt_bench_human" / file.name).read_bytes()


# Where the data are


def test_tiny_files_are_read_as_they_are(data):
    tweets = corpora.davidson()
    assert tweets["text"].tolist() == ['fine, "NA"\nsecond line', "null"]
    assert tweets["label"].tolist() == ["neither", "hate"]
    assert corpora.toxigen()["target_groups"].tolist() == [("women",), ()]
    human, gpt4 = corpora.mt_bench()
    assert human.iloc[0].to_dict() == VOTE and gpt4["judge"].tolist() == ["gpt4_pair"]
    assert corpora.pandalm()[["response1", "response2"]].to_numpy().tolist() == [["NA", "True"]]
    assert corpora.best_of_16()["kind"].tolist() == ["reward model"]


def test_the_default_folder_stands_beside_the_checkout(data, checkout, monkeypatch):
    monkeypatch.delenv("ELEPHANT_DATA")
    assert corpora.locate("pandalm") is None
    (checkout.parent / "shared").mkdir()
    data.rename(checkout.parent / "shared" / "data")
    assert corpora.locate("pandalm") == checkout.parent / "shared" / "data" / "pandalm"
    assert len(corpora.pandalm()) == 1


def test_a_wrong_setting_is_said(checkout, monkeypatch):
    monkeypatch.setenv("ELEPHANT_DATA", str(checkout / "typo"))
    with pytest.raises(FileNotFoundError, match="ELEPHANT_DATA is .*typo.*no folder"):
        corpora.locate("pandalm")


def test_unreachable_names_the_two_things_that_help(checkout):
    for name, load in [
        ("toxicity", corpora.davidson),
        ("toxicity", corpora.toxigen),
        ("mt_bench", corpora.mt_bench),
        ("pandalm", corpora.pandalm),
        ("best_of_16", corpora.best_of_16),
    ]:
        assert corpora.locate(name) is None
        assert corpora.fingerprint(name) == "none"
        with pytest.raises(FileNotFoundError) as caught:
            load()
        for file in corpora.SETS[name].files:
            assert f"{corpora.SETS[name].folder}/{file.name}" in str(caught.value)
        assert "(1) set ELEPHANT_DATA" in str(caught.value)
        assert "(2) allow network access" in str(caught.value)


def test_an_unknown_name_is_an_error(checkout):
    with pytest.raises(KeyError, match="davidson"):
        corpora.locate("davidson")


def test_a_source_that_never_answers_does_not_hold_up(monkeypatch):
    monkeypatch.setattr(downloads, "PROBE_SECONDS", 0.05)
    released = threading.Event()

    def hang(*args, **kwargs):
        released.wait()
        raise OSError

    monkeypatch.setattr("urllib.request.urlopen", hang)
    assert not downloads.answers("https://never.invalid/hangs")
    released.set()


def test_a_probe_answers_for_what_is_there_only(tmp_path):
    (tmp_path / "here").touch()
    assert downloads.answers((tmp_path / "here").as_uri())
    assert not downloads.answers((tmp_path / "not-here").as_uri())


@pytest.mark.parametrize("setting", ["1", "true", "ON"])
def test_an_offline_hub_is_not_asked(checkout, monkeypatch, setting):
    monkeypatch.setattr(downloads, "answers", lambda address: True)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert corpora.MT_BENCH_REVISION in corpora.locate("mt_bench")
    monkeypatch.setenv("HF_HUB_OFFLINE", setting)
    assert corpora.locate("mt_bench") is None


def test_fingerprint_follows_the_content(data):
    first = {name: corpora.fingerprint(name) for name in corpora.NAMES}
    assert len(set(first.values())) == len(corpora.NAMES)
    assert all(value.startswith("sha256:") for value in first.values())
    put(data, "pandalm", corpora.PANDALM, json.dumps([COMPARISON | {"annotator3": 1}]))
    second = {name: corpora.fingerprint(name) for name in corpora.NAMES}
    assert {name for name in first if first[name] != second[name]} == {"pandalm"}


def test_fingerprint_does_not_depend_on_the_place(data, monkeypatch):
    first = corpora.fingerprint("toxicity")
    data.rename(data.with_name("elsewhere"))
    monkeypatch.setenv("ELEPHANT_DATA", str(data.with_name("elsewhere")))
    assert corpora.fingerprint("toxicity") == first


# The download, through file:// addresses


@pytest.fixture
def public(checkout, monkeypatch):
    """PandaLM's public source is a file of this machine; returns it and what is known of it."""
    content = json.dumps([COMPARISON]).encode()
    source = checkout.parent / "public.json"
    source.write_bytes(content)
    file = corpora.PANDALM._replace(
        url=source.as_uri(), size=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    known = corpora.SETS["pandalm"]._replace(files=(file,))
    monkeypatch.setitem(corpora.SETS, "pandalm", known)
    monkeypatch.setattr(downloads, "answers", lambda address: True)
    return source


def test_download_is_cached_and_keeps_its_fingerprint(public, checkout, monkeypatch):
    before = corpora.fingerprint("pandalm")
    assert before == f"public:{corpora.PANDALM.revision}"
    assert corpora.locate("pandalm") == public.as_uri()
    first = corpora.pandalm()
    public.unlink()
    monkeypatch.setattr(downloads, "answers", lambda address: False)
    pd.testing.assert_frame_equal(corpora.pandalm(), first)
    assert corpora.fingerprint("pandalm") == before
    kept = [path for path in (checkout / "build").rglob("*") if path.is_file()]
    assert [path.name for path in kept] == [corpora.PANDALM.name]
    assert corpora.locate("pandalm") == kept[0].parent


@pytest.mark.parametrize("change", ["longer", "shorter", "other"])
def test_a_download_that_is_not_the_known_file_is_refused(public, checkout, change):
    content = public.read_bytes()
    public.write_bytes(
        {"longer": content + b" ", "shorter": content[:-1], "other": content[:-1] + b" "}[change]
    )
    with pytest.raises(ValueError, match="not the known file.*nothing was kept"):
        corpora.pandalm()
    assert not (checkout / "build").exists()


def test_a_download_that_breaks_off_says_what_helps(public):
    public.unlink()
    with pytest.raises(FileNotFoundError, match="ELEPHANT_DATA.*The download failed"):
        corpora.pandalm()


def test_a_new_pin_does_not_read_an_old_download(public, monkeypatch):
    corpora.pandalm()
    known = corpora.SETS["pandalm"]
    another = known._replace(files=(known.files[0]._replace(revision="another"),))
    monkeypatch.setitem(corpora.SETS, "pandalm", another)
    assert corpora.locate("pandalm") == public.as_uri()


def test_too_few_rows_on_the_hub_are_refused(checkout, monkeypatch):
    monkeypatch.setattr(downloads, "answers", lambda address: True)
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **kw: Dataset.from_list([VOTE]))
    with pytest.raises(ValueError, match="has 1 rows, expected 3355"):
        corpora.mt_bench()
    assert not (checkout / "build").exists()


# Bad input


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0,3,0,0,3,2,a\n1,3,0,0,2,2,b\n", "row 2: the votes of the three classes must add up"),
        ("0,3,0,0,3,0,a\n", "row 1: class must be one with the most votes"),
        ("0,3,0,0,3,7,a\n", "row 1: class must be 0, 1 or 2"),
        ("0,x,0,0,3,2,a\n", "row 1: count must be a whole number, found 'x'"),
        ("0,2,0,0,2,2,a\n", "row 1: count must be 3 to 9"),
        ("0,3,-1,1,3,2,a\n", "row 1: votes must not be negative"),
        ("0,3,0,0,3,2,a\n1,3\n", "row 2: hate_speech must be a whole number"),
        ("0,3,0,0,3,2,a,b,c\n", "row 1: more values than the header"),
        ("0,3,0,0,3,2,a\n0,3,0,0,3,2,a,b\n", "not a table"),
    ],
)
def test_bad_tweets(data, rows, message):
    path = put(data, "toxicity", corpora.DAVIDSON, DAVIDSON_HEAD + rows)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{message}"):
        corpora.davidson()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"toxicity_score": 5.5}, "row 2: toxicity_score must be 1 to 5, found 5.5"),
        ({"toxicity_score": None}, "row 2: toxicity_score must be 1 to 5"),
        ({"label": "Hate"}, "row 2: label must be 'hate' or 'neutral', found 'Hate'"),
        ({"text": None}, "row 2: text must be a text"),
        ({"target_groups": "women"}, "row 2: target_groups must be a list"),
    ],
)
def test_bad_statements(data, change, message):
    path = put(data, "toxicity", corpora.TOXIGEN, json.dumps([TOXIGEN[0], TOXIGEN[1] | change]))
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}, {message}"):
        corpora.toxigen()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"winner": "claude"}, "winner must be of"),
        ({"turn": 3}, "turn must be 1 or 2"),
        ({"turn": "one"}, "turn must be a whole number"),
        ({"question_id": 80}, "question_id must be 81 to 160"),
        ({"judge": "me"}, "judge must be expert_"),
        ({"model_b": "x"}, "model_a and model_b must differ"),
        ({"model_b": None}, "model_b must be a text"),
    ],
)
def test_bad_votes(data, change, message):
    lines = json.dumps(VOTE) + "\n" + json.dumps(VOTE | change) + "\n"
    path = put(data, "mt_bench", corpora.MT_HUMAN, lines)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}, row 2: {message}"):
        corpora.mt_bench()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotator2": 3}, "an annotator's vote must be 0, 1 or 2"),
        ({"annotator2": 0.5}, "annotator2 must be a whole number"),
        ({"response1": 4}, "response1 must be a text, found 4"),
        ({"idx": 0}, "idx must not be repeated"),
    ],
)
def test_bad_comparisons(data, change, message):
    entries = [COMPARISON, COMPARISON | {"idx": 1} | change]
    path = put(data, "pandalm", corpora.PANDALM, json.dumps(entries))
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}, row 2: {message}"):
        corpora.pandalm()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"win_rate": 101}, "row 1: win_rate must be 0 to 100"),
        ({"n_total": 0}, "row 1: n_total must be positive"),
        ({"standard_error": "?"}, "row 1: standard_error must be 0 to 100"),
    ],
)
def test_bad_summaries(data, change, message):
    put(data, "best_of_16", corpora.BEST_OF_16, json.dumps({"org/rm": SUMMARY | change}))
    with pytest.raises(ValueError, match=message):
        corpora.best_of_16()


@pytest.mark.parametrize(
    ("name", "file", "load"),
    [
        ("toxicity", corpora.DAVIDSON, corpora.davidson),
        ("toxicity", corpora.TOXIGEN, corpora.toxigen),
        ("mt_bench", corpora.MT_GPT4, corpora.mt_bench),
        ("pandalm", corpora.PANDALM, corpora.pandalm),
        ("best_of_16", corpora.BEST_OF_16, corpora.best_of_16),
    ],
)
def test_damaged_and_foreign_files_are_named(data, name, file, load):
    path = data / corpora.SETS[name].folder / file.name
    good = path.read_bytes()
    texts = ["{", "[1]", "", "\0"]
    damages = [good[: len(good) // 2], b"\x1f\x8b\xff\xff", b"\xff\xfe\xfa"]
    damages += [gzip.compress(t.encode()) if path.suffix == ".gz" else t.encode() for t in texts]
    for damage in damages:
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            load()


@pytest.mark.parametrize(
    ("name", "file", "load", "text"),
    [
        ("toxicity", corpora.DAVIDSON, corpora.davidson, "tweet,class\na,1\n"),
        ("toxicity", corpora.TOXIGEN, corpora.toxigen, '[{"text": "a"}]'),
        ("mt_bench", corpora.MT_HUMAN, corpora.mt_bench, '{"judge": "expert_1"}\n'),
        ("pandalm", corpora.PANDALM, corpora.pandalm, '[{"idx": 0}]'),
        ("best_of_16", corpora.BEST_OF_16, corpora.best_of_16, '{"org/rm": {"win_rate": 1}}'),
    ],
)
def test_missing_columns_are_listed(data, name, file, load, text):
    put(data, name, file, text)
    with pytest.raises(ValueError, match=r"column\(s\) \[.*missing"):
        load()
