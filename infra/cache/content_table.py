"""A content-addressed Lance table: the id of a row covers all its inputs; rows can be recomputed.

Any process may write fragments; a commit shows only rows whose ids the table does not hold, so an
id never has two rows. A reader is at one version; when the files of that version are gone it reads
the newest. Ids are looked up in an index of the table, so no process holds them.
"""

import contextlib
import logging
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc
from lance import LanceDataset
from lance.fragment import FragmentMetadata

from infra.storage.object_store import ObjectStore
from infra.storage.tables import (
    ConcurrentCommitError,
    Table,
    batches_of,
    count_rows,
    fragments_of,
    read_errors,
    read_rows,
    select_in,
    sql_in,
    storage_errors,
)
from infra.storage.upkeep import renew_indices
from liveedit_core.errors import IntegrityError

_OPEN_TRIES = 3
_FRAGMENT_BYTES = 512 * 1024 * 1024
"""Small fragments are merged up to this size."""
_SPARE_FRAGMENTS = 32
_ROWS_OF_A_FRAGMENT = 100_000
"""An index has parts of as many rows, and what different parts cover is not merged."""
_CACHED_INDEX_BYTES = 64 * 1024 * 1024
"""Pages of the index that a process keeps: those of half a million ids."""

_logger = logging.getLogger(__name__)


class WrittenRows(NamedTuple):
    """A fragment that no version shows yet, and the ids of its rows in order."""

    metadata: FragmentMetadata
    ids: tuple[str, ...]

    @classmethod
    def write(cls, table: Table, rows: pa.Table, key: str) -> tuple[Self, ...]:
        """Write rows whose id is column `key`; any process may, at any time."""
        written = table.write_rows(rows) if len(rows) else []
        return tuple(cls(meta, tuple(part.column(key).to_pylist())) for meta, part in written)


