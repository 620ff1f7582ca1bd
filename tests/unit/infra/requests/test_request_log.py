"""The log: numbering, duplicates, superseding, what was rejected."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import lance
import pyarrow as pa
import pytest

from infra.bank.expert_bank import ExpertBank
from infra.requests import reject_log
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.storage.tables import read_rows
from liveedit_core.errors import InputError, IntegrityError
from liveedit_core.inputs.rejects import MAX_RAW_CHARS, Rejected, WeakEditError
from liveedit_core.outcome import WriteOutcome
from tests.small_rows import SMALL_IDENTITY, refusal
from tests.small_rows import small_request as request


def test_numbers_continue_over_calls_and_processes(log: RequestLog, store: ObjectStore) -> None:
    first = log.append([request("a"), request("b")])
    second = RequestLog(store).append([request("c")])
    third = log.append([request("d")])
    assert [item.sequence for item in [*first, *second, *third]] == [1, 2, 3, 4]
    assert len(log) == 4


def test_requests_are_read_back_unchanged(log: RequestLog) -> None:
    requests = [request(f"image {index}") for index in range(70)]
    before = datetime.now(UTC)
    log.append(requests)
    logged = list(log.read())
    assert [item.request for item in logged] == requests
    assert [item.sequence for item in logged] == list(range(1, 71))
    assert before <= logged[0].submitted_at <= before + timedelta(minutes=1)
    assert [item.request for item in log.read([40, 3])] == [requests[2], requests[39]]


def test_an_edit_is_logged_once_and_the_caller_is_told(log: RequestLog) -> None:
    first = log.append([request("a"), request("b"), request("a")])
    again = log.append([request("b"), request("c")])
    assert [(item.sequence, item.is_duplicate) for item in first] == [
        (1, False),
        (2, False),
        (1, True),
    ]
    assert [(item.sequence, item.is_duplicate) for item in again] == [(2, True), (3, False)]
    assert len(log) == 3


def test_a_log_of_an_earlier_release_takes_other_wordings(store: ObjectStore) -> None:
    RequestLog(store).append([request("a")])
    lance.dataset(store.table_uri("requests")).drop_columns(["also_asked"])
    log = RequestLog(store)
    (before,) = log.read()
    worded = replace(request("b"), also_asked=("Which one?", "Was ist das?"))
    log.append([worded])
    assert [item.request for item in RequestLog(store).read()] == [before.request, worded]
    assert before.request == request("a")
    assert [item.also_asked for item in log.headers()] == [(), worded.also_asked]


def test_a_new_target_says_which_edit_it_supersedes(log: RequestLog) -> None:
    red, blue, green = (request("flag", target) for target in ("red", "blue", "green"))
    (first,) = log.append([red])
    second, third = log.append([blue, green])
    assert first.supersedes == ""
    assert second.supersedes == red.edit_id
    assert third.supersedes == blue.edit_id
    assert first.subject_id == third.subject_id
    assert [item.supersedes for item in log.read()] == ["", red.edit_id, blue.edit_id]


def test_submitting_a_file_again_does_nothing_even_after_superseding(log: RequestLog) -> None:
    file = [request("flag", "red"), request("flag", "blue")]
    log.append(file)
    assert all(item.is_duplicate for item in log.append(file))
    assert len(log) == 2


def test_rejected_lines_are_identified_by_source_and_line(log: RequestLog) -> None:
    lines = [refusal(4), refusal(9, "worse"), refusal(4, "again")]
    assert log.reject_lines(lines, source="file one") == 2
    assert log.reject_lines(lines, source="file one") == 0
    assert log.reject_lines([refusal(4)], source="file two") == 1
    stored = log.rejects.read()
    assert [(item.source, item.rejected.line_number) for item in stored] == [
        ("file one", 4),
        ("file one", 9),
        ("file two", 4),
    ]
    assert stored[1].rejected == lines[1]
    assert stored[0].sequence is None


def test_rejected_requests_are_written_once_and_must_be_in_the_log(log: RequestLog) -> None:
    log.append([request("a")])
    item = refusal(0, edit_id=request("a").edit_id)
    assert log.reject_requests([item, item], bank="main") == 1
    assert log.reject_requests([item], bank="main") == 0
    assert log.rejects.read()[0].sequence == 1
    with pytest.raises(InputError, match="the request log has no such edit"):
        log.reject_requests([refusal(0, edit_id=request("z").edit_id)])


def test_a_reject_of_a_weak_edit_keeps_its_outcome(log: RequestLog, store: ObjectStore) -> None:
    """A log of an earlier release has no column for it."""
    log.append([request("a"), request("b")])
    outcome = WriteOutcome(state="weak", reason="text", answer="c", steps=3, num_target_tokens=1)
    first, second = (
        Rejected.from_error(WeakEditError(outcome, target), edit_id=request(target).edit_id)
        for target in ("a", "b")
    )
    log.reject_requests([first])
    lance.dataset(store.table_uri("rejects")).drop_columns(["outcome"])
    assert [item.rejected.outcome for item in RequestLog(store).rejects.read()] == [
        WriteOutcome(state="weak")
    ]
    log = RequestLog(store)
    log.reject_requests([second])
    assert [item.rejected.outcome for item in log.rejects.read()][1:] == [outcome]


def test_an_append_reads_no_rejects_of_others(
    log: RequestLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append([request("a"), request("b")])
    for source in ("one", "two", "it's"):
        log.reject_lines([refusal(number) for number in range(50)], source=source)
    log.reject_requests([refusal(0, edit_id=request("a").edit_id)], bank="main")
    num_read = 0

    def counted(dataset: lance.LanceDataset, *arguments: Any, **options: Any) -> pa.Table:
        nonlocal num_read
        rows = read_rows(dataset, *arguments, **options)
        num_read += len(rows)
        return rows

    monkeypatch.setattr(reject_log, "read_rows", counted)
    assert log.reject_lines([refusal(7), refusal(70)], source="it's") == 1
    again = [refusal(0, edit_id=request(text).edit_id) for text in "ab"]
    assert log.reject_requests(again, bank="main") == 1
    assert num_read == 2, "the two that were stored before"


def test_the_raw_excerpt_is_bounded(log: RequestLog) -> None:
    long = Rejected(line_number=1, error_type="LineTooLong", message="long", raw="x" * 9999)
    log.reject_lines([long], source="file")
    assert log.rejects.read()[0].rejected.raw == "x" * MAX_RAW_CHARS


def test_altered_bytes_are_noticed(log: RequestLog, store: ObjectStore) -> None:
    log.append([request("a")])
    lance.dataset(store.table_uri("requests")).update({"prompt": "'What was it?'"})
    with pytest.raises(IntegrityError, match="request 1 of the log"):
        list(RequestLog(store).read())


def test_rejected_requests_are_not_pending_for_the_bank_that_rejected_them(
    log: RequestLog, bank: ExpertBank, store: ObjectStore
) -> None:
    other = ExpertBank.open_or_create(store, "other", SMALL_IDENTITY)
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
