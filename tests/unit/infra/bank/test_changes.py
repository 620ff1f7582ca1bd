"""Removing, restoring and rolling back: records of the log, exactly once in effect."""

from datetime import UTC, datetime, timedelta

import pytest

from infra.bank.compaction import Compaction
from infra.bank.expert_bank import ExpertBank
from infra.bank.fragments import WrittenFragment
from infra.bank.policy import GrowthPolicy
from infra.requests.change_log import ChangeLog
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.storage.writer_fence import WriterFencedError
from liveedit_core.errors import InputError
from tests.small_rows import SMALL_IDENTITY, small_request, small_row


class Life:
    """A store with a bank and its log; facts are (image, target)."""

    def __init__(self, store: ObjectStore, *facts: tuple[str, str]) -> None:
        self.store = store
        self.facts = facts
        self.log = RequestLog(store)
        self.log.append([small_request(*fact) for fact in facts])
        self.bank = ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
        self.epoch = self.bank.acquire_writer()

    def fragments(self, *numbers: int) -> list[WrittenFragment]:
        rows = [small_row(number, *self.facts[number - 1]) for number in numbers]
        return self.bank.fragment_writer().write(rows)

    def teach(self, *numbers: int) -> int:
        return self.bank.commit(self.fragments(*numbers), epoch=self.epoch)

    def ids(self, *numbers: int) -> list[str]:
        return [small_request(*self.facts[number - 1]).edit_id for number in numbers]

    def remove(self, *numbers: int, reason: str = "wrong") -> int:
        return self.bank.remove(self.ids(*numbers), author="anna", reason=reason, epoch=self.epoch)

    def restore(self, *numbers: int) -> int:
        return self.bank.restore(self.ids(*numbers), author="ben", reason="", epoch=self.epoch)

    def held(self, version: int | None = None) -> list[int]:
        return self.bank.load_rows(["sequence"], version).column("sequence").to_pylist()  # type: ignore[no-any-return]


@pytest.fixture
def life(store: ObjectStore) -> Life:
    life = Life(store, ("flag", "red"), ("lamp", "on"), ("flag", "blue"), ("tree", "oak"))
    life.teach(1, 2)
    life.teach(3, 4)
    return life


def test_a_removal_is_a_version_with_author_time_and_reason(life: Life) -> None:
    before = life.bank.version
    version = life.remove(2, reason="lamp was off")
    assert version == before + 1
    assert (life.held(before), life.held(version)) == ([2, 3, 4], [3, 4])
    record = life.bank.versions.record(version)
    assert (record.kind, record.author, record.message) == ("remove", "anna", "lamp was off")
    assert (record.num_edits, record.num_removed, record.num_added) == (2, 1, 0)
    assert record.committed_at >= life.bank.versions.record(before).committed_at
    (change,) = life.log.changes.read()
    assert (change.author, change.reason, change.removed) == (
        "anna",
        "lamp was off",
        tuple(life.ids(2)),
    )


def test_what_a_removed_edit_had_superseded_answers_again(life: Life) -> None:
    version = life.remove(3)
    assert life.held() == [1, 2, 4]
    assert life.bank.versions.record(version).added == tuple(life.ids(1))
    life.remove(1)
    assert life.held() == [2, 4]
    life.restore(1, 3)
    assert life.held() == [2, 3, 4]
    events = life.bank.versions.events(life.ids(1)[0], life.bank.version)
    assert [event.event for event in events] == ["added", "superseded", "added", "removed"]


def test_a_second_removal_and_a_vain_restoration_do_nothing(life: Life) -> None:
    version = life.remove(2)
    assert life.remove(2) == version
    assert life.restore(4) == version
    assert len(life.log.changes.read()) == 1


def test_an_edit_handed_in_again_stays_removed(life: Life) -> None:
    life.remove(2)
    (admission,) = life.log.append([small_request("lamp", "on")])
    assert admission.is_duplicate
    life.teach(2)
    assert life.held() == [3, 4]
    assert life.bank.pending_sequences(life.log) == []


def test_a_pending_edit_can_be_removed_and_is_never_taught(life: Life) -> None:
    (admission,) = life.log.append([small_request("door", "shut")])
    edit_id = admission.edit_id
    life.bank.remove([edit_id], author="anna", reason="", epoch=life.epoch)
    assert life.bank.pending_sequences(life.log) == []
    life.bank.restore([edit_id], author="anna", reason="", epoch=life.epoch)
    assert life.bank.pending_sequences(life.log) == [5]


def test_an_unknown_edit_changes_nothing(life: Life) -> None:
    with pytest.raises(InputError, match="has no edit 'nobody'"):
        life.bank.remove([*life.ids(2), "nobody"], author="anna", reason="", epoch=life.epoch)
    with pytest.raises(InputError, match="needs its author"):
        life.bank.remove(life.ids(2), author=" ", reason="", epoch=life.epoch)
    assert life.log.changes.read() == []


def test_a_fenced_writer_cannot_even_write_the_change_down(life: Life) -> None:
    life.bank.acquire_writer()
    with pytest.raises(WriterFencedError):
        life.remove(2)
    assert life.log.changes.read() == []


