"""What a change of the request log does to the rows of a bank.

The rule: of each subject a bank holds the newest edit that is not removed. When an edit leaves, an
older one of its subject comes back, and its row is taken from an older version of the bank, which
never changes. Where no version holds that row any more, unharmed, the edit is pending: the next
editing job writes the expert again, from the log.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from lance import LanceDataset

from infra.bank.checksums import FileSeals, sealed_rows
from infra.bank.history import BankHistory
from infra.bank.window import RowKey
from infra.storage.tables import Table, read_errors, select_in, sql_in
from liveedit_core.errors import IntegrityError

_IDS_AT_ONCE = 2000
"""Edits in one SQL predicate."""

NumberedEdits = Mapping[str, Sequence[tuple[int, str]]]
"""Of each subject, number and id of its edits in the order of the log."""


Held = Mapping[str, RowKey]
"""Rows of a version by subject; one a subject at most."""


def held_of(dataset: LanceDataset, subject_ids: Iterable[str]) -> Held:
    """The rows of some subjects; no others are looked through where there is an index."""
    with read_errors(dataset.uri):
        rows = select_in(dataset, RowKey._fields, "subject_id", subject_ids)
    return {key.subject_id: key for key in RowKey.of_table(rows)}


def all_held(dataset: LanceDataset) -> Held:
    """All rows of a version."""
    with read_errors(dataset.uri):
        rows = dataset.to_table(columns=list(RowKey._fields))
    return {key.subject_id: key for key in RowKey.of_table(rows)}


@dataclass(frozen=True, kw_only=True)
class Reconciliation:
    """What to change so that some subjects follow the rule again."""

    rows: pa.Table | None
    """Rows that come back."""
    added: list[RowKey]
    removed: list[RowKey]


def reconcile(
    held: Held,
    edits: NumberedEdits,
    gone: Collection[str],
    find_rows: Callable[[Sequence[str]], Mapping[str, pa.Table]],
) -> Reconciliation:
    """Give each subject the newest of its edits that is not removed and has a row.

    Args:
        held: What the newest version holds of these subjects.
        edits: The subjects to look at.
        gone: Edits that are removed.
        find_rows: Finds rows in older versions, as far as there are any.
    """
    wanted: dict[str, list[str]] = {}
    leaving: dict[str, RowKey] = {}
    for subject_id, numbered in edits.items():
        rival = held.get(subject_id)
        if rival and rival.edit_id in gone:
            leaving[subject_id] = rival
            rival = None
        wanted[subject_id] = [
            edit_id
            for sequence, edit_id in reversed(numbered)
            if edit_id not in gone and sequence > (rival.sequence if rival else 0)
        ]
    found = find_rows([edit_id for edit_ids in wanted.values() for edit_id in edit_ids])
    coming: list[pa.Table] = []
    for subject_id, edit_ids in wanted.items():
        edit_id = next((edit_id for edit_id in edit_ids if edit_id in found), "")
        if edit_id:
            coming.append(found[edit_id])
            if subject_id in held:
                leaving[subject_id] = held[subject_id]
    rows = pa.concat_tables(coming) if coming else None
    return Reconciliation(
        rows=rows,
        added=RowKey.of_table(rows) if rows else [],
        removed=list(leaving.values()),
    )


def way_back(
    now: Held, before: Held, edits_of: Callable[[Collection[str]], NumberedEdits]
) -> tuple[list[str], list[str]]:
    """What to remove and to restore so that a bank holds what an older version holds.

    Of each subject that differs, all edits after the older version's leave, up to the one held now:
    otherwise one of them would take its place.

    Returns:
        Edits to remove, and edits to restore where they are removed.
    """
    differing = [
        subject_id
        for subject_id in {**now, **before}
        if now.get(subject_id) != before.get(subject_id)
    ]
    removed, restored = [], []
    for subject_id, numbered in edits_of(differing).items():
        old, new = before.get(subject_id), now.get(subject_id)
        first, last = old.sequence if old else 0, new.sequence if new else 0
        removed += [edit_id for sequence, edit_id in numbered if first < sequence <= last]
        restored += [edit_id for sequence, edit_id in numbered if sequence == first]
    return removed, restored


class OlderRows:
    """Rows that left the newest version, as older versions still hold them."""

    def __init__(self, table: Table, history: BankHistory, seals: FileSeals) -> None:
        """Read a bank's table."""
        self._table = table
        self._history = history
        self._seals = seals

    def find(self, base: LanceDataset, edit_ids: Sequence[str]) -> dict[str, pa.Table]:
        """One row an edit, each from the newest version before `base` that holds it unharmed."""
        missing = set(edit_ids)
        found: dict[str, pa.Table] = {}
        for record in self._history.newest_first(int(base.version)):
            if not missing:
                break
            left = sorted(missing.intersection(self._history.lists_of(record)[1]))
            for start in range(0, len(left), _IDS_AT_ONCE):
                for row in self._read(record.version - 1, left[start : start + _IDS_AT_ONCE]):
                    edit_id = row.column("edit_id")[0].as_py()
                    found[edit_id] = row
                    missing.discard(edit_id)
        return found

    def _read(self, version: int, edit_ids: Sequence[str]) -> list[pa.Table]:
        try:
            fragments = self._table.at(version).get_fragments()
        except IntegrityError:  # cleaned up
            return []
        found: list[pa.Table] = []
        for fragment in fragments:
            with contextlib.suppress(IntegrityError, OSError, ValueError):  # missing or damaged
                rows = fragment.to_table(filter=sql_in("edit_id", edit_ids))
                found += self._unharmed(rows, [file.path for file in fragment.data_files()])
        return found

    def _unharmed(self, rows: pa.Table, files: Sequence[str]) -> list[pa.Table]:
        if not len(rows):
            return []
        seals = [self._seals.read(f"data/{path}") for path in files]
        sealed = {row for seal in seals if seal for row in seal.rows}
        return [
            rows.slice(index, 1)
            for index, row in enumerate(sealed_rows(rows))
            if not all(seals) or row in sealed
        ]
