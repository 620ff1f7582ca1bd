"""Look-ups of the log: as a reading of the whole log, at a cost that does not grow with it."""

import itertools
import random
from typing import Any

import lance
import pyarrow as pa
import pytest

from infra.bank.expert_bank import ExpertBank
from infra.requests import request_index
from infra.requests.request_log import RequestLog
from infra.requests.subject_log import SubjectAssignment
from infra.storage import tables, upkeep
from infra.storage.object_store import ObjectStore
from infra.storage.upkeep import renew_indices
from liveedit_core.schema import EditRequest
from tests.small_rows import small_request as request
from tests.small_rows import small_row


@pytest.fixture
def num_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that each reading of the log took."""
    numbers: list[int] = []
    read = tables.read_rows

    def counted(dataset: lance.LanceDataset, *arguments: Any, **options: Any) -> pa.Table:
        rows = read(dataset, *arguments, **options)
        numbers.append(len(rows))
        return rows

    monkeypatch.setattr(tables, "read_rows", counted)
    monkeypatch.setattr(request_index, "read_rows", counted)
    return numbers


def assign(log: RequestLog, draw: random.Random, edits: list[EditRequest]) -> None:
    """Decide what some logged edits are about, as a window that finds corrections."""
    index = log.index()
    for edit in edits:
        key = index.newest(edit.edit_id)
        if key is None or log.subjects.decided([key.sequence]):
            continue
        older = [other for other in index.keys.values() if other.sequence < key.sequence]
        other = draw.choice(older) if older and draw.random() < 0.5 else key
        subject_id = index.subjects([other.edit_id])[other.edit_id]
        log.subjects.append(
            [
                SubjectAssignment(
                    sequence=key.sequence,
                    edit_id=key.edit_id,
                    subject_id=subject_id,
                    supersedes=other.edit_id if other is not key else "",
                    similarity=0.75,
                )
            ]
        )
        index = log.index()


@pytest.mark.parametrize("seed", range(6))
def test_a_part_of_the_log_says_what_the_whole_log_says(store: ObjectStore, seed: int) -> None:
    draw = random.Random(seed)
    edits = [request(f"flag {n}", target) for n in range(4) for target in ("red", "blue", "green")]
    place = itertools.count(1)
    for _ in range(8):
        chosen = draw.sample(edits, 3)
        RequestLog(store).append(chosen, source="file", first_place=next(place) * 3)
        assign(RequestLog(store), draw, draw.sample(edits, 2))
    log = RequestLog(store)
    whole = log.index()
    for edit in edits:
        part = log.index_of([edit.edit_id])
        numbers = whole.numbers_of.get(edit.edit_id, [])
        assert part.numbers_of.get(edit.edit_id, []) == numbers
        assert [part.keys[number] for number in numbers] == [whole.keys[n] for n in numbers]
        subjects = whole.subjects([edit.edit_id])
        assert part.subjects([edit.edit_id]) == subjects
        for subject_id in subjects.values():
            assert log.edits_of_subjects([subject_id]) == {subject_id: whole.edits_of[subject_id]}
    by_number = log.index_of(sequences=whole.keys)
    assert by_number.keys == whole.keys
    assert by_number.decided == whole.decided


def test_an_append_reads_the_rows_it_concerns_also_after_other_processes(
    store: ObjectStore, num_read: list[int]
) -> None:
    log = RequestLog(store)
    log.append([request(f"image {number}") for number in range(500)], source="file")
    RequestLog(store).append([request("of another process")])
    num_read.clear()
    (known, new) = log.append(
        [request("image 7"), request("image 7", "no")], source="more", first_place=1
    )
    assert (known.is_duplicate, new.supersedes) == (True, request("image 7").edit_id)
    assert sum(num_read) <= 4, "the older edit of the subject, once or twice"


def test_what_is_pending_is_looked_up(
    bank: ExpertBank, store: ObjectStore, num_read: list[int]
) -> None:
    log = RequestLog(store)
    log.append([request(f"image {number}") for number in range(1, 301)])
    log.append([request("image 300", "no"), request("image 5", "no")])
    held = [small_row(number) for number in range(1, 300)]
    bank.commit(bank.fragment_writer().write(held), epoch=bank.acquire_writer())
    num_read.clear()
    assert bank.pending_sequences(log) == [300, 301, 302]
    assert sum(num_read) < 20, "of the 300, only those that are not held"
    log.changes.append(
        "remove", removed=[request("image 300", "no").edit_id], bank="main", author="ada", reason=""
    )
    assert bank.pending_sequences(log) == [300, 302]


def test_a_long_intake_keeps_the_log_merged_and_indexed(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No window is committed before a file is logged as a whole."""
    monkeypatch.setattr(upkeep, "_EVERY_ROWS", 40)
    monkeypatch.setattr(upkeep, "_FEW_ROWS", 20)
    log = RequestLog(store)
    for start in range(0, 480, 8):
        chunk = [request(f"image {number}") for number in range(start, start + 8)]
        assert not any(item.is_duplicate for item in log.append(chunk, source="file"))
    dataset = log.table.latest()
    assert len(dataset.get_fragments()) <= 12
    for index in dataset.describe_indices():
        covered = {number for segment in index.segments for number in segment.fragment_ids}
        outside = [f for f in dataset.get_fragments() if f.fragment_id not in covered]
        assert sum(fragment.count_rows() for fragment in outside) < 40 + 20
        assert len(index.segments) <= 6
    assert [item.sequence for item in log.read()] == list(range(1, 481))


def test_parts_of_an_index_are_merged_as_files_are(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that Lance may merge the files that they cover."""
    monkeypatch.setattr(upkeep, "_FAN_OUT", 2)
    log = RequestLog(store)
    for start in range(0, 6000, 1000):
        log.append([request(f"image {number}") for number in range(start, start + 1000)])
        renew_indices(log.table, ["edit_id", "question_id"])
    parts = {
        index.name: sorted(sorted(segment.fragment_ids) for segment in index.segments)
        for index in log.table.latest().describe_indices()
    }
    assert parts["edit_id_index"] == parts["question_id_index"]
    assert len(parts["edit_id_index"]) == 2


def test_an_append_is_not_lost_with_the_upkeep_after_it(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RequestLog(store)
    monkeypatch.setattr(upkeep, "_EVERY_ROWS", 1)

    def fail(*_: Any) -> None:
        raise tables.ConcurrentCommitError("overtaken")

    monkeypatch.setattr(upkeep, "merge_small", fail)
    assert [item.is_duplicate for item in log.append([request("a")])] == [False]
    assert len(log) == 1