class ContentTable:
    def __init__(self, store: ObjectStore, name: str, schema: pa.Schema, *, key: str) -> None:
        """Open the table, created empty when there is none or its files are damaged.

        Column `key` is the id of a row; `num_bytes` (int64) must be a column.
        """
        self._store = store
        self._name = name
        self._schema = schema
        self._key = key
        self._bytes_of: dict[tuple[int, str | None], int] = {}
        """Of each fragment, with its removed rows left out."""
        try:
            self._open()
        except (IntegrityError, ValueError):
            self._repair()

    def _open(self) -> None:
        self.table = Table.open_or_create(
            self._store, self._name, self._schema, cached_index_bytes=_CACHED_INDEX_BYTES
        )
        self._dataset = self.table.latest()
        if self._dataset.schema.names != self._schema.names:
            raise IntegrityError("it has other columns")

    def _repair(self) -> None:
        """Open the newest version; if its files are damaged, too, create the table anew."""
        for _ in range(_OPEN_TRIES):
            try:
                self._open()
                with read_errors(self.table.uri):
                    for _batch in self._dataset.to_batches(columns=[self._key, "num_bytes"]):
                        pass
                return
            except (IntegrityError, ValueError) as error:
                # Perhaps another process was just deleting an old version.
                damage = error
        _logger.warning("table %s is damaged and is created anew: %s", self._name, damage)
        for key in self._store.list(f"{self._name}/"):
            self._store.delete(key)
        self._open()

    def __len__(self) -> int:
        return count_rows(self._dataset)

    @property
    def num_bytes(self) -> int:
        fragments = {
            (item.fragment_id, item.deletion_file()): item for item in fragments_of(self._dataset)
        }
        known, self._bytes_of = self._bytes_of, {}
        for name, fragment in fragments.items():
            if name not in known:
                with read_errors(self.table.uri):
                    sizes = fragment.to_table(columns=["num_bytes"]).column("num_bytes")
                known[name] = pc.sum(sizes).as_py() or 0
            self._bytes_of[name] = known[name]
        return sum(self._bytes_of.values())

    def sizes(self) -> dict[str, int]:
        """Of all rows, by id."""
        rows = read_rows(self._dataset, [self._key, "num_bytes"])
        columns = (rows.column(name).to_pylist() for name in (self._key, "num_bytes"))
        return dict(zip(*columns, strict=True))

    def ids(self) -> list[str]:
        return self.column(self._key)

    def refresh(self) -> None:
        """Go to the newest version; a missing table is created anew, empty."""
        try:
            self._dataset = self.table.latest()
        except (IntegrityError, ValueError):
            self._repair()

    def held(self, names: Collection[str]) -> set[str]:
        """Those of some ids that this version holds."""
        return set(self._select([self._key], names).column(self._key).to_pylist())

    def rows(self, names: Collection[str]) -> pa.Table:
        """The rows of those of some ids that this version holds, in no particular order."""
        return self._select(self._schema.names, names)

    def _select(self, columns: Sequence[str], names: Collection[str]) -> pa.Table:
        try:
            return select_in(self._dataset, columns, self._key, names)
        except IntegrityError:
            self._repair()
            return select_in(self._dataset, columns, self._key, names)

    def column(self, name: str) -> list[str]:
        texts: list[str] = read_rows(self._dataset, [name]).column(name).to_pylist()
        return texts

    def commit(self, written: Sequence[WrittenRows]) -> int:
        """Commit rows whose ids are not held yet; returns how many. Repeating is harmless."""

        self.refresh()
        names = [name for part in written for name in part.ids]
        known = self.held(names)

        def attempt(base: LanceDataset) -> int:
            nonlocal known
            if base.version != self._dataset.version:
                found = select_in(base, [self._key], self._key, names)
                self._dataset, known = base, set(found.column(self._key).to_pylist())
            new, num_new = self._unknown_rows(written, known)
            if num_new:
                self.table.commit(base, new)
            return num_new

        num_new = self.table.on_latest(attempt)
        self.refresh()
        self.compact(spare_fragments=_SPARE_FRAGMENTS)
        return num_new

    def compact(self, *, spare_fragments: int = 0) -> None:
        """Merge fragments if over `spare_fragments` too many: a random read opens most of them."""
        needed = self.num_bytes // _FRAGMENT_BYTES + len(self) // _ROWS_OF_A_FRAGMENT + 1
        if len(fragments_of(self._dataset)) <= needed + spare_fragments:
            return
        row_bytes = max(self.num_bytes // max(len(self), 1), 1)
        with contextlib.suppress(ConcurrentCommitError):
            renew_indices(self.table, [self._key])
        self._reclaim(target_rows=max(_FRAGMENT_BYTES // row_bytes, 1))

    def _reclaim(self, *, target_rows: int = 1) -> None:
        """Free the space of removed rows, merge fragments under `target_rows` rows."""
        # If another process commits meanwhile, the next call reclaims the space.
        with contextlib.suppress(ConcurrentCommitError), storage_errors(self.table.uri):
            self.table.latest().optimize.compact_files(
                target_rows_per_fragment=target_rows, materialize_deletions_threshold=0.0
            )
            self.table.latest().cleanup_old_versions(older_than=timedelta(0))
        self.refresh()

    def _unknown_rows(
        self, written: Sequence[WrittenRows], known: Collection[str]
    ) -> tuple[list[FragmentMetadata], int]:
        seen: set[str] = set()
        new: list[FragmentMetadata] = []
        for metadata, names in written:
            wanted = []
            for position, name in enumerate(names):
                if name not in known and name not in seen:
                    wanted.append(position)
                    seen.add(name)
            if len(wanted) == len(names):
                new.append(metadata)
            elif wanted:
                # Only some rows of the fragment are wanted: write those again.
                rows = self.table.read_fragment(metadata).take(pa.array(wanted))
                new += [part for part, _ in self.table.write_rows(rows.cast(self._schema))]
        return new, len(seen)

    def remove(self, names: Collection[str]) -> None:
        """Remove rows and free their space; ids that are not held are ignored."""
        gone = sorted(self.held(names))
        for batch in batches_of(gone):
            without = sql_in(self._key, batch)

            def attempt(base: LanceDataset, without: str | None = without) -> None:
                if fragments_of(base):
                    self.table.commit(base, [], without=without)

            self.table.on_latest(attempt)
        if gone:
            self._reclaim()
