"""The table `subjects`: what each edit is about, decided once, before the edit is committed.

An edit that corrects an older one takes over its subject, so that banks hold the newest of them.
The first bank that commits an edit decides (`workers/subject_assigner.py`); every other bank of
the store, and every process that repeats the window, uses what is stored here.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime

import pyarrow as pa
from lance import LanceDataset

from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table, not_null, read_rows, select_in

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


_COLUMNS = [item.name for item in fields(SubjectAssignment)]


class SubjectLog:
    """Assignments of one store; the first of them creates the table."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._table = Table(store, _TABLE)
        self._version = 0
        self._assignments: list[SubjectAssignment] = []
        self._decided: set[int] = set()

    def exists(self) -> bool:
        return self._version > 0 or self._table.exists()

    def read(self) -> Sequence[SubjectAssignment]:
        """All assignments in the order of decision; a row is read once."""
        return self._read(self._table.latest()) if self.exists() else self._assignments

    def _read(self, dataset: LanceDataset) -> Sequence[SubjectAssignment]:
        if dataset.version != self._version:
            rows = read_rows(dataset, _COLUMNS, offset=len(self._assignments))
            self._add([SubjectAssignment(**row) for row in rows.to_pylist()])
            self._version = int(dataset.version)
        return self._assignments

    def _add(self, assignments: Sequence[SubjectAssignment]) -> None:
        self._assignments += assignments
        self._decided.update(item.sequence for item in assignments)

    def decided(self) -> Collection[int]:
        """The requests whose subject is stored."""
        self.read()
        return self._decided

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
        self._table = Table.open_or_create(self._store, _TABLE, _SCHEMA)
        questions = prompt_questions or {}
        now = datetime.now(UTC)

        def attempt(base: LanceDataset) -> None:
            self._read(base)
            new = [item for item in assignments if item.sequence not in self._decided]
            if not new:
                return
            rows = [
                {
                    **vars(item),
                    "generator_digest": generator_digest,
                    "prompt_question": list(questions.get(item.edit_id, ())),
                    "decided_at": now,
                }
                for item in new
            ]
            self._version = self._table.append(base, pa.Table.from_pylist(rows, schema=_SCHEMA))
            self._add(new)

        self._table.on_latest(attempt)

    def prompt_questions(
        self, edit_ids: Collection[str], generator_digest: str
    ) -> dict[str, list[float]]:
        """Stored prompt features of some edits, as far as this generator asked them."""
        if not self.exists():
            return {}
        columns = ["edit_id", "generator_digest", "prompt_question"]
        rows = select_in(self._table.latest(), columns, "edit_id", edit_ids).to_pylist()
        return {
            row["edit_id"]: row["prompt_question"]
            for row in rows
            if row["generator_digest"] == generator_digest and row["prompt_question"]
        }
