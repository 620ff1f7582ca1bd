"""Lance tables under an object store, with one extra guarantee: compare-and-swap commits.

Lance rebases concurrent appends silently: two processes that read the same version can both append
the same row. Here a commit succeeds only on top of the very version that was read; otherwise it
raises `ConcurrentCommitError`. The transaction is an `Update` that also names the oldest fragment
as rewritten (unchanged), so that Lance sees two transactions of one base as a conflict; the first
rows of an empty table are a strict `Overwrite`.

On disk, data files are forced to disk before the commit that names them, and the new manifest
after it: Lance leaves both in the page cache.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import lance
import pyarrow as pa
from lance import LanceFragment
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata, write_fragments

from infra.storage.disk import sync_files
from infra.storage.object_store import ObjectStore
from infra.storage.s3 import kind_of_text
from liveedit_core.errors import IntegrityError, LiveEditError, StorageUnavailableError

_MAX_TEXTS = 2000
"""Texts in one SQL predicate."""
_MAX_COMMIT_TRIES = 10
_CACHED_METADATA_BYTES = 16 * 1024 * 1024
"""By each open table. Lance keeps the manifest of every version that was read, and each names all
files: with its limit of 1 GiB, a process that appends grows with the square of what it appends."""
_CACHED_INDEX_BYTES = 1024 * 1024 * 1024
"""By each open table. The index pages of a million requests, whose ids are looked up anywhere, fit;
half of this is too little for them. Of more, a look-up reads a page. A job looks up in three tables
(requests, subjects, bank), so these take 3 GiB at most, however large they grow. One cache for all
tables would hide damage from whoever opens one to verify it."""
_DAMAGE = ("failed to decode", "invalid magic", "invalid format", "file size is too small")
"""In Lance's OSErrors about bytes that it cannot read as what they should be."""
_NEWEST_NAME = 2**64 - 1
"""Lance names manifests by this number minus their version, so that the newest is listed first."""

_T = TypeVar("_T")


class ConcurrentCommitError(StorageUnavailableError):
    """Another process committed first: read the new version, decide again."""


class MissingFileError(IntegrityError):
    """A table, a version or a file of it is missing."""


@contextlib.contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Convert Lance's exceptions to ours."""
    try:
        yield
    except CommitConflictError as error:
        raise ConcurrentCommitError(f"table {uri} was changed meanwhile") from error
    except (OSError, ValueError) as error:
        # A failed request to S3 is either; a ValueError while a table is opened or read.
        if "Generic S3 error" in str(error):
            raise kind_of_text(str(error))(f"table {uri}: {error}") from error
        if "not found" in str(error).lower():
            raise MissingFileError(
                f"table {uri}: the version or a file is missing: {error}"
            ) from error
        if "commit conflict" in str(error).lower():  # of a compaction, which has no class for it
            raise ConcurrentCommitError(f"table {uri} was changed meanwhile") from error
        if isinstance(error, OSError):
            if any(text in str(error).lower() for text in _DAMAGE):
                raise IntegrityError(f"table {uri}: a file is damaged: {error}") from error
            raise StorageUnavailableError(f"table {uri}: {error}") from error
        raise


@contextlib.contextmanager
def read_errors(uri: str) -> Iterator[None]:
    """As `storage_errors`; whatever else reading raises is a damaged file: ValueErrors of all
    kinds, and panics of Lance, which are no Exceptions."""
    try:
        with storage_errors(uri):
            yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, LiveEditError):
        raise
    except BaseException as error:
        if not isinstance(error, ValueError) and type(error).__name__ != "PanicException":
            raise
        raise IntegrityError(
            f"table {uri}: a file is damaged: {error}. `liveedit bank verify` names it"
        ) from error


def read_rows(
    dataset: lance.LanceDataset, columns: Sequence[str] | None = None, **options: Any
) -> pa.Table:
    """Rows of a version, as `LanceDataset.to_table` reads them, with errors of ours."""
    with read_errors(dataset.uri):
        return dataset.to_table(columns=None if columns is None else list(columns), **options)


def take_rows(
    dataset: lance.LanceDataset, places: Sequence[int], columns: Sequence[str] | None = None
) -> pa.Table:
    """Rows of a version by position, in that order."""
    with read_errors(dataset.uri):
        return dataset.take(list(places), columns=None if columns is None else list(columns))


def count_rows(dataset: lance.LanceDataset) -> int:
    with read_errors(dataset.uri):
        return int(dataset.count_rows())


def fragments_of(dataset: lance.LanceDataset) -> list[LanceFragment]:
    with read_errors(dataset.uri):
        return list(dataset.get_fragments())


def num_bytes_of(fragment: FragmentMetadata) -> int:
    return sum(file.file_size_bytes or 0 for file in fragment.files)


def paths_of(fragments: Iterable[FragmentMetadata]) -> list[str]:
    """Of their files, below the folder of the table."""
    return [f"data/{file.path}" for fragment in fragments for file in fragment.files]


