"""Summaries agree with sums by hand, and depend on nothing but the results."""

import random
from dataclasses import replace

import pytest

from liveedit_core.evaluation.probes import FREE_GENERATION, TEACHER_FORCED, ProbeResult
from liveedit_core.evaluation.statistics import exact_interval
from liveedit_core.evaluation.summaries import (
    EARNED_METRICS,
    average_metric,
    metric_values,
    paper_average,
    summarize,
    summarize_tags,
    summarize_variants,
)
from liveedit_core.schema import PAPER_METRICS, Probe, ProbeKind
from tests.unit.tiny_inputs import case
from tests.unit.tiny_results import probe_result

RELIABILITY = ProbeKind.RELIABILITY


def test_summaries_by_hand() -> None:
    own = "own of c"
    summary = summarize(
        [
            probe_result(score=1.0, kept=(own, "x"), weights=(0.7, 0.2)),
            probe_result(score=0.5, kept=("x",)),
            probe_result(score=0.0, kept=()),
            probe_result(score=0.0, kept=("x", "y", own), weights=(0.5, 0.2, 0.1)),
            probe_result(protocol=FREE_GENERATION, score=1.0, kept=(own,)),
            probe_result(kind=ProbeKind.PORTABILITY, score=1.0),
        ]
    )
    forced = summary[RELIABILITY, TEACHER_FORCED]
    assert (forced.mean, forced.exact_mean) == (0.375, 0.25)
    assert (forced.num_samples, forced.num_cases, forced.num_entities) == (4, 1, 1)
    assert (forced.empty_fraction, forced.own_kept_fraction) == (0.25, 0.5)
    assert (forced.kept_mean, forced.kept_p95) == (1.5, 3.0)
    assert (forced.own_first_fraction, forced.own_rank_mean) == (0.25, 1.0)
    assert forced.own_weight_mean == pytest.approx(0.4)
    assert summary[RELIABILITY, FREE_GENERATION].mean == 1.0
    portability = summary[ProbeKind.PORTABILITY, TEACHER_FORCED]
    assert portability.empty_fraction == 1.0
    assert (portability.own_rank_mean, portability.own_weight_mean) == (None, None)


def test_the_order_of_results_changes_nothing() -> None:
    draw = random.Random(0)
    results = [
        probe_result(f"case {n % 40}", score=draw.random(), kept=(f"own of case {n % 40}",))
        for n in range(200)
    ]
    shuffled = draw.sample(results, len(results))
    assert summarize(shuffled, seed=1) == summarize(results, seed=1)
    assert summarize(shuffled, seed=2) != summarize(results, seed=1), "intervals are drawn"


