"""What a run leaves in MLflow: once, also when it is resumed."""

from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from infra.tracking.model_registry import ModelRegistry
from infra.tracking.tracker import Tracker
from liveedit_core.evaluation.summaries import summarize
from liveedit_core.schema import ProbeKind
from pipelines.editing.mlflow_records import RunRecords
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.job.recipe_loader import load_recipe
from tests.unit.tiny_editing import OVERRIDES, Driver
from tests.unit.tiny_inputs import case
from tests.unit.tiny_results import probe_result


def records(root: Path) -> RunRecords:
    tracker = Tracker(root, experiment="liveedit", run_name="test")
    return RunRecords(tracker, ModelRegistry(tracker), state_file=root / "recorded.json")


def test_each_evaluation_is_recorded_once(run_root: Path) -> None:
    driver = Driver(run_root / "store")
    figure = run_root / "what-was-taught.png"
    figure.write_bytes(b"an image")
    for _ in range(2):
        outcome = driver.run([case(number) for number in range(6)])
        taken = records(run_root)
        taken.started(load_recipe(LifelongEditRecipe, None, OVERRIDES), {"python": "3.11"})
        for evaluation in outcome.evaluations:
            taken.evaluated(driver.bank, evaluation)
        taken.finished(driver.bank, [run_root / "no-report.html"], {"total_s": 1.0}, [figure])
        taken.end("FINISHED")
        assert taken.num_failures == 0

    client = MlflowClient(f"sqlite:///{run_root / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'liveedit'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["evaluation.at"] == "(1, 5)"
    history = client.get_metric_history(run.info.run_id, "reliability.teacher_forced")
    assert [metric.step for metric in history] == [1, 5, 6]
    figures = client.list_artifacts(run.info.run_id, "figures")
    assert [item.path for item in figures] == ["figures/what-was-taught.png"]
    versions = client.search_model_versions("name = 'liveedit-bank'")
    assert sorted(int(version.tags["num_edits"]) for version in versions) == [1, 5, 6]
    challenger = client.get_model_version_by_alias("liveedit-bank", "challenger")
    assert challenger.tags["num_edits"] == "6"
    for version in versions:
        model = client.get_logged_model((version.source or "").removeprefix("models:/"))
        steps = [m.step for m in model.metrics or [] if m.key == "reliability.teacher_forced"]
        assert steps == [int(version.tags["num_edits"])]


def test_the_generator_is_registered_after_what_was_held_back(run_root: Path) -> None:
    tracker = Tracker(run_root, experiment="liveedit", run_name="test")
    tracker.hold()
    taken = RunRecords(tracker, ModelRegistry(tracker), state_file=run_root / "recorded.json")
    taken.started(load_recipe(LifelongEditRecipe, None, OVERRIDES), {"python": "3.11"})
    assert tracker.run_id == ""
    folder = run_root / "generator"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    taken.generator(folder, "digest")
    client = MlflowClient(f"sqlite:///{run_root / 'mlflow.db'}")
    assert client.get_run(tracker.run_id).data.tags["python"] == "3.11"
    assert len(client.search_model_versions("name = 'liveedit-generator'")) == 1


def test_a_damaged_list_of_what_was_recorded_stops_no_run(run_root: Path) -> None:
    driver = Driver(run_root / "store")
    outcome = driver.run([case(number) for number in range(2)])
    (run_root / "recorded.json").write_bytes(b'["a", ')
    taken = records(run_root)
    for evaluation in outcome.evaluations:
        taken.evaluated(driver.bank, evaluation)
    taken.end("FINISHED")
    assert taken.num_failures == 0


def test_a_curve_is_recorded_once_beside_the_evaluations(run_root: Path) -> None:
    driver = Driver(run_root / "store")
    for _ in range(2):
        outcome = driver.run([case(n) for n in range(6)], "evaluation.curve_at=[1, 4]")
        taken = records(run_root)
        taken.curve(outcome.curve)
        taken.end("FINISHED")
    client = MlflowClient(f"sqlite:///{run_root / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'liveedit'")
    (run,) = client.search_runs([experiment.experiment_id])
    for name in ("reliability.teacher_forced", "reliability.teacher_forced.exact"):
        history = client.get_metric_history(run.info.run_id, f"curve.{name}")
        assert [metric.step for metric in history] == [1, 4]


def test_false_activations_are_recorded_beside_their_budget(run_root: Path) -> None:
    driver = Driver(run_root / "store")
    outcome = driver.run([case(n) for n in range(4)], "evaluation.curve_at=[4]")
    kind = ProbeKind.IMAGE_SWAP_LOCALITY
    summary = summarize([probe_result(kind=kind, kept=("another",))])
    taken = records(run_root)
    taken.evaluated(driver.bank, replace(outcome.evaluations[-1], summary=summary, budget=0.02))
    taken.curve([replace(outcome.curve[0], summary=summary, budget=0.02)])
    taken.end("FINISHED")
    client = MlflowClient(f"sqlite:///{run_root / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'liveedit'")
    (run,) = client.search_runs([experiment.experiment_id])
    for prefix in ("", "curve."):
        assert run.data.metrics[f"{prefix}false_activations.budget"] == 0.02
        assert run.data.metrics[f"{prefix}false_activations.measured"] == 1.0


def test_without_mlflow_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    driver = Driver(tmp_path / "store")
    outcome = driver.run([case(0)])
    taken = records(tmp_path)
    taken.evaluated(driver.bank, outcome.evaluations[0])
    assert taken.num_failures == 1
