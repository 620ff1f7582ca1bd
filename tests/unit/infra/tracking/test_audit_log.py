"""Records are created once each, in order, and stay as they are."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from infra.storage.object_store import ObjectStore
from infra.tracking.audit_log import NO_RECORD, AuditLog
from liveedit_core.errors import IntegrityError
from tests.unit.tiny_operations import FIRST_AUDIT


@pytest.fixture
def log(store: ObjectStore) -> AuditLog:
    return AuditLog(store, "liveedit-bank")


def test_records_come_back_in_order(log: AuditLog) -> None:
    assert log.records() == []
    second = replace(FIRST_AUDIT, sequence=2, version=9, champion_before=7, token="another")
    assert log.append(FIRST_AUDIT)
    assert log.append(second)
    assert log.records() == [FIRST_AUDIT, second]


def test_a_number_is_given_once(log: AuditLog) -> None:
    rivals = [replace(FIRST_AUDIT, who=f"person {i}", token=f"token {i}") for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(log.append, rivals))
    assert won.count(True) == 1
    assert log.records() == [rivals[won.index(True)]]


def test_a_lost_answer_is_no_lost_race(log: AuditLog) -> None:
    assert log.append(FIRST_AUDIT)
    assert log.append(FIRST_AUDIT)


def test_a_record_is_done_when_it_was_marked(log: AuditLog) -> None:
    log.append(FIRST_AUDIT)
    assert not log.is_done(FIRST_AUDIT)
    log.mark_done(FIRST_AUDIT)
    log.mark_done(FIRST_AUDIT)
    assert log.is_done(FIRST_AUDIT)
    assert log.records() == [FIRST_AUDIT]


def test_an_altered_or_removed_record_breaks_the_chain(log: AuditLog, store: ObjectStore) -> None:
    assert log.head() == NO_RECORD
    for sequence in (1, 2, 3):
        record = replace(FIRST_AUDIT, sequence=sequence, version=sequence, token=f"{sequence}")
        assert log.append(replace(record, before_sha256=log.head()))
    key = "audit/liveedit-bank/{:012d}.json"
    data = [store.get(key.format(number)) for number in (1, 2, 3)]
    store.put(key.format(2), data[1].replace(b"anna", b"eve!"))
    with pytest.raises(IntegrityError, match=r"000000000003.json.*was altered"):
        log.records()
    store.put(key.format(2), data[2].replace(b'"sequence": 3', b'"sequence": 2'))
    with pytest.raises(IntegrityError, match=r"000000000002.json.*was altered"):
        log.records()
    store.put(key.format(2), data[1])
    assert len(log.records()) == 3
    unchained = replace(FIRST_AUDIT, sequence=4, token="4")
    log.append(unchained)
    with pytest.raises(IntegrityError, match=r"000000000004.json.*was altered"):
        log.records()


def test_records_of_an_earlier_release_may_come_before_a_chain(log: AuditLog) -> None:
    log.append(FIRST_AUDIT)
    log.append(replace(FIRST_AUDIT, sequence=2, token="2", before_sha256=log.head()))
    assert [record.sequence for record in log.records()] == [1, 2]


def test_a_gap_and_a_damaged_record_are_noticed(log: AuditLog, store: ObjectStore) -> None:
    log.append(replace(FIRST_AUDIT, sequence=2))
    with pytest.raises(IntegrityError, match="records are missing"):
        log.records()
    store.put("audit/liveedit-bank/000000000001.json", b"{}")
    with pytest.raises(IntegrityError, match="is not an audit record"):
        log.records()
