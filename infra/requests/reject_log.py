"""The table `rejects`: what was rejected and why. Used through `RequestLog`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from lance import LanceDataset

from infra.storage.checksums import TableChecksums
from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table, batches_of, read_rows, sql_in
from infra.storage.upkeep import Upkeep
from liveedit_core.inputs.rejects import MAX_RAW_CHARS, Rejected, RejectType
from liveedit_core.outcome import WriteOutcome

_SCHEMA = pa.schema(
    [
        pa.field("sequence", pa.int64()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("line_number", pa.int64(), nullable=False),
        pa.field("bank", pa.string(), nullable=False),
        pa.field("edit_id", pa.string(), nullable=False),
        pa.field("error_type", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("raw", pa.string(), nullable=False),
        pa.field("rejected_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("outcome", pa.string()),
    ]
)
"""`outcome` is that of a weak edit, as JSON; a log of an earlier release gets the column with the
next append."""

INDEXED_COLUMNS = ("sequence", "source", "line_number")
"""By which the table is searched."""


@dataclass(frozen=True, kw_only=True)
class StoredReject:
    rejected: Rejected
    sequence: int | None
    """Number of the rejected request; None for a line that never became one."""
    source: str
    """Digest of the file that the line came from."""
    bank: str
    """The bank that rejected the request; "" for every bank."""
    rejected_at: datetime


class RejectLog:
    """Rejected lines, identified by (source, line), and requests, by (bank, sequence)."""

    def __init__(self, store: ObjectStore) -> None:
        self._table = Table.open_or_create(store, "rejects", _SCHEMA)
        self._checksums = TableChecksums.of_log(store, "rejects")
        self._upkeep = Upkeep(self._table, INDEXED_COLUMNS, self._checksums)

    def append(
        self, rejected: Sequence[tuple[int | None, Rejected]], *, source: str = "", bank: str = ""
    ) -> int:
        """Store lines of a `source`, or numbered requests of a `bank`; returns how many are new."""
        rows = [_to_row(sequence, item, source, bank) for sequence, item in rejected]

        def attempt(base: LanceDataset) -> int:
            known_keys = set(_known_keys(base, rows))
            first_of = {_key(row): row for row in reversed(rows)}
            new = [first_of[key] for key in dict.fromkeys(map(_key, rows)) if key not in known_keys]
            if new:
                self._checksums.append(self._table, base, pa.Table.from_pylist(new, schema=_SCHEMA))
            return len(new)

        self._table.add_missing_columns(_SCHEMA)
        num_new = self._table.on_latest(attempt)
        self._upkeep.count(num_new)
        return num_new

    def sequences(self, bank: str) -> set[int]:
        """Numbers of the requests that were rejected for this bank, or for every bank."""
        of_bank = f"sequence IS NOT NULL AND {sql_in('bank', ['', bank])}"
        rows = read_rows(self._table.latest(), ["sequence"], filter=of_bank)
        return set(rows.column("sequence").to_pylist())

    def read(self) -> list[StoredReject]:
        return [_from_row(row) for row in read_rows(self._table.latest()).to_pylist()]


def _known_keys(
    base: LanceDataset, rows: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[object, ...]]:
    """The keys of these rows that are stored; other rows are not read where there are indices."""
    names = ["sequence", "source", "line_number", "bank"]
    by_owner: dict[str, set[int]] = {}
    for row in rows:
        is_line = row["sequence"] is None
        name, number = ("source", "line_number") if is_line else ("bank", "sequence")
        owner = str(row[name]).replace("'", "''")
        by_owner.setdefault(f"{name} = '{owner}' AND {number} IN", set()).add(row[number])
    for owned, numbers in by_owner.items():
        for part in batches_of([str(number) for number in sorted(numbers)]):
            found = read_rows(base, names, filter=f"{owned} ({', '.join(part)})")
            yield from map(_key, found.to_pylist())


def _to_row(sequence: int | None, item: Rejected, source: str, bank: str) -> dict[str, Any]:
    return {
        **vars(item),
        "raw": item.raw[:MAX_RAW_CHARS],
        "outcome": json.dumps(asdict(item.outcome)) if item.outcome else None,
        "sequence": sequence,
        "source": source,
        "bank": bank,
        "rejected_at": datetime.now(UTC),
    }


def _from_row(row: dict[str, Any]) -> StoredReject:
    stored = row.pop("outcome", None)
    outcome = WriteOutcome(**json.loads(stored)) if stored else None
    if outcome is None and row["error_type"] == RejectType.WEAK_EDIT:  # of an earlier release
        outcome = WriteOutcome(state="weak")
    names = [item.name for item in fields(Rejected) if item.name != "outcome"]
    rejected = Rejected(**{name: row.pop(name) for name in names}, outcome=outcome)
    return StoredReject(rejected=rejected, **row)


def _key(row: Mapping[str, Any]) -> tuple[object, ...]:
    if row["sequence"] is None:
        return ("line", row["source"], row["line_number"])
    return ("request", row["bank"], row["sequence"])
