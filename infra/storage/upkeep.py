"""Upkeep of a growing table: small files are merged, indices follow the rows; no row changes.

Files, and parts of an index, are rewritten only together with several times as many newer rows, and
large ones never again: a row is rewritten two or three times, however long its table grows. Lance
merges only files that the same part of an index covers, so indices are renewed first.
"""

import logging
import math
from collections.abc import Sequence

from lance import optimize
from lance.fragment import FragmentMetadata
from lance.indices import IndexConfig

from infra.storage.checksums import TableChecksums
from infra.storage.tables import Table, fragments_of, num_bytes_of, paths_of, storage_errors
from liveedit_core.errors import IntegrityError, StorageUnavailableError

_FEW_ROWS = 1000
"""Scanning this many rows is as fast as looking them up in an index."""
_FAN_OUT = 8
"""What is rewritten is merged with this many times as many newer rows."""
_FEW_MERGED_ROWS = 64
"""Fewer are always merged."""
_LARGE_PART_ROWS = 100_000
"""Parts of an index with so many rows stay as they are: one more part costs a look-up less than a
millisecond."""
_LARGE = 8
"""Fragments of this part of the size that is aimed at stay as they are: while an old version holds
what was merged, it is stored twice."""
_PAGE_ROWS = 256
"""Of an index, read at once: Lance's 4 096 texts are 300 KB for one id."""
_BATCH_BYTES = 8 * 1024 * 1024
LOG_FRAGMENT_BYTES = 128 * 1024 * 1024
"""Files of logs are merged up to this size, by whoever does it: were it another one for intake than
for compaction, one would merge again what the other leaves."""
_EVERY_ROWS = 4096

_logger = logging.getLogger(__name__)


def merge_small(table: Table, fragment_bytes: int, checksums: TableChecksums | None = None) -> None:
    """Merge small files into larger ones of about `fragment_bytes`; no row changes."""
    dataset = table.latest()
    fragments = [fragment.metadata for fragment in fragments_of(dataset)]
    sizes = [(fragment.id, fragment.num_rows) for fragment in fragments]
    num_rows = sum(rows for _, rows in sizes)
    if len(sizes) < 2 or not num_rows:
        return
    num_bytes = sum(map(num_bytes_of, fragments))
    large = [
        fragment.id
        for fragment in fragments
        if num_bytes_of(fragment) >= fragment_bytes // _LARGE and not fragment.deletion_file
    ]
    row_bytes = max(num_bytes // num_rows, 1)
    options = optimize.CompactionOptions(
        target_rows_per_fragment=max(fragment_bytes // row_bytes, 1),
        batch_size=max(_BATCH_BYTES // row_bytes, 1),
        num_threads=1,
        excluded_fragment_ids=sorted({*settled(sizes), *large}),
    )
    with storage_errors(table.uri):
        rewrites = []
        for task in optimize.Compaction.plan(dataset, options).tasks:
            rewrites.append(task.execute(dataset))
            merged = rewrites[-1].new_fragments
            table.sync_fragments(merged)  # older copies of these rows may be deleted soon
            if checksums is not None:
                _check_merged(table, checksums, task.fragments, merged)
        if rewrites:
            optimize.Compaction.commit(dataset, rewrites, options)
            table.sync_version(int(dataset.latest_version))


def settled(sizes: Sequence[tuple[int, int]], large: float = math.inf) -> list[int]:
    """The ids of what stays as it is: all before the oldest that newer rows outnumber `_FAN_OUT`
    times (or that is small even with them), and before anything large.

    `sizes` are ids and numbers of rows (or bytes), oldest first; the newest never stays.
    """
    first = len(sizes) - 1
    num_newer = 0
    for position in range(len(sizes) - 1, -1, -1):
        size = sizes[position][1]
        if num_newer and size >= large:
            break
        if num_newer >= _FAN_OUT * size or size + num_newer <= _FEW_MERGED_ROWS:
            first = position
        num_newer += size
    return [number for number, _ in sizes[: max(first, 0)]]


def _check_merged(
    table: Table,
    checksums: TableChecksums,
    old: Sequence[FragmentMetadata],
    new: Sequence[FragmentMetadata],
) -> None:
    """Compare merged rows with the checksums of the old files, and write those of the new ones."""
    for fragment in new:
        rows = table.read_fragment(fragment)
        checksums.check_rows(rows, paths_of(old))
        for path in paths_of([fragment]):
            checksums.write(path, rows)


def renew_indices(table: Table, columns: Sequence[str]) -> None:
    """Create or renew the indices on some columns when many rows are outside them."""
    dataset = table.latest()
    stored = [column for column in columns if column in dataset.schema.names]  # others come later
    with storage_errors(table.uri):
        rows = {item.fragment_id: item.count_rows() for item in fragments_of(dataset)}
        covered = {
            index.name: [set(segment.fragment_ids) for segment in index.segments]
            for index in dataset.describe_indices()
        }
        for column in stored:
            name = f"{column}_index"
            parts = covered.get(name, [])
            sizes = [sum(rows.get(number, 0) for number in part) for part in parts]
            missing = sum(rows.values()) - sum(sizes)
            if missing < _FEW_ROWS:
                continue
            if parts:
                old = settled([*enumerate(sizes), (len(sizes), missing)], _LARGE_PART_ROWS)
                dataset.optimize.optimize_indices(
                    index_names=[name], num_indices_to_merge=len(parts) - len(old)
                )
            else:
                pages = IndexConfig("btree", {"zone_size": _PAGE_ROWS})
                dataset.create_scalar_index(column, pages, name=name)


class Upkeep:
    """Of a table that one process fills without a compaction."""

    def __init__(
        self, table: Table, columns: Sequence[str], checksums: TableChecksums | None = None
    ) -> None:
        self._table = table
        self._columns = columns
        self._checksums = checksums
        self._num_new = 0

    def count(self, num_rows: int) -> None:
        """Call after an append; every few thousand rows the table is put in order."""
        self._num_new += num_rows
        if self._num_new >= _EVERY_ROWS:
            self._num_new = 0
            try:
                renew_indices(self._table, self._columns)
                merge_small(self._table, LOG_FRAGMENT_BYTES, self._checksums)
            except (StorageUnavailableError, IntegrityError) as error:
                _logger.warning("the files of %s are not merged: %s", self._table.uri, error)
