"""Verification names damage; the repair keeps the other rows and leaves the rest to the log."""

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


class Taught:
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
        self.teach(self.rows[:3])
        self.teach(self.rows[3:])

    def teach(self, rows: list[ExpertRow]) -> int:
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
def taught(store: ObjectStore) -> Taught:
    return Taught(store)


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


def test_a_whole_version_is_read_to_the_last_row(taught: Taught) -> None:
    report = verify_version(taught.bank, request_log=taught.log)
    assert report.is_whole
    assert (report.num_edits, report.num_verified) == (5, 5)
    assert report.num_files == 3  # two of rows, one list of removed rows
    assert report.unchecked_files == []
    sizes = [taught.file(*which).stat().st_size for which in (("data", 0), ("data", 1), ("list",))]
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
    taught: Taught, damage: Damage, words: str
) -> None:
    path = taught.file("data")
    damage(path)
    report = verify_version(taught.bank, request_log=taught.log)
    (problem,) = report.files
    assert problem.key == f"banks/main/data/{path.name}"
    assert words in report.lines()[0]
    assert set(report.damaged_edits) <= {taught.ids[1], taught.ids[2]}
    assert not report.is_whole

    version = taught.drop(report, "bad disk")

    assert set(taught.bank.edit_ids()) == set(taught.ids[1:]) - set(report.damaged_edits)
    assert taught.verify() == []
    record = taught.bank.versions.record(version)
    assert (record.kind, record.author, record.message) == ("repair", "anna", "bad disk")
    pending = [taught.ids[number - 1] for number in taught.bank.pending_sequences(taught.log)]
    assert set(pending) - {taught.ids[0]} == set(report.damaged_edits)
    taught.teach(taught.rows)
    assert taught.bank.edit_ids() == taught.ids[1:]
    taught.bank.load_rows(["expert_down"])


@pytest.mark.parametrize("damage", [remove, truncate, flip(200)])
def test_a_damaged_list_of_removed_rows_costs_no_expert(taught: Taught, damage: Damage) -> None:
    path = taught.file("list")
    damage(path)
    report = verify_version(taught.bank, request_log=taught.log)
    assert [item.key for item in report.files] == [f"banks/main/_deletions/{path.name}"]
    assert report.damaged_edits == ()
    taught.drop(report)
    assert taught.bank.edit_ids() == taught.ids[1:]
    assert taught.verify() == []


def test_a_bank_that_was_committed_to_since_its_verification_is_not_repaired(
    taught: Taught,
) -> None:
    path = taught.file("data")
    data = path.read_bytes()
    path.unlink()
    report = verify_version(taught.bank, request_log=taught.log)
    path.write_bytes(data)
    taught.teach([small_row(7, "f")])
    with pytest.raises(ConcurrentCommitError, match="newer version than the verified"):
        taught.drop(report)


def test_of_an_altered_file_only_the_altered_row_is_lost(taught: Taught) -> None:
    path = taught.file("data")
    down = taught.rows[1].expert.down_RD.numpy().tobytes()
    data = path.read_bytes()
    position = data.index(down[:16])
    flip(position)(path)
    report = verify_version(taught.bank, request_log=taught.log)
    assert report.damaged_edits == (taught.ids[1],)
    assert report.num_verified == 4


def test_rows_that_the_log_does_not_know_or_calls_removed_are_named(taught: Taught) -> None:
    stranger = small_row(9, "stranger")
    taught.teach([stranger])
    assert taught.verify() == [
        f"edit {stranger.expert.edit_id}: the request log has no request 9 of this edit"
    ]


def test_older_versions_are_verified_too(taught: Taught) -> None:
    older = taught.bank.version - 1
    assert verify_version(taught.bank, older, taught.log).num_verified == 3
    taught.file("data").unlink()
    report = verify_version(taught.bank, older, taught.log)
    assert set(report.damaged_edits) == set(taught.ids[:3])


def test_a_file_whose_writer_was_killed_before_its_checksum_is_named_and_checked_later(
    taught: Taught,
) -> None:
    removals = taught.file("list").name
    taught.store.delete(f"seals/main/_deletions/{removals}.json")
    report = verify_version(taught.bank, request_log=taught.log)
    assert report.is_whole
    assert report.unchecked_files == [f"banks/main/_deletions/{removals}"]
    epoch = ExpertBank.open(taught.store, "main").acquire_writer()
    bank = ExpertBank.open(taught.store, "main")
    bank.remove([taught.ids[4]], author="anna", reason="", epoch=epoch)
    assert verify_version(bank).unchecked_files == []


def test_without_checksums_all_rows_are_still_read(taught: Taught) -> None:
    for key in taught.store.list("seals/"):
        taught.store.delete(key)
    report = verify_version(taught.bank, request_log=taught.log)
    assert report.is_whole
    assert (report.num_verified, len(report.unchecked_files)) == (5, 3)


def test_checksums_of_deleted_files_are_pruned(taught: Taught) -> None:
    before = taught.store.list("seals/")
    taught.bank.checksums.prune()
    assert taught.store.list("seals/") == before
    path = taught.file("data")
    path.unlink()
    taught.bank.checksums.prune()
    gone = f"seals/main/data/{path.name}.json"
    assert taught.store.list("seals/") == [key for key in before if key != gone]


def test_an_altered_row_is_not_brought_back(taught: Taught) -> None:
    taught.bank.remove([taught.ids[1]], author="anna", reason="", epoch=taught.epoch)
    path = taught.file("data")
    flip(path.read_bytes().index(taught.rows[1].expert.down_RD.numpy().tobytes()[:16]))(path)
    taught.bank.restore([taught.ids[1]], author="anna", reason="", epoch=taught.epoch)
    assert taught.ids[1] not in taught.bank.edit_ids()
    assert 2 in taught.bank.pending_sequences(taught.log)
