"""Pages are made from results: intervals, candidate sets, curves, worst cases and flips."""

from collections.abc import Collection
from pathlib import Path

import pytest

from infra.reports.data import (
    MAX_FLIPS,
    ComparisonReportData,
    CurvePoint,
    EvaluatedVersion,
    EvaluationReportData,
)
from liveedit_core.errors import InputError
from liveedit_core.evaluation.comparison import (
    GAINED,
    LOST,
    MetricComparison,
    compare_results,
    direction_of,
    paired_results,
)
from liveedit_core.evaluation.probes import PROTOCOLS, TEACHER_FORCED, ProbeResult
from liveedit_core.evaluation.summaries import summarize
from liveedit_core.schema import Case, EditRequest, Probe, ProbeKind
from pipelines.evaluation.pages import choose_flips, write_comparison_page, write_evaluation_page
from pipelines.evaluation.recipe import TolerancesSection
from tests.report_examples import image
from tests.unit.tiny_results import probe_result

NAMES = [f"case-{i}" for i in range(20)]


def make_case(name: str) -> Case:
    edit = EditRequest(image_bytes=image("navy"), prompt=f"Where is {name} made?", target="Zürich")
    probe = Probe(
        kind=ProbeKind.MODAL_LOCALITY, prompt="What is this?", target="", image_bytes=image("olive")
    )
    return Case(case_id=name, edit=edit, probes=(probe,))


CASES = [make_case(name) for name in NAMES]


def results_of(num_right: int) -> list[ProbeResult]:
    """Both protocols, two probes a case; the first cases are right, the others half right."""
    return [
        probe_result(
            name,
            kind=kind,
            protocol=protocol,
            probe_index=index,
            score=1.0 if right else 0.5 if protocol == TEACHER_FORCED else 0.0,
            kept=(f"own of {name}", "stranger") if index == 0 else (),
            after="Zürich" if right else "Bern",
        )
        for protocol in PROTOCOLS
        for position, name in enumerate(NAMES)
        for index, kind in enumerate((ProbeKind.RELIABILITY, ProbeKind.MODAL_LOCALITY))
        for right in [position < num_right or index == 1]
    ]


def version(num_right: int, number: int) -> EvaluatedVersion:
    return EvaluatedVersion(
        label=f"version {number}",
        bank="main",
        bank_version=number,
        num_edits=100,
        results=results_of(num_right),
    )


def compare(num_right: int) -> list[MetricComparison]:
    """A version against one that is right everywhere."""
    return compare_results(
        results_of(num_right),
        results_of(20),
        held=NAMES,
        entities={},
        alpha=0.05,
        num_resamples=5000,
        tolerance_of=TolerancesSection().of,
        seed=0,
    )


def edits(edit_ids: Collection[str]) -> dict[str, EditRequest]:
    """Knows all edits but the stranger."""
    known = EditRequest(image_bytes=image("gold"), prompt="Where?", target="Uri")
    return {key: known for key in edit_ids if key != "stranger"}


def test_the_page_of_an_evaluation_says_what_was_measured_and_how(tmp_path: Path) -> None:
    this = version(15, 4)
    data = EvaluationReportData(
        version=this,
        summary=summarize(this.results, seed=11),
        seed=11,
        facts={"store": "s3://bucket"},
        curve=[CurvePoint(num_edits=10, summary=summarize(results_of(20), seed=11))],
    )
    path = write_evaluation_page(tmp_path / "page.html", data, cases=CASES, edits=edits)
    text = " ".join(path.read_text(encoding="utf-8").split())
    assert "87.5 %" in text  # teacher-forced reliability: 15 entire answers, 5 half ones
    assert "<b>75.0 %</b>" in text  # under free generation, and answers entirely right
    assert "Seed 11." in text
    assert "Bands: 95 % intervals." in text
    assert "Where is case-19 made?" in text
    assert "not in the request log" in text
    assert text.count("<img") >= 5 + 2 * 5  # worst cases: the probe and one known expert each
    section = text[text.index('id="candidates"') : text.index('id="curve"')]
    assert "<td>2.00</td><td>2</td>" in section  # two experts for each reliability probe


def test_a_page_shows_flips_of_each_metric_not_of_the_first_only() -> None:
    names = [f"c{i:03d}" for i in range(MAX_FLIPS + 10)]
    kinds = (ProbeKind.RELIABILITY, ProbeKind.MODAL_LOCALITY)
    old, new = (
        [
            probe_result(name, kind=kind, probe_index=index, score=score)
            for name in names
            for index, kind in enumerate(kinds)
        ]
        for score in (1.0, 0.0)
    )
    shown = choose_flips(paired_results(old, new))
    assert len(shown) == MAX_FLIPS
    assert sum(older.kind == ProbeKind.MODAL_LOCALITY for older, _ in shown) == MAX_FLIPS // 2
    assert {direction_of(pair) for pair in shown} == {LOST}
    gained = choose_flips(paired_results(new, old))
    assert {direction_of(pair) for pair in gained} == {GAINED}


def test_the_page_of_a_comparison_names_the_regression_and_shows_both_answers(
    tmp_path: Path,
) -> None:
    data = ComparisonReportData(
        old=version(20, 2), new=version(5, 4), seed=0, comparisons=compare(5)
    )
    path = write_comparison_page(tmp_path / "page.html", data, cases=CASES, edits=edits, held=NAMES)
    text = " ".join(path.read_text(encoding="utf-8").split())
    assert "2 of 4" in text
    assert "\N{MINUS SIGN}75.0" in text  # of free answers, points
    assert "&lt; 0.001" in text
    lost = text[text.index('id="lost"') : text.index('id="gained"')]
    assert lost.count("<article") == 15
    assert lost.count("Zürich") >= 15
    assert lost.count("Bern") >= 15
    assert "No answer was gained." in text


def test_accuracy_is_shown_for_the_cases_compared_only(tmp_path: Path) -> None:
    data = ComparisonReportData(old=version(20, 2), new=version(0, 4), seed=0)
    path = write_comparison_page(
        tmp_path / "page.html", data, cases=CASES, edits=edits, held={"case-3"}
    )
    text = path.read_text(encoding="utf-8")
    assert text.count("<article") == 1
    assert "Where is case-3 made?" in text


def test_results_of_other_cases_are_refused(tmp_path: Path) -> None:
    data = EvaluationReportData(version=version(0, 1), summary={}, seed=0)
    with pytest.raises(InputError, match="name the same cases"):
        write_evaluation_page(tmp_path / "page.html", data, cases=[], edits=edits)