class Table:
    """One Lance table: open, read a version, commit a change on top of a version; picklable."""

    def __init__(
        self, store: ObjectStore, name: str, *, cached_index_bytes: int = _CACHED_INDEX_BYTES
    ) -> None:
        self.uri = store.table_uri(name)
        self._options = store.table_options()
        self._cached_index_bytes = cached_index_bytes

    @classmethod
    def open_or_create(
        cls,
        store: ObjectStore,
        name: str,
        schema: pa.Schema,
        *,
        cached_index_bytes: int = _CACHED_INDEX_BYTES,
    ) -> Self:
        """The table of this name, created empty with this schema when there is none."""
        table = cls(store, name, cached_index_bytes=cached_index_bytes)
        if not table.exists():
            if store.list(f"{name}/data/") and not table.exists():
                raise IntegrityError(
                    f"table {table.uri} has files of rows, but no version names them: restore "
                    "`_versions` from a copy"
                )
            try:
                with storage_errors(table.uri):
                    lance.write_dataset(
                        schema.empty_table(), table.uri, "create", storage_options=table._options
                    )
            except StorageUnavailableError:
                # After a lost race or a lost response the table exists; during an outage it does
                # not, and an outage must not look like a missing table.
                if not table.exists():
                    raise
        _ = table._dataset
        return table

    @functools.cached_property
    def _dataset(self) -> lance.LanceDataset:
        with read_errors(self.uri):
            return lance.dataset(
                self.uri,
                storage_options=self._options,
                metadata_cache_size_bytes=_CACHED_METADATA_BYTES,
                index_cache_size_bytes=self._cached_index_bytes,
            )

    def __getstate__(self) -> dict[str, object]:
        """Everything but the open table, which is opened again in the other process."""
        return {name: value for name, value in self.__dict__.items() if name != "_dataset"}

    def exists(self) -> bool:
        """Whether the table has been created; an outage or damage is an error, not a "no"."""
        try:
            _ = self._dataset
        except MissingFileError:
            return False
        return True

    @property
    def schema(self) -> pa.Schema:
        return self._dataset.schema

    def add_missing_columns(self, schema: pa.Schema) -> None:
        """Add nullable columns that a table of an earlier release lacks; rewrites no row."""
        names = set(self.latest().schema.names)
        missing = [column for column in schema if column.nullable and column.name not in names]
        if not missing:
            return
        dataset = self.latest()
        try:
            with storage_errors(self.uri):
                dataset.add_columns(pa.schema(missing))
        except (StorageUnavailableError, ValueError):
            # Another process may have added them first.
            if not {column.name for column in missing} <= set(self.latest().schema.names):
                raise
        self.sync_version(int(self.latest().version))

    def latest(self) -> lance.LanceDataset:
        """The newest version; the handle stays on it when others commit."""
        for _ in range(_MAX_COMMIT_TRIES):
            with read_errors(self.uri):
                version = self._dataset.latest_version
            try:
                return self.at(version)
            except MissingFileError as error:  # overtaken, and deleted, before it was opened
                missing = error
        raise missing

    def at(self, version: int | None) -> lance.LanceDataset:
        """One version, pinned; None is the newest."""
        if version is None:
            return self.latest()
        with read_errors(self.uri):
            return self._dataset.checkout_version(version)

    def on_latest(self, attempt: Callable[[lance.LanceDataset], _T]) -> _T:
        """Run `attempt` on the newest version, again when another process was faster: after a
        `ConcurrentCommitError`, or when the version was overtaken and deleted."""
        for _ in range(_MAX_COMMIT_TRIES):
            base = self.latest()
            try:
                return attempt(base)
            except ConcurrentCommitError:
                continue
            except MissingFileError:
                if self.latest().version == base.version:
                    raise
        raise ConcurrentCommitError(
            f"table {self.uri}: {_MAX_COMMIT_TRIES} commits were overtaken by other processes"
        )

    def write_rows(self, rows: pa.Table) -> list[tuple[FragmentMetadata, pa.Table]]:
        """Write rows as fragments that no version shows yet; returns each with its rows."""
        with storage_errors(self.uri):
            fragments = write_fragments(
                rows, self.uri, schema=rows.schema, mode="append", storage_options=self._options
            )
        ends = itertools.accumulate(fragment.num_rows for fragment in fragments)
        return [
            (fragment, rows.slice(end - fragment.num_rows, fragment.num_rows))
            for fragment, end in zip(fragments, ends, strict=True)
        ]

    def read_fragment(self, fragment: FragmentMetadata) -> pa.Table:
        """All rows of a fragment, committed or not, removed ones included."""
        from lance.file import LanceFileReader

        (file,) = fragment.files
        with read_errors(self.uri):
            path = f"{self.uri}/data/{file.path}"
            return LanceFileReader(path, storage_options=self._options).read_all().to_table()

    def commit(
        self,
        base: lance.LanceDataset,
        new: Sequence[FragmentMetadata],
        *,
        without: str | None = None,
        without_fragments: Collection[int] = (),
        properties: Mapping[str, str] | None = None,
    ) -> int:
        """Commit new rows, and the removal of old ones, as one version on top of `base`.

        `without` is a SQL predicate of the rows that disappear; `without_fragments` disappear
        unread. ConcurrentCommitError when `base` is no longer the newest version.
        """
        with storage_errors(self.uri):
            operation: lance.LanceOperation.BaseOperation
            if fragments_of(base):
                operation = _update(base, new, without, without_fragments)
            else:
                operation = lance.LanceOperation.Overwrite(base.schema, list(new))
            self.sync_fragments(new)
            committed = lance.LanceDataset.commit(
                self.uri,
                lance.Transaction(
                    base.version, operation, transaction_properties=dict(properties or {})
                ),
                storage_options=self._options,
                max_retries=0,
            )
            self.sync_version(int(committed.version))
        return int(committed.version)

    def append(self, base: lance.LanceDataset, rows: pa.Table) -> int:
        return self.commit(base, [fragment for fragment, _ in self.write_rows(rows)])

    def sync_fragments(self, fragments: Iterable[FragmentMetadata]) -> None:
        """Call before a commit: force the data files that the new version will name to disk."""
        if "://" not in self.uri:
            data = Path(self.uri) / "data"
            sync_files(data / file.path for fragment in fragments for file in fragment.files)

    def sync_version(self, version: int) -> None:
        """Call after a commit: force the manifest of the new version to disk."""
        if "://" not in self.uri:
            folder = Path(self.uri) / "_versions"
            sync_files(folder / name for name in manifest_names(version))


