"""What a commit, a removal or a restoration changes in the rows of a bank.

The rule: of each subject a bank holds the newest edit that is not removed. When an edit leaves, an
older one of its subject comes back, with its row from an older version. If no version holds an
undamaged row of it, the edit is pending: the next editing job computes the expert again.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from lance import LanceDataset

from infra.bank.fragments import RowKey
from infra.bank.history import BankHistory
from infra.storage.checksums import RowChecksum, TableChecksums, row_checksums
from infra.storage.tables import (
    Table,
    batches_of,
    fragments_of,
    read_errors,
    read_rows,
    select_in,
    sql_in,
)
from liveedit_core.errors import IntegrityError

NumberedEdits = Mapping[str, Sequence[tuple[int, str]]]
"""Sequence and edit_id of each subject's edits, in the order of the log."""

Held = Mapping[str, RowKey]
"""Rows of a version by subject; at most one per subject."""


def held_of(dataset: LanceDataset, subject_ids: Iterable[str]) -> Held:
    """The rows of some subjects; with an index, other rows are not scanned."""
    rows = select_in(dataset, RowKey._fields, "subject_id", subject_ids)
    return {key.subject_id: key for key in RowKey.of_table(rows)}


def all_held(dataset: LanceDataset) -> Held:
    rows = read_rows(dataset, RowKey._fields)
    return {key.subject_id: key for key in RowKey.of_table(rows)}


@dataclass(frozen=True)
class CommitPlan:
    positions: list[list[int]]
    """Positions of the rows to add from each fragment."""
    added: list[RowKey]
    superseded: list[RowKey]


def plan_commit(
    held: Held, written: Sequence[Sequence[RowKey]], *, removed: Collection[str] = frozenset()
) -> CommitPlan:
    """Decide what new fragments change on top of the rows held.

    Of each subject the row with the largest sequence stays; rows held already, and those of removed
    edits, are skipped. So several commits, in any order, give the same rows as one of their union.
    The keys of `written` have the subjects that the log gives them now.
    """
    newest: dict[str, RowKey] = {}
    place_of: dict[str, tuple[int, int]] = {}
    for fragment_index, keys in enumerate(written):
        for position, key in enumerate(keys):
            other = newest.get(key.subject_id) or held.get(key.subject_id)
            if other and key.sequence <= other.sequence:
                continue
            if key.edit_id in removed:
                continue
            newest[key.subject_id] = key
            place_of[key.subject_id] = (fragment_index, position)
    positions: list[list[int]] = [[] for _ in written]
    for fragment_index, position in sorted(place_of.values()):
        positions[fragment_index].append(position)
    return CommitPlan(
        positions=positions,
        added=[newest[subject_id] for subject_id in place_of],
        superseded=[held[subject_id] for subject_id in place_of if subject_id in held],
    )


@dataclass(frozen=True, kw_only=True)
class Reconciliation:
    rows: pa.Table | None
    added: list[RowKey]
    removed: list[RowKey]


def reconcile(
    held: Held,
    edits: NumberedEdits,
    removed: Collection[str],
    find_rows: Callable[[Sequence[str]], Mapping[str, pa.Table]],
) -> Reconciliation:
    """Give each subject of `edits` the newest of its edits that is not removed and has a row.

    `held` are the rows of the newest version; `find_rows` looks for others in older versions.
    """
    wanted: dict[str, list[str]] = {}
    leaving: dict[str, RowKey] = {}
    for subject_id, numbered in edits.items():
        current = held.get(subject_id)
        if current and current.edit_id in removed:
            leaving[subject_id] = current
            current = None
        wanted[subject_id] = [
            edit_id
            for sequence, edit_id in reversed(numbered)
            if edit_id not in removed and sequence > (current.sequence if current else 0)
        ]
    found = find_rows([edit_id for edit_ids in wanted.values() for edit_id in edit_ids])
    returning: list[pa.Table] = []
    for subject_id, edit_ids in wanted.items():
        edit_id = next((edit_id for edit_id in edit_ids if edit_id in found), "")
        if edit_id:
            returning.append(found[edit_id])
            if subject_id in held:
                leaving[subject_id] = held[subject_id]
    rows = pa.concat_tables(returning) if returning else None
    return Reconciliation(
        rows=rows, added=list(RowKey.of_table(rows)) if rows else [], removed=list(leaving.values())
    )


def plan_rollback(
    now: Held, before: Held, edits_of: Callable[[Collection[str]], NumberedEdits]
) -> tuple[list[str], list[str]]:
    """What to remove and what to restore so that a bank holds what an older version holds.

    Of each subject that differs, all other edits newer than the older version's are removed, up to
    the one held now: otherwise one of them would take its place.
    """

    def edit_of(held: Held, subject_id: str) -> str:
        return held[subject_id].edit_id if subject_id in held else ""

    differing = [key for key in {**now, **before} if edit_of(now, key) != edit_of(before, key)]
    removed, restored = [], []
    for subject_id, numbered in edits_of(differing).items():
        old, new = before.get(subject_id), now.get(subject_id)
        first, last = old.sequence if old else 0, new.sequence if new else 0
        newer = [edit_id for sequence, edit_id in numbered if first < sequence <= last]
        removed += [edit_id for edit_id in newer if not old or edit_id != old.edit_id]
        restored += [edit_id for sequence, edit_id in numbered if sequence == first]
    return removed, restored


@dataclass(frozen=True)
class OlderRows:
    """Rows that left the newest version, as older versions still hold them."""

    _table: Table
    _history: BankHistory
    _checksums: TableChecksums

    def find(self, base: LanceDataset, edit_ids: Sequence[str]) -> dict[str, pa.Table]:
        """One row per edit, from the newest version before `base` that holds it undamaged."""
        missing = set(edit_ids)
        found: dict[str, pa.Table] = {}
        for record in self._history.newest_first(int(base.version)):
            if not missing:
                break
            for batch in batches_of(sorted(missing.intersection(record.removed))):
                for row in self._read(record.version - 1, batch):
                    edit_id = row.column("edit_id")[0].as_py()
                    found[edit_id] = row
                    missing.discard(edit_id)
        return found

    def _read(self, version: int, edit_ids: Sequence[str]) -> list[pa.Table]:
        try:
            fragments = fragments_of(self._table.at(version))
        except IntegrityError:  # the version was deleted
            return []
        found: list[pa.Table] = []
        for fragment in fragments:
            # A missing or damaged file is one without the rows.
            with contextlib.suppress(IntegrityError), read_errors(self._table.uri):
                rows = fragment.to_table(filter=sql_in("edit_id", edit_ids))
                if len(rows):
                    paths = [f"data/{file.path}" for file in fragment.data_files()]
                    found += _undamaged(rows, self._checksums.rows_of(paths))
        return found


def _undamaged(rows: pa.Table, written: Collection[RowChecksum] | None) -> list[pa.Table]:
    return [
        rows.slice(index, 1)
        for index, row in enumerate(row_checksums(rows))
        if written is None or row in written
    ]
