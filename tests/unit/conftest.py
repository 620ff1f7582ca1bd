"""A store, and run roots whose MLflow database has its tables already."""

import shutil
from pathlib import Path

import pytest

from infra.storage.object_store import ObjectStore
from infra.tracking.tracker import Tracker


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """An empty store on disk."""
    return ObjectStore(tmp_path / "store")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables; making one takes seconds, copying it does not."""
    root = tmp_path_factory.mktemp("mlflow")
    Tracker(root, experiment="Default", run_name="makes-the-tables").connect()
    return root / "mlflow.db"


@pytest.fixture
def run_root(tmp_path: Path, empty_database: Path) -> Path:
    """A run root whose MLflow database has its tables already, and nothing else."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path
