"""What a night leaves in MLflow and on disk: metrics tied to bank versions, pages, figures.

An outage of MLflow stops nothing: metrics and pages wait in the spool of the run.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from infra.reports.data import ComparisonReportData, CurvePoint, EvaluationReportData
from infra.reports.metrics import draw_metric_plots
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.tracking.tracker import Tracker
from liveedit_core.errors import TrackingError
from liveedit_core.evaluation.summaries import metric_values
from liveedit_core.schema import EditRequest
from pipelines.evaluation.examples import EditLookup, edits_of
from pipelines.evaluation.pages import (
    evaluated_version,
    write_comparison_page,
    write_evaluation_page,
)
from pipelines.job.recipe_loader import to_flat_dict
from pipelines.job.run_folder import run_facts
from pipelines.operations.nightly import Examined, Findings
from pipelines.operations.recipe import NightlyRecipe

CHAMPION_PREFIX = "champion."
"""Of the champion's metrics in the run of a night; the plain names are the newest version's."""


class NightlyRecords:
    """The MLflow run and the pages of one night."""

    def __init__(self, recipe: NightlyRecipe, label: str) -> None:
        """Name the run; nothing is sent yet.

        Args:
            recipe: Says where.
            label: The date.
        """
        self._recipe = recipe
        self._label = label
        self.folder = recipe.run_folder / label

    def evaluated(self, findings: Findings) -> str:
        """Write the pages, then send everything; returns the MLflow run, "" in an outage."""
        tracker = Tracker(
            Path(self._recipe.run_root),
            experiment=self._recipe.tracking.experiment,
            run_name=f"{self._recipe.run_name}-{self._label}",
        )
        facts = run_facts()
        pages = self._write_pages(findings, facts)
        tracker.log_params(to_flat_dict(self._recipe))
        tracker.set_tags({**facts, **self._tags(findings)})
        self._log_metrics(tracker, findings)
        for page in pages:
            tracker.log_artifact(page, "figures" if page.suffix == ".png" else "")
        tracker.end()
        try:
            return tracker.connect().run_id
        except TrackingError:
            return ""

    def _tags(self, findings: Findings) -> dict[str, str]:
        champion = findings.champion
        return {
            "night": self._label,
            "newest_version": str(findings.newest.registered.version),
            "champion_version": str(champion.registered.version) if champion else "none",
            "regressions": ", ".join(item.name for item in findings.regressions) or "none",
        }

    def _log_metrics(self, tracker: Tracker, findings: Findings) -> None:
        """Each value belongs to the run and, by `model_id`, to the version it is about."""
        newest, champion = findings.newest, findings.champion
        for examined, prefix in ((newest, ""), (champion, CHAMPION_PREFIX)):
            if examined is not None:
                values = metric_values(examined.summary)
                tracker.log_metrics(
                    {f"{prefix}{name}": value for name, value in values.items()},
                    step=examined.evaluation.num_edits,
                    model_id=examined.registered.model_id,
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

    def _write_pages(self, findings: Findings, facts: Mapping[str, str]) -> list[Path]:
        seed, edits = self._recipe.seed, _edits(findings)
        versions, points, pages = [], [], []
        for label, examined in (("newest", findings.newest), ("champion", findings.champion)):
            if examined is None:
                continue
            summary, num_edits = examined.summary, examined.evaluation.num_edits
            versions.append(evaluated_version(examined.evaluation, label))
            points.append(CurvePoint(num_edits=num_edits, summary=summary))
            data = EvaluationReportData(
                version=versions[-1],
                summary=summary,
                seed=seed,
                facts={**facts, "registered as": _name(examined)},
                duration_s=examined.evaluation.seconds,
            )
            path = self.folder / f"{label}.html"
            pages.append(write_evaluation_page(path, data, cases=findings.cases, edits=edits))
        if findings.champion is not None:
            new, old = versions
            comparison = ComparisonReportData(
                old=old,
                new=new,
                seed=seed,
                facts=facts,
                comparisons=findings.comparisons,
                warnings=[f"regression: {item.sentence()}" for item in findings.regressions],
            )
            page = write_comparison_page(
                self.folder / "comparison.html",
                comparison,
                cases=findings.cases,
                edits=edits,
                held=findings.compared,
            )
            pages.append(page)
        return [*pages, *draw_metric_plots(self.folder, points[::-1])]


def _name(examined: Examined) -> str:
    return f"{examined.registered.name} {examined.registered.version}"


def _edits(findings: Findings) -> EditLookup:
    """Edits by id, from the request logs beside both banks."""
    both = (findings.newest, findings.champion)
    stores = {examined.bank.store.root_uri for examined in both if examined is not None}
    lookups = [edits_of(RequestLog(ObjectStore(uri))) for uri in sorted(stores)]

    def look_up(edit_ids: Collection[str]) -> dict[str, EditRequest]:
        found: dict[str, EditRequest] = {}
        for lookup in lookups:
            found.update(lookup(edit_ids))
        return found

    return look_up
