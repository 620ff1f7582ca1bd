"""What a run records in MLflow; an outage of MLflow never stops a run."""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from infra.bank.expert_bank import ExpertBank
from infra.tracking.model_registry import BANK_MODEL, ModelRegistry
from infra.tracking.tracker import Tracker
from liveedit_core.errors import StorageUnavailableError, TrackingError
from liveedit_core.evaluation.false_activations import false_activation_values
from liveedit_core.evaluation.retention import retention_values
from liveedit_core.evaluation.summaries import metric_values, variant_values
from liveedit_core.whole_files import state_of, write_whole
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.evaluation.bank_evaluation import BankEvaluation
from pipelines.job.recipe_loader import to_flat_dict
from pipelines.job.registered_models import RecordedBackbone, recorded_backbone

_logger = logging.getLogger(__name__)


class RunRecords:
    """Parameters, metrics by number of edits, and registered versions of one run."""

    def __init__(self, tracker: Tracker, registry: ModelRegistry, *, state_file: Path) -> None:
        """`state_file` lists the recorded evaluations, so that a resumed run skips them."""
        self._tracker = tracker
        self._registry = registry
        self._state_file = state_file
        self._backbone: RecordedBackbone = {}
        recorded = state_of(state_file)
        self._recorded = set(map(str, recorded)) if isinstance(recorded, list) else set()
        self.num_failures = 0
        """Registrations that failed because of an outage; the next start retries them."""

    @property
    def tracking_uri(self) -> str:
        """Where MLflow is."""
        return self._tracker.tracking_uri

    def started(self, config: LifelongEditRecipe, facts: Mapping[str, str]) -> None:
        """Record settings and facts of the run."""
        self._backbone = recorded_backbone(config.backbone)
        self._tracker.log_params(to_flat_dict(config))
        self._tracker.set_tags(facts)

    def generator(self, folder: Path, digest: str) -> None:
        """Send what the tracker held back, and register the generator checkpoint."""
        self._tracker.flush_spool()
        with self._tolerated():
            self._registry.register_generator(folder, digest=digest)

    def evaluated(self, bank: ExpertBank, evaluation: BankEvaluation) -> None:
        """Register a bank version and record its metrics."""
        model_id = ""
        with self._tolerated():
            registered = self._registry.register_bank_version(
                bank, evaluation.bank_version, **self._backbone
            )
            model_id = registered.model_id
        key = f"{bank.name}:{evaluation.bank_version}:{evaluation.num_edits}"
        metrics = {
            **metric_values(evaluation.summary),
            **variant_values(evaluation.by_variant),
            **false_activation_values(evaluation.summary, evaluation.budget),
        }
        self._record_once(key, evaluation, metrics, model_id)
        self._tracker.set_tags({"comparable_group": str(evaluation.comparable_group)})

    def curve(self, points: Sequence[BankEvaluation]) -> None:
        """Record a lifelong curve."""
        for point in points:
            values = {
                **metric_values(point.summary),
                **retention_values(point.retention),
                **false_activation_values(point.summary, point.budget),
            }
            metrics = {f"curve.{name}": value for name, value in values.items()}
            key = f"curve {point.bank}:{point.bank_version}:{point.num_edits}"
            self._record_once(key, point, metrics)

    def _record_once(
        self,
        key: str,
        evaluation: BankEvaluation,
        metrics: Mapping[str, float],
        model_id: str = "",
    ) -> None:
        if key not in self._recorded or evaluation.num_new_results:
            self._tracker.log_metrics(metrics, step=evaluation.num_edits, model_id=model_id)
            self._recorded.add(key)
            try:
                write_whole(self._state_file, json.dumps(sorted(self._recorded)))
            except OSError as error:  # the next start records it again, which counts once
                _logger.warning("%s cannot be written: %s", self._state_file, error)

    def finished(
        self,
        bank: ExpertBank,
        files: Sequence[Path],
        metrics: Mapping[str, float],
        figures: Sequence[Path] = (),
    ) -> None:
        """Register the newest bank version as the challenger; record metrics, files and figures."""
        num_edits = bank.num_edits()
        self._tracker.log_metrics(dict(metrics), step=num_edits)
        for file in files:
            self._tracker.log_artifact(file)
        for figure in figures:
            self._tracker.log_artifact(figure, "figures")
        self.register_newest(bank)

    def register_newest(self, bank: ExpertBank) -> None:
        """Register the newest bank version, if any, as the challenger."""
        windows = bank.history()
        if windows:
            with self._tolerated():
                newest = self._registry.register_bank_version(
                    bank, windows[-1].version, **self._backbone
                )
                self._registry.versions().set_alias(BANK_MODEL, "challenger", newest.version)

    def followed(self, bank: ExpertBank, lag_s: float) -> None:
        """Record the progress of the continuous mode."""
        metrics = {"num_edits": float(bank.num_edits()), "lag_s": lag_s}
        self._tracker.log_metrics(metrics, step=bank.version)

    def end(self, status: str) -> None:
        """Record how the run ended: "FINISHED", "FAILED" or "KILLED"."""
        self._tracker.end(status)

    @contextlib.contextmanager
    def _tolerated(self) -> Iterator[None]:
        try:
            yield
        except (TrackingError, StorageUnavailableError) as error:
            self.num_failures += 1
            _logger.warning("%s; the next start of this run retries it", error)
