"""The expert bank: a versioned Lance table of experts, one version per committed window.

Workers write fragments that no version shows; one committer makes those of a window visible in one
transaction. Every edit takes effect exactly once, whatever process dies or is retried, because:

- rows that the version already holds are skipped;
- of two edits of one subject the one with the larger sequence stays, and the older row leaves in
  the transaction that adds the newer one;
- a window is committed only after every change of the log (`ChangeLog`) has been applied, and
  removed edits stay out. A change makes a version even when no row moves, so a window that was
  planned before it is planned again;
- a commit succeeds only on top of the version on which it was decided (`Table.commit`), and only
  for the newest writer epoch (`WriterFence`).
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from lance import LanceDataset
from lance.fragment import FragmentMetadata

from infra.bank.fragments import RowKey, WantedRows, WrittenFragment
from infra.bank.history import BankVersion
from infra.bank.integrity import IntegrityReport
from infra.bank.reconciliation import (
    OlderRows,
    all_held,
    held_of,
    plan_commit,
    plan_rollback,
    reconcile,
)
from infra.bank.schema import BankIdentity
from infra.bank.stored_bank import StoredBank
from infra.bank.traffic import read_traffic
from infra.requests.change_log import Change, ChangeKind, ChangeLog, removed_after
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.storage.tables import (
    ConcurrentCommitError,
    Table,
    count_rows,
    fragments_of,
    paths_of,
    sql_in,
)
from infra.storage.writer_fence import WriterFence
from liveedit_core.method.config import DEFAULT_BUDGET, checked_budget


class ExpertBank(StoredBank):
    """A bank in a store; open it with `open_or_create` or `open`.

    Methods that write need the epoch from `acquire_writer`, return the newest version, and raise
    WriterFencedError when a newer writer has taken over.
    """

    def __init__(self, store: ObjectStore, name: str, table: Table, identity: BankIdentity) -> None:
        super().__init__(store, name, table, identity)
        self._fence = WriterFence(store, name)
        self._changes = ChangeLog(store)
        self._older_rows = OlderRows(table, self.versions, self.checksums)
        self._removals_with_checksum: set[str] = set()
        self._cached_state: BankVersion | None = None

    @functools.cached_property
    def _log(self) -> RequestLog:
        return RequestLog(self.store)

    def acquire_writer(self) -> int:
        """Become the one committer: claim a new epoch, which fences every earlier writer."""
        return self._fence.acquire()

    def commit(
        self,
        fragments: Sequence[WrittenFragment],
        *,
        epoch: int,
        subjects: Mapping[str, str] | None = None,
        message: str = "",
        kind: str = "window",
        author: str = "",
        run: Callable[[Callable[[], Any]], Any] = lambda action: action(),
    ) -> int:
        """Commit new rows as one version, after all changes of the log; no version if none is new.

        `subjects` are those that the request log gives the edits, where they are not the rows' own.
        `kind` is "repair" for lost experts that were computed again. `run` does what reads, writes
        and deletes files of rows, perhaps in another process.
        """
        for fragment in fragments:
            fragment.check_age()
        keys = [fragment.with_subjects(subjects or {}) for fragment in fragments]
        subject_ids = {key.subject_id for part in keys for key in part}
        writer = self.fragment_writer()

        def attempt(base: LanceDataset) -> int:
            # The base is read before the epoch is checked: a commit that succeeds on it was not
            # preceded by any commit of a newer writer. The same holds for changes of the log.
            self._fence.check(epoch)
            state = self._state(base)
            changes = self._changes.read()
            if state and state.last_change < len(changes):
                raise ConcurrentCommitError(f"bank {self.name!r}: a change of the log comes first")
            # Only rows of these subjects can be duplicates or superseded: the time of a commit
            # does not depend on how many edits the bank holds.
            held = held_of(base, subject_ids)
            plan = plan_commit(held, keys, removed=self._changes.removed())
            if not plan.added:
                return int(base.version)
            record = self._record(
                base,
                epoch=epoch,
                message=message,
                kind=kind,
                author=author,
                num_superseded=len(plan.superseded),
                last_change=len(changes),
            )
            parts = zip(fragments, plan.positions, keys, strict=True)
            wanted = [WantedRows(f, p, [key[n] for n in p]) for f, p, key in parts if p]
            new = run(functools.partial(writer.merged, wanted))
            version = self._commit(base, record, new, plan.added, plan.superseded)
            before = [fragment.metadata for fragment in fragments_of(base)]
            unused = set(paths_of(part.fragment.metadata for part in wanted))
            if unused := unused - set(paths_of([*before, *new])):
                run(functools.partial(writer.delete, sorted(unused)))
            return version

        self.apply_changes(epoch=epoch)
        return self._table.on_latest(attempt)

    def apply_changes(self, *, epoch: int) -> int:
        """Apply the changes of the log that the bank does not show yet, one version each."""

        def attempt(base: LanceDataset) -> int | None:
            self._fence.check(epoch)
            state = self._state(base)
            changes = self._changes.read()
            waiting = changes[state.last_change if state else 0 :]
            if not waiting:
                return int(base.version)
            # An empty bank has nothing to change: one version takes all changes into account.
            change = waiting[0] if state else waiting[-1]
            self._apply(base, change, changes, epoch)
            return None

        while (version := self._table.on_latest(attempt)) is None:
            pass
        return version

    def has_waiting_changes(self) -> bool:
        """Whether the log holds changes that the newest version does not show."""
        state = self._state(self._table.latest())
        return len(self._changes.read()) > (state.last_change if state else 0)

    def remove(
        self, edit_ids: Collection[str], *, author: str, reason: str, epoch: int | None
    ) -> int:
        """Remove edits: stored in the change log, then applied as one new version.

        The version answers, bit for bit, as one that never had the edits: an edit that a removed
        one had superseded answers again. The other banks of the store follow with their next
        commit, and so does this one when `epoch` is None. InputError, and no change, when the log
        lacks one of the edits.
        """
        return self._change("remove", author, reason, epoch, removed=edit_ids)

    def restore(
        self, edit_ids: Collection[str], *, author: str, reason: str, epoch: int | None
    ) -> int:
        """Undo removals in the same way; a newer edit of the same subject stays.

        The expert comes from an older version; if none holds it any more, the edit is pending.
        """
        return self._change("restore", author, reason, epoch, restored=edit_ids)

    def roll_back(self, version: int, *, author: str, reason: str, epoch: int) -> int:
        """Make the newest version hold what an older one holds, with its budget of false
        activations and its traffic; pending requests stay pending."""
        self.apply_changes(epoch=epoch)
        now, before = all_held(self._table.latest()), all_held(self._table.at(version))
        removed, restored = plan_rollback(now, before, self._log.edits_of_subjects)
        why = reason or f"back to version {version}"
        budget = self.versions.false_activation_at(version)
        traffic = self.versions.traffic_at(version)
        self.calibrate(budget, traffic=traffic, author=author, reason=why, epoch=epoch)
        return self._change("rollback", author, why, epoch, removed=removed, restored=restored)

    def calibrate(
        self,
        false_activation: float | None = None,
        *,
        traffic: str | None = None,
        author: str,
        reason: str,
        epoch: int,
    ) -> int:
        """Set the budget of false activations, the traffic (`write_traffic`; "" for none), or both
        by a version that changes no rows; none if they are set already. IntegrityError, and no
        version, when the traffic is missing or damaged."""
        wanted: dict[str, Any] = {}
        if false_activation is not None:
            wanted["false_activation"] = checked_budget(false_activation)
        if traffic is not None:
            wanted["traffic"] = traffic
        if traffic:
            read_traffic(self.store, traffic)  # no version may name what cannot be read

        def attempt(base: LanceDataset) -> int:
            self._fence.check(epoch)
            record = self._record(
                base, epoch=epoch, message=reason, kind="calibrate", author=author
            )
            changed = replace(record, **wanted)
            return (
                int(base.version) if changed == record else self._commit(base, changed, [], [], [])
            )

        self.apply_changes(epoch=epoch)
        return self._table.on_latest(attempt)

    def _change(
        self,
        kind: ChangeKind,
        author: str,
        reason: str,
        epoch: int | None,
        *,
        removed: Collection[str] = (),
        restored: Collection[str] = (),
    ) -> int:
        if epoch is not None:
            self._fence.check(epoch)
        self._log.subjects_of([*removed, *restored])
        self._log.changes.append(
            kind, removed=removed, restored=restored, bank=self.name, author=author, reason=reason
        )
        return self.version if epoch is None else self.apply_changes(epoch=epoch)

    def drop_damaged(self, report: IntegrityReport, *, author: str, reason: str, epoch: int) -> int:
        """Commit the verified version without its damaged rows; their edits become pending."""
        if not report.damaged:
            return report.version
        base = self._table.latest()
        self._fence.check(epoch)
        if base.version != report.version:
            raise ConcurrentCommitError(
                f"bank {self.name!r} has a newer version than the verified one, verify it again"
            )
        record = self._record(
            base,
            epoch=epoch,
            message=reason,
            kind="repair",
            author=author,
            num_edits=report.num_verified,
            num_removed=len(report.damaged_edits),
            removed=report.damaged_edits,
        )
        rows = pa.concat_tables(report.damaged.values())
        committed = self._table.commit(
            base,
            self._write(rows.cast(base.schema)) if len(rows) else [],
            without_fragments=report.damaged,
            properties=record.properties(),
        )
        self._cached_state = None
        return committed

    def _write(self, rows: pa.Table) -> list[FragmentMetadata]:
        return [fragment.metadata for fragment in self.fragment_writer().write_table(rows)]

    def _state(self, base: LanceDataset) -> BankVersion | None:
        if self._cached_state is None or self._cached_state.version != base.version:
            self._cached_state = self.versions.state_at(int(base.version))
        return self._cached_state

    def _record(self, base: LanceDataset, **values: Any) -> BankVersion:
        """A record of the next version, which changes no rows so far."""
        state = self._state(base)
        common: dict[str, Any] = {
            "version": int(base.version) + 1,
            "committed_at": datetime.now(UTC),
            "num_edits": count_rows(base) if state is None else state.num_edits,
            "last_sequence": state.last_sequence if state else 0,
            "last_change": state.last_change if state else 0,
            "false_activation": state.false_activation if state else DEFAULT_BUDGET,
            "traffic": state.traffic if state else "",
        }
        return BankVersion(**{**common, **values})

    def _commit(
        self,
        base: LanceDataset,
        record: BankVersion,
        new: Sequence[FragmentMetadata],
        added: Sequence[RowKey],
        removed: Sequence[RowKey],
    ) -> int:
        sequences = [key.sequence for key in added]
        record = replace(
            record,
            num_edits=record.num_edits + len(added) - len(removed),
            num_added=len(added),
            first_sequence=min(sequences, default=0),
            last_sequence=max([record.last_sequence, *sequences]),
            added=tuple(key.edit_id for key in added),
            removed=tuple(key.edit_id for key in removed),
        )
        without = sql_in("edit_id", record.removed)
        version = self._table.commit(base, new, without=without, properties=record.properties())
        if removed:
            self._write_removal_checksums(version)
        self._cached_state = replace(record, version=version)
        return version

    def _write_removal_checksums(self, version: int) -> None:
        """Write the missing checksums of a version's lists of removed rows.

        Lance writes these lists during the commit; if this process is killed before it gets here,
        verification reports them and the next removal writes their checksums.
        """
        for fragment in fragments_of(self._table.at(version)):
            path = fragment.deletion_file()
            if path and path not in self._removals_with_checksum:
                if self.checksums.read(path) is None:
                    self.checksums.write(path)
                self._removals_with_checksum.add(path)

    def _apply(
        self, base: LanceDataset, change: Change, changes: Sequence[Change], epoch: int
    ) -> None:
        subjects = set(self._log.subjects_of(change.edit_ids).values())
        result = reconcile(
            held_of(base, subjects),
            self._log.edits_of_subjects(subjects),
            removed_after(changes[: change.number]),
            lambda edit_ids: self._older_rows.find(base, edit_ids),
        )
        gone = set(change.removed)
        num_removed = sum(key.edit_id in gone for key in result.removed)
        record = self._record(
            base,
            epoch=epoch,
            message=change.reason,
            kind=change.kind,
            author=change.author,
            num_removed=num_removed,
            num_superseded=len(result.removed) - num_removed,
            last_change=change.number,
        )
        new = self._write(result.rows.cast(base.schema)) if result.rows else []
        self._commit(base, record, new, result.added, result.removed)
