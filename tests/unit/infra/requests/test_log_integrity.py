"""Damage of the request log is named, what is intact stays, and what is sent again is back."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.bank.compaction import Compaction
from infra.bank.expert_bank import ExpertBank
from infra.bank.policy import GrowthPolicy
from infra.requests.log_integrity import lost_requests, repair_log, verify_log
from infra.requests.request_log import RequestLog
from infra.requests.subject_log import SubjectAssignment
from infra.storage.object_store import ObjectStore
from infra.storage.upkeep import merge_small
from liveedit_core.errors import IntegrityError
from tests.small_rows import refusal, request_of, row_of

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
    place = data.index(REQUESTS[4].image_bytes or b"")
    files[1].write_bytes(data[:place] + b"J" + data[place + 1 :])
    log = RequestLog(store)
    report = verify_log(log)
    assert sorted(report.lost) == [5]
    assert any("is altered, its sha256 differs" in line for line in report.problems)
    repair_log(log)
    kept = [number for number in range(1, 10) if number != 5]
    assert [item.request for item in RequestLog(store).read(kept)] == REQUESTS[:4] + REQUESTS[5:]


def test_lost_requests_are_named_where_others_were_removed(
    log: RequestLog, files: list[Path], store: ObjectStore
) -> None:
    """A file whose requests came back one by one is damaged again."""
    data = Path(store.table_uri("requests")) / "data"
    files[1].unlink()
    known = set(data.iterdir())
    repair_log(RequestLog(store))
    (stood,) = set(data.iterdir()) - known
    log = RequestLog(store)
    log.append(REQUESTS[3:5])
    assert verify_log(log).is_whole
    stood.unlink()
    log = RequestLog(store)
    assert sorted(verify_log(log).lost) == [6]
    repair_log(log)
    log = RequestLog(store)
    assert verify_log(log).is_whole
    assert [number for number, _ in lost_requests(log)] == [6]
    log.append(REQUESTS[5:6])
    assert [item.request for item in RequestLog(store).read()] == REQUESTS


@pytest.mark.parametrize("is_missing", [True, False])
def test_a_damaged_list_of_removed_requests_is_repaired(
    log: RequestLog, files: list[Path], store: ObjectStore, is_missing: bool
) -> None:
    files[1].unlink()
    repair_log(RequestLog(store))
    log = RequestLog(store)
    log.append(REQUESTS[3:5])
    (removed,) = (Path(store.table_uri("requests")) / "_deletions").iterdir()
    if is_missing:
        removed.unlink()
    else:
        removed.write_bytes(b"?" * removed.stat().st_size)
    report = verify_log(RequestLog(store))
    assert (len(report.problems), report.lost) == (1, {})
    repair_log(RequestLog(store))
    log = RequestLog(store)
    assert verify_log(log).is_whole
    assert [number for number, _ in lost_requests(log)] == [6]
    log.append(REQUESTS[5:6])
    assert [item.request for item in RequestLog(store).read()] == REQUESTS


def test_an_older_number_comes_back_from_a_newer_one(log: RequestLog, store: ObjectStore) -> None:
    """A, B, A: the first file is lost, the edit in it is in the third too."""
    first, other = request_of(1), request_of(1, "no")
    data = Path(store.table_uri("requests")) / "data"
    log.append([first, request_of(2)], source="a")
    (lost,) = data.iterdir()
    log.append([other], source="b")
    (again,) = log.append([first], source="c")
    assert (again.sequence, again.is_duplicate) == (4, False)
    lost.unlink()
    report = repair_log(RequestLog(store))
    assert sorted(report.lost) == [1, 2]
    log = RequestLog(store)
    assert [number for number, _ in lost_requests(log)] == [2]
    assert verify_log(log).is_whole
    (second,) = log.append([request_of(2)])
    assert (second.sequence, second.is_duplicate) == (2, False)
    found = [item.request for item in RequestLog(store).read()]
    assert found == [first, request_of(2), other, first]


def test_all_lost_numbers_of_an_edit_come_back_at_once(log: RequestLog, store: ObjectStore) -> None:
    first, other = request_of(1), request_of(1, "no")
    for name, request in (("a", first), ("b", other), ("c", first)):
        log.append([request], source=name)
    for file in (Path(store.table_uri("requests")) / "data").iterdir():
        file.unlink()
    repair_log(RequestLog(store))
    log = RequestLog(store)
    (back,) = log.append([first])
    assert (back.sequence, back.is_duplicate) == (3, False)
    assert [number for number, _ in lost_requests(log)] == [2]
    assert [item.sequence for item in log.read([1, 3])] == [1, 3]


@pytest.fixture
def small(log: RequestLog, bank: ExpertBank) -> dict[str, object]:
    """The content of the tables beside the requests."""
    log.append(REQUESTS)
    log.reject_lines([refusal(4), refusal(5, "worse")], source="file")
    log.reject_requests([refusal(1, edit_id=REQUESTS[8].edit_id)])
    epoch = bank.acquire_writer()
    bank.remove([REQUESTS[3].edit_id], author="anna", reason="wrong", epoch=epoch)
    bank.remove([REQUESTS[4].edit_id], author="anna", reason="", epoch=epoch)
    assigned = SubjectAssignment(
        sequence=2, edit_id=REQUESTS[1].edit_id, subject_id=REQUESTS[0].subject_id, similarity=0.3
    )
    questions = {REQUESTS[1].edit_id: [0.1, 0.2, 0.7]}
    log.subjects.append([assigned], generator_digest="g", prompt_questions=questions)
    return contents(log.store)


def contents(store: ObjectStore) -> dict[str, object]:
    log = RequestLog(store)
    return {
        "changes": list(log.changes.read()),
        "rejects": log.rejects.read(),
        "subjects": list(log.subjects.read()),
        "questions": log.subjects.prompt_questions([REQUESTS[1].edit_id], "g"),
    }


@pytest.mark.parametrize("table", ["changes", "subjects", "rejects"])
@pytest.mark.parametrize("damage", ["missing", "bit", "checksum", "copy"])
@pytest.mark.parametrize("is_merged", [False, True])
def test_the_small_tables_come_back_from_their_copies(
    small: dict[str, object], store: ObjectStore, table: str, damage: str, is_merged: bool
) -> None:
    if is_merged:
        later = datetime.now(UTC) + timedelta(days=30)
        Compaction(store, "main", GrowthPolicy(keep_versions=1, keep_days=1)).run(now=later)
    file = sorted((Path(store.table_uri(table)) / "data").iterdir())[-1]
    checksum = Path(store.table_uri(f"{table}_seals")) / "data" / f"{file.name}.json"
    if damage == "missing":
        file.unlink()
    elif damage == "bit":
        data = bytearray(file.read_bytes())
        data[len(data) // 3] ^= 16
        file.write_bytes(data)
    elif damage == "checksum":
        checksum.write_bytes(checksum.read_bytes()[:40])
    else:
        checksum.write_text(checksum.read_text().replace('"copy": "', '"copy": "AAAA'))
    report = verify_log(RequestLog(store))
    assert any(file.name in line for line in report.problems)
    assert repair_log(RequestLog(store)).problems == report.problems
    assert verify_log(RequestLog(store)).is_whole
    assert contents(store) == small


def test_a_file_and_its_copy_that_are_both_damaged_are_named(
    small: dict[str, object], store: ObjectStore
) -> None:
    file = next((Path(store.table_uri("changes")) / "data").iterdir())
    (Path(store.table_uri("changes_seals")) / "data" / f"{file.name}.json").write_bytes(b"{}")
    file.write_bytes(b"?" * 100)
    with pytest.raises(IntegrityError, match="restore it from a copy of the store"):
        repair_log(RequestLog(store))
