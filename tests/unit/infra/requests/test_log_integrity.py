"""Damage of the request log is named, what is intact stays, and what is sent again is back."""

from pathlib import Path

import pytest

from infra.bank.expert_bank import ExpertBank
from infra.requests.log_integrity import lost_requests, repair_log, verify_log
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.storage.upkeep import merge_small
from liveedit_core.errors import IntegrityError
from tests.small_rows import request_of, row_of

REQUESTS = [request_of(number) for number in range(9)]


@pytest.fixture
def files(log: RequestLog, store: ObjectStore) -> list[Path]:
    """Three requests in each."""
    found: list[Path] = []
    for start in (0, 3, 6):
        log.append(REQUESTS[start : start + 3])
        data = Path(store.table_uri("requests")) / "data"
        found += [path for path in data.iterdir() if path not in found]
    return found


def test_a_whole_log_is_whole(log: RequestLog, files: list[Path], store: ObjectStore) -> None:
    report = verify_log(log)
    assert (report.is_whole, report.num_requests, report.num_files) == (True, 9, 3)
    version = report.version
    merge_small(log.table, 1 << 20, log.checksums)
    report = verify_log(RequestLog(store))
    assert (report.is_whole, report.num_requests, report.num_files) == (True, 9, 1)
    assert repair_log(log).version == log.table.latest().version > version


@pytest.mark.parametrize("damage", ["missing", "cut", "garbage"])
def test_lost_requests_keep_their_numbers_and_come_back(
    log: RequestLog, files: list[Path], store: ObjectStore, bank: ExpertBank, damage: str
) -> None:
    rows = [row_of(number, REQUESTS[number - 1]) for number in (4, 5)]
    bank.commit(bank.fragment_writer().write(rows), epoch=bank.acquire_writer())
    data = files[1].read_bytes()
    if damage == "missing":
        files[1].unlink()
    else:
        files[1].write_bytes(data[: len(data) // 2] if damage == "cut" else b"?" * len(data))
    log = RequestLog(store)
    with pytest.raises(IntegrityError):
        list(log.read())
    assert sorted(verify_log(log).lost) == [4, 5, 6]

    assert sorted(repair_log(log).lost) == [4, 5, 6]
    log = RequestLog(store)
    assert verify_log(log).is_whole
    assert [number for number, _ in lost_requests(log)] == [4, 5, 6]
    assert bank.pending_sequences(log) == [1, 2, 3, 7, 8, 9]
    kept = [item.request for item in log.read(bank.pending_sequences(log))]
    assert kept == REQUESTS[:3] + REQUESTS[6:]
    (tenth,) = log.append([request_of(9)])
    assert tenth.sequence == 10

    again = log.append(REQUESTS[3:6])
    assert [(item.sequence, item.is_duplicate) for item in again] == [
        (4, False),
        (5, False),
        (6, False),
    ]
    for opened in (log, RequestLog(store)):
        assert [item.request for item in opened.read()] == [*REQUESTS, request_of(9)]
        assert bank.pending_sequences(opened) == [1, 2, 3, 6, 7, 8, 9, 10]
    assert lost_requests(log) == []
    assert verify_log(log).is_whole
    assert all(item.is_duplicate for item in log.append(REQUESTS))


def test_an_altered_row_is_lost_alone(
    log: RequestLog, files: list[Path], store: ObjectStore
) -> None:
    data = files[1].read_bytes()
    place = data.index(REQUESTS[4].image_bytes)
    files[1].write_bytes(data[:place] + b"J" + data[place + 1 :])
    log = RequestLog(store)
    report = verify_log(log)
    assert sorted(report.lost) == [5]
    assert any("is altered, its sha256 differs" in line for line in report.problems)
    repair_log(log)
    kept = [number for number in range(1, 10) if number != 5]
    assert [item.request for item in RequestLog(store).read(kept)] == REQUESTS[:4] + REQUESTS[5:]
