"""Fragments of bank rows, written by workers and committed by the driver."""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import pyarrow as pa
from lance.fragment import FragmentMetadata

from infra.bank.schema import BankIdentity, ExpertRow, rows_to_table
from infra.storage.checksums import TableChecksums
from infra.storage.tables import Table, num_bytes_of, paths_of
from liveedit_core.errors import LiveEditError, StorageUnavailableError

MAX_AGE_S = 24 * 3600.0
"""Clean-up deletes files that no version shows after a week."""

LARGE_FILE_BYTES = 16 * 1024 * 1024
"""Files of this size are committed as they were written, smaller ones of a window as one,"""
_MERGED_BYTES = 64 * 1024 * 1024
"""or as several, from this size on."""

_logger = logging.getLogger(__name__)


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
class WantedRows:
    """What a commit takes of a written fragment."""

    fragment: WrittenFragment
    places: Sequence[int]
    keys: Sequence[RowKey]
    """Of these rows, with their subjects of now."""

    @property
    def is_whole(self) -> bool:
        return tuple(self.keys) == self.fragment.keys

    @property
    def num_bytes(self) -> int:
        return num_bytes_of(self.fragment.metadata)


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

    def merged(self, wanted: Iterable[WantedRows]) -> list[FragmentMetadata]:
        """Fragments with these rows alone. Small ones are merged before a version shows them, as
        old versions keep what is merged later; it is read again and compared with its checksums."""
        new: list[FragmentMetadata] = []
        small: list[WantedRows] = []
        for part in wanted:
            if part.is_whole and part.num_bytes >= LARGE_FILE_BYTES:
                new.append(part.fragment.metadata)
                continue
            small.append(part)
            if sum(one.num_bytes for one in small) >= _MERGED_BYTES:
                new += self._as_one(small)
                small = []
        return [*new, *self._as_one(small)]

    def _as_one(self, parts: Sequence[WantedRows]) -> list[FragmentMetadata]:
        if not parts:
            return []
        if len(parts) == 1 and parts[0].is_whole:
            return [parts[0].fragment.metadata]
        rows = pa.concat_tables(map(self._rows, parts)).combine_chunks()
        return [written.metadata for written in self.write_table(rows.cast(self.table.schema))]

    def _rows(self, part: WantedRows) -> pa.Table:
        metadata = part.fragment.metadata
        rows = self.table.read_fragment(metadata)
        self.checksums.check_rows(rows, paths_of([metadata]))
        rows = rows.take(pa.array(part.places))
        column = rows.schema.get_field_index("subject_id")
        subjects = pa.array([key.subject_id for key in part.keys], pa.string())
        return rows.set_column(column, rows.schema.field(column), subjects)

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files that no version names. Those that stay, as storage fails, are deleted with
        old versions."""
        try:
            for path in paths:
                self.checksums.delete_file(path)
        except StorageUnavailableError as error:
            _logger.warning("files of rows that no version names were left: %s", error)