def manifest_names(version: int) -> tuple[str, str]:
    """The two that the manifest of a version may have, in `_versions`."""
    return f"{_NEWEST_NAME - version:020d}.manifest", f"{version}.manifest"


def not_null(**columns: pa.DataType) -> pa.Schema:
    """A schema of columns that hold no nulls."""
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


def batches_of(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Texts in pieces that are small enough for one SQL predicate."""
    for start in range(0, len(texts), _MAX_TEXTS):
        yield texts[start : start + _MAX_TEXTS]


def sql_in(column: str, texts: Sequence[str]) -> str | None:
    """The predicate "column is one of these texts"; None when there are none."""
    quoted = ", ".join("'" + text.replace("'", "''") + "'" for text in texts)
    return f"{column} IN ({quoted})" if texts else None


def select_in(
    dataset: lance.LanceDataset, columns: Sequence[str], column: str, texts: Iterable[str]
) -> pa.Table:
    """The rows in which a column is one of some texts, in no particular order.

    With a scalar index on the column, only rows that the index does not cover are scanned.
    """
    return select_any(dataset, columns, {column: texts})


def select_any(
    dataset: lance.LanceDataset, columns: Sequence[str], wanted: Mapping[str, Iterable[str]]
) -> pa.Table:
    """The same for several columns: rows in which any of them is one of its texts. A row may come
    more than once."""
    pairs = [(column, text) for column, texts in wanted.items() for text in sorted(set(texts))]
    parts = []
    for start in range(0, len(pairs), _MAX_TEXTS):
        texts_of: dict[str, list[str]] = {}
        for column, text in pairs[start : start + _MAX_TEXTS]:
            texts_of.setdefault(column, []).append(text)
        either = " OR ".join(str(sql_in(*item)) for item in texts_of.items())
        parts.append(read_rows(dataset, columns, filter=either))
    nothing = pa.schema([dataset.schema.field(name) for name in columns]).empty_table()
    return pa.concat_tables([nothing, *parts])


def _update(
    base: lance.LanceDataset,
    new: Sequence[FragmentMetadata],
    without: str | None,
    without_fragments: Collection[int],
) -> lance.LanceOperation.Update:
    fragments = {fragment.fragment_id: fragment for fragment in fragments_of(base)}
    # Naming the oldest fragment, changed or not, is what makes two commits on one base conflict:
    # it has the smallest number in every later version too, until a compaction replaces it, which
    # conflicts as well. The newest one may become another by a compaction that leaves it alone.
    updated = {min(fragments): fragments[min(fragments)].metadata}
    removed = sorted(without_fragments)
    predicate = without or "false"
    for fragment_id in _fragments_with(base, predicate) if without else []:
        rest = fragments[fragment_id].delete(predicate)
        if rest is None:
            removed.append(fragment_id)
        else:
            updated[fragment_id] = rest
    return lance.LanceOperation.Update(
        removed_fragment_ids=removed,
        updated_fragments=[updated[key] for key in updated if key not in removed],
        new_fragments=list(new),
    )


def _fragments_with(base: lance.LanceDataset, predicate: str) -> list[int]:
    rows = read_rows(base, [], filter=predicate, with_row_address=True)
    return sorted({address >> 32 for address in rows.column("_rowaddr").to_pylist()})
