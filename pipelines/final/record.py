"""The final numbers as plain values: what is written to JSON, and what every table is made from."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from infra.reports.data import CurvePoint
from infra.reports.numbers import point_tree
from infra.reports.outcomes import ALL, OutcomeRow
from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.evaluation.summaries import TABLE_TAGS, summarize, summarize_variants
from liveedit_core.schema import Case, entity_of
from pipelines.editing.report import curve_point
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
    outcomes: Sequence[OutcomeRow],
    digests: Mapping[str, str],
) -> dict[str, Any]:
    """Everything that was measured, with what it was measured on, and how many edits were refused
    as weak (`outcomes`)."""
    points = [curve_point(item) for item in curve]
    if large:
        summary = summarize(large, entity_of(cases), seed=recipe.seed)
        variants = summarize_variants(large, cases, seed=recipe.seed)
        points.append(CurvePoint(num_edits=recipe.large_bank, summary=summary, by_variant=variants))
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
            "weak": next((row.num_weak for row in outcomes if row.label == ALL), 0),
            **{tag: dict(Counter(case.tags.get(tag, "") for case in cases)) for tag in TABLE_TAGS},
        },
        "curve": [point_tree(point) for point in points],
        "editors": dict(compared),
    }