def test_a_change_that_its_process_did_not_live_to_show_is_shown_by_the_next_commit(
    life: Life,
) -> None:
    life.bank.remove(life.ids(2), author="anna", reason="queued", epoch=None)
    assert life.held() == [2, 3, 4]
    assert life.bank.has_waiting_changes()
    life.log.append([small_request("door", "shut")])
    bank = ExpertBank.open(life.store, "main")
    row = small_row(5, "door", "shut")
    bank.commit(bank.fragment_writer().write([row]), epoch=bank.acquire_writer())
    assert life.held() == [3, 4, 5]
    assert [item.kind for item in bank.history()[-2:]] == ["remove", "window"]
    assert not bank.has_waiting_changes()
    assert ExpertBank.open(life.store, "main").apply_changes(epoch=bank.acquire_writer()) == (
        bank.version
    )


def test_an_edit_removed_while_its_expert_was_written_stays_out(life: Life) -> None:
    life.log.append([small_request("door", "shut")])
    life.facts = (*life.facts, ("door", "shut"))
    fragments = life.fragments(5)
    life.remove(5)
    life.bank.commit(fragments, epoch=life.epoch)
    assert life.held() == [2, 3, 4]


def test_a_window_decided_before_a_removal_is_decided_again(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Between the decision on a window and its commit another process removes the edit.
    life.log.append([small_request("door", "shut")])
    life.facts = (*life.facts, ("door", "shut"))
    fragments = life.fragments(5)
    removals = iter([True])
    commit = life.bank._commit

    def late(*arguments: object) -> int:
        if next(removals, False):
            other = ExpertBank.open(life.store, "main")
            other.remove(life.ids(5), author="anna", reason="", epoch=life.epoch)
        return commit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(life.bank, "_commit", late)
    life.bank.commit(fragments, epoch=life.epoch)
    assert life.held() == [2, 3, 4]


def test_changes_hold_for_every_bank_of_the_store(life: Life) -> None:
    other = ExpertBank.open_or_create(life.store, "other", SMALL_IDENTITY)
    epoch = other.acquire_writer()
    rows = [small_row(number, *life.facts[number - 1]) for number in (1, 2)]
    other.commit(other.fragment_writer().write(rows), epoch=epoch)
    life.remove(2)
    assert other.num_edits() == 2
    other.apply_changes(epoch=epoch)
    assert other.edit_ids() == life.ids(1)
    new = ExpertBank.open_or_create(life.store, "new", SMALL_IDENTITY)
    new.commit(
        new.fragment_writer().write([small_row(2, "lamp", "on")]), epoch=new.acquire_writer()
    )
    assert new.num_edits() == 0


def test_all_edits_can_go_and_come_back(life: Life) -> None:
    life.remove(1, 2, 3, 4)
    assert life.held() == []
    life.restore(1, 2, 3, 4)
    assert life.held() == [2, 3, 4]


def test_a_rollback_holds_what_the_older_version_held(life: Life) -> None:
    older = life.bank.history()[0].version
    version = life.bank.roll_back(older, author="anna", reason="bad batch", epoch=life.epoch)
    assert life.held(version) == life.held(older) == [1, 2]
    assert life.bank.versions.record(version).kind == "rollback"
    assert life.bank.versions.diff(older, version).added == ()
    assert life.bank.pending_sequences(life.log) == []
    life.bank.roll_back(version - 1, author="anna", reason="", epoch=life.epoch)
    assert life.held() == [2, 3, 4]


def test_diff_tells_added_removed_and_superseded(life: Life) -> None:
    first, second = (record.version for record in life.bank.history())
    diff = life.bank.versions.diff(first, second)
    red, lamp, blue, tree = life.ids(1, 2, 3, 4)
    assert (diff.added, diff.removed, diff.superseded) == ((tree,), (), ((red, blue),))
    third = life.remove(2)
    assert life.bank.versions.diff(second, third).removed == (lamp,)


def test_tags_name_versions_and_never_move_silently(life: Life) -> None:
    first, second = (record.version for record in life.bank.history())
    versions = life.bank.versions
    versions.tag("good", first)
    versions.tag("good", first)
    with pytest.raises(InputError, match=f"names version {first} already"):
        versions.tag("good", second)
    for name in ("7", "no spaces", ""):
        with pytest.raises(InputError):
            versions.tag(name, second)
    assert versions.tags() == {"good": first}
    versions.untag("good")
    assert versions.tags() == {}
    with pytest.raises(InputError, match="no tag 'good'"):
        versions.untag("good")


def test_changes_of_two_processes_are_numbered_one_after_the_other(store: ObjectStore) -> None:
    logs = [ChangeLog(store), ChangeLog(store)]
    for number, log in enumerate([*logs, *logs]):
        log.append("remove", removed=[f"edit {number}"], bank="main", author="anna", reason="")
    assert [change.number for change in logs[0].read()] == [1, 2, 3, 4]
    assert logs[0].removed() == logs[1].removed() == {f"edit {number}" for number in range(4)}


def test_a_restored_edit_that_no_version_holds_any_more_is_pending(life: Life) -> None:
    life.remove(4)
    policy = GrowthPolicy(keep_versions=1, keep_days=0.0)
    growth = Compaction(life.store, "main", policy)
    assert growth.run(now=datetime.now(UTC) + timedelta(days=9)).versions_removed
    life.restore(4)
    assert life.held() == [2, 3]
    assert life.bank.pending_sequences(life.log) == [4]
    assert life.bank.lost_sequences(life.log) == [4]
    life.teach(4)
    assert life.held() == [2, 3, 4]
    events = life.bank.versions.events(life.ids(4)[0], life.bank.version)
    assert [event.event for event in events] == ["added", "removed", "added"]
