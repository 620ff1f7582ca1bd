"""A bank in operation with a server over it."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from tests.running_server import Place
from tests.tiny_backbone import plain_convolutions
from tests.unit.tiny_operations import Operations


@pytest.fixture
def place(operations: Operations) -> Place:
    """Two versions: of edits 1 to 3, and of edits 1 to 5."""
    made = Place(operations)
    made.log_and_commit(1, 2, 3)
    made.log_and_commit(4, 5)
    return made


@pytest.fixture
def client(place: Place) -> Iterator[TestClient]:
    """A client of a server without keys."""
    with plain_convolutions(), place.client() as opened:
        yield opened
