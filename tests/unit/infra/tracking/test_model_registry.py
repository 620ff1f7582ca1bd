"""Generator checkpoints and bank versions in a real MLflow registry."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient

from infra.bank.compaction import Compaction
from infra.bank.expert_bank import ExpertBank
from infra.bank.policy import GrowthPolicy
from infra.storage.object_store import ObjectStore
from infra.tracking.model_registry import BANK_MODEL, GENERATOR_MODEL, ModelRegistry
from infra.tracking.tracker import Tracker
from liveedit_core.errors import InputError, IntegrityError, TrackingError
from tests.small_rows import SMALL_IDENTITY, small_row


@pytest.fixture
def tracker(run_root: Path) -> Tracker:
    return Tracker(run_root, experiment="tests", run_name="run-1")


@pytest.fixture
def registry(tracker: Tracker) -> ModelRegistry:
    return ModelRegistry(tracker)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "generator"
    folder.mkdir()
    (folder / "config.json").write_text('{"rank": 4}')
    (folder / "generator.safetensors").write_bytes(b"tensors")
    return folder


@pytest.fixture
def bank(store: ObjectStore) -> ExpertBank:
    bank = ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
    epoch = bank.acquire_writer()
    for sequence in (1, 2):
        bank.commit(bank.fragment_writer().write([small_row(sequence)]), epoch=epoch)
    return bank


def test_a_generator_is_registered_once_per_digest(
    registry: ModelRegistry, tracker: Tracker, checkpoint: Path
) -> None:
    first = registry.register_generator(checkpoint, digest="d1", metrics={"loss": 0.5})
    assert registry.register_generator(checkpoint, digest="d1") == first
    second = registry.register_generator(checkpoint, digest="d2")
    assert (first.name, first.version, second.version) == (GENERATOR_MODEL, 1, 2)
    assert first.tags["digest"] == "d1"

    model = MlflowClient(tracker.tracking_uri).get_logged_model(first.model_id)
    assert [(metric.key, metric.value) for metric in model.metrics or []] == [("loss", 0.5)]
    assert model.status == "READY"


def test_the_files_come_back_through_the_registered_version(
    registry: ModelRegistry, tracker: Tracker, checkpoint: Path, tmp_path: Path
) -> None:
    first = registry.register_generator(checkpoint, digest="d1")
    model = MlflowClient(tracker.tracking_uri).get_logged_model(first.model_id)
    folder = Path(model.artifact_location.removeprefix("file://"))
    assert (folder / "generator.safetensors").read_bytes() == b"tensors"
    version = MlflowClient(tracker.tracking_uri).get_model_version(first.name, "1")
    assert version.source == f"models:/{first.model_id}"
    assert version.run_id == tracker.connect().run_id


def test_a_bank_version_is_registered_once_with_its_manifest(
    registry: ModelRegistry, tracker: Tracker, bank: ExpertBank
) -> None:
    versions = [window.version for window in bank.history()]
    first = registry.register_bank_version(bank, versions[0], metrics={"reliability": 1.0})
    second = registry.register_bank_version(bank, versions[1], backbone="other")
    assert registry.register_bank_version(bank, versions[0]) == first
    assert (first.name, first.version, second.version) == (BANK_MODEL, 1, 2)

    manifest = registry.versions().manifest(first)
    assert (manifest.backbone, manifest.num_edits) == ("builtin", 1)
    assert registry.versions().manifest(second).backbone == "other"
    reopened = manifest.verified_bank("liveedit-bank 1")
    assert reopened.edit_ids(manifest.bank_version) == bank.edit_ids(versions[0])
    model = MlflowClient(tracker.tracking_uri).get_logged_model(first.model_id)
    assert [(metric.key, metric.step) for metric in model.metrics or []] == [("reliability", 1)]


def test_a_registered_version_outlives_clean_up_even_if_mlflow_never_heard_of_it(
    bank: ExpertBank, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    registry = ModelRegistry(Tracker(tmp_path / "runs", experiment="tests", run_name="down"))
    first, second = (window.version for window in bank.history())
    edits = bank.edit_ids(first)
    with pytest.raises(TrackingError):
        registry.register_bank_version(bank, first)
    policy = GrowthPolicy(keep_versions=1, keep_days=0.0)
    report = Compaction(store, bank.name, policy).run(now=datetime.now(UTC) + timedelta(days=1))
    assert first not in report.versions_removed
    assert second not in report.versions_removed
    assert report.versions_removed != ()
    assert bank.edit_ids(first) == edits


def test_versions_are_found_by_alias_and_number(registry: ModelRegistry, bank: ExpertBank) -> None:
    numbers = [window.version for window in bank.history()]
    registered = [registry.register_bank_version(bank, number) for number in numbers]
    versions = registry.versions()
    assert versions.all(BANK_MODEL) == registered
    assert versions.all("nothing") == []
    assert versions.find("models:/liveedit-bank/2") == registered[1]
    versions.set_alias(BANK_MODEL, "champion", 1)
    assert versions.find("models:/liveedit-bank@champion") == registered[0]
    versions.set_alias(BANK_MODEL, "champion", 0)
    for uri in ("models:/liveedit-bank@champion", "models:/liveedit-bank/3"):
        with pytest.raises(InputError, match="versions there: 1, 2"):
            versions.find(uri)
    with pytest.raises(InputError, match="expected models:/"):
        versions.find("liveedit-bank")


def test_tags_reach_the_version_and_the_run(
    registry: ModelRegistry, tracker: Tracker, bank: ExpertBank
) -> None:
    first = registry.register_bank_version(bank, bank.version)
    versions = registry.versions()
    versions.set_tags(BANK_MODEL, first.version, {"promoted_by": "anna", "why": "better"})
    run_id = tracker.connect().run_id
    versions.set_run_tags(run_id, {"promoted_by": "anna"})
    assert versions.find("models:/liveedit-bank/1").tags["why"] == "better"
    assert MlflowClient(tracker.tracking_uri).get_run(run_id).data.tags["promoted_by"] == "anna"


def test_a_version_that_is_no_window_is_not_registered(
    registry: ModelRegistry, bank: ExpertBank
) -> None:
    with pytest.raises(IntegrityError, match="has no record"):
        registry.register_bank_version(bank, 1)


def test_aliases_move_and_unknown_ones_are_none(registry: ModelRegistry, checkpoint: Path) -> None:
    assert registry.versions().by_alias(GENERATOR_MODEL, "champion") is None
    first = registry.register_generator(checkpoint, digest="d1")
    second = registry.register_generator(checkpoint, digest="d2")
    assert registry.versions().by_alias(GENERATOR_MODEL, "champion") is None
    registry.versions().set_alias(GENERATOR_MODEL, "champion", first.version)
    registry.versions().set_alias(GENERATOR_MODEL, "challenger", second.version)
    assert registry.versions().by_alias(GENERATOR_MODEL, "champion") == first
    registry.versions().set_alias(GENERATOR_MODEL, "champion", second.version)
    assert registry.versions().by_alias(GENERATOR_MODEL, "champion") == second
    with pytest.raises(TrackingError, match="version 99"):
        registry.versions().set_alias(GENERATOR_MODEL, "champion", 99)


def test_an_outage_is_a_tracking_error_and_the_environment_stays(
    registry: ModelRegistry, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    with pytest.raises(TrackingError, match="nonsense"):
        registry.register_generator(checkpoint, digest="d1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert registry.register_generator(checkpoint, digest="d1").version == 1
