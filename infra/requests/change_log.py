"""The table `changes`: which edits were removed or restored, when, by whom and why.

Together with `requests` it is the source of truth: a bank holds, of each subject, the newest edit
that is not removed. Changes apply to every bank of a store, also to one that is rebuilt. A change
is stored before any bank shows it; if the process dies in between, the next writer applies it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import pyarrow as pa
from lance import LanceDataset

from infra.storage.checksums import TableChecksums
from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table, not_null, read_rows
from liveedit_core.inputs.text import check_text

ChangeKind = Literal["remove", "restore", "rollback"]

_SCHEMA = not_null(
    number=pa.int64(),
    kind=pa.string(),
    removed=pa.list_(pa.string()),
    restored=pa.list_(pa.string()),
    bank=pa.string(),
    author=pa.string(),
    reason=pa.string(),
    decided_at=pa.timestamp("us", tz="UTC"),
)
_MAX_TEXT_CHARS = 2000


@dataclass(frozen=True, kw_only=True)
class Change:
    """One decision of a person about accepted edits; `number` counts from 1."""

    number: int
    kind: ChangeKind
    removed: tuple[str, ...]
    restored: tuple[str, ...]
    bank: str
    """The bank that the person looked at; the change applies to all banks."""
    author: str
    reason: str
    decided_at: datetime

    @property
    def edit_ids(self) -> tuple[str, ...]:
        return self.removed + self.restored


class ChangeLog:
    """Numbered changes of one store; the first of them creates the table."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._table = Table(store, "changes")
        self._checksums = TableChecksums.of_log(store, "changes")
        self._version = 0
        self._changes: list[Change] = []
        self._removed: frozenset[str] = frozenset()

    def read(self) -> list[Change]:
        """All changes, oldest first; the table is read again only when it has grown."""
        if self._version == 0 and not self._table.exists():
            return []
        return self._read(self._table.latest())

    def _read(self, dataset: LanceDataset) -> list[Change]:
        if dataset.version != self._version:
            rows = read_rows(dataset).sort_by("number").to_pylist()
            for row in rows:
                row["removed"], row["restored"] = tuple(row["removed"]), tuple(row["restored"])
            self._changes = [Change(**row) for row in rows]
            self._removed = frozenset(removed_after(self._changes))
            self._version = int(dataset.version)
        return self._changes

    def removed(self) -> frozenset[str]:
        self.read()
        return self._removed

    def append(
        self,
        kind: ChangeKind,
        *,
        removed: Collection[str] = (),
        restored: Collection[str] = (),
        bank: str,
        author: str,
        reason: str,
    ) -> Change | None:
        """Store the part of a change that has an effect; None if it has none."""
        check_text(author, "author", _MAX_TEXT_CHARS)
        if reason:
            check_text(reason, "reason", _MAX_TEXT_CHARS)
        self._table = Table.open_or_create(self._store, "changes", _SCHEMA)

        def attempt(base: LanceDataset) -> Change | None:
            known = self._read(base)
            gone = self._removed
            change = Change(
                number=len(known) + 1,
                kind=kind,
                removed=tuple(key for key in dict.fromkeys(removed) if key not in gone),
                restored=tuple(key for key in dict.fromkeys(restored) if key in gone),
                bank=bank,
                author=author,
                reason=reason,
                decided_at=datetime.now(UTC),
            )
            if not change.edit_ids:
                return None
            self._checksums.append(self._table, base, _to_rows(change))
            return change

        return self._table.on_latest(attempt)


def removed_after(changes: Sequence[Change]) -> set[str]:
    """The edits that are removed after these changes, applied in order."""
    gone: set[str] = set()
    for change in changes:
        gone.difference_update(change.restored)
        gone.update(change.removed)
    return gone


def _to_rows(change: Change) -> pa.Table:
    row = {name: getattr(change, name) for name in _SCHEMA.names}
    return pa.Table.from_pylist([row], schema=_SCHEMA)
