"""Verification of a bank version: every file, every row, and what the request log says of them.

Damage is named, not only found: which file is missing, truncated or altered, and which edits were
in it. All other rows stay usable, and so do those rows of an altered file whose digests are right:
a report keeps them for the repair.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from lance import LanceFragment

from infra.bank.checksums import FileSeal, FileSeals, SealedRow, sealed_rows
from infra.bank.expert_bank import ExpertBank
from infra.bank.integrity_report import DamagedFragment, EditProblem, FileProblem, IntegrityReport
from infra.bank.schema import column_to_numpy
from infra.requests.change_log import removed_after
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table, read_errors
from liveedit_core.errors import IntegrityError


def verify_version(
    bank: ExpertBank, version: int | None = None, request_log: RequestLog | None = None
) -> IntegrityReport:
    """Read every file and row of a version and compare it with what was written.

    Args:
        bank: The bank.
        version: Which version; the newest by default.
        request_log: Of the same store; without it rows are not compared with their requests.

    Raises:
        IntegrityError: There is no such version, or its list of files cannot be read.
        StorageUnavailableError: The store does not answer.
    """
    verification = _Verification(bank, bank.version if version is None else version)
    verification.read_fragments()
    if request_log is not None:
        verification.compare_with_log(request_log)
    return verification.finished()


def seal_version(bank: ExpertBank, version: int | None = None) -> int:
    """Seal the files of a version that have no seal, as they are now: those of earlier releases.

    Args:
        bank: The bank.
        version: Which version; the newest by default.

    Returns:
        How many files were sealed.

    Raises:
        IntegrityError: A file is missing or damaged.
    """
    seals = FileSeals(ObjectStore(bank.store_uri), bank.name)
    num_sealed = 0
    for fragment in bank.dataset(bank.version if version is None else version).get_fragments():
        removals = fragment.deletion_file()
        if removals and seals.read(removals) is None:
            seals.write(removals)
            num_sealed += 1
        for file in fragment.data_files():
            if seals.read(f"data/{file.path}") is None:
                with read_errors(bank.uri):
                    seals.write(f"data/{file.path}", _all_rows(bank, fragment))
                num_sealed += 1
    return num_sealed


@dataclass(frozen=True)
class _ReadFile:
    """A file of a fragment."""

    path: str
    seal: FileSeal | None
    problem: str
    num_bytes: int


@dataclass
class _Verification:
    bank: ExpertBank
    version: int
    report: IntegrityReport = field(init=False)
    held: set[str] | None = field(init=False)
    """Edits that the records promise; None where they do not tell."""
    subjects: dict[str, SealedRow] = field(default_factory=dict)
    """Right rows by subject."""
    _suspects: list[tuple[LanceFragment, list[_ReadFile], pa.Table]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.seals = FileSeals(ObjectStore(self.bank.store_uri), self.bank.name)
        self.store = ObjectStore(self.bank.store_uri)
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
        """Check files and rows, a fragment at a time."""
        for fragment in self.bank.dataset(self.version).get_fragments():
            paths = [f"data/{file.path}" for file in fragment.data_files()]
            removals = fragment.deletion_file()
            files = [self._read_file(path) for path in [*paths, *filter(None, [removals])]]
            rows = self._readable_rows(fragment, files)
            sealed = {row for file in files if file.seal for row in file.seal.rows}
            has_seals = all(file.seal for file in files if file.path in paths)
            right = self._right_rows(rows, sealed if has_seals else None)
            if len(right) < len(rows) or any(file.problem for file in files):
                self._suspects.append((fragment, files, rows.take(pa.array(right, pa.int64()))))
        for fragment, files, rows in self._suspects:
            self._take_down_damage(fragment, files, rows)

    def _read_file(self, path: str) -> _ReadFile:
        self.report.num_files += 1
        seal = self.seals.read(path)
        try:
            data = self.store.get(self.seals.file_key(path))
        except IntegrityError:
            return _ReadFile(path, seal, "is missing", 0)
        self.report.num_bytes += len(data)
        if seal is None:
            self.report.unsealed.append(self.seals.file_key(path))
        return _ReadFile(path, seal, seal.problem_of(data) if seal else "", len(data))

    def _readable_rows(self, fragment: LanceFragment, files: list[_ReadFile]) -> pa.Table:
        nothing = self.bank.dataset(self.version).schema.empty_table()
        broken = {file.path for file in files if file.problem}
        if fragment.deletion_file() not in broken:
            return _attempt(fragment.to_table, nothing)
        if self.held is None:
            return nothing
        # Which rows were removed is unknown, but not which edits the version holds.
        rows = _attempt(lambda: _all_rows(self.bank, fragment), nothing)
        wanted = [key in self.held for key in rows.column("edit_id").to_pylist()]
        return rows.filter(pa.array(wanted, pa.bool_()))

    def _right_rows(self, rows: pa.Table, sealed: Collection[SealedRow] | None) -> list[int]:
        """Positions of the rows that are what was written; the others are reported."""
        finite = np.ones(len(rows), dtype=bool)
        for column in rows.schema:
            if pa.types.is_fixed_size_list(column.type):
                finite &= np.isfinite(column_to_numpy(rows, column.name)).all(axis=1)
        generators = rows.column("generator_digest").to_pylist()
        ids = {row.edit_id for row in sealed or ()}
        right = []
        for index, row in enumerate(sealed_rows(rows)):
            problem = ""
            if sealed is not None and row not in sealed:
                # An id that was altered itself is nobody's; its edit is missing in the file.
                problem = "its row is not what was written" if row.edit_id in ids else "no edit"
            elif not finite[index]:
                problem = "its row holds NaN or infinity"
            elif generators[index] != self.bank.identity.generator_digest:
                problem = f"its expert was written by another generator, {generators[index]}"
            elif row.subject_id in self.subjects:
                problem = f"edit {self.subjects[row.subject_id].edit_id} has the same subject"
            if not problem:
                self.subjects[row.subject_id] = row
                right.append(index)
            elif problem != "no edit":
                self.report.edits.append(EditProblem(edit_id=row.edit_id, problem=problem))
        return right

    def _take_down_damage(
        self, fragment: LanceFragment, files: list[_ReadFile], rows: pa.Table
    ) -> None:
        right = {row.edit_id for row in self.subjects.values()}
        in_file = [row.edit_id for file in files if file.seal for row in file.seal.rows]
        lost = tuple(
            edit_id
            for edit_id in in_file
            if edit_id not in right and (self.held is None or edit_id in self.held)
        )
        self.report.files += [
            FileProblem(key=self.seals.file_key(file.path), problem=file.problem, edit_ids=lost)
            for file in files
            if file.problem
        ]
        self.report.damaged.append(
            DamagedFragment(fragment_id=fragment.fragment_id, unharmed_rows=rows)
        )

    def compare_with_log(self, request_log: RequestLog) -> None:
        """Every row must have its request, under its number, and must not be removed."""
        requests = request_log.edits_of_subjects(list(self.subjects))
        changes = request_log.changes.read()
        known = changes[: self.state.last_change] if self.state else []
        removed = removed_after(known)
        for subject_id, row in self.subjects.items():
            problem = ""
            if (row.sequence, row.edit_id) not in requests.get(subject_id, ()):
                problem = f"the request log has no request {row.sequence} of this edit"
            elif row.edit_id in removed:
                problem = "the request log says that it was removed"
            if problem:
                self.report.edits.append(EditProblem(edit_id=row.edit_id, problem=problem))

    def finished(self) -> IntegrityReport:
        """The report, after everything that is promised was looked for."""
        self.report.num_verified = len(self.subjects)
        if self.held is not None:
            named = {row.edit_id for row in self.subjects.values()}
            named.update(self.report.damaged_edits)
            self.report.edits += [
                EditProblem(edit_id=edit_id, problem="it is in no file of the version")
                for edit_id in sorted(self.held - named)
            ]
        elif self.report.num_verified != self.report.num_edits and self.report.is_whole:
            self.report.problems.append(
                f"{self.report.num_verified} rows were found, {self.report.num_edits} committed"
            )
        return self.report


def _all_rows(bank: ExpertBank, fragment: LanceFragment) -> pa.Table:
    """All rows of a fragment, the removed ones too."""
    table = Table(ObjectStore(bank.store_uri), f"banks/{bank.name}")
    return table.read_fragment(fragment.metadata)


def _attempt(read: Callable[[], pa.Table], nothing: pa.Table) -> pa.Table:
    """What can be read of a file that may be damaged, its texts included."""
    try:
        rows = read()
        list(sealed_rows(rows))
        return rows
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # damaged bytes make Lance panic, which is no Exception
        return nothing
