"""The one committer of a bank: decides on top of a version, and commits there or not at all.

It writes three kinds of versions by the same rules (newest writer epoch, compare-and-swap on the
version that was read): windows of new rows, applied changes of the log (`ChangeLog`), and repairs.
A window is only committed when every change in the log has been applied, so an edit that was
removed while its expert was being computed stays out; and a change makes a version even when no row
moves, so a window that was planned before it is planned again. If a process dies before it applies
a change, the next commit does.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from lance import LanceDataset
from lance.fragment import FragmentMetadata

from infra.bank import reconciliation
from infra.bank.fragments import FragmentWriter, RowKey, WrittenFragment
from infra.bank.history import BankHistory, BankVersion
from infra.bank.reconciliation import CommitPlan, OlderRows, all_held, held_of, plan_commit
from infra.requests.change_log import Change, ChangeLog, removed_after
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.storage.tables import ConcurrentCommitError, Table, sql_in
from infra.storage.writer_fence import WriterFence


class BankCommitter:
    """Writes versions of one bank; used through `ExpertBank`."""

    def __init__(
        self,
        store: ObjectStore,
        bank: str,
        table: Table,
        writer: FragmentWriter,
        history: BankHistory,
    ) -> None:
        """Write to the open table of a bank."""
        self._store = store
        self._bank = bank
        self._table = table
        self._writer = writer
        self._history = history
        self._older_rows = OlderRows(table, history, writer.checksums)
        self._fence = WriterFence(store, bank)
        self._changes = ChangeLog(store)
        self._removals_with_checksum: set[str] = set()
        self._cached_state: BankVersion | None = None

    @functools.cached_property
    def log(self) -> RequestLog:
        """The request log of the store."""
        return RequestLog(self._store)

    def commit(
        self,
        written: Sequence[WrittenFragment],
        *,
        epoch: int,
        message: str,
        kind: str,
        author: str,
    ) -> int:
        """See `ExpertBank.commit`."""

        subjects = {key.subject_id for fragment in written for key in fragment.keys}

        def attempt(base: LanceDataset) -> int:
            # The base is read before the epoch is checked: a commit that succeeds on it was not
            # preceded by any commit of a newer writer. The same holds for changes of the log.
            self._fence.check(epoch)
            state = self._state(base)
            changes = self._changes.read()
            if state and state.last_change < len(changes):
                raise ConcurrentCommitError(f"bank {self._bank!r}: a change of the log comes first")
            # Only rows of these subjects can be duplicates or superseded: the time of a commit
            # does not depend on how many edits the bank holds.
            held = held_of(base, subjects)
            plan = plan_commit(held, written, removed=self._changes.removed())
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
            new = self._wanted_fragments(base, written, plan)
            return self._commit(base, record, new, plan.added, plan.superseded)

        self.apply_changes(epoch)
        return self._table.on_latest(attempt)

    def apply_changes(self, epoch: int) -> int:
        """See `ExpertBank.apply_changes`."""

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
        """See `ExpertBank.has_waiting_changes`."""
        state = self._state(self._table.latest())
        return len(self._changes.read()) > (state.last_change if state else 0)

    def replace(
        self,
        *,
        fragment_ids: Sequence[int],
        rows: pa.Table,
        lost: Sequence[str],
        num_edits: int,
        version: int,
        epoch: int,
        message: str,
        author: str,
    ) -> int:
        """Replace damaged fragments of the newest version by their undamaged rows.

        Args:
            fragment_ids: The damaged fragments.
            rows: Their undamaged rows.
            lost: Edits whose rows are gone; they become pending.
            num_edits: Experts that remain.
            version: The version that was verified.
            epoch: From `acquire_writer`.
            message: The reason.
            author: Who repairs.

        Raises:
            ConcurrentCommitError: There is a newer version than the verified one.
        """
        base = self._table.latest()
        self._fence.check(epoch)
        if base.version != version:
            raise ConcurrentCommitError(
                f"bank {self._bank!r} has a newer version than the verified one, verify it again"
            )
        record = self._record(
            base,
            epoch=epoch,
            message=message,
            kind="repair",
            author=author,
            num_edits=num_edits,
            num_removed=len(lost),
            removed=tuple(lost),
        )
        new = self._write(rows.cast(base.schema)) if len(rows) else []
        committed = self._table.commit(
            base, new, without_fragments=fragment_ids, properties=record.properties()
        )
        self._cached_state = None
        return committed

    def plan_rollback(self, old: LanceDataset) -> tuple[list[str], list[str]]:
        """Edits to remove and to restore, so that the bank holds what `old` holds."""
        now = all_held(self._table.latest())
        return reconciliation.plan_rollback(now, all_held(old), self.log.edits_of_subjects)

    def _write(self, rows: pa.Table) -> list[FragmentMetadata]:
        return [fragment for fragment, _ in self._writer.write_table(rows)]

    def _state(self, base: LanceDataset) -> BankVersion | None:
        if self._cached_state is None or self._cached_state.version != base.version:
            self._cached_state = self._history.state_at(int(base.version))
        return self._cached_state

    def _record(self, base: LanceDataset, **values: Any) -> BankVersion:
        """A record of the next version, which changes no rows so far."""
        state = self._state(base)
        common: dict[str, Any] = {
            "version": int(base.version) + 1,
            "committed_at": datetime.now(UTC),
            "num_edits": int(base.count_rows()) if state is None else state.num_edits,
            "num_added": 0,
            "num_superseded": 0,
            "first_sequence": 0,
            "last_sequence": state.last_sequence if state else 0,
            "last_change": state.last_change if state else 0,
            "added": (),
            "removed": (),
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
        """Commit rows with a record that lists them."""
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
        version = self._table.commit(
            base,
            new,
            without=sql_in("edit_id", record.removed),
            properties=record.properties(),
        )
        if removed:
            self._write_removal_checksums(version)
        self._cached_state = replace(record, version=version)
        return version

    def _write_removal_checksums(self, version: int) -> None:
        """Write the missing checksums of a version's lists of removed rows.

        Lance writes these lists during the commit. A process killed before this point leaves them
        without a checksum; verification reports them, and the next removal writes it.
        """
        for fragment in self._table.at(version).get_fragments():
            path = fragment.deletion_file()
            if path and path not in self._removals_with_checksum:
                if self._writer.checksums.read(path) is None:
                    self._writer.checksums.write(path)
                self._removals_with_checksum.add(path)

    def _wanted_fragments(
        self, base: LanceDataset, written: Sequence[WrittenFragment], plan: CommitPlan
    ) -> list[FragmentMetadata]:
        new: list[FragmentMetadata] = []
        for fragment, positions in zip(written, plan.positions, strict=True):
            if len(positions) == len(fragment.keys):
                new.append(fragment.metadata)
            elif positions:
                # Only some rows of the fragment are wanted: write those again.
                rows = self._table.read_fragment(fragment.metadata).take(pa.array(positions))
                new += self._write(rows.cast(base.schema))
        return new

    def _apply(
        self, base: LanceDataset, change: Change, changes: Sequence[Change], epoch: int
    ) -> None:
        """Commit one change of the log."""
        subjects = set(self.log.subjects_of(change.edit_ids).values())
        result = reconciliation.reconcile(
            held_of(base, subjects),
            self.log.edits_of_subjects(subjects),
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
