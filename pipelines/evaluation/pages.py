"""Writes the pages of an evaluation and of a comparison, with the examples that they show."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from infra.reports.comparison import render_comparison_report
from infra.reports.data import ComparisonReportData, EvaluationReportData
from infra.reports.evaluation import render_evaluation_report
from infra.reports.page import write_page
from liveedit_core.evaluation.comparison import in_scope, paired_results
from liveedit_core.schema import Case
from pipelines.evaluation.examples import (
    EditLookup,
    ExampleBuilder,
    choose_examples,
    choose_flips,
    choose_worst,
)


def write_evaluation_page(
    path: Path, data: EvaluationReportData, *, cases: Sequence[Case], edits: EditLookup
) -> Path:
    """Write the page of one evaluation of `cases`; its examples are chosen here."""
    results, num_edits = data.version.results, data.version.num_edits
    worst, chosen = choose_worst(results), choose_examples(results)
    builder = ExampleBuilder(cases, edits, [*worst, *chosen])
    shown = replace(
        data,
        examples=[builder.example(result, num_edits) for result in chosen],
        worst_cases=[builder.example(result, num_edits) for result in worst],
    )
    return write_page(path, render_evaluation_report(shown))


def write_comparison_page(
    path: Path,
    data: ComparisonReportData,
    *,
    cases: Sequence[Case],
    edits: EditLookup,
    held: Collection[str],
) -> Path:
    """Write the page of a comparison on `cases`; its pairs and flips are chosen here.

    `held` are the case_ids of the cases whose accuracy was compared.
    """
    pairs = paired_results(in_scope(data.old.results, held), in_scope(data.new.results, held))
    flips = choose_flips(pairs)
    builder = ExampleBuilder(cases, edits, [result for pair in flips for result in pair])
    shown = replace(data, pairs=pairs, flips=[builder.flip(pair) for pair in flips])
    return write_page(path, render_comparison_report(shown))
