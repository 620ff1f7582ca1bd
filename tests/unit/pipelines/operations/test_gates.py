"""Each gate passes good evidence and fails on the one fault it guards against."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from liveedit_core.evaluation.comparison import MetricComparison, compare_results
from liveedit_core.evaluation.summaries import Summary, summarize
from liveedit_core.schema import ProbeKind
from pipelines.evaluation.recipe import TolerancesSection
from pipelines.operations.gates import Evidence, all_gates
from pipelines.operations.recipe import GatesSection, ThresholdsSection
from tests.unit.tiny_results import scored

NOW = datetime(2026, 11, 25, 6, tzinfo=UTC)
GATES = GatesSection(max_age_hours=24.0, min_samples=50)
THRESHOLDS = ThresholdsSection(
    reliability=0.9, text_generality=0.0, modal_generality=0.0, text_locality=0.0, modal_locality=0
)


def comparisons(num_right: int) -> list[MetricComparison]:
    old, new = (scored(n, 100, ProbeKind.RELIABILITY) for n in (98, num_right))
    return compare_results(
        new,
        old,
        held={item.case_id for item in old},
        entities={},
        alpha=0.05,
        num_resamples=1000,
        tolerance_of=TolerancesSection().of,
        seed=0,
    )


def summary(num_right: int, num_cases: int) -> Summary:
    return summarize(scored(num_right, num_cases, ProbeKind.RELIABILITY))


GOOD = Evidence(
    version=7,
    now=NOW,
    evaluated_at=NOW - timedelta(hours=3),
    summary=summary(98, 100),
    champion=5,
    compared_with=5,
    comparisons=comparisons(98),
)


def failures(evidence: Evidence, gates: GatesSection = GATES) -> dict[str, str]:
    results = all_gates(evidence, gates, THRESHOLDS)
    assert len({gate.name for gate in results}) == 8
    return {gate.name: gate.reason for gate in results if not gate.passed}


def test_good_evidence_passes_every_gate() -> None:
    assert failures(GOOD) == {}
    assert failures(replace(GOOD, champion=0, compared_with=0, comparisons=())) == {}


@pytest.mark.parametrize(
    ("change", "gate", "reason"),
    [
        ({"digest_problems": ["the generator is another"]}, "digests", "generator is another"),
        ({"shard_problems": ["data/a.lance is missing"]}, "shards", "data/a.lance is missing"),
        ({"num_missing_results": 3}, "evaluation_complete", "3 results are missing"),
        ({"evaluated_at": NOW - timedelta(hours=25)}, "freshness", "25.0 hours ago"),
        ({"evaluated_at": NOW + timedelta(days=2)}, "freshness", "-48.0 hours ago"),
        ({"summary": summary(49, 49)}, "min_samples", "reliability has 49 probes"),
        ({"summary": summary(89, 100)}, "thresholds", "reliability is 0.890"),
        ({"comparisons": comparisons(80)}, "no_regression", "0.980 -> 0.800"),
        ({"champion": 6}, "no_regression", "compared with version 5, the champion is version 6"),
        ({"compared_with": 0}, "no_regression", "compared with nothing"),
        ({"comparisons": ()}, "no_regression", "cannot be compared"),
    ],
)
def test_each_fault_stops_at_its_own_gate(
    change: dict[str, object], gate: str, reason: str
) -> None:
    found = failures(replace(GOOD, **change))  # type: ignore[arg-type]
    assert list(found) == [gate]
    assert reason in found[gate]


def strangers(num_kept: int, num_probes: int) -> Summary:
    """Good accuracy, and so many questions about other images that keep an edit."""
    results = [
        replace(item, kept=("another",) if number < num_kept else ())
        for number, item in enumerate(scored(0, num_probes, ProbeKind.IMAGE_SWAP_LOCALITY))
    ]
    return summarize([*scored(98, 100, ProbeKind.RELIABILITY), *results])


def test_twice_the_budget_of_false_activations_stops_unless_it_is_chance() -> None:
    assert failures(replace(GOOD, budget=0.02, summary=strangers(9, 100))) == {
        "false_activations": "budget 2 %, measured 9.0 % (n = 100)"
    }
    for budget, num_kept, num_probes in ((0.02, 1, 10), (0.02, 4, 100), (None, 100, 100)):
        evidence = replace(GOOD, budget=budget, summary=strangers(num_kept, num_probes))
        assert failures(evidence) == {}
    numbers = replace(GOOD, budget=0.02, summary=strangers(9, 100)).numbers
    assert numbers["false_activations.budget"] == 0.02
    assert numbers["false_activations.measured"] == pytest.approx(0.09)


def test_without_an_evaluation_every_gate_that_needs_one_says_so() -> None:
    found = failures(Evidence(version=7, now=NOW))
    assert set(found) == {
        "evaluation_complete",
        "freshness",
        "min_samples",
        "thresholds",
        "false_activations",
        "no_regression",
    }
    assert "never evaluated" in found["evaluation_complete"]


def test_a_metric_that_was_not_measured_does_not_reach_its_threshold() -> None:
    found = failures(replace(GOOD, summary={}))
    assert "reliability was not measured" in found["thresholds"]
    assert "reliability has 0 probes" in found["min_samples"]
