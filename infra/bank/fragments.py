"""Fragments of bank rows, written by workers and committed by the driver."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import pyarrow as pa
from lance.fragment import FragmentMetadata

from infra.bank.schema import BankIdentity, ExpertRow, rows_to_table
from infra.storage.checksums import TableChecksums
from infra.storage.tables import Table
from liveedit_core.errors import LiveEditError

MAX_AGE_S = 24 * 3600.0
"""Clean-up deletes files that no version shows after a week."""


class StaleRowsError(LiveEditError):
    """Rows were written too long ago to be committed; written again, they may be."""


class RowKey(NamedTuple):
    edit_id: str
    subject_id: str
    sequence: int

    @classmethod
    def of_table(cls, rows: pa.Table) -> tuple[Self, ...]:
        columns = (rows.column(name).to_pylist() for name in cls._fields)
        return tuple(cls(*values) for values in zip(*columns, strict=True))


@dataclass(frozen=True)
class WrittenFragment:
    """Rows that no version shows yet, and their keys in order."""

    metadata: FragmentMetadata
    keys: tuple[RowKey, ...]
    written_s: float = field(default_factory=time.time, compare=False)
    """Seconds since 1970."""

    def check_age(self) -> None:
        """StaleRowsError where clean-up may delete the files before a version shows them."""
        age_s = time.time() - self.written_s
        if age_s > MAX_AGE_S:
            raise StaleRowsError(
                f"{len(self.keys)} experts were written {age_s / 3600:.0f} hours ago and never "
                "committed; run the same command again, it writes them anew"
            )

    def with_subjects(self, subjects: Mapping[str, str]) -> tuple[RowKey, ...]:
        """The keys with the subjects that these edits were assigned."""
        return tuple(
            key._replace(subject_id=subjects.get(key.edit_id, key.subject_id)) for key in self.keys
        )


@dataclass(frozen=True)
class FragmentWriter:
    """What a worker needs to write rows of a bank; picklable, holds no credentials."""

    table: Table
    identity: BankIdentity
    checksums: TableChecksums

    def write(self, rows: Sequence[ExpertRow]) -> list[WrittenFragment]:
        """Write rows for `ExpertBank.commit`; nothing is written when one of them is invalid."""
        return self.write_table(rows_to_table(self.identity, rows)) if rows else []

    def write_table(self, rows: pa.Table) -> list[WrittenFragment]:
        written = self.checksums.write_rows(self.table, rows)
        return [WrittenFragment(fragment, RowKey.of_table(part)) for fragment, part in written]
