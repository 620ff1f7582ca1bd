"""Writes the pages of an evaluation and of a comparison."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from infra.reports.comparison import render_comparison_report
from infra.reports.data import (
    ComparisonReportData,
    CurvePoint,
    EvaluatedVersion,
    EvaluationReportData,
)
from infra.reports.evaluation import render_evaluation_report
from infra.reports.page import write_page
from liveedit_core.evaluation.comparison import MetricComparison, in_scope, paired_results
from liveedit_core.evaluation.summaries import Summary
from liveedit_core.schema import Case
from pipelines.evaluation.bank_evaluation import BankEvaluation
from pipelines.evaluation.examples import (
    EditLookup,
    ExampleBuilder,
    choose_examples,
    choose_flips,
    choose_worst,
)


def evaluated_version(evaluation: BankEvaluation, label: str) -> EvaluatedVersion:
    """A version that has just been evaluated, as a page shows it."""
    return EvaluatedVersion(
        label=label,
        bank=evaluation.bank,
        bank_version=evaluation.bank_version,
        num_edits=evaluation.num_edits,
        results=evaluation.results,
        is_complete=evaluation.is_complete,
    )


def write_evaluation_page(
    path: Path,
    version: EvaluatedVersion,
    summary: Summary,
    *,
    cases: Sequence[Case],
    edits: EditLookup,
    seed: int,
    facts: Mapping[str, str],
    curve: Sequence[CurvePoint] = (),
    duration_s: float = 0.0,
    warnings: Sequence[str] = (),
) -> Path:
    """Write the page of one evaluation.

    Args:
        path: Of the page.
        version: The version evaluated.
        summary: Of its results.
        cases: The cases evaluated, or at least those of the examples.
        edits: Looks up the edits of the bank.
        seed: Of samples and intervals.
        facts: Shown as they are.
        curve: Other numbers of edits of the same bank.
        duration_s: Time of scoring; 0 if unknown.
        warnings: Shown at the top.
    """
    worst, chosen = choose_worst(version.results), choose_examples(version.results)
    builder = ExampleBuilder(cases, edits, [*worst, *chosen])
    data = EvaluationReportData(
        version=version,
        summary=summary,
        seed=seed,
        duration_s=duration_s,
        curve=curve,
        examples=[builder.example(result, version.num_edits) for result in chosen],
        worst_cases=[builder.example(result, version.num_edits) for result in worst],
        warnings=warnings,
        facts=facts,
    )
    return write_page(path, render_evaluation_report(data))


def write_comparison_page(
    path: Path,
    old: EvaluatedVersion,
    new: EvaluatedVersion,
    *,
    cases: Sequence[Case],
    edits: EditLookup,
    seed: int,
    facts: Mapping[str, str],
    comparisons: Sequence[MetricComparison],
    held: Collection[str],
    warnings: Sequence[str] = (),
) -> Path:
    """Write the page that compares two versions on the same probes.

    Args:
        path: Of the page.
        old: The older version.
        new: The newer version.
        cases: The cases evaluated, or at least those of the flips shown.
        edits: Looks up the edits of the bank.
        seed: Of the test and the intervals.
        facts: Shown as they are.
        comparisons: Of each metric; see `compare_results`.
        held: case_ids of the cases whose accuracy was compared.
        warnings: Shown at the top.
    """
    pairs = paired_results(in_scope(old.results, held), in_scope(new.results, held))
    shown = choose_flips(pairs)
    builder = ExampleBuilder(cases, edits, [result for pair in shown for result in pair])
    data = ComparisonReportData(
        old=old,
        new=new,
        seed=seed,
        pairs=pairs,
        comparisons=comparisons,
        flips=[builder.flip(pair) for pair in shown],
        warnings=warnings,
        facts=facts,
    )
    return write_page(path, render_comparison_report(data))
