"""Scope classes by hand."""

import pytest

from liveedit_core.evaluation.probes import FREE_GENERATION, TEACHER_FORCED, ProbeResult
from liveedit_core.evaluation.scope import Scope, scope_classes
from liveedit_core.evaluation.statistics import exact_interval
from liveedit_core.schema import ProbeKind
from tests.unit.tiny_results import probe_result


def scored(case_id: str, changes: float, stays: float) -> list[ProbeResult]:
    """A right reliability probe, one more accuracy and two locality probes."""
    return [
        probe_result(case_id),
        probe_result(case_id, kind=ProbeKind.MODAL_GENERALITY, score=changes),
        probe_result(case_id, kind=ProbeKind.TEXT_LOCALITY),
        probe_result(case_id, kind=ProbeKind.IMAGE_SWAP_LOCALITY, score=stays),
    ]


def test_each_case_has_one_class() -> None:
    results = [
        *scored("a", 1.0, 1.0),
        *scored("b", 1.0, 1.0),
        *scored("c", 0.9, 1.0),  # one token of the target is wrong: not exact
        *scored("d", 1.0, 0.0),
        *scored("e", 0.0, 0.0),
    ]
    found = scope_classes(results, {})
    assert {key: item.num_in_class for key, item in found.items()} == {
        (Scope.PROPER, TEACHER_FORCED): 2,
        (Scope.UNDER, TEACHER_FORCED): 1,
        (Scope.OVER, TEACHER_FORCED): 1,
        (Scope.BOTH, TEACHER_FORCED): 1,
    }
    proper, exact = found[Scope.PROPER, TEACHER_FORCED], exact_interval(2, 5)
    assert (proper.num_cases, proper.fraction) == (5, 0.4)
    assert (proper.interval.low, proper.interval.high) == pytest.approx((exact.low, exact.high))


def test_cases_of_one_entity_are_one_sample() -> None:
    results = [*scored("a", 1.0, 1.0), *scored("b", 1.0, 1.0)]
    proper = scope_classes(results, {"a": "one", "b": "one"})[Scope.PROPER, TEACHER_FORCED]
    assert (proper.num_cases, proper.fraction) == (2, 1.0)
    assert proper.interval.low == pytest.approx(0.025)


def test_a_wrong_portability_probe_is_no_lack_of_scope() -> None:
    results = [*scored("a", 1.0, 1.0), probe_result("a", kind=ProbeKind.PORTABILITY, score=0.0)]
    assert scope_classes(results, {})[Scope.PROPER, TEACHER_FORCED].num_in_class == 1


def test_protocols_stay_apart_and_cases_without_both_sorts_have_no_class() -> None:
    results = [
        *scored("a", 0.0, 1.0),
        probe_result("b"),
        probe_result("c", protocol=FREE_GENERATION),
    ]
    found = scope_classes(results, {})
    assert {protocol for _, protocol in found} == {TEACHER_FORCED}
    assert found[Scope.UNDER, TEACHER_FORCED].num_cases == 1
    assert scope_classes([], {}) == {}
