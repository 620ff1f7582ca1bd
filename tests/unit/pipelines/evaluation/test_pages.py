"""Pages are made from results: intervals, candidate sets, curves, worst cases and flips."""

import dataclasses
from collections.abc import Collection
from pathlib import Path

import pytest
from PIL import Image

from infra.reports.comparison import MAX_FLIPS
from infra.reports.data import GAINED, LOST, REGRESSION, EditView
from liveedit_core.errors import InputError
from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.schema import Case, EditRequest, Probe, ProbeKind
from pipelines.evaluation.pages import (
    EvaluatedVersion,
    choose_flips,
    count_flips,
    differences_of,
    direction_of,
    paired_results,
    write_comparison_page,
    write_evaluation_page,
    write_figures,
)
from pipelines.evaluation.regressions import compare_results
from pipelines.evaluation.sections import RegressionSection, TolerancesSection
from tests.report_examples import image
from tests.unit.tiny_results import probe_result

NAMES = [f"case-{i}" for i in range(20)]


def make_case(name: str) -> Case:
    edit = EditRequest(image_bytes=image("navy"), prompt=f"Where is {name} made?", target="Zürich")
    probe = Probe(
        kind=ProbeKind.MODAL_LOCALITY,
        prompt="What is this?",
        target="",
        image_bytes=image("olive"),
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
            score=1.0 if right else 0.5 if protocol == "teacher_forced" else 0.0,
            kept=(f"own of {name}", "stranger") if index == 0 else (),
            after="Zürich" if right else "Bern",
        )
        for protocol in ("teacher_forced", "free_generation")
        for position, name in enumerate(NAMES)
        for index, kind in enumerate((ProbeKind.RELIABILITY, ProbeKind.MODAL_LOCALITY))
        for right in [position < num_right or index == 1]
    ]


def version(num_right: int, number: int, num_edits: int = 100) -> EvaluatedVersion:
    return EvaluatedVersion(
        label=f"version {number}",
        bank="main",
        bank_version=number,
        num_edits=num_edits,
        results=results_of(num_right),
    )


def edits(edit_ids: Collection[str]) -> dict[str, EditView]:
    """Knows all edits but the stranger."""
    return {
        key: EditView(edit_id=key, prompt="Where?", target="Uri", image_bytes=image("gold"))
        for key in edit_ids
        if key != "stranger"
    }


def test_the_page_of_an_evaluation_says_what_was_measured_and_how(tmp_path: Path) -> None:
    path = write_evaluation_page(
        tmp_path / "page.html",
        version(15, 4),
        cases=CASES,
        edits=edits,
        seed=11,
        facts={"store": "s3://bucket"},
        curve=[version(20, 2, num_edits=10)],
    )
    html = path.read_text(encoding="utf-8")
    text = " ".join(html.split())
    assert "87.5 %" in text  # teacher-forced reliability: 15 whole answers, 5 half ones
    assert "<b>75.0 %</b>" in text  # under free generation, and answers right as a whole
    assert "Seed 11." in text
    assert "Bands: 95 % intervals." in text
    assert "Where is case-19 made?" in text
    assert "not in the request log" in text
    assert text.count("<img") >= 5 + 2 * 5  # worst cases: the probe and one known expert each
    section = text[text.index('id="candidates"') : text.index('id="curve"')]
    assert "<td>2.00</td><td>2</td>" in section  # two experts for each reliability probe


def test_curves_of_all_points_are_drawn_as_images(tmp_path: Path) -> None:
    paths = write_figures(tmp_path / "figures", [version(20, 2, 10), version(15, 4)], seed=0)
    assert {path.stem for path in paths} == {
        "what-was-taught-teacher-forced",
        "what-must-stay-teacher-forced",
        "own-expert-kept-by-the-filter-teacher-forced",
        "what-was-taught-free-generation",
        "what-must-stay-free-generation",
    }
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.width > 600
            colours = image.convert("RGB").getcolors(maxcolors=1 << 20)
        assert colours is not None
        assert len(colours) > 50  # something was drawn


