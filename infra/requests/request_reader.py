"""Reads logged requests by number, in any process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lance import LanceDataset

from infra.storage.tables import Table, count_rows, read_rows, take_rows
from liveedit_core.errors import IntegrityError
from liveedit_core.schema import EditRequest

_READ_ROWS = 32
"""Requests read at a time: images are large."""
REQUEST_COLUMNS = ("image_bytes", "prompt", "target", "image_uri", "submitter", "also_asked")


@dataclass(frozen=True, kw_only=True)
class LoggedRequest:
    sequence: int
    request: EditRequest
    supersedes: str
    submitted_at: datetime


@dataclass(frozen=True)
class RequestReader:
    """Reads requests by number; picklable, holds no credentials."""

    table: Table

    def read(self, sequences: Sequence[int] | None = None) -> Iterator[LoggedRequest]:
        """Requests with their images, by sequence, a few at a time; those that the log lacks are
        skipped. None reads all."""
        if sequences is None:
            numbers_of = self.table.on_latest(lambda base: read_rows(base, ["sequence"]))
            sequences = numbers_of.column("sequence").to_pylist()
        dataset = self.table.latest()
        wanted = sorted(set(sequences))
        for start in range(0, len(wanted), _READ_ROWS):
            numbers = wanted[start : start + _READ_ROWS]
            try:
                rows = _rows_of(dataset, numbers)
            except IntegrityError:
                # Old versions are deleted, under readers that take days too: the newest has all.
                newest = self.table.latest()
                if newest.version == dataset.version:
                    raise
                dataset = newest
                rows = _rows_of(dataset, numbers)
            yield from map(_from_row, rows)


def _rows_of(dataset: LanceDataset, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """The rows with some rising numbers."""
    rows: list[dict[str, Any]] = []
    # A log numbers its rows from 1 in their order, so no column has to be searched.
    if numbers[0] > 0 and numbers[-1] <= count_rows(dataset):
        rows = take_rows(dataset, [number - 1 for number in numbers]).to_pylist()
    if [row["sequence"] for row in rows] != list(numbers):
        found = read_rows(dataset, filter=f"sequence IN ({', '.join(map(str, numbers))})")
        rows = found.sort_by("sequence").to_pylist()
    return rows


def with_texts(row: dict[str, Any]) -> dict[str, Any]:
    """A row of an earlier release with the columns that it lacks."""
    return {
        **row,
        "also_asked": tuple(row.get("also_asked") or ()),
        "pixel_digest": row.get("pixel_digest") or "",
    }


def _from_row(row: dict[str, Any]) -> LoggedRequest:
    row = {**with_texts(row), "image_bytes": row["image_bytes"] or None}
    request = EditRequest(**{name: row[name] for name in (*REQUEST_COLUMNS, "pixel_digest")})
    if request.edit_id != row["edit_id"]:
        raise IntegrityError(
            f"request {row['sequence']} of the log hashes to {request.edit_id}, "
            f"stored was {row['edit_id']}: its bytes were altered"
        )
    return LoggedRequest(
        sequence=row["sequence"],
        request=request,
        supersedes=row["supersedes"],
        submitted_at=row["submitted_at"],
    )
