"""Uses by time, one object a process, and no objects that say nothing."""

import time

import pytest

from infra.cache.state_cache import UseLog
from infra.storage.object_store import ObjectStore

A, B, C = (letter * 64 for letter in "abc")


def log(store: ObjectStore) -> UseLog:
    return UseLog(store, "states/x-uses")


def test_the_last_use_counts(store: ObjectStore) -> None:
    for names in ([A, B], [C], [A]):
        log(store).record(names)
    assert log(store).newest_first([A, B, C]) == [A, C, B]
    assert log(store).newest_first([B]) == [B]
    assert log(store).newest_first(["d" * 64]) == []


def test_a_process_has_one_object_however_much_it_uses(store: ObjectStore) -> None:
    used = log(store)
    for names in ([A], [B], [A, C]):
        used.record(names)
    assert len(store.list("states/x-uses/")) == 1
    used.flush()
    assert len(store.list("states/x-uses/")) == 1
    assert sorted(log(store).newest_first([A, B, C])) == [A, B, C]


def test_old_records_without_news_are_deleted(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(store).record([A, B])
    log(store).record([A, B, C])
    log(store).newest_first([A, B, C])
    assert len(store.list("states/x-uses/")) == 2, "what was recorded today stays"
    later = time.time() + 100_000
    monkeypatch.setattr(time, "time", lambda: later)
    assert sorted(log(store).newest_first([A, B, C])) == [A, B, C]
    assert len(store.list("states/x-uses/")) == 1
