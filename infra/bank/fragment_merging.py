"""Fewer, larger files for a table that grows, and indices on its text columns.

Merging is geometric: a file is rewritten only together with newer rows of at least half its own
number, so that a row is rewritten a logarithmic number of times, however large the table is.

    fragments of one version --plan--> groups --execute--> files nobody sees --check--> commit

Rows are compared with their seals on the way, so that damage is found before it is written again,
and merged files are sealed before a version shows them.
"""

from collections.abc import Sequence

from lance.fragment import FragmentMetadata
from lance.optimize import Compaction, CompactionOptions

from infra.bank.checksums import FileSeals, sealed_rows
from infra.storage.tables import Table, storage_errors
from liveedit_core.errors import IntegrityError

_FEW_ROWS = 1000
"""Fewer rows outside an index are looked through as fast as they are found in it."""
_STALE_FRACTION = 0.1
"""An index is brought up to date when it lacks so large a part of the rows."""
_REWRITE_FACTOR = 2
"""A fragment may be so many times larger than the newer rows that it is merged with."""
_BATCH_BYTES = 8 * 1024 * 1024


def merge_small(table: Table, fragment_bytes: int, seals: FileSeals | None = None) -> int:
    """Merge small files into larger ones; no row changes.

    Args:
        table: Of which.
        fragment_bytes: Files grow to about this size.
        seals: Of its files, where it has any.

    Returns:
        How many files became fewer.

    Raises:
        ConcurrentCommitError: A commit touched the same files; nothing is lost.
        IntegrityError: A row is not what was written; nothing is merged.
        StorageUnavailableError: The store does not answer.
    """
    dataset = table.latest()
    fragments = [fragment.metadata for fragment in dataset.get_fragments()]
    sizes = [(fragment.id, fragment.num_rows) for fragment in fragments]
    num_rows = sum(rows for _, rows in sizes)
    if len(sizes) < 2 or not num_rows:
        return 0
    num_bytes = sum(file.file_size_bytes or 0 for fragment in fragments for file in fragment.files)
    row_bytes = max(num_bytes // num_rows, 1)
    options = CompactionOptions(
        target_rows_per_fragment=max(fragment_bytes // row_bytes, 1),
        batch_size=max(_BATCH_BYTES // row_bytes, 1),
        num_threads=1,
        excluded_fragment_ids=settled_fragments(sizes),
    )
    with storage_errors(table.uri):
        rewrites = []
        num_fewer = 0
        for task in Compaction.plan(dataset, options).tasks:
            rewrites.append(task.execute(dataset))
            merged = rewrites[-1].new_fragments
            table.sync_fragments(merged)  # older copies of these rows may be cleaned up soon
            num_fewer += len(task.fragments) - len(merged)
            if seals is not None:
                _seal(table, seals, task.fragments, merged)
        if rewrites:
            Compaction.commit(dataset, rewrites, options)
            table.sync_version(int(dataset.latest_version))
    return num_fewer


def settled_fragments(sizes: Sequence[tuple[int, int]]) -> list[int]:
    """The fragments that are too large to be rewritten for the few rows that came after them.

    Args:
        sizes: Fragment id and number of rows, oldest first.

    Returns:
        Ids, oldest first: all up to the newest that is too large.
    """
    newer_rows = 0
    for position in range(len(sizes) - 1, -1, -1):
        rows = sizes[position][1]
        if newer_rows and rows > _REWRITE_FACTOR * newer_rows:
            return [fragment_id for fragment_id, _ in sizes[: position + 1]]
        newer_rows += rows
    return []


def renew_index(table: Table, column: str) -> None:
    """Make an index on a text column, or bring it up to date, when many rows are outside it.

    Raises:
        ConcurrentCommitError: A commit came between; nothing is lost.
        StorageUnavailableError: The store does not answer.
    """
    dataset = table.latest()
    name = f"{column}_index"
    with storage_errors(table.uri):
        covered: set[int] = set()
        for index in dataset.describe_indices():
            if index.name == name:
                for segment in index.segments:
                    covered |= set(segment.fragment_ids)
        rows = {item.fragment_id: item.count_rows() for item in dataset.get_fragments()}
        missing = sum(count for number, count in rows.items() if number not in covered)
        if missing < max(_FEW_ROWS, _STALE_FRACTION * sum(rows.values())):
            return
        if covered:
            dataset.optimize.optimize_indices(index_names=[name])
        else:
            dataset.create_scalar_index(column, "BTREE", name=name)


def _seal(
    table: Table,
    seals: FileSeals,
    old: Sequence[FragmentMetadata],
    new: Sequence[FragmentMetadata],
) -> None:
    """Compare merged rows with the seals of where they came from, and seal them."""
    before = [seals.read(path) for path in _paths(old)]
    known = {row for seal in before if seal for row in seal.rows}
    for fragment in new:
        rows = table.read_fragment(fragment)
        for row in sealed_rows(rows):
            if all(before) and row not in known:
                raise IntegrityError(
                    f"table {table.uri}: the row of edit {row.edit_id} is not what was written; "
                    "nothing is merged. Verify the bank, and repair it"
                )
        for path in _paths([fragment]):
            seals.write(path, rows)


def _paths(fragments: Sequence[FragmentMetadata]) -> list[str]:
    return [f"data/{file.path}" for fragment in fragments for file in fragment.files]
