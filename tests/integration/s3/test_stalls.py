"""An S3 server that takes requests and does not answer, or answers when nobody listens any more."""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.storage.s3 import TIMEOUT_VARIABLE
from infra.storage.tables import Table
from liveedit_core.errors import ConfigError, StorageUnavailableError
from tests.integration.conftest import S3Server
from tests.integration.faults.faulty_proxy import FaultyProxy, Shares
from tests.small_rows import SMALL_IDENTITY, small_request, small_row
from workers.failures import retried

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
"""The limit of each test bounds the time: without a timeout of the client it would never end."""

TIMEOUT_S = 0.5
PATIENT_S = 2.0
"""Where true answers are wanted too: a busy machine may need a second for one."""


class NowAndThen(FaultyProxy):
    """Stalls, or answers too late, so seldom that no call meets it twice in a row."""

    def fault(self) -> str:
        super().fault()
        number = self.injected.total()
        name = {17: "stall", 0: "late_answer"}.get(number % 34, "")
        self.injected[name] += 1
        self.injected[""] -= 1
        return name


@contextmanager
def stalling(
    server: S3Server,
    root: str,
    shares: Shares,
    timeout_s: float = TIMEOUT_S,
    kind: type[FaultyProxy] = FaultyProxy,
) -> Iterator[tuple[ObjectStore, FaultyProxy]]:
    """The store of the test as clients see it that wait so long."""
    proxy = kind(server.endpoint, shares)
    try:
        yield ObjectStore(root, proxy.endpoint, timeout_s), proxy
    finally:
        proxy.close()


@pytest.mark.parametrize(
    ("ask", "num_tries"),
    [
        pytest.param(lambda store: store.get("a"), 4, id="read an object"),
        pytest.param(lambda store: store.put_if_absent("a", b"x"), 4, id="create an object"),
        pytest.param(lambda store: Table(store, "banks/main").exists(), 6, id="open a table"),
    ],
)
def test_a_server_that_never_answers_is_asked_again_and_then_an_error(
    s3_server: S3Server, s3_root: str, ask: Callable[[ObjectStore], object], num_tries: int
) -> None:
    with stalling(s3_server, s3_root, Shares(stall=1.0)) as (store, proxy):
        with pytest.raises(StorageUnavailableError):
            ask(store)
        assert proxy.injected["stall"] == num_tries


def test_what_stalls_now_and_then_is_outlasted_and_done_once(
    s3_server: S3Server, s3_root: str
) -> None:
    requests = [small_request(f"image {number}") for number in range(1, 5)]
    with stalling(s3_server, s3_root, Shares(), PATIENT_S, NowAndThen) as (store, proxy):
        log = retried(lambda: RequestLog(store))
        bank = retried(lambda: ExpertBank.open_or_create(store, "main", SMALL_IDENTITY))
        epoch = retried(bank.acquire_writer)
        for start in range(0, 4, 2):
            retried(partial(log.append, requests[start : start + 2]))
            rows = [small_row(number) for number in range(start + 1, start + 3)]
            fragments = retried(partial(bank.fragment_writer().write, rows))
            retried(partial(bank.commit, fragments, epoch=epoch))
        assert proxy.injected["stall"] > 0
        assert proxy.injected["late_answer"] > 0
    quiet = ObjectStore(s3_root)
    assert ExpertBank.open(quiet, "main").edit_ids() == [item.edit_id for item in requests]
    logged = list(RequestLog(quiet).read())
    assert [item.sequence for item in logged] == [1, 2, 3, 4]
    assert [item.request.edit_id for item in logged] == [item.edit_id for item in requests]


def test_a_store_that_travels_keeps_its_patience() -> None:
    store = ObjectStore("s3://bucket/x", "http://127.0.0.1:9", TIMEOUT_S)
    arrived: ObjectStore = pickle.loads(pickle.dumps(store))
    assert arrived.table_options()["timeout"] == "500ms"


def test_the_environment_says_how_patient_a_store_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ObjectStore("s3://bucket/x").table_options()["timeout"] == "30000ms"
    monkeypatch.setenv(TIMEOUT_VARIABLE, "120")
    assert ObjectStore("s3://bucket/x").table_options()["timeout"] == "120000ms"
    monkeypatch.setenv(TIMEOUT_VARIABLE, "soon")
    with pytest.raises(ConfigError, match="LIVEEDIT_S3_TIMEOUT_S must be a number of seconds"):
        ObjectStore("s3://bucket/x")
