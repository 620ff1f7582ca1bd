"""Rows on their way into a bank: fragments that workers write and the driver commits.

Workers write fragments -> JSON texts travel to the driver -> the driver decides and commits.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import pyarrow as pa
from lance.fragment import FragmentMetadata

from infra.bank.checksums import BankChecksums
from infra.bank.schema import BankIdentity, ExpertRow, rows_to_table
from infra.storage.tables import write_rows


class RowKey(NamedTuple):
    """What identifies a row."""

    edit_id: str
    subject_id: str
    sequence: int

    @classmethod
    def of_table(cls, rows: pa.Table) -> list[Self]:
        """The keys of all rows, in order."""
        columns = (rows.column(name).to_pylist() for name in cls._fields)
        return [cls(*values) for values in zip(*columns, strict=True)]


@dataclass(frozen=True)
class FragmentWriter:
    """What a worker needs to write rows of a bank; picklable, holds no credentials."""

    uri: str
    options: dict[str, str]
    identity: BankIdentity
    checksums: BankChecksums

    def write(self, rows: Sequence[ExpertRow]) -> list[str]:
        """Write rows as fragments that no version shows yet; writing rows again is harmless.

        Returns:
            For `ExpertBank.commit`: one JSON text per fragment, with the keys of its rows.

        Raises:
            NumericsError: NaN or infinity in a row; nothing is written then.
            ShapeError: A row does not fit the bank; nothing is written then.
        """
        if not rows:
            return []
        table = rows_to_table(self.identity, rows)
        return [
            WrittenFragment(fragment, RowKey.of_table(part)).to_json()
            for fragment, part in self.write_table(table)
        ]

    def write_table(self, rows: pa.Table) -> list[tuple[FragmentMetadata, pa.Table]]:
        """Write rows of the bank's schema with their checksums; returns fragments and rows."""
        written = write_rows(self.uri, rows, self.options)
        for fragment, part in written:
            for file in fragment.files:
                self.checksums.write(f"data/{file.path}", part)
        return written


@dataclass(frozen=True)
class WrittenFragment:
    """Files that are not committed, and the keys of their rows in order."""

    metadata: FragmentMetadata
    keys: list[RowKey]

    def to_json(self) -> str:
        """As text, to send it from worker to driver."""
        return json.dumps({"fragment": self.metadata.to_json(), "rows": self.keys})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read back what `to_json` wrote."""
        content = json.loads(text)
        metadata = FragmentMetadata.from_json(json.dumps(content["fragment"]))
        return cls(metadata, [RowKey(*key) for key in content["rows"]])
