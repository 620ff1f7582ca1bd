"""A tiny system in operation, for the tests of nightly runs and promotions."""

from pathlib import Path

import pytest

from tests.unit.tiny_operations import Operations


@pytest.fixture
def operations(run_root: Path) -> Operations:
    """An empty bank, a registered generator, nothing promoted."""
    return Operations(run_root)
