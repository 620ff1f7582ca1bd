"""What counts as a regression: the tolerance, the test and the scope, each decisive once."""

from collections.abc import Mapping

import pytest

from liveedit_core.errors import IntegrityError
from liveedit_core.evaluation.comparison import (
    GAINED,
    IMPROVEMENT,
    LOST,
    NO_DIFFERENCE,
    NOT_SIGNIFICANT,
    REGRESSION,
    WITHIN_TOLERANCE,
    MetricComparison,
    cases_held,
    compare_results,
    direction_of,
    flip_counts,
    flips_of,
    in_scope,
    not_replaced,
    paired_results,
)
from liveedit_core.evaluation.probes import FREE_GENERATION, PROTOCOLS, TEACHER_FORCED, ProbeResult
from liveedit_core.schema import ProbeKind
from tests.unit.tiny_inputs import case
from tests.unit.tiny_results import probe_result, scored


def result(number: int, score: float, kind: ProbeKind = ProbeKind.RELIABILITY) -> ProbeResult:
    return probe_result(f"case-{number}", kind=kind, score=score)


def compare(
    new: list[ProbeResult],
    old: list[ProbeResult],
    tolerance: float = 0.01,
    entities: Mapping[str, str] | None = None,
) -> list[MetricComparison]:
    return compare_results(
        new,
        old,
        held={item.case_id for item in old},
        entities=entities or {},
        alpha=0.05,
        num_resamples=1000,
        tolerance_of=lambda kind: tolerance,
        seed=0,
    )


def test_a_clear_fall_is_a_regression_and_says_so() -> None:
    kind = ProbeKind.RELIABILITY
    (found,) = compare(scored(80, 100, kind), scored(98, 100, kind))
    assert (found.is_regression, found.is_improvement) == (True, False)
    assert found.verdict == REGRESSION
    assert found.difference.mean == pytest.approx(-0.18)
    assert "reliability.teacher_forced: 0.980 -> 0.800 (-0.180" in found.sentence()


def test_a_fall_within_the_tolerance_is_none_however_certain() -> None:
    kind = ProbeKind.RELIABILITY
    new, old = scored(1940, 2000, kind), scored(1990, 2000, kind)
    assert compare(new, old)[0].is_regression
    (found,) = compare(new, old, tolerance=0.03)
    assert found.adjusted_p_value < 0.01
    assert (found.is_regression, found.verdict) == (False, WITHIN_TOLERANCE)


def test_a_fall_that_chance_explains_is_none_however_large() -> None:
    kind = ProbeKind.RELIABILITY
    (found,) = compare(scored(1, 4, kind), scored(3, 4, kind))
    assert found.difference.mean == -0.5
    assert (found.is_regression, found.verdict) == (False, NOT_SIGNIFICANT)


def test_more_metrics_ask_for_more_evidence() -> None:
    kinds = (ProbeKind.RELIABILITY, ProbeKind.MODAL_LOCALITY)
    old = [item for kind in kinds for item in scored(100, 100, kind)]
    new = scored(95, 100, kinds[0]) + scored(100, 100, kinds[1])
    alone = compare(new[:100], old[:100])[0]
    both = {item.kind: item for item in compare(new, old)}
    assert alone.is_regression
    assert both[ProbeKind.RELIABILITY].adjusted_p_value == 2 * alone.adjusted_p_value > 0.05
    assert not both[ProbeKind.RELIABILITY].is_regression


def test_a_rise_is_an_improvement() -> None:
    kind = ProbeKind.RELIABILITY
    (found,) = compare(scored(98, 100, kind), scored(80, 100, kind))
    assert (found.is_regression, found.is_improvement) == (False, True)
    assert found.verdict == IMPROVEMENT


def test_equal_scores_are_no_difference() -> None:
    kind = ProbeKind.RELIABILITY
    (found,) = compare(scored(9, 10, kind), scored(9, 10, kind))
    assert (found.difference.mean, found.verdict) == (0.0, NO_DIFFERENCE)


def test_the_order_of_results_does_not_matter() -> None:
    kind = ProbeKind.RELIABILITY
    new, old = scored(80, 100, kind), scored(90, 100, kind)
    assert compare(new[::-1], old) == compare(new, old)


def test_accuracy_counts_where_the_edit_is_held_and_locality_everywhere() -> None:
    accuracy = [result(number, 1.0) for number in range(3)]
    locality = [result(number, 1.0, ProbeKind.MODAL_LOCALITY) for number in range(3)]
    kept = in_scope([*accuracy, *locality], {"case-1"})
    assert kept == [accuracy[1], *locality]


def test_an_edit_that_was_replaced_on_purpose_is_not_missed() -> None:
    cases = [case(number) for number in range(3)]
    held = {f"subject {number}": cases[number].edit.edit_id for number in range(2)}
    assert cases_held(cases, held.values()) == {"case-0", "case-1"}
    newer = {"subject 1": "a correction in other words", "subject 2": cases[2].edit.edit_id}
    assert cases_held(cases, not_replaced(held, newer)) == {"case-0"}


def test_results_without_a_partner_are_refused() -> None:
    kind = ProbeKind.RELIABILITY
    with pytest.raises(IntegrityError, match="case-3"):
        compare(scored(3, 3, kind), scored(3, 4, kind))


def results_of(num_right: int) -> list[ProbeResult]:
    """Two probes a case under both protocols; reliability is right in the first cases only."""
    return [
        probe_result(
            f"case-{number:02}",
            kind=kind,
            protocol=protocol,
            probe_index=index,
            score=float(number < num_right or index == 1),
        )
        for protocol in PROTOCOLS
        for number in range(20)
        for index, kind in enumerate((ProbeKind.RELIABILITY, ProbeKind.MODAL_LOCALITY))
    ]


def test_flips_are_counted_by_metric_and_listed_once_by_their_free_answers() -> None:
    pairs = paired_results(results_of(20), results_of(15))
    assert flip_counts(pairs) == {
        (ProbeKind.RELIABILITY, TEACHER_FORCED): (5, 0),
        (ProbeKind.RELIABILITY, FREE_GENERATION): (5, 0),
        (ProbeKind.MODAL_LOCALITY, TEACHER_FORCED): (0, 0),
        (ProbeKind.MODAL_LOCALITY, FREE_GENERATION): (0, 0),
    }
    lost = flips_of(pairs, LOST)
    assert [older.case_id for older, _ in lost] == [f"case-{i}" for i in range(15, 20)]
    assert {older.protocol for older, _ in lost} == {FREE_GENERATION}
    assert flips_of(pairs, GAINED) == []
    back = paired_results(results_of(15), results_of(20))
    assert {direction_of(pair) for pair in flips_of(back, GAINED)} == {GAINED}


def test_only_probes_of_both_versions_are_paired() -> None:
    old, new = results_of(20), results_of(15)
    pairs = paired_results(old[::-1], new[3:])
    assert [older.key for older, _ in pairs] == sorted(result.key for result in new[3:])
    assert all(older.key == newer.key for older, newer in pairs)


def test_edits_of_one_entity_count_as_one_sample() -> None:
    """Eight edits fell: 8 entities are 1 of 2^8 by chance, 2 entities 1 of 2^2."""
    new, old = ([result(number, score) for number in range(8)] for score in (0.0, 1.0))
    (apart,) = compare(new, old)
    assert apart.difference.p_value == 1 / 2**8
    (found,) = compare(new, old, entities={f"case-{n}": f"entity {n % 2}" for n in range(8)})
    assert (found.difference.p_value, found.is_regression) == (1 / 2**2, False)
    assert "8 probes of 2 entities" in found.sentence()
