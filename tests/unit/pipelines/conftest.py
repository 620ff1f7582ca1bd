"""A tiny system in operation, for the tests of nightly runs and promotions."""

import shutil
from pathlib import Path

import pytest

from tests.unit.tiny_operations import Operations


@pytest.fixture
def operations(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Operations:
    """An empty bank, a registered generator, nothing promoted."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return Operations(tmp_path)


@pytest.fixture
def run_root(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run root whose MLflow database has its tables already, and nothing else."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path
