"""What a training run writes to the store and to MLflow, step by step.

    on_step         losses, accuracies, learning rate                     -> MLflow
    on_checkpoint   validation when it is due; checkpoint, last k and best -> store, MLflow
    finished        the result and its report                             -> store, MLflow

An MLflow outage never stops training: metrics wait in the tracker's spool, registrations are
retried at the next checkpoint and at the next start. A store that fails does stop it, as training
without checkpoints would lose the work.
"""

import contextlib
import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from infra.tracking.generator_checkpoints import CheckpointEntry, GeneratorCheckpoints, Position
from infra.tracking.model_registry import GENERATOR_MODEL, ModelRegistry
from infra.tracking.tracker import Tracker
from liveedit_core.errors import TrackingError
from liveedit_core.method.generator import CONFIG_FILE, LiveEditGenerator
from liveedit_core.training.snapshot import Snapshot
from liveedit_core.training.validation import ValidationReport
from liveedit_core.whole_files import state_of
from pipelines.job.recipe_loader import to_dict, to_flat_dict
from pipelines.job.sections import ActorSection
from pipelines.training.loop import Curve
from pipelines.training.recipe import TrainRecipe

_logger = logging.getLogger(__name__)

NEUTRAL = frozenset(
    {"run_root", "sharding", "states", "checkpoint", "keep", "diagnostics", "layer_search"}
)
"""Settings that change where and how a run is computed and kept, not its result."""
Validate = Callable[[LiveEditGenerator], ValidationReport]


