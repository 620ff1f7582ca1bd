"""Fragments of bank rows, written by workers and committed by the driver."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import pyarrow as pa
from lance.fragment import FragmentMetadata

from infra.bank.schema import BankIdentity, ExpertRow, rows_to_table
from infra.storage.checksums import TableChecksums
from infra.storage.tables import Table


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