def test_flips_are_counted_by_metric_and_shown_once(tmp_path: Path) -> None:
    old, new = version(20, 2), version(15, 4)
    pairs = paired_results(old.results, new.results)
    counts = {(count.kind, count.protocol): count for count in count_flips(pairs)}
    assert counts["reliability", "teacher_forced"].num_lost == 5
    assert counts["reliability", "free_generation"].num_lost == 5
    assert counts["modal_locality", "teacher_forced"].num_lost == 0
    shown = choose_flips(pairs)
    assert [older.case_id for older, _ in shown] == [f"case-{i}" for i in range(15, 20)]
    assert {older.protocol for older, _ in shown} == {"free_generation"}
    assert {direction_of(pair) for pair in shown} == {LOST}
    back = paired_results(new.results, old.results)
    assert {direction_of(pair) for pair in choose_flips(back)} == {GAINED}


def test_only_cases_that_count_are_paired() -> None:
    pairs = paired_results(version(20, 2).results, version(0, 4).results, held={"case-3"})
    accuracy = {older.case_id for older, _ in pairs if not older.kind.is_locality}
    locality = {older.case_id for older, _ in pairs if older.kind.is_locality}
    assert accuracy == {"case-3"}
    assert locality == set(NAMES)


def test_a_page_shows_flips_of_each_metric_not_of_the_first_only() -> None:
    names = [f"c{i:03d}" for i in range(MAX_FLIPS + 10)]
    kinds = (ProbeKind.RELIABILITY, ProbeKind.MODAL_LOCALITY)
    old = [probe_result(n, kind=k, probe_index=i) for n in names for i, k in enumerate(kinds)]
    new = [
        probe_result(n, kind=k, probe_index=i, score=0.0)
        for n in names
        for i, k in enumerate(kinds)
    ]
    shown = choose_flips(paired_results(old, new))
    assert len(shown) == MAX_FLIPS
    assert sum(older.kind == ProbeKind.MODAL_LOCALITY for older, _ in shown) == MAX_FLIPS // 2


def test_the_page_of_a_comparison_names_the_regression_and_shows_both_answers(
    tmp_path: Path,
) -> None:
    old, new = version(20, 2), version(5, 4)
    comparisons = compare_results(
        new.results,
        old.results,
        held=NAMES,
        regression=RegressionSection(num_resamples=5000),
        tolerances=TolerancesSection(),
        seed=0,
    )
    differences = differences_of(comparisons)
    worse = {(d.kind, d.protocol) for d in differences if d.verdict == REGRESSION}
    assert worse == {("reliability", "teacher_forced"), ("reliability", "free_generation")}
    path = write_comparison_page(
        tmp_path / "page.html",
        old,
        new,
        cases=CASES,
        edits=edits,
        seed=0,
        facts={},
        differences=differences,
    )
    text = " ".join(path.read_text(encoding="utf-8").split())
    assert "2 of 4" in text
    assert "\N{MINUS SIGN}75.0" in text  # of free answers, points
    assert "&lt; 0.001" in text
    lost = text[text.index('id="lost"') : text.index('id="gained"')]
    assert lost.count("<article") == 15
    assert lost.count("Zürich") >= 15
    assert lost.count("Bern") >= 15
    assert "No answer was gained." in text


@pytest.mark.parametrize(
    ("num_right", "verdict"),
    [(20, "no difference"), (19, "not significant"), (5, "regression")],
)
def test_a_verdict_is_as_strong_as_the_evidence(num_right: int, verdict: str) -> None:
    comparisons = compare_results(
        version(num_right, 4).results,
        version(20, 2).results,
        held=NAMES,
        regression=RegressionSection(num_resamples=2000),
        tolerances=TolerancesSection(),
        seed=0,
    )
    found = {(d.kind, d.protocol): d.verdict for d in differences_of(comparisons)}
    assert found["reliability", "free_generation"] == verdict
    assert found["modal_locality", "free_generation"] == "no difference"
    loose = dataclasses.replace(comparisons[-1], is_regression=False, tolerance=1.0)
    if loose.difference.mean:
        assert differences_of([loose])[0].verdict == "within tolerance"


def test_results_of_other_cases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name the same cases"):
        write_evaluation_page(
            tmp_path / "page.html", version(0, 1), cases=[], edits=edits, seed=0, facts={}
        )
