"""Seals: what a file of a bank must contain, written down beside it when it is made.

seals/<bank>/<path of the file>.json   sha256 and length of the file, and a digest of each row

A seal outlives its file: when the file is missing, truncated or altered, the seal still says which
edits were in it, and tells which of its rows are unharmed. Files are written once and never change,
and so do their seals. Files of earlier releases have none until `seal_version` makes them.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from infra.storage.object_store import ObjectStore
from liveedit_core.errors import IntegrityError


class SealedRow(NamedTuple):
    """A row, and the digest of all its columns."""

    edit_id: str
    subject_id: str
    sequence: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class FileSeal:
    """What a file must be."""

    sha256: str
    num_bytes: int
    rows: tuple[SealedRow, ...] = ()
    """In the order of the file; none for lists of removed rows."""

    @classmethod
    def of(cls, data: bytes, rows: Sequence[SealedRow] = ()) -> "FileSeal":
        """Describe a file by its bytes."""
        return cls(sha256=sha256_of(data), num_bytes=len(data), rows=tuple(rows))

    def problem_of(self, data: bytes) -> str:
        """How a file differs from what it must be; "" when it does not."""
        if len(data) < self.num_bytes:
            return f"is truncated: {len(data):,} of {self.num_bytes:,} bytes"
        if sha256_of(data) != self.sha256:
            return "is altered, its sha256 is another"
        return ""


class FileSeals:
    """The seals of one bank; picklable."""

    def __init__(self, store: ObjectStore, bank: str) -> None:
        """Name the bank; nothing is read yet."""
        self._store = store
        self._bank = bank

    def _key(self, path: str) -> str:
        return f"seals/{self._bank}/{path}.json"

    def file_key(self, path: str) -> str:
        """Key in the store of a file of the bank, "data/x.lance"."""
        return f"banks/{self._bank}/{path}"

    def write(self, path: str, rows: pa.Table | None = None) -> None:
        """Seal a file that was just written.

        Args:
            path: Below the bank's folder.
            rows: What was to be written, for files of rows.
        """
        data = self._store.get(self.file_key(path))
        seal = FileSeal.of(data, list(sealed_rows(rows)) if rows is not None else ())
        content = {"sha256": seal.sha256, "num_bytes": seal.num_bytes, "rows": seal.rows}
        self._store.put(self._key(path), json.dumps(content).encode())

    def read(self, path: str) -> FileSeal | None:
        """The seal of a file; None when it has none.

        Raises:
            IntegrityError: The seal itself is damaged.
        """
        key = self._key(path)
        if not self._store.exists(key):
            return None
        try:
            content = json.loads(self._store.get(key))
            content["rows"] = tuple(SealedRow(*row) for row in content["rows"])
            return FileSeal(**content)
        except (ValueError, TypeError, KeyError) as error:
            raise IntegrityError(f"the seal {key} is damaged: {error!r}") from error

    def prune(self) -> int:
        """Delete the seals of files that are gone; returns how many. After a clean-up only."""
        prefix = f"seals/{self._bank}/"
        files = set(self._store.list(f"banks/{self._bank}/"))
        gone = [
            key
            for key in self._store.list(prefix)
            if self.file_key(key.removeprefix(prefix).removesuffix(".json")) not in files
        ]
        for key in gone:
            self._store.delete(key)
        return len(gone)


def sealed_rows(rows: pa.Table) -> Iterator[SealedRow]:
    """The digest of every row: sha256 over its short columns as JSON, then its vectors."""
    short: list[str] = []
    vectors: list[np.ndarray] = []
    for column in rows.schema:
        if pa.types.is_fixed_size_list(column.type):
            flat = rows.column(column.name).combine_chunks().flatten()
            numbers = flat.to_numpy(zero_copy_only=False).astype("<f4", copy=False)
            vectors.append(numbers.reshape(len(rows), column.type.list_size))
        else:
            short.append(column.name)
    for index, row in enumerate(rows.select(short).to_pylist()):
        digest = hashlib.sha256(json.dumps(row, sort_keys=True).encode())
        for vector in vectors:
            digest.update(np.ascontiguousarray(vector[index]).tobytes())
        yield SealedRow(row["edit_id"], row["subject_id"], row["sequence"], digest.hexdigest())


def sha256_of(data: bytes) -> str:
    """Hex digest; the one way in which files of a bank are digested."""
    return hashlib.sha256(data).hexdigest()
