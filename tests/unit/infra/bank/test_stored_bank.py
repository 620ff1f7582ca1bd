"""What is pending for a bank: requests without what it holds, rejects and removals."""

import pytest

from infra.bank.expert_bank import ExpertBank
from infra.bank.schema import BankIdentity
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from tests.unit.infra.conftest import MakeRow
from tests.unit.infra.requests.small_requests import refusal, request


@pytest.fixture
def log(store: ObjectStore) -> RequestLog:
    return RequestLog(store)


@pytest.fixture
def bank(store: ObjectStore, identity: BankIdentity) -> ExpertBank:
    return ExpertBank.open_or_create(store, "main", identity)


def test_pending_is_requests_minus_bank(
    log: RequestLog, bank: ExpertBank, make_row: MakeRow
) -> None:
    log.append([request(f"image {sequence}") for sequence in (1, 2, 3)])
    assert bank.pending_sequences(log) == [1, 2, 3]
    epoch = bank.acquire_writer()
    row = make_row(2)
    assert row.expert.edit_id == request("image 2").edit_id
    bank.commit(bank.fragment_writer().write([row]), epoch=epoch)
    assert bank.pending_sequences(log) == [1, 3]
    assert next(log.read(bank.pending_sequences(log))).request == request("image 1")


def test_an_edit_superseded_in_the_bank_is_done_but_one_superseded_only_in_the_log_is_not(
    log: RequestLog, bank: ExpertBank, make_row: MakeRow
) -> None:
    log.append([request("flag", "red"), request("flag", "blue")])
    assert bank.pending_sequences(log) == [1, 2]
    epoch = bank.acquire_writer()
    writer = bank.fragment_writer()
    bank.commit(writer.write([make_row(1, "flag", "red")]), epoch=epoch)
    assert bank.pending_sequences(log) == [2]
    bank.commit(writer.write([make_row(2, "flag", "blue")]), epoch=epoch)
    assert bank.pending_sequences(log) == []


def test_rejected_requests_are_not_pending_for_the_bank_that_rejected_them(
    log: RequestLog, bank: ExpertBank, store: ObjectStore, identity: BankIdentity
) -> None:
    other = ExpertBank.open_or_create(store, "other", identity)
    log.append([request("a"), request("b"), request("c")])
    log.reject_requests([refusal(0, "NaN", edit_id=request("a").edit_id)], bank="main")
    log.reject_requests([refusal(0, "too long", edit_id=request("b").edit_id)])
    assert bank.pending_sequences(log) == [3]
    assert other.pending_sequences(log) == [1, 3]


def test_a_rejected_duplicate_line_does_not_hide_its_request(
    log: RequestLog, bank: ExpertBank
) -> None:
    log.append([request("a")])
    log.reject_lines([refusal(2, "duplicate", edit_id=request("a").edit_id)], source="file")
    assert bank.pending_sequences(log) == [1]
