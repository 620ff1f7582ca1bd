"""Removing, restoring and rolling back: stored in the change log, exactly once in effect."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from infra.bank.compaction import Compaction
from infra.bank.expert_bank import ExpertBank
from infra.bank.fragments import WrittenFragment
from infra.bank.history import BankVersion
from infra.bank.policy import GrowthPolicy
from infra.requests.change_log import ChangeLog
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.storage.writer_fence import WriterFencedError
from liveedit_core.errors import ConfigError, InputError
from liveedit_core.method.config import DEFAULT_BUDGET
from tests.small_rows import SMALL_CONFIG, SMALL_IDENTITY, small_request, small_row


class LoggedBank:
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

    def commit(self, *numbers: int) -> int:
        return self.bank.commit(self.fragments(*numbers), epoch=self.epoch)

    def ids(self, *numbers: int) -> list[str]:
        return [small_request(*self.facts[number - 1]).edit_id for number in numbers]

    def remove(self, *numbers: int, reason: str = "wrong") -> int:
        return self.bank.remove(self.ids(*numbers), author="anna", reason=reason, epoch=self.epoch)

    def restore(self, *numbers: int) -> int:
        return self.bank.restore(self.ids(*numbers), author="ben", reason="", epoch=self.epoch)

    def calibrate(self, share: float, *, reason: str = "") -> int:
        return self.bank.calibrate(share, author="anna", reason=reason, epoch=self.epoch)

    def held(self, version: int | None = None) -> list[int]:
        return self.bank.load_rows(["sequence"], version).column("sequence").to_pylist()  # type: ignore[no-any-return]


@pytest.fixture
def logged(store: ObjectStore) -> LoggedBank:
    logged = LoggedBank(store, ("flag", "red"), ("lamp", "on"), ("flag", "blue"), ("tree", "oak"))
    logged.commit(1, 2)
    logged.commit(3, 4)
    return logged


def test_a_removal_is_a_version_with_author_time_and_reason(logged: LoggedBank) -> None:
    before = logged.bank.version
    version = logged.remove(2, reason="lamp was off")
    assert version == before + 1
    assert (logged.held(before), logged.held(version)) == ([2, 3, 4], [3, 4])
    record = logged.bank.versions.record(version)
    assert (record.kind, record.author, record.message) == ("remove", "anna", "lamp was off")
    assert (record.num_edits, record.num_removed, record.num_added) == (2, 1, 0)
    assert record.committed_at >= logged.bank.versions.record(before).committed_at
    (change,) = logged.log.changes.read()
    assert (change.author, change.reason, change.removed) == (
        "anna",
        "lamp was off",
        tuple(logged.ids(2)),
    )


def test_removing_an_edit_restores_the_one_it_superseded(logged: LoggedBank) -> None:
    version = logged.remove(3)
    assert logged.held() == [1, 2, 4]
    assert logged.bank.versions.record(version).added == tuple(logged.ids(1))
    logged.remove(1)
    assert logged.held() == [2, 4]
    logged.restore(1, 3)
    assert logged.held() == [2, 3, 4]
    events = logged.bank.versions.events(logged.ids(1)[0], logged.bank.version)
    assert [event.event for event in events] == ["added", "superseded", "added", "removed"]


def test_a_repeated_removal_and_a_needless_restoration_do_nothing(logged: LoggedBank) -> None:
    version = logged.remove(2)
    assert logged.remove(2) == version
    assert logged.restore(4) == version
    assert len(logged.log.changes.read()) == 1


def test_a_removed_edit_that_is_submitted_again_stays_removed(logged: LoggedBank) -> None:
    logged.remove(2)
    (admission,) = logged.log.append([small_request("lamp", "on")])
    assert admission.is_duplicate
    logged.commit(2)
    assert logged.held() == [3, 4]
    assert logged.bank.pending_sequences(logged.log) == []


def test_a_pending_edit_can_be_removed_and_restored(logged: LoggedBank) -> None:
    (admission,) = logged.log.append([small_request("door", "shut")])
    edit_id = admission.edit_id
    logged.bank.remove([edit_id], author="anna", reason="", epoch=logged.epoch)
    assert logged.bank.pending_sequences(logged.log) == []
    logged.bank.restore([edit_id], author="anna", reason="", epoch=logged.epoch)
    assert logged.bank.pending_sequences(logged.log) == [5]


def test_an_unknown_edit_changes_nothing(logged: LoggedBank) -> None:
    with pytest.raises(InputError, match="has no edit 'nobody'"):
        logged.bank.remove([*logged.ids(2), "nobody"], author="anna", reason="", epoch=logged.epoch)
    with pytest.raises(InputError, match="author is empty"):
        logged.bank.remove(logged.ids(2), author=" ", reason="", epoch=logged.epoch)
    assert logged.log.changes.read() == []


def test_a_fenced_writer_cannot_store_a_change(logged: LoggedBank) -> None:
    logged.bank.acquire_writer()
    with pytest.raises(WriterFencedError):
        logged.remove(2)
    assert logged.log.changes.read() == []


def test_the_next_commit_applies_a_change_whose_process_died(logged: LoggedBank) -> None:
    logged.bank.remove(logged.ids(2), author="anna", reason="queued", epoch=None)
    assert logged.held() == [2, 3, 4]
    assert logged.bank.has_waiting_changes()
    logged.log.append([small_request("door", "shut")])
    bank = ExpertBank.open(logged.store, "main")
    row = small_row(5, "door", "shut")
    bank.commit(bank.fragment_writer().write([row]), epoch=bank.acquire_writer())
    assert logged.held() == [3, 4, 5]
    assert [item.kind for item in bank.history()[-2:]] == ["remove", "window"]
    assert not bank.has_waiting_changes()
    assert ExpertBank.open(logged.store, "main").apply_changes(epoch=bank.acquire_writer()) == (
        bank.version
    )


def test_an_edit_removed_while_its_expert_is_computed_stays_out(logged: LoggedBank) -> None:
    logged.log.append([small_request("door", "shut")])
    logged.facts = (*logged.facts, ("door", "shut"))
    fragments = logged.fragments(5)
    logged.remove(5)
    logged.bank.commit(fragments, epoch=logged.epoch)
    assert logged.held() == [2, 3, 4]


def test_a_window_planned_before_a_removal_is_planned_again(
    logged: LoggedBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Between the decision on a window and its commit another process removes the edit.
    logged.log.append([small_request("door", "shut")])
    logged.facts = (*logged.facts, ("door", "shut"))
    fragments = logged.fragments(5)
    removals = iter([True])
    commit = logged.bank._commit

    def late(*arguments: object) -> int:
        if next(removals, False):
            other = ExpertBank.open(logged.store, "main")
            other.remove(logged.ids(5), author="anna", reason="", epoch=logged.epoch)
        return commit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(logged.bank, "_commit", late)
    logged.bank.commit(fragments, epoch=logged.epoch)
    assert logged.held() == [2, 3, 4]


def test_changes_apply_to_every_bank_of_the_store(logged: LoggedBank) -> None:
    other = ExpertBank.open_or_create(logged.store, "other", SMALL_IDENTITY)
    epoch = other.acquire_writer()
    rows = [small_row(number, *logged.facts[number - 1]) for number in (1, 2)]
    other.commit(other.fragment_writer().write(rows), epoch=epoch)
    logged.remove(2)
    assert other.num_edits() == 2
    other.apply_changes(epoch=epoch)
    assert other.edit_ids() == logged.ids(1)
    new = ExpertBank.open_or_create(logged.store, "new", SMALL_IDENTITY)
    new.commit(
        new.fragment_writer().write([small_row(2, "lamp", "on")]), epoch=new.acquire_writer()
    )
    assert new.num_edits() == 0


def test_all_edits_can_be_removed_and_restored(logged: LoggedBank) -> None:
    logged.remove(1, 2, 3, 4)
    assert logged.held() == []
    logged.restore(1, 2, 3, 4)
    assert logged.held() == [2, 3, 4]


def test_a_rollback_holds_what_the_older_version_held(logged: LoggedBank) -> None:
    older = logged.bank.history()[0].version
    version = logged.bank.roll_back(older, author="anna", reason="bad batch", epoch=logged.epoch)
    assert logged.held(version) == logged.held(older) == [1, 2]
    assert logged.bank.versions.record(version).kind == "rollback"
    assert logged.bank.versions.diff(older, version).added == ()
    assert logged.bank.pending_sequences(logged.log) == []
    logged.bank.roll_back(version - 1, author="anna", reason="", epoch=logged.epoch)
    assert logged.held() == [2, 3, 4]


def budgets(bank: ExpertBank) -> dict[int, float]:
    return {
        record.version: bank.load_repository(SMALL_CONFIG, record.version).false_activation
        for record in bank.history()
    }


def test_a_budget_is_part_of_each_version_from_then_on(logged: LoggedBank) -> None:
    before = logged.bank.version
    version = logged.calibrate(0.01, reason="too many")
    assert version == before + 1
    record = logged.bank.versions.record(version)
    assert (record.kind, record.author, record.message) == ("calibrate", "anna", "too many")
    assert (record.num_edits, record.num_added, record.added) == (3, 0, ())
    assert logged.held(version) == logged.held(before)
    assert logged.calibrate(0.01) == version
    removed = logged.remove(2)
    assert budgets(logged.bank) == {2: 0.02, before: 0.02, version: 0.01, removed: 0.01}
    assert logged.bank.load_repository(SMALL_CONFIG).false_activation == 0.01


def test_a_rollback_undoes_a_budget(logged: LoggedBank) -> None:
    older = logged.bank.version
    logged.calibrate(0.3)
    logged.remove(2)
    logged.bank.roll_back(older, author="anna", reason="", epoch=logged.epoch)
    assert logged.held() == logged.held(older)
    assert logged.bank.load_repository(SMALL_CONFIG).false_activation == 0.02
    logged.calibrate(0.3)
    logged.bank.roll_back(older, author="anna", reason="", epoch=logged.epoch)  # no rows differ
    newest = logged.bank.history()[-1]
    assert (newest.false_activation, newest.message) == (0.02, f"back to version {older}")


def test_an_empty_bank_has_a_budget_and_keeps_it(store: ObjectStore) -> None:
    logged = LoggedBank(store, ("flag", "red"))
    assert logged.bank.load_repository(SMALL_CONFIG).false_activation == DEFAULT_BUDGET
    logged.calibrate(0.1)
    logged.commit(1)
    assert logged.bank.load_repository(SMALL_CONFIG).false_activation == 0.1


@pytest.mark.parametrize("share", [0.0, -0.1, 0.51, float("nan")])
def test_a_share_that_is_no_budget_is_refused(logged: LoggedBank, share: float) -> None:
    before = logged.bank.version
    with pytest.raises(ConfigError, match="false_activation must be above 0"):
        logged.calibrate(share)
    assert logged.bank.version == before


def test_a_fenced_writer_cannot_calibrate(logged: LoggedBank) -> None:
    logged.bank.acquire_writer()
    with pytest.raises(WriterFencedError):
        logged.calibrate(0.01)


def test_records_stored_before_there_were_budgets_have_the_default(
    logged: LoggedBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def properties(record: BankVersion) -> dict[str, str]:
        ((key, text),) = written(record).items()
        content = json.loads(text)
        del content["false_activation"], content["traffic"]
        return {key: json.dumps(content)}

    written = BankVersion.properties
    with monkeypatch.context() as before:
        before.setattr(BankVersion, "properties", properties)
        old = logged.remove(2)
    logged.calibrate(0.2)
    assert logged.bank.versions.record(old).false_activation == DEFAULT_BUDGET
    repository = logged.bank.load_repository(SMALL_CONFIG, old)
    assert (repository.false_activation, repository.traffic_MR) == (DEFAULT_BUDGET, None)


def test_diff_lists_added_removed_and_superseded(logged: LoggedBank) -> None:
    first, second = (record.version for record in logged.bank.history())
    diff = logged.bank.versions.diff(first, second)
    red, lamp, blue, tree = logged.ids(1, 2, 3, 4)
    assert (diff.added, diff.removed, diff.superseded) == ((tree,), (), ((red, blue),))
    third = logged.remove(2)
    assert logged.bank.versions.diff(second, third).removed == (lamp,)


def test_tags_name_versions_and_never_move_silently(logged: LoggedBank) -> None:
    first, second = (record.version for record in logged.bank.history())
    versions = logged.bank.versions
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


def test_a_restored_edit_that_no_version_holds_is_pending(logged: LoggedBank) -> None:
    logged.remove(4)
    policy = GrowthPolicy(keep_versions=1, keep_days=0.0)
    growth = Compaction(logged.store, "main", policy)
    assert growth.run(now=datetime.now(UTC) + timedelta(days=9)).versions_removed
    logged.restore(4)
    assert logged.held() == [2, 3]
    assert logged.bank.pending_sequences(logged.log) == [4]
    assert logged.bank.lost_sequences(logged.log) == [4]
    logged.commit(4)
    assert logged.held() == [2, 3, 4]
    events = logged.bank.versions.events(logged.ids(4)[0], logged.bank.version)
    assert [event.event for event in events] == ["added", "removed", "added"]
