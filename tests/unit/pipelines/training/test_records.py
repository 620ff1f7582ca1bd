"""What training leaves in the store and in MLflow, also when it is resumed or MLflow is away."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from infra.storage.object_store import ObjectStore
from infra.tracking.generator_checkpoints import GeneratorCheckpoints
from infra.tracking.model_registry import GENERATOR_MODEL, ModelRegistry
from infra.tracking.tracker import Tracker
from liveedit_core.method.generator import LiveEditGenerator, save_generator
from liveedit_core.training.recipe import DiagnosticsRecipe, Phase, PhaseSection
from liveedit_core.training.snapshot import Snapshot
from liveedit_core.training.validation import Validator
from pipelines.training.loop import Curve
from pipelines.training.recipe import KeepSection, TrainRecipe, ValidationSection
from pipelines.training.records import TrainingRecords, first_norm, recipe_digest
from tests.tiny_backbone import case
from tests.unit.tiny_models import CONFIG, TinyBackbone

RECIPE = TrainRecipe(
    prompt=PhaseSection(steps=2),
    experts=PhaseSection(steps=4),
    validation=ValidationSection(every_steps=2),
)


@dataclass
class Trainer:
    """A run whose steps are numbers in a LayerNorm."""

    generator: LiveEditGenerator = field(default_factory=lambda: LiveEditGenerator(CONFIG))
    curve: Curve = field(default_factory=list)

    def run(self, records: TrainingRecords, phase: Phase, first: int, last: int) -> None:
        for step in range(first, last):
            with torch.no_grad():
                self.generator.hidden_norm.weight.add_(1)
            figures = {"nll": 1.0 / (step + 1), "learning_rate": 1e-3}
            self.curve.append({"phase": phase, "step": step, **figures})
            records.on_step(phase, step, figures)
        moments = {"moment.hidden_norm.weight.step": torch.tensor(1.0)}
        snapshot = Snapshot(config=CONFIG, phase=phase, step=last, tensors=moments)
        records.on_checkpoint(self.generator, snapshot, self.curve)


def make_records(root: Path) -> TrainingRecords:
    tracker = Tracker(root, experiment="liveedit", run_name="training")
    limits = DiagnosticsRecipe(max_norm_ratio=1.0001)
    return TrainingRecords(
        RECIPE,
        tracker=tracker,
        registry=ModelRegistry(tracker),
        checkpoints=GeneratorCheckpoints(ObjectStore(root / "store"), "training", last_k=1),
        state_file=root / "recorded.json",
        validate=Validator(TinyBackbone(), [case(0), case(1)], num_cases=1, limits=limits),
    )


def test_a_resumed_run_is_recorded_like_an_undisturbed_one(
    run_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = Trainer()
    records = make_records(run_root)
    records.started({"python": "3.11"})
    trainer.run(records, "prompt", 0, 2)
    records.on_step("experts", 0, {"nll": 1.0, "learning_rate": 1e-3})  # then it was killed
    records = make_records(run_root)
    trainer.run(records, "experts", 0, 2)
    trainer.run(records, "experts", 2, 4)
    folder = run_root / "result"
    save_generator(trainer.generator.half(), folder)
    digest = records.finished(folder)
    records.tracker.end()

    client = MlflowClient(f"sqlite:///{run_root / 'mlflow.db'}")
    run_id = records.tracker.connect().run_id
    history = client.get_metric_history(run_id, "experts.nll")
    assert [(m.step, m.value) for m in history] == [(2, 1), (3, 1 / 2), (4, 1 / 3), (5, 1 / 4)]
    averages = client.get_metric_history(run_id, "validation.average")
    assert sorted({metric.step for metric in averages}) == [2, 4, 6]
    assert client.get_metric_history(run_id, "routing.own_kept")
    assert first_norm(trainer.curve) > 0

    versions = client.search_model_versions(f"name = '{GENERATOR_MODEL}'")
    made_at = {v.version: (v.tags.get("phase"), v.tags.get("step")) for v in versions}
    assert list(made_at.values())[::-1] == [
        ("prompt", "2"),
        ("experts", "2"),
        ("experts", "4"),
        (None, None),
    ]
    last = client.get_model_version_by_alias(GENERATOR_MODEL, "last")
    assert last.tags["digest"] == digest
    best = client.get_model_version_by_alias(GENERATOR_MODEL, "best")
    kept = {entry.digest for entry in records.checkpoints.entries()}
    assert best.tags["digest"] in kept
    dropped = {v.tags["digest"] for v in versions if v.tags.get("dropped") == "true"}
    assert dropped.isdisjoint(kept | {digest})
    assert len(dropped) == 3 - len(kept)
    model = client.get_logged_model((best.source or "").removeprefix("models:/"))
    assert "validation.average" in {metric.key for metric in model.metrics or []}
    assert "The largest expert has norm" in caplog.text


def test_without_mlflow_training_goes_on_and_later_catches_up(
    run_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer()
    with monkeypatch.context() as outage:
        outage.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        outage.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        records = make_records(run_root)
        trainer.run(records, "prompt", 0, 2)
        assert records.num_failures == 1
    state = records.checkpoints.resume()
    assert state is not None
    assert (state.position.phase, state.position.step) == ("prompt", 2)
    assert state.position.recipe_digest == recipe_digest(RECIPE)
    assert state.position.curve[-1]["validation.average"] == state.entry.score

    records = make_records(run_root)
    trainer.run(records, "experts", 0, 2)
    client = MlflowClient(f"sqlite:///{run_root / 'mlflow.db'}")
    run_id = records.tracker.connect().run_id
    assert len(client.get_metric_history(run_id, "prompt.nll")) == 2
    registered = client.search_model_versions(f"name = '{GENERATOR_MODEL}'")
    kept = {entry.digest for entry in records.checkpoints.entries()}
    assert {version.tags["digest"] for version in registered} == kept
    averages = client.get_metric_history(run_id, "validation.average")
    assert sorted(metric.step for metric in averages) == [2, 4]


def test_where_runs_lie_does_not_change_the_recipe() -> None:
    moved = TrainRecipe(run_root="elsewhere", keep=KeepSection(last_k=9))
    assert recipe_digest(moved) == recipe_digest(TrainRecipe())
    assert recipe_digest(TrainRecipe(seed=2)) != recipe_digest(TrainRecipe())
