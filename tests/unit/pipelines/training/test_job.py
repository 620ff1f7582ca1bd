"""The training job: what it leaves behind, and that an interrupted one ends like another."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from infra.storage.object_store import ObjectStore
from infra.tracking.generator_checkpoints import CheckpointEntry, GeneratorCheckpoints
from liveedit_core.errors import ConfigError
from liveedit_core.method.generator import load_generator
from liveedit_core.schema import Case
from liveedit_core.training.recipe import PhaseSection
from liveedit_core.training.snapshot import StepFigures
from pipelines.training.job import TrainingResult, do_training, seconds_of_training
from pipelines.training.loop import GeneratorTrainer
from pipelines.training.recipe import CheckpointSection, KeepSection, TrainRecipe, ValidationSection
from tests.tiny_backbone import case, tiny_backbone
from tests.tiny_training import TINY_KEY, TINY_MODEL, tiny_material

HELD_OUT = [case(number) for number in range(20, 24)]
PROMPT, JOINT = PhaseSection(steps=1, batch_size=3), PhaseSection(steps=3, batch_size=3)


def tiny_recipe(root: Path) -> TrainRecipe:
    return TrainRecipe(
        seed=5,
        run_root=str(root),
        run_name="tiny",
        model=TINY_MODEL,
        visual_key=TINY_KEY,
        prompt=PROMPT,
        joint=JOINT,
        checkpoint=CheckpointSection(every_steps=2, is_half=False),
        keep=KeepSection(last_k=1),
        validation=ValidationSection(every_steps=2, num_cases=2, bank_edits=4),
    )


def train(recipe: TrainRecipe, held_out: Sequence[Case] = HELD_OUT) -> TrainingResult:
    return do_training(recipe, tiny_backbone(), tiny_material(), held_out, {"git_commit": "abc"})


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> TrainRecipe:
    root = tmp_path_factory.mktemp("runs")
    shutil.copy(empty_database, root / "mlflow.db")
    return tiny_recipe(root)


@pytest.fixture(scope="module")
def finished(recipe: TrainRecipe) -> TrainingResult:
    return train(recipe)


class InterruptedRunError(Exception):
    """Raised in the middle of a run."""


def interrupt(recipe: TrainRecipe, at: str) -> None:
    """Begin a run that is killed in the phase joint."""
    with pytest.MonkeyPatch.context() as patch:
        if at == "a step":
            record = GeneratorTrainer.record

            def record_or_fail(self: GeneratorTrainer, done: StepFigures, num_steps: int) -> None:
                record(self, done, num_steps)
                if (self.snapshot.phase, self.snapshot.step) == ("joint", 2):
                    raise InterruptedRunError

            patch.setattr(GeneratorTrainer, "record", record_or_fail)
        else:
            save = GeneratorCheckpoints.save

            def save_or_fail(self: GeneratorCheckpoints, *args: Any) -> CheckpointEntry:
                if args[2].step == 3:
                    raise InterruptedRunError
                return save(self, *args)

            patch.setattr(GeneratorCheckpoints, "save", save_or_fail)
        with pytest.raises(InterruptedRunError):
            train(recipe, [])


def test_an_interrupted_run_ends_like_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while MLflow is away, which never stops training."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    recipe = tiny_recipe(tmp_path)
    undisturbed = train(recipe.with_changes(run_name="undisturbed"), [])
    assert "There was no validation." in undisturbed.report.read_text()
    assert undisturbed.num_record_failures
    for at, store in (("a step", ""), ("a checkpoint", str(tmp_path / "elsewhere"))):
        broken = recipe.with_changes(
            run_name=at.replace(" ", "-"), keep=KeepSection(store=store, last_k=1)
        )
        interrupt(broken, at)
        resumed = train(broken, [])
        assert resumed.digest == undisturbed.digest
        curve = json.loads((undisturbed.folder / "curve.json").read_text())
        assert json.loads((resumed.folder / "curve.json").read_text()) == curve


def test_what_a_run_leaves_behind(recipe: TrainRecipe, finished: TrainingResult) -> None:
    generator = load_generator(finished.folder)
    assert generator.digest == finished.digest
    checkpoints = GeneratorCheckpoints(ObjectStore(recipe.run_folder / "store"), "tiny")
    checkpoints.fetch(finished.digest, recipe.run_folder / "fetched")
    last = checkpoints.last()
    assert last is not None
    assert (last.phase, last.step) == ("joint", 3)
    assert last.score is not None
    text = finished.report.read_text()
    assert "Joint: losses" in text
    assert "of 4 training entities that were held out" in text
    client = MlflowClient(finished.tracking_uri)
    (experiment,) = client.search_experiments(filter_string="name = 'liveedit-training'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert {"joint.reliability", "joint.own_kept", "validation.average"} <= set(run.data.metrics)
    state, seconds = checkpoints.resume(), seconds_of_training(finished.folder)
    assert state is not None
    assert seconds == state.position.seconds > 0
    again = train(recipe)  # nothing is left to do
    assert again.digest == finished.digest
    assert seconds_of_training(again.folder) == seconds
    assert seconds_of_training(again.folder.parent) is None


def test_another_recipe_does_not_go_on_with_a_run(
    recipe: TrainRecipe, finished: TrainingResult
) -> None:
    with pytest.raises(ConfigError, match="another run_name"):
        train(recipe.with_changes(joint=PhaseSection(steps=4, batch_size=3)))
