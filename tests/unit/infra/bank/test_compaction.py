"""Compaction: fewer files, same rows; tagged, new and young versions stay, and all records."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
import torch
from lance.fragment import DataFile

from infra.bank.compaction import Compaction
from infra.bank.expert_bank import ExpertBank
from infra.bank.fragments import WrittenFragment
from infra.bank.history import VersionArchive
from infra.bank.policy import GrowthPolicy
from infra.requests.request_log import RequestLog
from infra.requests.subject_log import SubjectAssignment
from infra.storage.checksums import TableChecksums
from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table
from infra.storage.upkeep import settled
from liveedit_core.errors import IntegrityError
from liveedit_core.inputs.rejects import Rejected
from tests.random_states import assert_same_experts
from tests.small_rows import SMALL_CONFIG, small_request, small_row
from tests.unit.tiny_inputs import request

SOON = timedelta(hours=1)
KEEP_NEWEST = GrowthPolicy(every_windows=1, keep_versions=1, keep_days=0.0)


def grow(bank: ExpertBank, windows: Sequence[Sequence[int]]) -> list[int]:
    """Commit windows of single-row fragments; every third edit supersedes an earlier one."""
    epoch = bank.acquire_writer()
    writer = bank.fragment_writer()
    versions = []
    for numbers in windows:
        fragments: list[WrittenFragment] = []
        for n in numbers:
            row = small_row(n, f"flag {n - 2}", "no") if n % 3 == 0 else small_row(n, f"flag {n}")
            fragments += writer.write([row])
        versions.append(bank.commit(fragments, epoch=epoch))
    return versions


def fragments(store: ObjectStore, name: str = "banks/main") -> int:
    return len(Table(store, name).latest().get_fragments())


def data_files(store: ObjectStore) -> list[DataFile]:
    parts = Table(store, "banks/main").latest().get_fragments()
    return [file for part in parts for file in part.data_files()]


def data_paths(bank: ExpertBank) -> list[str]:
    keys = (key.removeprefix("banks/main/") for key in bank.file_keys(bank.version))
    return [key for key in keys if key.startswith("data/")]


def num_present(store: ObjectStore) -> int:
    return len(Table(store, "banks/main").latest().versions())


WINDOWS = [range(start, start + 4) for start in range(1, 41, 4)]


def test_merged_files_hold_the_same_rows(bank: ExpertBank, store: ObjectStore) -> None:
    versions = grow(bank, WINDOWS)
    before = fragments(store)
    report = Compaction(store, "main", GrowthPolicy()).run()
    assert (report.fragments_before, report.fragments_after) == (before, fragments(store))
    assert fragments(store) == 1 < before
    assert report.versions_removed == ()
    old, new = (bank.load_repository(SMALL_CONFIG, version) for version in (versions[-1], None))
    assert_same_experts(old, new)
    assert [window.version for window in bank.history()] == versions


def test_a_compacted_bank_takes_windows_as_one_that_is_not(
    bank: ExpertBank, store: ObjectStore
) -> None:
    """Replays, superseding and indices after merging, against a bank that was never merged."""
    untouched = ExpertBank.open_or_create(store, "untouched", bank.identity)
    compaction = Compaction(store, "main", KEEP_NEWEST)
    few = [numbers for numbers in WINDOWS[:6] for _ in range(2)]
    grow(untouched, few)
    many = range(1000, 2200)  # enough that indices are made
    writer, epoch = bank.fragment_writer(), bank.acquire_writer()
    bank.commit(writer.write([small_row(n) for n in many]), epoch=epoch)
    compaction.run()
    assert Table(store, "banks/main").latest().describe_indices() != []
    for numbers in few:
        grow(bank, [numbers])
        compaction.run(now=datetime.now(UTC) + SOON)
    assert num_present(store) <= 2
    replayed = bank.version
    bank.commit(writer.write([small_row(n) for n in many]), epoch=bank.acquire_writer())
    assert bank.version == replayed
    expected = untouched.load_repository(SMALL_CONFIG)
    found = bank.load_repository(SMALL_CONFIG)
    assert found.edit_ids[: len(expected)] == expected.edit_ids
    assert len(found) == len(expected) + len(many)
    assert torch.equal(found.ranks_N[: len(expected)], expected.ranks_N)
    assert torch.equal(found.down_LD[: len(expected.down_LD)], expected.down_LD)


def test_large_files_stay_as_they_are(bank: ExpertBank, store: ObjectStore) -> None:
    grow(bank, [(1, 2), (4, 5), (7, 8)])
    whole = max(path.file_size_bytes or 0 for path in data_files(store))
    Compaction(store, "main", GrowthPolicy(fragment_bytes=8 * whole)).run()
    assert fragments(store) == 3
    Compaction(store, "main", GrowthPolicy(fragment_bytes=9 * whole)).run()
    assert fragments(store) == 1


def test_merged_files_have_checksums_and_damaged_ones_are_not_merged(
    bank: ExpertBank, store: ObjectStore
) -> None:
    grow(bank, WINDOWS[:2])
    compaction = Compaction(store, "main", GrowthPolicy(every_windows=1))
    compaction.run()
    checksums = TableChecksums.of_bank(store, "main")
    for key in bank.file_keys(bank.version):
        checksum = checksums.read(key.removeprefix("banks/main/"))
        assert checksum is not None
        assert checksum.problem_of(store.get(key)) == ""
    (merged,) = [item for item in map(checksums.read, data_paths(bank)) if item]
    assert {row.edit_id for row in merged.rows} == set(bank.edit_ids())
    grow(bank, WINDOWS[2:4])
    number = small_row(9, "flag 7", "no").clip_embedding[0].tobytes()
    (key,) = [key for key in bank.file_keys(bank.version) if number in store.get(key)]
    store.put(key, store.get(key).replace(number, number[::-1]))
    before = fragments(store)
    assert compaction.after_window() is None
    assert fragments(store) == before


def test_old_versions_are_deleted_and_tagged_new_and_young_ones_stay(
    bank: ExpertBank, store: ObjectStore
) -> None:
    versions = grow(bank, WINDOWS)
    tagged = bank.load_repository(SMALL_CONFIG, versions[2])
    Table(store, "banks/main").latest().tags.create("registered", versions[2])
    windows = [bank.versions.record(version) for version in versions]
    young = Compaction(store, "main", GrowthPolicy(keep_versions=3, keep_days=1.0))
    assert young.run().versions_removed == ()
    later = datetime.now(UTC) + timedelta(days=2)
    report = young.run(now=later)
    assert set(versions) & set(report.versions_removed) == set(versions[:2] + versions[3:-3])
    assert report.bytes_removed > 0
    assert num_present(store) == 1 + 3 + 1  # tagged, newest, merged
    assert_same_experts(bank.load_repository(SMALL_CONFIG, versions[2]), tagged)
    assert len(bank.load_repository(SMALL_CONFIG)) == windows[-1].num_edits
    with pytest.raises(IntegrityError):
        bank.load_repository(SMALL_CONFIG, versions[4])


def test_records_outlive_their_versions(bank: ExpertBank, store: ObjectStore) -> None:
    versions = grow(bank, WINDOWS[:3])
    compaction = Compaction(store, "main", KEEP_NEWEST)
    windows = bank.history()
    compaction.run(now=datetime.now(UTC) + SOON)
    versions += grow(bank, WINDOWS[3:5])
    windows += bank.history()[3:]
    compaction.run(now=datetime.now(UTC) + SOON)
    assert num_present(store) == 2
    assert bank.history() == windows
    assert [window.version for window in windows] == versions
    archived = VersionArchive(store, "main").read()
    assert list(archived.properties) == versions
    assert archived.through == bank.version
    assert all("liveedit.window" in texts for texts in archived.properties.values())


def test_archives_that_were_written_at_once_are_merged(store: ObjectStore) -> None:
    first, second = VersionArchive(store, "main"), VersionArchive(store, "main")
    first.add(2, {1: {"liveedit.window": "one"}})
    second.add(3, {1: {"liveedit.window": "one"}, 3: {"liveedit.window": "three"}})
    read = first.read()
    assert (read.through, sorted(read.properties)) == (3, [1, 3])
    assert [version for version, _ in first.newest_first()] == [3, 1]
    for version in range(4, 12):
        first.add(version, {version: {"liveedit.window": "x"}})
    assert len(store.list("histories/main/")) <= 3
    assert sorted(second.read().properties) == [1, *range(3, 12)]


def test_a_damaged_archive_is_named(store: ObjectStore) -> None:
    store.put("histories/main/000000000001-x.json", b"{")
    with pytest.raises(IntegrityError, match="000000000001-x"):
        VersionArchive(store, "main").read()


def test_compaction_beside_a_writer_loses_and_doubles_nothing(
    bank: ExpertBank, store: ObjectStore
) -> None:
    undisturbed = ExpertBank.open_or_create(store, "undisturbed", bank.identity)
    grow(undisturbed, WINDOWS)
    is_over = threading.Event()
    failures: list[BaseException] = []

    def compact() -> None:
        compaction = Compaction(store, "main", KEEP_NEWEST)
        while not is_over.is_set():
            try:
                compaction.run()
            except BaseException as error:
                failures.append(error)
                return

    thread = threading.Thread(target=compact)
    thread.start()
    try:
        grow(bank, WINDOWS)
    finally:
        is_over.set()
        thread.join()
    assert failures == []
    expected = undisturbed.load_repository(SMALL_CONFIG)
    assert_same_experts(bank.load_repository(SMALL_CONFIG), expected)


def test_the_request_log_is_merged_too(bank: ExpertBank, store: ObjectStore) -> None:
    log = RequestLog(store)
    for number in range(12):
        log.append([request(number)])
    grow(bank, WINDOWS[:1])
    Compaction(store, "main", KEEP_NEWEST).run()
    assert fragments(store, "requests") == 1
    assert [item.request for item in RequestLog(store).read()] == [request(n) for n in range(12)]
    assert log.append([request(12)])[0].sequence == 13
    assert log.append([request(3)])[0].is_duplicate


def test_all_logs_are_merged_and_indexed(bank: ExpertBank, store: ObjectStore) -> None:
    log = RequestLog(store)
    grow(bank, WINDOWS[:1])
    requests = [small_request(f"image {number}") for number in range(1100)]
    for start in (*range(12), 12, 500):
        log.append(requests[start : start + (1 if start < 12 else 600)])
    for number in range(12):
        refused = Rejected(line_number=number, error_type="NotJson", message="not JSON")
        log.reject_lines([refused], source="file")
        assignment = SubjectAssignment(sequence=number + 1, edit_id=str(number), subject_id="s")
        log.subjects.append([assignment])
        log.changes.append("remove", removed=[str(number)], bank="main", author="ada", reason="")
    policy = KEEP_NEWEST.with_changes(fragment_bytes=1)  # of a bank's files, not of a log's
    Compaction(store, "main", policy).run(now=datetime.now(UTC) + timedelta(days=1))
    again = RequestLog(store)
    for name in ("requests", "rejects", "subjects", "changes"):
        assert fragments(store, name) <= 2, name
        assert len(Table(store, name).latest().versions()) <= 3, name
    assert [item.request for item in again.read()] == requests
    assert next(again.read([700])).request == requests[699]
    assert [item.rejected.line_number for item in again.rejects.read()] == list(range(12))
    assert [item.sequence for item in again.subjects.read()] == list(range(1, 13))
    assert [item.number for item in again.changes.read()] == list(range(1, 13))
    assert len(again.rejects.read()) == 12
    indexed = {index.name for index in Table(store, "requests").latest().describe_indices()}
    assert {"sequence_index", "edit_id_index", "question_id_index"} <= indexed


def test_compaction_is_due_every_so_many_windows(bank: ExpertBank, store: ObjectStore) -> None:
    grow(bank, WINDOWS[:2])
    compaction = Compaction(store, "main", GrowthPolicy(every_windows=3))
    done = [compaction.after_window() is not None for _ in range(7)]
    assert done == [False, False, True, False, False, True, False]
    never = Compaction(store, "main", GrowthPolicy(every_windows=0))
    assert never.after_window() is None


@pytest.mark.parametrize(("large", "most_rewritten", "most_parts"), [(1e9, 4, 40), (1e4, 3, 64)])
def test_rows_are_rewritten_a_few_times(large: float, most_rewritten: int, most_parts: int) -> None:
    """4 096 windows of 100 rows each: what is rewritten in all, by the rule of what stays."""
    sizes: list[tuple[int, int]] = []
    num_rewritten = 0
    for number in range(4096):
        sizes.append((number, 100))
        stay = settled(sizes, large)
        rest = [rows for _, rows in sizes[len(stay) :]]
        if len(rest) > 1:
            num_rewritten += sum(rest)
            sizes = [*sizes[: len(stay)], (number, sum(rest))]
    assert len(sizes) <= most_parts
    assert num_rewritten <= 409_600 * most_rewritten


def test_newest_of_the_archive_is_read_alone(store: ObjectStore) -> None:
    archive = VersionArchive(store, "main")
    for version in range(1, 30):
        archive.add(version, {version: {"liveedit.window": f"record {version}"}})
    keys = store.list("histories/main/")
    assert 2 <= len(keys) <= 16
    assert [version for version, _ in archive.newest_first()] == list(range(29, 0, -1))
    store.put(min(keys), b"{")
    assert next(archive.newest_first()) == (29, {"liveedit.window": "record 29"})
    with pytest.raises(IntegrityError, match=min(keys)):
        list(archive.newest_first())


def test_an_archive_that_is_merged_while_it_is_read_is_read_whole(store: ObjectStore) -> None:
    archive = VersionArchive(store, "main")
    for version in range(1, 10):
        archive.add(version, {version: {"liveedit.window": "x"}})
    found = archive.newest_first()
    assert next(found)[0] == 9
    VersionArchive(store, "main").add(10, {10: {"liveedit.window": "x"}})
    assert len(store.list("histories/main/")) == 1
    assert [version for version, _ in found] == list(range(8, 0, -1))
