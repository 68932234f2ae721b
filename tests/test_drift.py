"""Drift: tolerance, one-sided residuals, lost and new numbers, verdicts, and their causes."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import drift
from helpers.history import Night

ROW = dict(
    kind="result", value=0.5, low=0.4, high=0.6, n=96, method="Wilson", unit="share",
    scope="paper", labels="none", published=None, model="", revision="", notebook="b",
    device="cpu x86_64, 2 cores", tolerance=None,
)  # fmt: skip
PROVENANCE = dict(
    state="done", parameters={"n": 1}, data={"hh": "sha256:1"}, code="c", helpers="h",
    modules=["stats"], upstream=[],
)  # fmt: skip
ENVIRONMENT = dict(
    device="cpu x86_64, 2 cores", python="3.11", system="s", processor="p", driver="none",
    packages={"numpy": "2.4.0", "torch": "2.9.0"},
)  # fmt: skip


def night(**values) -> Night:
    """A night of one number a keyword, recorded by ``b``, which stands on what ``a`` made."""
    notebooks = dict(a=dict(PROVENANCE), b=dict(PROVENANCE, upstream=["a"]))
    head = dict(
        notebooks=copy.deepcopy(notebooks),
        environment=copy.deepcopy(ENVIRONMENT),
        modules=dict(stats="s1"),
        verdicts={},
    )
    rows = {id: dict(ROW, id=id, **_fields(value)) for id, value in values.items()}
    return Night(head, rows)


def _fields(value) -> dict:
    if isinstance(value, dict):
        return value
    return dict(value=value, low=value - 0.1, high=value + 0.1)


def moved(then: Night, now: Night) -> drift.Finding:
    (finding,) = drift.compare(now, [then])
    return finding


def test_equal_nights_have_no_findings_and_a_first_night_has_nothing_to_compare():
    assert drift.compare(night(x=0.5, y=0.2), [night(x=0.5, y=0.2)]) == []
    assert drift.compare(night(x=0.5), []) == []


def test_a_processor_must_agree_to_a_millionth_and_a_gpu_within_its_interval():
    assert drift.tolerance(dict(ROW, value=200.0, low=None, high=None)) == pytest.approx(2e-4)
    assert drift.tolerance(dict(ROW, value=0.0, low=None, high=None)) == 1e-9
    gpu = dict(ROW, device="1 x NVIDIA H100")
    assert drift.tolerance(gpu) == pytest.approx(0.25 * 0.1)
    assert drift.tolerance(dict(gpu, low=None, high=None)) == pytest.approx(5e-4)
    assert drift.tolerance(dict(gpu, tolerance=0.3)) == 0.3


@given(st.floats(0.01, 10), st.floats(0.0, 3.0))
@settings(max_examples=60, deadline=None)
def test_a_number_drifts_exactly_when_it_leaves_its_tolerance(tolerance, share):
    if math.isclose(share, 1.0, rel_tol=1e-6):
        return
    then = dict(value=1.0, low=None, high=None, tolerance=tolerance)
    now = dict(then, value=1.0 + share * tolerance)
    found = drift.compare(night(x=now), [night(x=then)])
    assert [f.kind for f in found] == (["moved"] if share > 1 else [])


def test_an_end_of_an_interval_moves_too():
    then, now = night(x=0.5), night(x=dict(value=0.5, low=0.4, high=0.61))
    assert "high end of the interval 0.6 → 0.61" in moved(then, now).what


def test_a_value_that_is_gone_is_a_move_even_where_it_was_none_before():
    finding = moved(night(x=0.5), night(x=dict(value=None, low=None, high=None)))
    assert finding.kind == "moved" and "None" in finding.what


def test_rows_lost_and_new_are_named_and_only_the_lost_drift():
    found = drift.compare(night(x=0.5, new=0.1), [night(x=0.5, lost=0.1)])
    assert {(f.kind, f.id): f.drifts for f in found} == {
        ("lost", "lost"): True,
        ("new", "new"): False,
    }


def test_rows_of_a_failed_notebook_are_not_lost_twice():
    now = night()
    now.head["notebooks"]["b"]["state"] = "failed"
    assert drift.compare(now, [night(x=0.5)]) == []


@pytest.mark.parametrize("field", [dict(n=97), dict(method="bootstrap"), dict(unit="count")])
def test_another_number_under_an_old_name_is_said_to_be_one(field):
    finding = moved(night(x=0.5), night(x=dict(_fields(0.5), **field)))
    assert finding.kind == "redefined" and finding.drifts and next(iter(field)) in finding.what


def test_measurements_are_never_compared():
    assert (
        drift.compare(
            night(x=dict(kind="measurement", value=9.0)), [night(x=dict(kind="measurement"))]
        )
        == []
    )


def _change(night: Night, *path, to) -> Night:
    place = night.head
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return night


@pytest.mark.parametrize(
    ("path", "to", "cause", "words"),
    [
        (("notebooks", "b", "code"), "c2", "code", "cells of b"),
        (("notebooks", "b", "parameters"), {"n": 2}, "code", "parameters of b"),
        (("notebooks", "b", "helpers"), "h2", "code", "fact file"),
        (("notebooks", "a", "code"), "c2", "code", "cells of a"),
        (("notebooks", "a", "data"), {"hh": "sha256:2"}, "data", "hh sha256:1 → sha256:2"),
        (("environment", "packages", "numpy"), "2.4.1", "environment", "numpy 2.4.0 → 2.4.1"),
        (("environment", "device"), "1 x H100", "environment", "device cpu x86_64, 2 cores → 1 x"),
        (("environment", "driver"), "570", "environment", "driver none → 570"),
    ],
)
def test_the_cause_is_what_differs_in_provenance_upstream_included(path, to, cause, words):
    finding = moved(night(x=0.5), _change(night(x=0.7), *path, to=to))
    assert finding.causes == (cause,) and words in finding.why


def test_a_changed_helper_is_named():
    now = _change(night(x=0.7), "modules", "stats", to="s2")
    now.head["notebooks"]["b"]["helpers"] = "h2"
    assert moved(night(x=0.5), now).why == "helpers.stats"


def test_another_revision_of_a_model_is_a_cause_of_its_own():
    then = night(x=dict(_fields(0.5), model="rm", revision="aaa"))
    now = night(x=dict(_fields(0.7), model="rm", revision="bbb"))
    finding = moved(then, now)
    assert finding.causes == ("model revision",) and finding.why == "model rm aaa → rm bbb"


def test_several_causes_are_all_named_and_none_is_said_to_be_none():
    now = _change(night(x=0.7), "notebooks", "b", "code", to="c2")
    now = _change(now, "environment", "python", to="3.12")
    assert moved(night(x=0.5), now).causes == ("code", "environment")
    finding = moved(night(x=0.5), night(x=0.7))
    assert finding.causes == (drift.UNEXPLAINED,) and "not deterministic" in finding.why


def test_a_changed_verdict_is_reported_though_no_number_left_its_tolerance():
    then, now = night(x=0.5), night(x=0.5)
    then.head["verdicts"] = {"C1": dict(outcome="reproduced", notebooks=["b"])}
    now.head["verdicts"] = {"C1": dict(outcome="contradicted", notebooks=["b"])}
    now.head["notebooks"]["b"]["code"] = "c2"
    (finding,) = drift.compare(now, [then])
    assert (finding.kind, finding.what, finding.causes) == (
        "verdict", "reproduced → contradicted", ("code",),
    )  # fmt: skip


def test_a_changed_rule_of_judging_is_code_though_no_chapter_imports_it():
    then, now = night(x=0.5), night(x=0.5)
    for one, outcome, rules in ((then, "reproduced", "j1"), (now, "contradicted", "j2")):
        one.head.update(verdicts={"C1": dict(outcome=outcome, notebooks=["b"])}, judging=rules)
    (finding,) = drift.compare(now, [then])
    assert finding.causes == ("code",) and "helpers.claims" in finding.why
    del then.head["judging"]  # kept by an older version
    (finding,) = drift.compare(now, [then])
    assert finding.causes == (drift.UNEXPLAINED,)


def test_a_tolerance_that_was_widened_with_the_number_does_not_hide_it():
    then = dict(value=1.0, low=None, high=None, tolerance=0.1)
    now = dict(then, value=1.5, tolerance=1.0)
    assert "(tolerance 0.1)" in moved(night(x=then), night(x=now)).what
    assert drift.compare(night(x=then), [night(x=now)]) == []


def _nights(values, tolerance=1.0) -> list[Night]:
    row = dict(low=None, high=None, tolerance=tolerance)
    return [night(x=dict(row, value=float(value))) for value in values]


def test_a_creeping_number_is_found_though_each_step_is_within_tolerance():
    steps = 1 + 0.01 * np.arange(2 * drift.half_window(1))
    *past, now = _nights(steps)
    assert all(drift.compare(b, [a]) == [] for a, b in pairwise([*past, now]))
    (finding,) = drift.compare(now, past)
    assert finding.kind == "one-sided" and finding.drifts


def test_a_number_that_swings_or_that_never_moved_is_not_one_sided():
    count = 4 * drift.half_window(1)
    for values in (np.ones(count), 1 + 0.01 * (np.arange(count) % 2)):
        *past, now = _nights(values)
        assert drift.compare(now, past) == []


def test_one_step_is_found_after_half_a_window_and_until_it_is_mended():
    k = drift.half_window(1)
    noise = 0.001 * (np.arange(2 * k) % 2)
    values = 1 + noise + 0.01 * (np.arange(2 * k) >= k)
    assert drift.one_sided({"x": values}) and not drift.one_sided({"x": values[:-1]})


def test_false_alarms_of_one_sidedness_are_as_rare_as_said():
    """Exchangeable nights of forty numbers: at most ALPHA of the windows, by simulation."""
    numbers, trials = 40, 400
    k = drift.half_window(numbers)
    assert (
        numbers * 2 / math.comb(2 * k, k) <= drift.ALPHA < numbers * 2 / math.comb(2 * k - 2, k - 1)
    )
    rng = np.random.default_rng(0)
    false = sum(
        bool(
            drift.one_sided(
                {str(i): row for i, row in enumerate(rng.normal(size=(numbers, 2 * k)))}
            )
        )
        for _ in range(trials)
    )
    # Four standard errors above the nominal rate.
    assert false <= trials * drift.ALPHA + 4 * math.sqrt(trials * drift.ALPHA)
    assert drift.half_window(1) == 5 and drift.half_window(1000) == 11, "as the docstring says"


def test_the_window_starts_again_where_the_number_was_defined_anew():
    k = drift.half_window(1)
    past = _nights(1 + 0.01 * np.arange(2 * k - 1))
    past[0].rows["x"]["n"] = 1
    (now,) = _nights([1.5])
    assert drift.compare(now, past) == []
