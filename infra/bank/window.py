"""A window of a bank on its way: fragments as workers write them, and what a commit makes of them.

ExpertEmbedding workers write -> JSON texts travel to the driver -> the driver decides and commits.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import pyarrow as pa
from lance.fragment import FragmentMetadata

from infra.bank.checksums import FileSeals
from infra.bank.schema import BankIdentity, ExpertRow, rows_to_table
from infra.storage.tables import write_rows


class RowKey(NamedTuple):
    """What a row is, without its numbers."""

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
    seals: FileSeals

    def write(self, rows: Sequence[ExpertRow]) -> list[str]:
        """Write rows as fragments that no version shows yet.

        Args:
            rows: Experts in any order; written again after a retry they do no harm.

        Returns:
            For `ExpertBank.commit`: one JSON text a fragment, which names its rows.

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
        """Write and seal rows that are in the bank's schema; returns fragments and their rows."""
        written = []
        start = 0
        for fragment in write_rows(self.uri, rows, self.options):
            part = rows.slice(start, fragment.num_rows)
            for file in fragment.files:
                self.seals.write(f"data/{file.path}", part)
            written.append((fragment, part))
            start += fragment.num_rows
        return written


@dataclass(frozen=True)
class WrittenFragment:
    """Files that are not committed, and the keys of their rows in order."""

    metadata: FragmentMetadata
    keys: list[RowKey]

    def to_json(self) -> str:
        """As text, for the way from worker to driver."""
        return json.dumps({"fragment": self.metadata.to_json(), "rows": self.keys})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read back what `to_json` wrote."""
        content = json.loads(text)
        metadata = FragmentMetadata.from_json(json.dumps(content["fragment"]))
        return cls(metadata, [RowKey(*key) for key in content["rows"]])


@dataclass(frozen=True)
class WindowPlan:
    """What a commit changes."""

    positions: list[list[int]]
    """Of each fragment, the rows that appear."""
    added: list[RowKey]
    superseded: list[RowKey]
    """Rows held so far that disappear."""


def plan_window(
    held: Mapping[str, RowKey],
    written: Sequence[WrittenFragment],
    *,
    gone: Collection[str] = frozenset(),
) -> WindowPlan:
    """Decide what a window changes on top of the rows held.

    Of each subject the row with the largest sequence stays; rows held already, and those of removed
    edits, are skipped. So the outcome of several windows is that of the union of their rows, in any
    order. Takes time by the rows written, not by those held.

    Args:
        held: The rows of a version by subject.
        written: The rows of the window.
        gone: Edits that were removed while they were on their way.
    """
    newest: dict[str, RowKey] = {}
    place_of: dict[str, tuple[int, int]] = {}
    for fragment_index, fragment in enumerate(written):
        for position, key in enumerate(fragment.keys):
            rival = newest.get(key.subject_id) or held.get(key.subject_id)
            if rival and (key.edit_id == rival.edit_id or key.sequence <= rival.sequence):
                continue
            if key.edit_id in gone:
                continue
            newest[key.subject_id] = key
            place_of[key.subject_id] = (fragment_index, position)
    positions: list[list[int]] = [[] for _ in written]
    for fragment_index, position in sorted(place_of.values()):
        positions[fragment_index].append(position)
    return WindowPlan(
        positions=positions,
        added=[newest[subject_id] for subject_id in place_of],
        superseded=[held[subject_id] for subject_id in place_of if subject_id in held],
    )
