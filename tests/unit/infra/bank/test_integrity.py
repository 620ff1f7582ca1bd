"""Verification names damage; a repair keeps the other rows, lost edits become pending."""

from collections.abc import Callable
from pathlib import Path

import pytest

from infra.bank.expert_bank import ExpertBank
from infra.bank.integrity import IntegrityReport, verify_version
from infra.bank.schema import ExpertRow
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.storage.tables import ConcurrentCommitError
from tests.small_rows import SMALL_IDENTITY, small_request, small_row

Damage = Callable[[Path], None]


class SmallBank:
    """A bank of two files of three edits each; the last edit supersedes the first."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.log = RequestLog(store)
        facts = [("a", "x"), ("b", "x"), ("c", "x"), ("d", "x"), ("e", "x"), ("a", "y")]
        self.log.append([small_request(*fact) for fact in facts])
        self.rows = [small_row(number, *fact) for number, fact in enumerate(facts, start=1)]
        self.ids = [row.expert.edit_id for row in self.rows]
        self.bank = ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
        self.epoch = self.bank.acquire_writer()
        self.commit(self.rows[:3])
        self.commit(self.rows[3:])

    def commit(self, rows: list[ExpertRow]) -> int:
        return self.bank.commit(self.bank.fragment_writer().write(rows), epoch=self.epoch)

    def file(self, kind: str, fragment_index: int = 0) -> Path:
        fragment = self.bank.dataset(self.bank.version).get_fragments()[fragment_index]
        path = {"data": f"data/{fragment.data_files()[0].path}", "list": fragment.deletion_file()}
        return Path(self.bank.uri) / str(path[kind])

    def drop(self, report: IntegrityReport, reason: str = "") -> int:
        return self.bank.drop_damaged(report, author="anna", reason=reason, epoch=self.epoch)

    def verify(self) -> list[str]:
        return verify_version(self.bank, request_log=self.log).lines()


@pytest.fixture
def small(store: ObjectStore) -> SmallBank:
    return SmallBank(store)


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flip(position: int) -> Damage:
    def flip_bit(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[position % len(data)] ^= 4
        path.write_bytes(data)

    return flip_bit


def test_every_row_of_an_undamaged_version_is_verified(small: SmallBank) -> None:
    report = verify_version(small.bank, request_log=small.log)
    assert report.is_whole
    assert (report.num_edits, report.num_verified) == (5, 5)
    assert report.num_files == 3  # two of rows, one list of removed rows
    assert report.unchecked_files == []
    sizes = [small.file(*which).stat().st_size for which in (("data", 0), ("data", 1), ("list",))]
    assert report.num_bytes == sum(sizes)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove, "is missing; 2 edits"),
        (truncate, "is truncated: "),
        *((flip(position), "is altered, its sha256 differs") for position in range(0, 999, 97)),
        (flip(-20), "is altered"),
        (flip(-3), "is altered"),
    ],
)
def test_a_damaged_file_of_rows_is_named_and_the_others_stay_usable(
    small: SmallBank, damage: Damage, words: str
) -> None:
    path = small.file("data")
    damage(path)
    report = verify_version(small.bank, request_log=small.log)
    (problem,) = report.files
    assert problem.key == f"banks/main/data/{path.name}"
    assert words in report.lines()[0]
    assert set(report.damaged_edits) <= {small.ids[1], small.ids[2]}
    assert not report.is_whole

    version = small.drop(report, "bad disk")

    assert set(small.bank.edit_ids()) == set(small.ids[1:]) - set(report.damaged_edits)
    assert small.verify() == []
    record = small.bank.versions.record(version)
    assert (record.kind, record.author, record.message) == ("repair", "anna", "bad disk")
    pending = [small.ids[number - 1] for number in small.bank.pending_sequences(small.log)]
    assert set(pending) - {small.ids[0]} == set(report.damaged_edits)
    small.commit(small.rows)
    assert small.bank.edit_ids() == small.ids[1:]
    small.bank.load_rows(["expert_down"])


@pytest.mark.parametrize("damage", [remove, truncate, flip(200)])
def test_a_damaged_list_of_removed_rows_loses_no_expert(small: SmallBank, damage: Damage) -> None:
    path = small.file("list")
    damage(path)
    report = verify_version(small.bank, request_log=small.log)
    assert [item.key for item in report.files] == [f"banks/main/_deletions/{path.name}"]
    assert report.damaged_edits == ()
    small.drop(report)
    assert small.bank.edit_ids() == small.ids[1:]
    assert small.verify() == []


def test_a_bank_that_was_committed_to_since_its_verification_is_not_repaired(
    small: SmallBank,
) -> None:
    path = small.file("data")
    data = path.read_bytes()
    path.unlink()
    report = verify_version(small.bank, request_log=small.log)
    path.write_bytes(data)
    small.commit([small_row(7, "f")])
    with pytest.raises(ConcurrentCommitError, match="newer version than the verified"):
        small.drop(report)


def test_of_an_altered_file_only_the_altered_row_is_lost(small: SmallBank) -> None:
    path = small.file("data")
    down = small.rows[1].expert.down_RD.numpy().tobytes()
    data = path.read_bytes()
    position = data.index(down[:16])
    flip(position)(path)
    report = verify_version(small.bank, request_log=small.log)
    assert report.damaged_edits == (small.ids[1],)
    assert report.num_verified == 4


def test_rows_without_a_request_are_named(small: SmallBank) -> None:
    stranger = small_row(9, "stranger")
    small.commit([stranger])
    assert small.verify() == [
        f"edit {stranger.expert.edit_id}: the request log has no request 9 of this edit"
    ]


def test_older_versions_are_verified_too(small: SmallBank) -> None:
    older = small.bank.version - 1
    assert verify_version(small.bank, older, small.log).num_verified == 3
    small.file("data").unlink()
    report = verify_version(small.bank, older, small.log)
    assert set(report.damaged_edits) == set(small.ids[:3])


def test_a_file_whose_writer_was_killed_before_its_checksum_is_named_and_checked_later(
    small: SmallBank,
) -> None:
    removals = small.file("list").name
    small.store.delete(f"seals/main/_deletions/{removals}.json")
    report = verify_version(small.bank, request_log=small.log)
    assert report.is_whole
    assert report.unchecked_files == [f"banks/main/_deletions/{removals}"]
    epoch = ExpertBank.open(small.store, "main").acquire_writer()
    bank = ExpertBank.open(small.store, "main")
    bank.remove([small.ids[4]], author="anna", reason="", epoch=epoch)
    assert verify_version(bank).unchecked_files == []


def test_without_checksums_all_rows_are_still_read(small: SmallBank) -> None:
    for key in small.store.list("seals/"):
        small.store.delete(key)
    report = verify_version(small.bank, request_log=small.log)
    assert report.is_whole
    assert (report.num_verified, len(report.unchecked_files)) == (5, 3)


def test_checksums_of_deleted_files_are_pruned(small: SmallBank) -> None:
    before = small.store.list("seals/")
    small.bank.checksums.prune()
    assert small.store.list("seals/") == before
    path = small.file("data")
    path.unlink()
    small.bank.checksums.prune()
    gone = f"seals/main/data/{path.name}.json"
    assert small.store.list("seals/") == [key for key in before if key != gone]


def test_an_altered_row_is_not_restored(small: SmallBank) -> None:
    small.bank.remove([small.ids[1]], author="anna", reason="", epoch=small.epoch)
    path = small.file("data")
    flip(path.read_bytes().index(small.rows[1].expert.down_RD.numpy().tobytes()[:16]))(path)
    small.bank.restore([small.ids[1]], author="anna", reason="", epoch=small.epoch)
    assert small.ids[1] not in small.bank.edit_ids()
    assert 2 in small.bank.pending_sequences(small.log)
