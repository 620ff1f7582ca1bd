"""An empty bank and request log, shared by the tests of infra/."""

import pytest

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from tests.small_rows import SMALL_IDENTITY


@pytest.fixture
def bank(store: ObjectStore) -> ExpertBank:
    """D = 6, M = 4, Q = 2, R = 3."""
    return ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)


@pytest.fixture
def log(store: ObjectStore) -> RequestLog:
    return RequestLog(store)
