"""Verification of a bank version: every file, every row, and what the request log says about them.

Rows of an altered file whose checksums are right stay usable; the report keeps them for the repair.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from lance import LanceFragment

from infra.bank.schema import column_vectors, is_vector
from infra.bank.stored_bank import StoredBank
from infra.bank.traffic import read_traffic
from infra.requests.change_log import removed_after
from infra.requests.request_log import RequestLog
from infra.storage.checksums import FileChecksum, RowChecksum, row_checksums
from infra.storage.tables import fragments_of
from liveedit_core.errors import IntegrityError


@dataclass(frozen=True, kw_only=True)
class FileProblem:
    key: str
    problem: str
    """"is missing", "is truncated: ...", "is altered ..."."""
    edit_ids: tuple[str, ...]
    """Edits of the version that are lost with it, as far as they are known."""


@dataclass(frozen=True, kw_only=True)
class EditProblem:
    edit_id: str
    problem: str


@dataclass(kw_only=True)
class IntegrityReport:
    """What is missing or wrong in a version."""

    bank: str
    version: int
    num_edits: int
    """Experts that the version should hold."""
    num_verified: int = 0
    num_files: int = 0
    num_bytes: int = 0
    files: list[FileProblem] = field(default_factory=list)
    edits: list[EditProblem] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unchecked_files: list[str] = field(default_factory=list)
    """Readable files without a checksum: the process that wrote them was killed before."""
    damaged: dict[int, pa.Table] = field(default_factory=dict)
    """The undamaged rows of each fragment with a damaged file or row, by fragment id."""

    @property
    def is_whole(self) -> bool:
        return not (self.files or self.edits or self.problems)

    @property
    def damaged_edits(self) -> tuple[str, ...]:
        named = [edit_id for item in self.files for edit_id in item.edit_ids]
        return tuple(dict.fromkeys([*named, *(item.edit_id for item in self.edits)]))

    def lines(self) -> list[str]:
        return [
            *(f"{item.key} {item.problem}; {len(item.edit_ids)} edits" for item in self.files),
            *(f"edit {item.edit_id}: {item.problem}" for item in self.edits),
            *self.problems,
        ]

    def content(self) -> dict[str, Any]:
        content = {key: value for key, value in vars(self).items() if key != "damaged"}
        return {
            **content,
            "files": [vars(item) for item in self.files],
            "edits": [vars(item) for item in self.edits],
            "is_whole": self.is_whole,
            "damaged_edits": self.damaged_edits,
        }


def verify_version(
    bank: StoredBank, version: int | None = None, request_log: RequestLog | None = None
) -> IntegrityReport:
    """Compare every file and row of a version with what was written, and with the request log."""
    verification = _Verification(bank, bank.version if version is None else version)
    verification.read_fragments()
    verification.read_traffic()
    if request_log is not None:
        verification.compare_with_log(request_log)
    return verification.finished()


@dataclass(frozen=True)
class _ReadFile:
    path: str
    checksum: FileChecksum | None
    problem: str


@dataclass
class _Verification:
    bank: StoredBank
    version: int
    report: IntegrityReport = field(init=False)
    held: set[str] | None = field(init=False)
    """Edits that the version must hold; None when records are missing."""
    verified: dict[str, RowChecksum] = field(default_factory=dict)

    def __post_init__(self) -> None:
        num_rows = self.bank.num_edits(self.version)
        self.state = self.bank.versions.state_at(self.version)
        self.held = self.bank.versions.held_at(self.version)
        self.report = IntegrityReport(
            bank=self.bank.name,
            version=self.version,
            num_edits=self.state.num_edits if self.state else num_rows,
        )
        if self.report.num_edits != num_rows:
            self.report.problems.append(
                f"the version lists {num_rows} rows, {self.report.num_edits} were committed"
            )

    def read_fragments(self) -> None:
        suspects: list[tuple[LanceFragment, list[_ReadFile], pa.Table]] = []
        for fragment in fragments_of(self.bank.dataset(self.version)):
            data = [self._read_file(f"data/{file.path}") for file in fragment.data_files()]
            removals = fragment.deletion_file()
            files = [*data, self._read_file(removals)] if removals else data
            rows = self._readable_rows(fragment, files)
            written = {row for file in data if file.checksum for row in file.checksum.rows}
            has_checksums = all(file.checksum for file in data)
            right = self._right_rows(rows, written if has_checksums else None)
            if len(right) < len(rows) or any(file.problem for file in files):
                suspects.append((fragment, files, rows.take(pa.array(right, pa.int64()))))
        for fragment, files, rows in suspects:  # once it is known which edits are right elsewhere
            self._report_damage(fragment, files, rows)

    def read_traffic(self) -> None:
        if not (self.state and self.state.traffic):
            return
        self.report.num_files += 1
        try:
            self.report.num_bytes += read_traffic(self.bank.store, self.state.traffic).nbytes
        except IntegrityError as error:
            self.report.problems.append(error.message)

    def _read_file(self, path: str) -> _ReadFile:
        self.report.num_files += 1
        checksum = self.bank.checksums.read(path)
        key = self.bank.checksums.file_key(path)
        try:
            data = self.bank.store.get(key)
        except IntegrityError:
            return _ReadFile(path, checksum, "is missing")
        self.report.num_bytes += len(data)
        if checksum is None:
            self.report.unchecked_files.append(key)
        return _ReadFile(path, checksum, checksum.problem_of(data) if checksum else "")

    def _readable_rows(self, fragment: LanceFragment, files: list[_ReadFile]) -> pa.Table:
        nothing = self.bank.dataset(self.version).schema.empty_table()
        broken = {file.path for file in files if file.problem}
        if fragment.deletion_file() not in broken:
            return _attempt(fragment.to_table, nothing)
        if self.held is None:
            return nothing
        # The list of removed rows is lost, but it is known which edits the version holds.
        rows = _attempt(lambda: self.bank.read_fragment(fragment), nothing)
        wanted = [key in self.held for key in rows.column("edit_id").to_pylist()]
        return rows.filter(pa.array(wanted, pa.bool_()))

    def _right_rows(self, rows: pa.Table, written: Collection[RowChecksum] | None) -> list[int]:
        """Positions of the intact rows; the others are reported."""
        finite = np.ones(len(rows), dtype=bool)
        for column in rows.schema:
            if is_vector(column.type):
                vectors = column_vectors(rows, column.name)
                finite &= np.array([np.isfinite(vector).all() for vector in vectors], bool)
        generators = rows.column("generator_digest").to_pylist()
        written_ids = {row.edit_id for row in written or ()}
        right = []
        for index, row in enumerate(row_checksums(rows)):
            problem = ""
            if written is not None and row not in written:
                if row.edit_id not in written_ids:
                    continue  # a corrupted edit_id; the edit itself is reported as lost
                problem = "its row is not what was written"
            elif not finite[index]:
                problem = "its row holds NaN or infinity"
            elif generators[index] != self.bank.identity.generator_digest:
                problem = f"its expert was written by another generator, {generators[index]}"
            elif row.subject_id in self.verified:
                problem = f"edit {self.verified[row.subject_id].edit_id} has the same subject"
            if problem:
                self.report.edits.append(EditProblem(edit_id=row.edit_id, problem=problem))
            else:
                self.verified[row.subject_id] = row
                right.append(index)
        return right

    def _report_damage(
        self, fragment: LanceFragment, files: list[_ReadFile], rows: pa.Table
    ) -> None:
        right = {row.edit_id for row in self.verified.values()}
        in_file = [row.edit_id for file in files if file.checksum for row in file.checksum.rows]
        lost = tuple(
            edit_id
            for edit_id in in_file
            if edit_id not in right and (self.held is None or edit_id in self.held)
        )
        for file in files:
            if file.problem:
                key = self.bank.checksums.file_key(file.path)
                self.report.files.append(FileProblem(key=key, problem=file.problem, edit_ids=lost))
        self.report.damaged[fragment.fragment_id] = rows

    def compare_with_log(self, request_log: RequestLog) -> None:
        """Every row must have its request, under its number, and must not be removed."""
        requests = request_log.edits_of_subjects(list(self.verified))
        changes = request_log.changes.read()
        removed = removed_after(changes[: self.state.last_change] if self.state else [])
        for subject_id, row in self.verified.items():
            problem = ""
            if (row.sequence, row.edit_id) not in requests.get(subject_id, ()):
                problem = f"the request log has no request {row.sequence} of this edit"
            elif row.edit_id in removed:
                problem = "the request log says that it was removed"
            if problem:
                self.report.edits.append(EditProblem(edit_id=row.edit_id, problem=problem))

    def finished(self) -> IntegrityReport:
        self.report.num_verified = len(self.verified)
        if self.held is not None:
            found = {row.edit_id for row in self.verified.values()}
            found.update(self.report.damaged_edits)
            self.report.edits += [
                EditProblem(edit_id=edit_id, problem="it is in no file of the version")
                for edit_id in sorted(self.held - found)
            ]
        elif self.report.num_verified != self.report.num_edits and self.report.is_whole:
            self.report.problems.append(
                f"{self.report.num_verified} rows were found, {self.report.num_edits} committed"
            )
        return self.report


def _attempt(read: Callable[[], pa.Table], nothing: pa.Table) -> pa.Table:
    """The rows of a file that may be damaged; `nothing` when they cannot be read."""
    try:
        rows = read()
        list(row_checksums(rows))  # decodes the texts too
        return rows
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # damaged bytes make Lance panic, which is not an Exception
        return nothing
