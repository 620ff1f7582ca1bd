"""The table `subjects`: what each edit is about, decided once, before the edit is committed.

An edit that corrects an older one takes over its subject, so that banks hold the newest of them.
The first bank that commits an edit decides (`workers/subject_assigner.py`); every other bank of
the store, and every process that repeats the window, uses what is stored here.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime

import pyarrow as pa
from lance import LanceDataset

from infra.storage.checksums import TableChecksums
from infra.storage.object_store import ObjectStore
from infra.storage.tables import (
    Table,
    batches_of,
    count_rows,
    not_null,
    read_rows,
    select_any,
    select_in,
)

_TABLE = "subjects"
_SCHEMA = not_null(
    sequence=pa.int64(),
    edit_id=pa.string(),
    subject_id=pa.string(),
    supersedes=pa.string(),
    similarity=pa.float64(),
    generator_digest=pa.string(),
    prompt_question=pa.list_(pa.float32()),
    decided_at=pa.timestamp("us", tz="UTC"),
)


@dataclass(frozen=True, kw_only=True)
class SubjectAssignment:
    """What one request is about."""

    sequence: int
    edit_id: str
    subject_id: str
    supersedes: str = ""
    """The edit that it corrects."""
    similarity: float = 0.0
    """With that edit: the smaller prompt gate of the two directions, 1 for equal prompts."""


INDEXED_COLUMNS = ("sequence", "edit_id", "subject_id")
"""By which the table is searched."""
_OWN_COLUMNS = [item.name for item in fields(SubjectAssignment)]
_COLUMNS = [*_OWN_COLUMNS, "decided_at"]


class SubjectLog:
    """Assignments of one store; the first of them creates the table."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._table = Table(store, _TABLE)
        self._checksums = TableChecksums.of_log(store, _TABLE)

    def is_empty(self) -> bool:
        return not self._table.exists() or count_rows(self._table.latest()) == 0

    def read(self) -> list[SubjectAssignment]:
        """All assignments in the order of decision."""
        return _in_order(read_rows(self._table.latest(), _COLUMNS)) if self._table.exists() else []

    def find(self, wanted: Mapping[str, Iterable[str]]) -> list[SubjectAssignment]:
        """Those with one of these texts in a column, such as `edit_id`, in the order of
        decision."""
        if not self._table.exists():
            return []
        return _in_order(select_any(self._table.latest(), _COLUMNS, wanted))

    def decided(self, sequences: Iterable[int]) -> set[int]:
        """Those of these requests whose subject is stored."""
        return _decided(self._table.latest(), sequences) if self._table.exists() else set()

    def append(
        self,
        assignments: Sequence[SubjectAssignment],
        *,
        generator_digest: str = "",
        prompt_questions: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        """Store what no other process has decided meanwhile, in one commit.

        `prompt_questions` are input-side prompt features by edit_id, for later comparisons.
        """
        if not self._table.exists():  # an open table keeps what it has read of its indices
            self._table = Table.open_or_create(self._store, _TABLE, _SCHEMA)
        questions = prompt_questions or {}
        now = datetime.now(UTC)

        def attempt(base: LanceDataset) -> None:
            known = _decided(base, [item.sequence for item in assignments])
            new = [item for item in assignments if item.sequence not in known]
            if not new:
                return
            rows = [
                {
                    **{name: getattr(item, name) for name in _OWN_COLUMNS},
                    "generator_digest": generator_digest,
                    "prompt_question": list(questions.get(item.edit_id, ())),
                    "decided_at": now,
                }
                for item in new
            ]
            table = pa.Table.from_pylist(rows, schema=_SCHEMA)
            self._checksums.append(self._table, base, table)

        self._table.on_latest(attempt)

    def prompt_questions(
        self, edit_ids: Collection[str], generator_digest: str
    ) -> dict[str, list[float]]:
        """Stored prompt features of some edits, as far as this generator asked them."""
        if not self._table.exists():
            return {}
        columns = ["edit_id", "generator_digest", "prompt_question"]
        rows = select_in(self._table.latest(), columns, "edit_id", edit_ids).to_pylist()
        return {
            row["edit_id"]: row["prompt_question"]
            for row in rows
            if row["generator_digest"] == generator_digest and row["prompt_question"]
        }


def _decided(dataset: LanceDataset, sequences: Iterable[int]) -> set[int]:
    found: set[int] = set()
    for part in batches_of([str(number) for number in sorted(sequences)]):
        rows = read_rows(dataset, ["sequence"], filter=f"sequence IN ({', '.join(part)})")
        found.update(rows.column("sequence").to_pylist())
    return found


def _in_order(rows: pa.Table) -> list[SubjectAssignment]:
    ordered = rows.sort_by([("decided_at", "ascending"), ("sequence", "ascending")])
    by_sequence = {row["sequence"]: row for row in ordered.select(_OWN_COLUMNS).to_pylist()}
    return [SubjectAssignment(**row) for row in by_sequence.values()]
