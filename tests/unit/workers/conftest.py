"""A store for the tests of workers."""

from pathlib import Path

import pytest

from infra.storage.object_store import ObjectStore


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """An empty store on disk."""
    return ObjectStore(tmp_path / "store")
