import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import splits, stats


def test_shares_are_those_stated():
    n = 20_000
    parts = [splits.split_of(f"\n\nHuman: question {i} ?\n\nAssistant:") for i in range(n)]
    assert sum(splits.SHARES.values()) == pytest.approx(1)
    for part, share in splits.SHARES.items():
        # Four intervals, so each may miss; a miss by more than two widths may not.
        estimate = stats.wilson(parts.count(part), n)
        assert abs(estimate.value - share) < 2 * (estimate.high - estimate.value)
    assert set(parts) == set(splits.SHARES)


def test_the_split_is_fixed_for_good():
    # A change of the rule would put trained-on prompts into the test part of older results.
    assert splits.prompt_hash("\n\nHuman: hello\n\nAssistant:") == "846b19e2a3c45e52"
    assert splits.split_of("\n\nHuman: hello\n\nAssistant:") == "policy"


@given(st.text())
def test_any_prompt_has_a_part_blind_to_case_and_spacing(prompt):
    assert splits.split_of(prompt) in splits.SHARES
    assert splits.split_of("  " + prompt.replace(" ", "\n ")) == splits.split_of(prompt)


def test_odd_prompts():
    assert splits.prompt_hash("Tell ME") == splits.prompt_hash(" tell\n\nme ")
    assert splits.prompt_hash("tell me") != splits.prompt_hash("tellme")
    assert splits.split_of("") in splits.SHARES and splits.split_of("\ud800") in splits.SHARES
