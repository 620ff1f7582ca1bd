"""A small bank, its experts and an MLflow database, shared by the tests of infra/."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.bank.schema import BankIdentity, ExpertRow
from infra.storage.object_store import ObjectStore
from liveedit_core.method.config import GeneratorConfig
from tests.small_rows import SMALL_CONFIG, SMALL_IDENTITY, small_row

MakeRow = Callable[..., ExpertRow]


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """An empty store on disk."""
    return ObjectStore(tmp_path / "store")


@pytest.fixture
def identity() -> BankIdentity:
    """D = 6, M = 4, Q = 2, R = 3."""
    return SMALL_IDENTITY


@pytest.fixture
def generator_config() -> GeneratorConfig:
    """The configuration that fits `identity`."""
    return SMALL_CONFIG


@pytest.fixture
def run_root(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run root whose default MLflow database has its tables already."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "runs"
    root.mkdir()
    shutil.copy(empty_database, root / "mlflow.db")
    return root


@pytest.fixture
def make_row() -> MakeRow:
    """Makes the row of a request."""
    return small_row