def test_two_edits_of_one_entity_are_one_sample() -> None:
    """40 entities, two edits each, both right or both wrong: intervals of 40 samples, not of 80."""
    results = [probe_result(f"case {n}", score=float(n // 2 % 2)) for n in range(80)]
    once = [item for n, item in enumerate(results) if n % 2 == 0]
    entities = {f"case {n}": f"entity {n // 2:02}" for n in range(80)}

    def width(results: list[ProbeResult], entities: dict[str, str]) -> float:
        bounds = summarize(results, entities)[RELIABILITY, TEACHER_FORCED].interval
        return bounds.high - bounds.low

    assert width(results, entities) == pytest.approx(width(once, entities))
    assert width(results, {}) < 0.8 * width(results, entities)
    found = summarize(results, entities)[RELIABILITY, TEACHER_FORCED]
    assert (found.num_samples, found.num_cases, found.num_entities) == (80, 80, 40)


def test_tags_by_hand() -> None:
    cases = [
        replace(case(n), case_id=f"c{n}", entity="one", tags={"length": length} if length else {})
        for n, length in enumerate(("1-2", "3-5", "3-5", ""))
    ]
    results = [probe_result(f"c{n}", score=score) for n, score in enumerate((1.0, 0.5, 0.0, 0.9))]
    results.append(probe_result("another run's case"))
    found = summarize_tags(results, cases, "length")
    assert {key: (item.mean, item.num_samples) for key, item in found.items()} == {
        (RELIABILITY, "1-2", TEACHER_FORCED): (1.0, 1),
        (RELIABILITY, "3-5", TEACHER_FORCED): (0.25, 2),
    }
    assert found[RELIABILITY, "3-5", TEACHER_FORCED].num_entities == 1
    assert summarize_tags(results, cases, "domain") == {}


def test_variants_by_hand() -> None:
    kind = ProbeKind.RELIABILITY

    def probe(variant: str) -> Probe:
        return Probe(kind=kind, prompt="Who?", target="Zürich", variant=variant)

    cases = [
        replace(
            case(0),
            case_id="c",
            probes=(probe("1 hop"), probe("2 hops"), probe("2 hops"), probe("")),
        )
    ]
    scores = {0: 0.9, 1: 1.0, 2: 0.5, 3: 0.0, 4: 0.25}
    results = [probe_result(probe_index=index, score=score) for index, score in scores.items()]
    results.append(probe_result(probe_index=2, score=1.0, protocol=FREE_GENERATION))
    results.append(probe_result("another run's case", probe_index=1))
    found = summarize_variants(results, cases)
    assert {key: (item.mean, item.num_samples) for key, item in found.items()} == {
        (kind, "1 hop", TEACHER_FORCED): (1.0, 1),
        (kind, "2 hops", TEACHER_FORCED): (0.25, 2),
        (kind, "2 hops", FREE_GENERATION): (1.0, 1),
    }


def test_the_papers_average_leaves_out_all_but_its_five_metrics() -> None:
    scores = {
        ProbeKind.RELIABILITY: 1.0,
        ProbeKind.TEXT_GENERALITY: 0.8,
        ProbeKind.MODAL_GENERALITY: 0.6,
        ProbeKind.TEXT_LOCALITY: 1.0,
        ProbeKind.MODAL_LOCALITY: 0.6,
        ProbeKind.PORTABILITY: 0.0,
        ProbeKind.IMAGE_SWAP_LOCALITY: 0.0,
    }
    results = [probe_result(kind=kind, score=score) for kind, score in scores.items()]
    results.append(probe_result(protocol=FREE_GENERATION, score=0.0))
    summary = summarize(results)
    assert paper_average(summary) == pytest.approx(0.8)
    assert paper_average(summary, EARNED_METRICS) == pytest.approx((1.0 + 0.8 + 0.6 + 0.6) / 4)
    values = metric_values(summary)
    assert values["paper_average.teacher_forced"] == pytest.approx(0.8)
    assert values["paper_average_without_text_locality.teacher_forced"] == pytest.approx(0.75)


@pytest.mark.parametrize("missing", PAPER_METRICS)
def test_four_of_the_papers_metrics_have_no_average(missing: ProbeKind) -> None:
    results = [probe_result(kind=kind) for kind in PAPER_METRICS if kind is not missing]
    results.append(probe_result(kind=missing, protocol=FREE_GENERATION))
    assert paper_average(summarize(results)) is None


def test_an_average_of_metrics_has_an_interval_over_entities() -> None:
    """Reliability 0.75 of two entities and locality 0.5 of one; other protocols do not count."""
    locality = ProbeKind.MODAL_LOCALITY
    results = [
        probe_result("a", score=1.0),
        probe_result("b", score=0.5),
        probe_result("a", kind=locality, score=0.5),
        probe_result("a", kind=locality, protocol=FREE_GENERATION, score=0.0),
    ]
    found = average_metric(results, {}, (RELIABILITY, locality), seed=0)
    assert found is not None
    assert (found.mean, found.num_samples, found.num_entities) == (0.625, 3, 2)
    assert found.interval == exact_interval(1.25, 2)
    assert average_metric(results, {}, PAPER_METRICS, seed=0) is None
    same = {"a": "one", "b": "one"}
    one = average_metric(results, same, (RELIABILITY, locality), seed=0)
    assert one is not None
    assert (one.num_entities, one.interval) == (1, exact_interval(0.625, 1))
