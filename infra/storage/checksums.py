"""Checksums of a table's files and rows, stored beside the table when a file is written.

seals/<bank>/<path of the file>.json    sha256 and length of the file, and a checksum of each row
log_seals/<path of the file>.json       the same for the request log
<table>_seals/<path of the file>.json   the same for its small tables, with a copy of the file

They say which edits were in a missing file, and which rows of an altered one are undamaged. Files
and their checksums are written once and never change.
"""

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lance import LanceDataset
from lance.fragment import FragmentMetadata

from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table
from liveedit_core.errors import IntegrityError

_FOLDER = "seals"
_LOG_FOLDER = "log_seals"
_SMALL_LOG_FOLDER = "_seals"
"""The stored names; they must not change."""


class RowChecksum(NamedTuple):
    edit_id: str
    subject_id: str
    sequence: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class FileChecksum:
    sha256: str
    num_bytes: int
    rows: tuple[RowChecksum, ...] = ()
    """In the order of the file; none for lists of removed rows."""
    copy: str = ""
    """The bytes of a file of a small table in base 64; nothing else could bring them back."""

    def copied(self) -> bytes:
        """The bytes of the file; IntegrityError without an undamaged copy."""
        with contextlib.suppress(ValueError):
            data = base64.b64decode(self.copy)
            if not self.problem_of(data):
                return data
        raise IntegrityError("the copy of a file beside its checksum is missing or damaged")

    def problem_of(self, data: bytes) -> str:
        """How a file's bytes differ from what was written; "" when they do not."""
        if len(data) < self.num_bytes:
            return f"is truncated: {len(data):,} of {self.num_bytes:,} bytes"
        if sha256_of(data) != self.sha256:
            return "is altered, its sha256 differs"
        return ""


@dataclass(frozen=True)
class TableChecksums:
    """The checksums of one table; picklable. A path is below the table's folder, "data/x.lance"."""

    store: ObjectStore
    _table: str
    _folder: str
    _has_copies: bool = False

    @classmethod
    def of_bank(cls, store: ObjectStore, bank: str) -> Self:
        return cls(store, f"banks/{bank}", f"{_FOLDER}/{bank}")

    @classmethod
    def of_log(cls, store: ObjectStore, table: str = "requests") -> Self:
        if table == "requests":
            return cls(store, table, _LOG_FOLDER)
        return cls(store, table, f"{table}{_SMALL_LOG_FOLDER}", _has_copies=True)

    def _key(self, path: str) -> str:
        return f"{self._folder}/{path}.json"

    def file_key(self, path: str) -> str:
        return f"{self._table}/{path}"

    def write(self, path: str, rows: pa.Table | None = None) -> None:
        """Store the checksums of a file that was just written, and of its rows if it has any."""
        data = self.store.get(self.file_key(path))
        content = {
            "sha256": sha256_of(data),
            "num_bytes": len(data),
            "rows": [] if rows is None else list(row_checksums(rows)),
            **({"copy": base64.b64encode(data).decode()} if self._has_copies else {}),
        }
        self.store.put(self._key(path), json.dumps(content).encode())

    def write_rows(self, table: Table, rows: pa.Table) -> list[tuple[FragmentMetadata, pa.Table]]:
        """`Table.write_rows`, and the checksums of the new files."""
        written = table.write_rows(rows)
        for fragment, part in written:
            for file in fragment.files:
                self.write(f"data/{file.path}", part)
        return written

    def append(self, table: Table, base: LanceDataset, rows: pa.Table) -> int:
        """`Table.append`, and the checksums of the new files."""
        return table.commit(base, [fragment for fragment, _ in self.write_rows(table, rows)])

    def read(self, path: str) -> FileChecksum | None:
        """The checksum of a file; None when it has none, IntegrityError when it is damaged."""
        key = self._key(path)
        if not self.store.exists(key):
            return None
        try:
            content = json.loads(self.store.get(key))
            content["rows"] = tuple(RowChecksum(*row) for row in content["rows"])
            return FileChecksum(**content)
        except (ValueError, TypeError, KeyError) as error:
            raise IntegrityError(f"the checksum object {key} is damaged: {error!r}") from error

    def rows_of(self, paths: Sequence[str]) -> set[RowChecksum] | None:
        """The rows that were written to some files; None when one of them has no checksum."""
        checksums = [self.read(path) for path in paths]
        rows = {row for checksum in checksums if checksum for row in checksum.rows}
        return rows if all(checksums) else None

    def check_rows(self, rows: pa.Table, paths: Sequence[str]) -> list[RowChecksum]:
        """Checksums of rows that were read, before they are written to another file; IntegrityError
        when one is not as it was written to the files at `paths`."""
        written = self.rows_of(paths)
        found = list(row_checksums(rows))
        for row in found:
            if written is not None and row not in written:
                raise IntegrityError(
                    f"table {self._table}: the row of edit {row.edit_id} is not what was written; "
                    "nothing is merged. Verify the bank, and repair it"
                )
        return found

    def delete_file(self, path: str) -> None:
        """Delete a file that no version names, and its checksums."""
        self.store.delete(self.file_key(path))
        self.store.delete(self._key(path))

    def prune(self) -> None:
        """Delete the checksums of files that are gone; only after old versions were deleted."""
        prefix = f"{self._folder}/"
        keys = self.store.list(prefix)  # before the files: a file is older than its checksums
        files = set(self.store.list(f"{self._table}/"))
        for key in keys:
            if self.file_key(key.removeprefix(prefix).removesuffix(".json")) not in files:
                self.store.delete(key)


def row_checksums(rows: pa.Table) -> Iterator[RowChecksum]:
    """The checksum of every row: sha256 over its short columns as JSON, then its vectors, then its
    images. Nulls do not count: a table of an earlier release lacks their columns."""
    images = [column.name for column in rows.schema if pa.types.is_large_binary(column.type)]
    names = [column.name for column in rows.schema if is_vector(column.type)]
    short = [name for name in rows.schema.names if name not in {*names, *images}]
    vectors = [column_vectors(rows, name) for name in names]
    for index, row in enumerate(rows.select(short).to_pylist()):
        known = {name: value for name, value in row.items() if value is not None}
        digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode())
        for vector in vectors:
            digest.update(vector[index].astype("<f4", copy=False).tobytes())
        for name in images:
            digest.update(rows.column(name)[index].as_py() or b"")
        number = row.get("sequence") or row.get("number") or 0
        ids = (row.get("edit_id", ""), row.get("subject_id", ""))
        yield RowChecksum(*ids, number, digest.hexdigest())


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def is_vector(kind: pa.DataType) -> bool:
    """Whether a column holds numbers of an expert, as many in each row or not."""
    is_list = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind)
    return bool(is_list and pa.types.is_floating(kind.value_type))


def column_vectors(table: pa.Table, name: str) -> list[npt.NDArray[np.float32]]:
    """A column of vectors as read-only float32 arrays, one for each row."""
    column = table.column(name).combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    ends = np.cumsum(column.value_lengths().to_numpy(zero_copy_only=False))
    return np.split(flat, ends[:-1]) if len(table) else []
