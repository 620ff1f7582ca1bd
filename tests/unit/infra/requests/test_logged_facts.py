"""Facts of the request log are read once for each process."""

from pathlib import Path

import pytest

from infra.requests.logged_facts import LoggedFacts
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from tests.tiny_backbone import request


def test_a_fact_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, requests = ObjectStore(tmp_path), [request(0), request(1)]
    first, second = (one.edit_id for one in requests)
    assert LoggedFacts(store).facts_of([first]) == {}
    RequestLog(store).append(requests[:1])
    found = LoggedFacts(store).facts_of([first, second])
    assert {key: fact.prompt for key, fact in found.items()} == {first: requests[0].prompt}
    RequestLog(store).append(requests[1:])
    assert LoggedFacts(store).facts_of([first, second]).keys() == {first, second}
    monkeypatch.setattr(RequestLog, "headers", None)
    assert LoggedFacts(store).facts_of([second, first]).keys() == {first, second}
    assert LoggedFacts(ObjectStore(tmp_path / "other")).facts_of([first]) == {}
