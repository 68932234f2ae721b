import numpy as np
import pytest

from helpers import featurecache


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("ELEPHANT_CACHE", str(tmp_path))
    monkeypatch.setattr(featurecache, "CHUNK", 4)


class Counter:
    """Lengths of prompt and response as features; it keeps what it was asked."""

    def __init__(self, chunks=None):
        self.asked, self.left = [], chunks

    def __call__(self, prompts, responses):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left = self.left and self.left - 1
        self.asked.append(list(zip(prompts, responses)))
        return np.array([[len(p), len(r)] for p, r in self.asked[-1]], dtype=float)


def test_features_stand_in_the_order_asked_and_equal_texts_are_computed_once():
    compute = Counter()
    prompts, responses = ["aaa", "b", "aaa", "b"], ["x", "yy", "x", ""]
    found = featurecache.features("kind", prompts, responses, compute)
    assert found.tolist() == [[3, 1], [1, 2], [3, 1], [1, 0]] and found.dtype == np.float32
    assert sum(map(len, compute.asked)) == 3


def test_what_is_known_is_read_whatever_else_is_asked():
    featurecache.features("kind", ["a", "b"], ["x", "y"], Counter())
    compute = Counter()
    found = featurecache.features("kind", ["c", "b"], ["zz", "y"], compute)
    assert compute.asked == [[("c", "zz")]] and found.tolist() == [[1, 2], [1, 1]]
    other = Counter()
    featurecache.features("another kind", ["a"], ["x"], other)
    featurecache.features("kind", ["ax"], [""], other)
    assert other.asked == [[("a", "x")], [("ax", "")]]


def test_a_killed_run_goes_on_where_it_stopped():
    prompts, responses = [str(i) for i in range(10)], ["r"] * 10
    with pytest.raises(KeyboardInterrupt):
        featurecache.features("kind", prompts, responses, Counter(chunks=2))
    compute = Counter()
    featurecache.features("kind", prompts, responses, compute)
    assert [len(chunk) for chunk in compute.asked] == [2]


def test_the_responses_to_one_prompt_are_computed_together():
    prompts = ["long prompt", "p", "other prompt", "q"]
    compute = Counter()
    featurecache.features("kind", prompts * 2, ["a"] * 4 + ["b"] * 4, compute)
    together = [{p for p, _ in chunk} for chunk in compute.asked]
    assert all(len(chunk) == 4 for chunk in compute.asked)
    assert sorted(map(len, together)) == [2, 2] and not together[0] & together[1]


def test_a_feature_that_is_no_number_is_named_and_not_kept():
    with pytest.raises(ValueError, match="response 'bad one'"):
        featurecache.features("kind", ["p"], ["bad one"], lambda p, r: np.array([[1, np.nan]]))
    with pytest.raises(ValueError, match="0 features for 1 texts"):
        featurecache.features("kind", ["p"], ["bad one"], lambda p, r: np.empty((0, 2)))
    assert featurecache.features("kind", ["p"], ["bad one"], Counter()).tolist() == [[1, 7]]


def test_any_text_has_a_key_even_half_a_surrogate_pair():
    texts = ["", "\0", "\ud800", "é"]
    found = featurecache.features("kind", texts, texts[::-1], Counter())
    assert found.shape == (4, 2)
