"""The final numbers as plain values: what is written to JSON, and what every table is made from."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from infra.reports.numbers import metric_rows
from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.evaluation.summaries import (
    EARNED_METRICS,
    TABLE_TAGS,
    paper_average,
    summarize,
    summarize_variants,
)
from liveedit_core.schema import Case, entity_of
from pipelines.evaluation.bank_evaluation import BankEvaluation
from pipelines.final.recipe import FinalNumbersRecipe
from pipelines.job.cases import cases_digest
from pipelines.job.recipe_loader import to_dict
from pipelines.job.run_folder import git_commit
from pipelines.job.sealed_test import read_looks


def numbers_tree(
    recipe: FinalNumbersRecipe,
    *,
    cases: Sequence[Case],
    curve: Sequence[BankEvaluation],
    large: Sequence[ProbeResult],
    compared: Mapping[str, Any],
    digests: Mapping[str, str],
) -> dict[str, Any]:
    """Everything that was measured, with what it was measured on."""
    whole = curve[-1]
    return {
        "about": {
            **digests,
            "cases": cases_digest(cases),
            "commit": git_commit(),
            "date": datetime.now(UTC).date().isoformat(),
            "split": recipe.split,
            "settings": to_dict(recipe),
            "looks": [str(look) for look in read_looks()] if recipe.split == "test" else [],
        },
        "counts": {
            "cases": len(cases),
            "entities": len({case.entity for case in cases}),
            **{tag: dict(Counter(case.tags.get(tag, "") for case in cases)) for tag in TABLE_TAGS},
        },
        "curve": [_point(item, cases) for item in curve],
        "strata": {
            tag: {
                value: metrics_of(of_cases(whole.results, cases, tag, value), cases, recipe.seed)
                for value in sorted({case.tags.get(tag, "") for case in cases})
            }
            for tag in TABLE_TAGS
        },
        "large_bank": {
            "num_edits": recipe.large_bank,
            "metrics": metrics_of(large, cases, recipe.seed),
        },
        "editors": dict(compared),
    }


def of_cases(
    results: Iterable[ProbeResult], cases: Iterable[Case], tag: str, value: str
) -> list[ProbeResult]:
    """Results of the cases with one value of a tag."""
    chosen = {case.case_id for case in cases if case.tags.get(tag, "") == value}
    return [result for result in results if result.case_id in chosen]


def metrics_of(
    results: Sequence[ProbeResult], cases: Sequence[Case], seed: int
) -> list[dict[str, Any]]:
    """A row for each metric and protocol, and for each of their variants."""
    return metric_rows(
        summarize(results, entity_of(cases), seed=seed),
        summarize_variants(results, cases, seed=seed),
    )


def _point(item: BankEvaluation, cases: Sequence[Case]) -> dict[str, Any]:
    return {
        "num_edits": item.num_edits,
        "num_cases": item.num_cases,
        "average_of_five": paper_average(item.summary),
        "average_without_text_locality": paper_average(item.summary, EARNED_METRICS),
        "metrics": metrics_of(item.results, cases, seed=0),
    }
