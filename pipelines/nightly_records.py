"""What a night leaves in MLflow and on disk: metrics tied to bank versions, pages, figures.

An outage of MLflow stops nothing: metrics and pages wait in the spool of the run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.object_store import ObjectStore
from infra.request_log import RequestLog
from infra.tracking import Tracker
from liveedit_core.errors import TrackingError
from liveedit_core.schema import Case
from pipelines.evaluation_pages import (
    EditLookup,
    ExaminedVersion,
    differences_of,
    edits_of,
    write_comparison_page,
    write_evaluation_page,
    write_figures,
)
from pipelines.nightly_config import NightlyRecipe
from pipelines.nightly_job import Examined
from pipelines.recipe_loader import to_flat_dict
from pipelines.regressions import MetricComparison
from pipelines.run_folder import run_facts
from pipelines.run_records import metric_values

CHAMPION_PREFIX = "champion."


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

    def evaluated(
        self,
        newest: Examined,
        champion: Examined | None,
        comparisons: Sequence[MetricComparison],
        cases: Sequence[Case],
    ) -> str:
        """Write the pages, then send everything; returns the MLflow run, "" in an outage."""
        tracker = Tracker(
            Path(self._recipe.run_root),
            experiment=self._recipe.tracking.experiment,
            run_name=f"{self._recipe.run_name}-{self._label}",
        )
        facts = run_facts()
        pages = self._write_pages(newest, champion, comparisons, cases, facts)
        regressions = [item.name for item in comparisons if item.is_regression]
        tracker.log_params(to_flat_dict(self._recipe))
        tracker.set_tags(
            {
                **facts,
                "night": self._label,
                "newest_version": str(newest.registered.version),
                "champion_version": str(champion.registered.version) if champion else "none",
                "regressions": ", ".join(regressions) or "none",
            }
        )
        self._log_metrics(tracker, newest, prefix="")
        if champion is not None:
            self._log_metrics(tracker, champion, prefix=CHAMPION_PREFIX)
        if comparisons:
            differences = {f"difference.{item.name}": item.difference.mean for item in comparisons}
            tracker.log_metrics(
                {**differences, "num_regressions": float(len(regressions))},
                step=newest.evaluation.num_edits,
                model_id=newest.registered.model_id,
            )
        for page in pages:
            tracker.log_artifact(page, "figures" if page.suffix == ".png" else "")
        tracker.end()
        try:
            return tracker.connect().run_id
        except TrackingError:
            return ""

    def _log_metrics(self, tracker: Tracker, examined: Examined, *, prefix: str) -> None:
        values = metric_values(examined.summary)
        tracker.log_metrics(
            {f"{prefix}{name}": value for name, value in values.items()},
            step=examined.evaluation.num_edits,
            model_id=examined.registered.model_id,
        )

    def _write_pages(
        self,
        newest: Examined,
        champion: Examined | None,
        comparisons: Sequence[MetricComparison],
        cases: Sequence[Case],
        facts: Mapping[str, str],
    ) -> list[Path]:
        seed = self._recipe.seed
        edits = _edits(newest, champion)
        new = _view("newest", newest)
        pages = [
            write_evaluation_page(
                self.folder / "newest.html",
                new,
                cases=cases,
                edits=edits,
                seed=seed,
                facts=facts,
                duration_s=newest.evaluation.seconds,
            )
        ]
        if champion is None:
            return [*pages, *write_figures(self.folder, [new], seed=seed)]
        old = _view("champion", champion)
        pages.append(
            write_evaluation_page(
                self.folder / "champion.html",
                old,
                cases=cases,
                edits=edits,
                seed=seed,
                facts=facts,
                duration_s=champion.evaluation.seconds,
            )
        )
        pages.append(
            write_comparison_page(
                self.folder / "comparison.html",
                old,
                new,
                cases=cases,
                edits=edits,
                seed=seed,
                facts=facts,
                differences=differences_of(comparisons),
            )
        )
        return [*pages, *write_figures(self.folder, [old, new], seed=seed)]


def _view(label: str, examined: Examined) -> ExaminedVersion:
    evaluation = examined.evaluation
    return ExaminedVersion(
        label=label,
        bank=evaluation.bank,
        bank_version=evaluation.bank_version,
        num_edits=evaluation.num_edits,
        results=evaluation.results,
        is_complete=evaluation.is_complete,
    )


def _edits(newest: Examined, champion: Examined | None) -> EditLookup:
    """Edits by id, from the request logs of both banks; a log that is gone shows ids only."""
    stores = {item.bank.store_uri for item in (newest, champion) if item is not None}
    lookups = [edits_of(RequestLog(ObjectStore(uri))) for uri in sorted(stores)]

    def look_up(edit_ids):  # type: ignore[no-untyped-def]
        found = {}
        for lookup in lookups:
            found.update(lookup(edit_ids))
        return found

    return look_up
