"""What a nightly run writes to MLflow and to disk: metrics of the bank versions, pages, figures."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infra.bank.expert_bank import ExpertBank
from infra.reports.data import ComparisonReportData, CurvePoint, EvaluationReportData
from infra.reports.metrics import draw_metric_plots
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.tracking.model_registry import RegisteredVersion
from infra.tracking.tracker import Tracker
from liveedit_core.errors import TrackingError
from liveedit_core.evaluation.comparison import MetricComparison, in_scope
from liveedit_core.evaluation.false_activations import false_activation_values
from liveedit_core.evaluation.scope import scope_classes
from liveedit_core.evaluation.summaries import (
    Summary,
    metric_values,
    summarize_all_tags,
    summarize_variants,
)
from liveedit_core.schema import Case, EditRequest, entity_of
from pipelines.evaluation.bank_evaluation import BankEvaluation
from pipelines.evaluation.pages import (
    EditLookup,
    edits_of,
    write_comparison_page,
    write_evaluation_page,
)
from pipelines.job.recipe_loader import to_flat_dict
from pipelines.job.run_folder import run_facts
from pipelines.operations.recipe import NightlyRecipe
from workers.messages import CaseLoader

CHAMPION_PREFIX = "champion."
"""Of the champion's metrics in the MLflow run; the newest version's metrics have no prefix."""


@dataclass(frozen=True, kw_only=True)
class ScoredVersion:
    """A registered version and its evaluation."""

    registered: RegisteredVersion
    bank: ExpertBank
    evaluation: BankEvaluation
    held: frozenset[str]
    """Ids of the cases whose edit it holds."""
    summary: Summary
    """Accuracy over these cases, locality over all."""


@dataclass(frozen=True, kw_only=True)
class NightlyFindings:
    """The evaluations of a nightly run, compared."""

    cases: Sequence[Case]
    load: CaseLoader
    """Gives them their images."""
    newest: ScoredVersion
    champion: ScoredVersion | None = None
    """None if there is none, or it is the newest version."""
    compared: frozenset[str] = frozenset()
    """Ids of the cases whose accuracy was compared."""
    comparisons: Sequence[MetricComparison] = ()

    @property
    def regressions(self) -> list[MetricComparison]:
        return [item for item in self.comparisons if item.is_regression]

    @property
    def improvements(self) -> list[MetricComparison]:
        return [item for item in self.comparisons if item.is_improvement]


def record_findings(recipe: NightlyRecipe, label: str, findings: NightlyFindings) -> str:
    """Write the pages, then record everything in MLflow; returns the run id, "" in an outage."""
    facts = run_facts()
    pages = _write_pages(recipe, label, findings, facts)
    champion = findings.champion
    tracker = Tracker(
        Path(recipe.run_root),
        experiment=recipe.tracking.experiment,
        run_name=f"{recipe.run_name}-{label}",
    )
    tracker.log_params(to_flat_dict(recipe))
    tracker.set_tags(
        {
            **facts,
            "night": label,
            "comparable_group": str(findings.newest.evaluation.comparable_group),
            "newest_version": str(findings.newest.registered.version),
            "champion_version": str(champion.registered.version) if champion else "none",
            "regressions": ", ".join(item.name for item in findings.regressions) or "none",
        }
    )
    _log_metrics(tracker, findings)
    for page in pages:
        tracker.log_artifact(page, "figures" if page.suffix == ".png" else "")
    tracker.end()
    try:
        return tracker.connect().run_id
    except TrackingError:
        return ""


def _log_metrics(tracker: Tracker, findings: NightlyFindings) -> None:
    """Each value belongs to the run and, by `model_id`, to the version that it describes."""
    newest, champion = findings.newest, findings.champion
    for scored, prefix in ((newest, ""), (champion, CHAMPION_PREFIX)):
        if scored is not None:
            values = {
                **metric_values(scored.summary),
                **false_activation_values(scored.summary, scored.evaluation.budget),
            }
            tracker.log_metrics(
                {f"{prefix}{name}": value for name, value in values.items()},
                step=scored.evaluation.num_edits,
                model_id=scored.registered.model_id,
            )
    if champion is not None:
        differences = {
            f"difference.{item.name}": item.difference.mean for item in findings.comparisons
        }
        tracker.log_metrics(
            {**differences, "num_regressions": float(len(findings.regressions))},
            step=newest.evaluation.num_edits,
            model_id=newest.registered.model_id,
        )


def _write_pages(
    recipe: NightlyRecipe, label: str, findings: NightlyFindings, facts: dict[str, str]
) -> list[Path]:
    folder, seed, edits = recipe.run_folder / label, recipe.seed, _edits(findings)
    cases: dict[str, Any] = {"cases": findings.cases, "load": findings.load}
    versions, points, pages = [], [], []
    for name, scored in (("newest", findings.newest), ("champion", findings.champion)):
        if scored is None:
            continue
        num_edits = scored.evaluation.num_edits
        results = in_scope(scored.evaluation.results, scored.held)
        versions.append(replace(scored.evaluation, label=name))
        budget = scored.evaluation.budget
        points.append(CurvePoint(num_edits=num_edits, summary=scored.summary, budget=budget))
        registered_as = f"{scored.registered.name} {scored.registered.version}"
        data = EvaluationReportData(
            version=versions[-1],
            summary=scored.summary,
            by_variant=summarize_variants(results, findings.cases, seed=seed),
            by_tag=summarize_all_tags(results, findings.cases, seed=seed),
            scope=scope_classes(results, entity_of(findings.cases), seed=seed),
            seed=seed,
            facts={
                **facts,
                "registered as": registered_as,
                "comparable group": str(scored.evaluation.comparable_group),
            },
            duration_s=scored.evaluation.seconds,
        )
        path = folder / f"{name}.html"
        pages.append(write_evaluation_page(path, data, edits=edits, **cases))
    if findings.champion is not None:
        newest, champion = versions
        comparison = ComparisonReportData(
            old=champion,
            new=newest,
            seed=seed,
            facts=facts,
            comparisons=findings.comparisons,
            warnings=[f"regression: {item.sentence()}" for item in findings.regressions],
        )
        page = write_comparison_page(
            folder / "comparison.html",
            comparison,
            edits=edits,
            held=findings.compared,
            **cases,
        )
        pages.append(page)
    return [*pages, *draw_metric_plots(folder, points[::-1])]


def _edits(findings: NightlyFindings) -> EditLookup:
    """Edits by id, from the request logs beside both banks."""
    both = (findings.newest, findings.champion)
    stores = {scored.bank.store.root_uri for scored in both if scored is not None}
    lookups = [edits_of(RequestLog(ObjectStore(uri))) for uri in sorted(stores)]

    def look_up(edit_ids: Collection[str]) -> dict[str, EditRequest]:
        return {key: edit for lookup in lookups for key, edit in lookup(edit_ids).items()}

    return look_up
