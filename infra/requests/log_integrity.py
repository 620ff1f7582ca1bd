"""Verification and repair of the request log: every file and row against what was written.

Rows of a damaged file whose checksums are right stay. A lost request keeps its number and its edit,
as far as the checksums know them, but not its content: banks keep its expert, and when the same
request is sent again it takes its old place. Nothing else can bring it back, as the log is the
source of truth: keep a copy of the store.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from lance import LanceDataset, LanceFragment

from infra.requests.request_index import LOST_PLACE
from infra.requests.request_log import RequestLog
from infra.storage.checksums import FileChecksum, RowChecksum, row_checksums
from infra.storage.tables import fragments_of, read_errors, read_rows
from liveedit_core.errors import IntegrityError


@dataclass(kw_only=True)
class LogReport:
    """What is missing or wrong in the newest version of the log."""

    num_requests: int = 0
    num_files: int = 0
    problems: list[str] = field(default_factory=list)
    """One line for each file or request."""
    lost: dict[int, RowChecksum] = field(default_factory=dict)
    """By number: requests that cannot be read any more, until they are sent again."""
    missing: list[int] = field(default_factory=list)
    """Numbers of which not even the edit is known."""
    damaged: dict[int, pa.Table] = field(default_factory=dict)
    """The undamaged rows of each damaged fragment, by fragment id."""
    version: int = 0

    @property
    def is_whole(self) -> bool:
        return not (self.problems or self.missing)


def verify_log(log: RequestLog) -> LogReport:
    dataset = log.table.latest()
    report = LogReport(version=int(dataset.version))
    numbers: set[int] = set()
    for fragment in fragments_of(dataset):
        files = [_checked(log, f"data/{file.path}", report) for file in fragment.data_files()]
        rows = _readable(log, fragment)
        written = {row.sequence: row for sums, _ in files if sums for row in sums.rows}
        is_sealed = all(sums for sums, _ in files)
        right = [
            place
            for place, row in enumerate(row_checksums(rows))
            if not is_sealed or written.get(row.sequence) == row
        ]
        good = rows.take(pa.array(right, pa.int64()))
        found = set(good.column("sequence").to_pylist())
        numbers |= found
        removed = fragment.num_deletions > 0
        lost = {} if removed else {n: row for n, row in written.items() if n not in found}
        report.lost |= lost
        report.problems += [
            f"request {n} of the log, edit {row.edit_id}, is lost" for n, row in lost.items()
        ]
        if lost or len(good) < len(rows) or any(problem for _, problem in files):
            report.damaged[fragment.fragment_id] = good
    report.num_requests = len(numbers)
    known = numbers | report.lost.keys()
    report.missing = sorted(set(range(1, max(known, default=0) + 1)) - known)
    report.problems += [f"request {number} of the log is missing" for number in report.missing]
    return report


def repair_log(log: RequestLog) -> LogReport:
    """Replace damaged fragments; returns what was damaged. Harmless when nothing is."""

    def attempt(base: LanceDataset) -> LogReport:
        report = verify_log(log)
        if report.is_whole and not report.damaged:
            return report
        stood = [_placeholder(row) for row in report.lost.values()]
        stood += [
            _placeholder(RowChecksum(f"lost {number}", f"lost {number}", number, ""))
            for number in report.missing
        ]
        parts = [*report.damaged.values(), pa.Table.from_pylist(stood, base.schema)]
        rows = pa.concat_tables([part.cast(base.schema) for part in parts]).sort_by("sequence")
        log.write(base, rows, without_fragments=report.damaged)
        return report

    log.add_missing_columns()  # one of them says what is lost
    return log.table.on_latest(attempt)


def _placeholder(row: RowChecksum) -> dict[str, Any]:
    return {
        "sequence": row.sequence,
        "edit_id": row.edit_id,
        "subject_id": row.subject_id,
        **dict.fromkeys(("prompt", "target", "image_digest", "image_uri", "submitter"), ""),
        "supersedes": "",
        "image_bytes": b"",
        "submitted_at": datetime.now(UTC),
        "place": LOST_PLACE,
    }


def _checked(log: RequestLog, path: str, report: LogReport) -> tuple[FileChecksum | None, str]:
    """The checksum of a file, and how its bytes differ from it."""
    report.num_files += 1
    key, checksum = log.checksums.file_key(path), None
    try:
        checksum = log.checksums.read(path)
        data = log.store.get(key)
        problem = checksum.problem_of(data) if checksum else ""
    except IntegrityError:
        problem = "or its checksum is missing or damaged"
    if problem:
        report.problems.append(f"{key} {problem}")
    return checksum, problem


def _readable(log: RequestLog, fragment: LanceFragment) -> pa.Table:
    """The rows of a file that may be damaged; none when they cannot be read."""
    nothing = fragment.schema.empty_table()
    try:
        with read_errors(log.table.uri):
            rows = fragment.to_table()
            list(row_checksums(rows))  # decodes the texts too
            return rows
    except IntegrityError:
        return nothing


def lost_requests(log: RequestLog) -> Sequence[tuple[int, str]]:
    """Number and edit of each request that must be sent again."""
    dataset = log.table.latest()
    if "place" not in dataset.schema.names:
        return []
    rows = read_rows(dataset, ["sequence", "edit_id"], filter=f"place = {LOST_PLACE}")
    return sorted(zip(*(column.to_pylist() for column in rows.columns), strict=True))
