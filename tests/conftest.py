"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from helpers import bundled, hh

# Some tests work in another folder; a relative path must mean the same to all of them.
for variable in ("HH_RLHF_DIR", "ELEPHANT_DATA"):
    if os.environ.get(variable):
        os.environ[variable] = str(Path(os.environ[variable]).expanduser().resolve())

# A busy machine must not fail a property: no test here is about time.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

# They run whole projects in real kernels, or build the book: few tests, but minutes each.
LONGEST = ("test_runner", "test_book", "test_nightly", "test_cluster")


def pytest_collection_modifyitems(items):
    """The longest files first: workers take files in this order (--no-loadscope-reorder), and one
    that is left for the end has a worker to itself while the other waits."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(scope="session")
def hh_test_sets():
    """``(source, pairs)`` of the four real test sets of HH-RLHF: the one allowed skip."""
    setting = os.environ.get("HH_RLHF_DIR", "").strip()
    beside = Path(__file__).parents[2] / "shared" / "data" / "hh_rlhf"
    if not setting and not beside.is_dir():
        pytest.skip("no real data here: set HH_RLHF_DIR to a folder with HH-RLHF's test sets")
    folder = Path(setting).expanduser().resolve() if setting else beside
    source = hh.Source("folder", str(folder), hh.folder_files(folder))
    data, _ = hh.load(source, [(subset, "test") for subset in hh.SUBSETS])
    return source, data


@pytest.fixture(scope="session")
def tokenizer():
    """The bundled tokenizer of SmolLM2."""
    return bundled.smollm2_tokenizer()