class TrainingRecords:
    """Records of one run; `state_file` keeps what was recorded, so that a resumed run does not
    repeat it."""

    def __init__(
        self,
        recipe: TrainRecipe,
        *,
        tracker: Tracker,
        registry: ModelRegistry,
        checkpoints: GeneratorCheckpoints,
        state_file: Path,
        validate: Validate | None = None,
    ) -> None:
        self.recipe = recipe
        self.phase_steps: dict[str, int] = {
            name: phase.steps for name, phase in recipe.plan.phases.items() if phase.steps
        }
        self.tracker = tracker
        self.registry = registry
        self.checkpoints = checkpoints
        self.state_file = state_file
        self.validate = validate
        self.last_report: ValidationReport | None = None
        """Of the newest validation in this process."""
        self.num_failures = 0
        """Registrations that MLflow did not take in this process."""
        found = state_of(state_file)
        state: dict[str, Any] = found if isinstance(found, dict) else {}
        self._last_step: int = state.get("last_step", -1)
        self._run_id: str = state.get("run_id", "")
        self._versions: dict[str, int] = state.get("versions", {})
        self._pending: dict[str, dict[str, Any]] = state.get("pending", {})
        """Validations by checkpoint whose model version is not registered yet."""

    def started(self, facts: Mapping[str, str]) -> None:
        """Record the configuration of the run."""
        self.tracker.log_params(to_flat_dict(self.recipe))
        self.tracker.set_tags(facts)

    def on_step(self, phase: str, step: int, figures: Mapping[str, float]) -> None:
        """Record one optimizer step, counted from 0 in its phase."""
        total = self.total_step(phase, step)
        if total <= self._last_step:
            return  # a resumed run repeats the steps after its checkpoint, with the same numbers
        values = {f"{phase}.{name}": value for name, value in figures.items()}
        self.tracker.log_metrics(values, step=total)
        self._last_step = total
        self._save_state()

    def on_checkpoint(self, generator: LiveEditGenerator, snapshot: Snapshot, curve: Curve) -> None:
        """Validate if it is due, write the checkpoint, register what is kept.

        A validation is appended to the curve.
        """
        report = self._validation(generator, snapshot, curve)
        position = Position(
            phase=snapshot.phase,
            step=snapshot.step,
            seed=self.recipe.seed,
            recipe_digest=recipe_digest(self.recipe),
            curve=list(curve),
            seconds=round(snapshot.seconds, 3),
        )
        score = report.score if report is not None else None
        entry = self.checkpoints.save(generator, snapshot.moments, position, score)
        if report is not None:
            total = self.total_step(snapshot.phase, snapshot.step)
            self._pending[entry.digest] = {"step": total, "figures": report.figures}
            self._save_state()
        self._register_kept()

    def finished(self, folder: Path, report: Path | None = None) -> str:
        """Publish the generator, register it as `last`, record the report; returns the digest."""
        digest = self.checkpoints.publish(folder)
        self._register_kept()
        for waiting in list(self._pending):  # MLflow is away: the spool takes them
            self._log_pending(waiting)
        self._save_state()
        metrics = self.last_report.figures if self.last_report is not None else {}
        with self._tolerated():
            done = self.registry.register_generator(
                folder, digest=digest, metrics=metrics, step=sum(self.phase_steps.values())
            )
            self.registry.versions().set_alias(GENERATOR_MODEL, "last", done.version)
        if report is not None:
            self.tracker.log_artifact(report)
        return digest

    def total_step(self, phase: str, step: int) -> int:
        """Steps since the beginning of the run."""
        before = 0
        for name, steps in self.phase_steps.items():
            if name == phase:
                return before + step
            before += steps
        return step  # before the first phase: the visual key's closed form

    def _validation(
        self, generator: LiveEditGenerator, snapshot: Snapshot, curve: Curve
    ) -> ValidationReport | None:
        """None if no validation is due."""
        phase, step, every = snapshot.phase, snapshot.step, self.recipe.validation.every_steps
        is_end = step >= self.phase_steps.get(phase, 0)
        is_due = is_end or (every > 0 and step % every == 0)
        if self.validate is None or not is_due:
            return None
        report = self.last_report = self.validate(generator)
        curve.append({"phase": phase, "step": step, **report.figures})
        for warning in report.warnings:
            _logger.warning("%s %d: %s", phase, step, warning)
        return report

    def _register_kept(self) -> None:
        """Register the checkpoints that are kept; set the aliases last and best."""
        entries = self.checkpoints.entries()
        with self._tolerated():
            if self._run_id not in ("", self.tracker.run_id):
                self._versions = {}  # the run was deleted and made again: so may its models be
            self._run_id = self.tracker.run_id
            for entry in entries:
                if entry.digest not in self._versions:
                    self._register(entry)
            aliases = {"last": self.checkpoints.last(), "best": self.checkpoints.best()}
            for alias, chosen in aliases.items():
                if chosen is not None:
                    version = self._versions[chosen.digest]
                    self.registry.versions().set_alias(GENERATOR_MODEL, alias, version)
            for digest in set(self._versions) - {entry.digest for entry in entries}:
                version = self._versions[digest]
                self.registry.versions().set_tags(GENERATOR_MODEL, version, {"dropped": "true"})
                del self._versions[digest]
        for digest in set(self._pending) - {entry.digest for entry in entries}:
            self._log_pending(digest)  # dropped before MLflow was back
        self._save_state()

    def _register(self, entry: CheckpointEntry) -> None:
        """Register a checkpoint; its validation becomes that of the model version."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = self.checkpoints.fetch(entry.digest, Path(scratch))
            config_text = (folder / CONFIG_FILE).read_text()
        registered = self.registry.register_checkpoint(
            config_text,
            digest=entry.digest,
            store_uri=self.checkpoints.store.root_uri,
            tags={
                "run_name": self.checkpoints.run_name,
                "phase": entry.phase,
                "step": str(entry.step),
            },
        )
        self._versions[entry.digest] = registered.version
        if entry.digest in self._pending:
            self._log_pending(entry.digest, registered.model_id)
        self._save_state()

    def _log_pending(self, digest: str, model_id: str = "") -> None:
        pending = self._pending.pop(digest)
        self.tracker.log_metrics(pending["figures"], step=pending["step"], model_id=model_id)

    def _save_state(self) -> None:
        state = {
            "last_step": self._last_step,
            "run_id": self._run_id,
            "versions": self._versions,
            "pending": self._pending,
        }
        self.state_file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.state_file.with_name(f".{self.state_file.name}.tmp")
        partial.write_text(json.dumps(state))
        partial.replace(self.state_file)

    @contextlib.contextmanager
    def _tolerated(self) -> Iterator[None]:
        try:
            yield
        except TrackingError as error:
            self.num_failures += 1
            _logger.warning("%s; the next checkpoint retries", error)


def recipe_digest(recipe: TrainRecipe) -> str:
    """sha256 of all settings that determine the weights, which a resumed run must keep."""
    tree = {key: value for key, value in to_dict(recipe).items() if key not in NEUTRAL}
    if isinstance(backbone := tree.get("backbone"), dict):
        tree["backbone"] = {key: value for key, value in backbone.items() if key != "device"}
    if isinstance(validation := tree.get("validation"), dict):
        places = ActorSection.model_fields
        tree["validation"] = {key: validation[key] for key in validation if key not in places}
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def first_norm(curve: Curve) -> float:
    """`expert_norm_median` of the first validation in a curve; 0 without one."""
    norms = (row.get("routing.expert_norm_median") for row in curve)
    return next((float(norm) for norm in norms if norm is not None), 0.0)
