"""A content-addressed Lance table: the id of a row covers all its inputs; rows can be recomputed.

Any process may write fragments; a commit shows only rows whose ids the table does not hold, so an
id never has two rows. A reader keeps an index of one version, {id: place}; when the files of that
version are gone it reads the newest.
"""

import contextlib
import logging
from array import array
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import NamedTuple, Self

import pyarrow as pa
from lance import LanceDataset
from lance.fragment import FragmentMetadata

from infra.storage.object_store import ObjectStore
from infra.storage.tables import (
    ConcurrentCommitError,
    Table,
    batches_of,
    fragments_of,
    read_rows,
    sql_in,
    storage_errors,
    take_rows,
)
from liveedit_core.errors import IntegrityError

_OPEN_TRIES = 3
_FRAGMENT_BYTES = 512 * 1024 * 1024
"""Small fragments are merged up to this size."""
_SPARE_FRAGMENTS = 32

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
        self._places: dict[str, int] = {}
        self._sizes = array("q")
        self._fragments: list[tuple[int, str | None]] = []
        """Of the version that the index is of."""
        self._open()

    def _open(self) -> None:
        for _ in range(_OPEN_TRIES):
            try:
                self._open_once()
                return
            except (IntegrityError, ValueError) as error:
                # Perhaps another process was just deleting an old version.
                damage = error
        _logger.warning("table %s is damaged and is created anew: %s", self._name, damage)
        for key in self._store.list(f"{self._name}/"):
            self._store.delete(key)
        self._open_once()

    def _open_once(self) -> None:
        self._fragments, self._places, self._sizes = [], {}, array("q")
        self.table = Table.open_or_create(self._store, self._name, self._schema)
        newest = self.table.latest()
        if newest.schema.names != self._schema.names:
            raise IntegrityError("it has other columns")
        self._read_index(newest)

    def _read_index(self, dataset: LanceDataset) -> None:
        """Read the ids of a version; where it only adds files, those of the new rows."""
        found = fragments_of(dataset)
        fragments = [(item.fragment_id, item.deletion_file()) for item in found]
        if fragments[: len(self._fragments)] != self._fragments:
            self._places, self._sizes, self._fragments = {}, array("q"), []
        start = len(self._places)
        rows = read_rows(dataset, [self._key, "num_bytes"], offset=start)
        names = rows.column(self._key).to_pylist()
        self._places |= {name: place for place, name in enumerate(names, start)}
        self._sizes.extend(rows.column("num_bytes").to_pylist())
        self._dataset, self._fragments = dataset, fragments

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    @property
    def num_bytes(self) -> int:
        return sum(self._sizes)

    def sizes(self) -> dict[str, int]:
        return dict(zip(self._places, self._sizes, strict=True))

    def ids(self) -> list[str]:
        return list(self._places)

    def refresh(self) -> None:
        """Read what other processes have changed; a missing table is created anew, empty."""
        try:
            newest = self.table.latest()
            if newest.version != self._dataset.version:
                self._read_index(newest)
        except (IntegrityError, ValueError):
            self._open()

    def take(self, names: Sequence[str]) -> pa.Table:
        """The rows of some held ids, in the order of the table."""
        return take_rows(self._dataset, sorted(self._places[name] for name in names))

    def column(self, name: str) -> list[str]:
        texts: list[str] = read_rows(self._dataset, [name]).column(name).to_pylist()
        return texts

    def commit(self, written: Sequence[WrittenRows]) -> int:
        """Commit rows whose ids are not held yet; returns how many. Repeating is harmless."""

        def attempt(base: LanceDataset) -> int:
            if base.version != self._dataset.version:
                self._read_index(base)
            new, num_new = self._unknown_rows(written)
            if num_new:
                self.table.commit(base, new)
            return num_new

        self.refresh()
        num_new = self.table.on_latest(attempt)
        self.refresh()
        self.compact(spare_fragments=_SPARE_FRAGMENTS)
        return num_new

    def compact(self, *, spare_fragments: int = 0) -> None:
        """Merge fragments if over `spare_fragments` too many: a random read opens most of them."""
        needed = self.num_bytes // _FRAGMENT_BYTES + 1
        if len(fragments_of(self._dataset)) <= needed + spare_fragments:
            return
        row_bytes = max(self.num_bytes // max(len(self), 1), 1)
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

    def _unknown_rows(self, written: Sequence[WrittenRows]) -> tuple[list[FragmentMetadata], int]:
        seen: set[str] = set()
        new: list[FragmentMetadata] = []
        for metadata, names in written:
            wanted = []
            for position, name in enumerate(names):
                if name not in self._places and name not in seen:
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
        gone = [name for name in names if name in self._places]
        for batch in batches_of(gone):
            without = sql_in(self._key, batch)

            def attempt(base: LanceDataset, without: str | None = without) -> None:
                if fragments_of(base):
                    self.table.commit(base, [], without=without)

            self.table.on_latest(attempt)
        if gone:
            self._reclaim()
