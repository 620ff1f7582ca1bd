"""Verification and repair of the request log: every file and row against what was written.

Rows of a damaged file whose checksums are right stay. A lost request keeps its number and its edit,
as far as the checksums know them, but not its content: banks keep its expert, and when the same
request is sent again it takes its old place. Nothing else can bring it back, as the log is the
source of truth: keep a copy of the store. A request that was sent again under a later number, which
is intact, comes back from there. The small tables beside it (changes, subjects, rejections) come
back from the copies that their checksums hold.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from lance import LanceDataset, LanceFragment

from infra.requests.request_index import LOST_PLACE
from infra.requests.request_log import RequestLog
from infra.storage.checksums import FileChecksum, RowChecksum, TableChecksums, row_checksums
from infra.storage.tables import Table, fragments_of, read_errors, read_rows
from liveedit_core.errors import IntegrityError

_SMALL_TABLES = ("changes", "subjects", "rejects")


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


@dataclass(kw_only=True)
class _ReadFragment:
    fragment: LanceFragment
    written: dict[int, RowChecksum]
    """By number: what its files held when they were written."""
    right: pa.Table
    """Its intact rows, removed ones included."""
    is_damaged: bool


def verify_log(log: RequestLog) -> LogReport:
    dataset = log.table.latest()
    report = LogReport(version=int(dataset.version))
    for name in _SMALL_TABLES:
        report.problems += [file.problem for file in _damaged_files(log, name, report)]
    read = [_read(log, fragment, report) for fragment in fragments_of(dataset)]
    present = {number for part in read for number, is_lost in _numbers(part.right) if not is_lost}
    held = {number for part in read for number, _ in _numbers(part.right)}
    for part in read:
        # Only what stood for a lost request is ever removed: when the request is back.
        kept = [not is_lost or number not in present for number, is_lost in _numbers(part.right)]
        rows = part.right.filter(pa.array(kept, pa.bool_()))
        lost = {number: row for number, row in part.written.items() if number not in held}
        report.lost |= lost
        if not (part.is_damaged or lost or _is_shown(log, part.fragment, rows)):
            report.problems.append(f"{log.table.uri}: a list of removed requests is damaged")
            part.is_damaged = True
        if part.is_damaged or lost:
            report.damaged[part.fragment.fragment_id] = rows
    report.problems += [
        f"request {number} of the log, edit {row.edit_id}, is lost"
        for number, row in sorted(report.lost.items())
    ]
    report.num_requests = len(held)
    known = held | report.lost.keys()
    report.missing = sorted(set(range(1, max(known, default=0) + 1)) - known)
    report.problems += [f"request {number} of the log is missing" for number in report.missing]
    return report


def repair_log(log: RequestLog) -> LogReport:
    """Replace damaged files; returns what was damaged. Harmless when nothing is."""

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
        if len(rows) or report.damaged:
            log.write(base, rows, without_fragments=report.damaged)
        return report

    repaired = []
    for name in _SMALL_TABLES:
        for file in _damaged_files(log, name, LogReport()):
            file.repair()
            repaired.append(file.problem)
    log.add_missing_columns()  # one of them says what is lost
    report = log.table.on_latest(attempt)
    _take_back(log)
    report.problems = [*repaired, *report.problems]
    return report


@dataclass(frozen=True, kw_only=True)
class _DamagedFile:
    """A file of a small table that differs from its checksum or from its copy."""

    problem: str
    key: str
    path: str
    checksums: TableChecksums
    checksum: FileChecksum | None
    fragment: LanceFragment

    def repair(self) -> None:
        """Put it back from its copy, or write its checksum and copy again."""
        store = self.checksums.store
        try:
            if self.checksum is not None:
                store.put(self.key, self.checksum.copied())
                return
        except IntegrityError:
            pass
        try:
            if self.checksum is not None and self.checksum.problem_of(store.get(self.key)):
                raise IntegrityError(self.problem)
            with read_errors(self.key):
                rows = self.fragment.to_table()
        except IntegrityError as error:
            raise IntegrityError(
                f"{self.problem}, and its copy is damaged too: restore it from a copy of the store"
            ) from error
        self.checksums.write(self.path, rows)


def _damaged_files(log: RequestLog, name: str, report: LogReport) -> Iterator[_DamagedFile]:
    table = Table(log.store, name)
    checksums = TableChecksums.of_log(log.store, name)
    for fragment in fragments_of(table.latest()) if table.exists() else []:
        for file in fragment.data_files():
            path = f"data/{file.path}"
            checksum, problem = _checked(checksums, path, report)
            if checksum and not problem:
                try:
                    checksum.copied()
                except IntegrityError as error:
                    problem = f"{checksums.file_key(path)}: {error.message}"
            if problem:
                yield _DamagedFile(
                    problem=problem,
                    key=checksums.file_key(path),
                    path=path,
                    checksums=checksums,
                    checksum=checksum,
                    fragment=fragment,
                )


def _take_back(log: RequestLog) -> None:
    """Write again the lost requests whose edit has another number that is intact."""
    index = log.index()
    edits = {index.keys[number].edit_id for number in index.lost}
    for logged in list(log.find(edits)):
        log.append([logged.request])


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


def _checked(
    checksums: TableChecksums, path: str, report: LogReport
) -> tuple[FileChecksum | None, str]:
    """The checksum of a file, and how its bytes differ from it."""
    report.num_files += 1
    key, checksum = checksums.file_key(path), None
    try:
        checksum = checksums.read(path)
        data = checksums.store.get(key)
        problem = checksum.problem_of(data) if checksum else ""
    except IntegrityError:
        problem = "or its checksum is missing or damaged"
    return checksum, f"{key} {problem}" if problem else ""


def _read(log: RequestLog, fragment: LanceFragment, report: LogReport) -> _ReadFragment:
    paths = [f"data/{file.path}" for file in fragment.data_files()]
    files = [_checked(log.checksums, path, report) for path in paths]
    report.problems += [problem for _, problem in files if problem]
    rows = _readable(log, fragment)
    written = {row.sequence: row for checksum, _ in files if checksum for row in checksum.rows}
    has_checksums = all(checksum for checksum, _ in files)
    right = [
        place
        for place, row in enumerate(row_checksums(rows))
        if not has_checksums or written.get(row.sequence) == row
    ]
    return _ReadFragment(
        fragment=fragment,
        written=written,
        right=rows.take(pa.array(right, pa.int64())),
        is_damaged=len(right) < len(rows) or any(problem for _, problem in files),
    )


def _readable(log: RequestLog, fragment: LanceFragment) -> pa.Table:
    """The rows of a file that may be damaged, removed ones included; none when they cannot be
    read."""
    nothing = fragment.schema.empty_table()
    try:
        with read_errors(log.table.uri):
            if fragment.deletion_file():
                rows = log.table.read_fragment(fragment.metadata)
                rows = pa.concat_tables([nothing, rows], promote_options="default")
            else:
                rows = fragment.to_table()
            list(row_checksums(rows))  # decodes the texts too
            return rows
    except IntegrityError:
        return nothing


def _numbers(rows: pa.Table) -> list[tuple[int, bool]]:
    """The number of each row, and whether it stands for a lost request."""
    numbers = rows.column("sequence").to_pylist()
    if "place" not in rows.schema.names:
        return [(number, False) for number in numbers]
    places = rows.column("place").to_pylist()
    return [(n, place == LOST_PLACE) for n, place in zip(numbers, places, strict=True)]


def _is_shown(log: RequestLog, fragment: LanceFragment, rows: pa.Table) -> bool:
    """Whether the newest version shows these rows of a fragment and no others."""
    if not fragment.deletion_file():
        return True
    try:
        with read_errors(log.table.uri):
            shown: list[int] = fragment.to_table(["sequence"])["sequence"].to_pylist()
    except IntegrityError:
        return False
    wanted: list[int] = rows.column("sequence").to_pylist()
    return shown == wanted


def lost_requests(log: RequestLog) -> Sequence[tuple[int, str]]:
    """Number and edit of each request that must be sent again."""
    dataset = log.table.latest()
    if "place" not in dataset.schema.names:
        return []
    rows = read_rows(dataset, ["sequence", "edit_id"], filter=f"place = {LOST_PLACE}")
    return sorted(zip(*(column.to_pylist() for column in rows.columns), strict=True))
