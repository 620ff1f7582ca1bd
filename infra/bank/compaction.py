"""Compaction of a growing bank: merge files, renew indices, delete old versions.

Compaction never changes a row, so it needs no writer epoch and may run beside a job: where a commit
and a compaction touch the same file, Lance refuses the later one, which is retried.

- Files are merged geometrically: a file is rewritten only together with newer rows of at least half
  its own number. Rows are first compared with their checksums, and the checksums of merged files
  are written before a version shows the files.
- Indices let commits and lookups skip most rows.
- A version is deleted when it is neither tagged, nor among the newest, nor recent. Its record is
  archived first (`BankHistory.archive`).
"""

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lance import optimize
from lance.fragment import FragmentMetadata

from infra.bank.history import BankHistory, versions_of
from infra.bank.policy import GrowthPolicy
from infra.storage.checksums import TableChecksums, row_checksums
from infra.storage.object_store import ObjectStore
from infra.storage.tables import ConcurrentCommitError, Table, fragments_of, storage_errors
from liveedit_core.errors import IntegrityError, StorageUnavailableError

_INDEXED = ("subject_id", "edit_id")
_LOGS = {
    "requests": ("sequence", "edit_id", "subject_id", "pixel_digest", "question_id"),
    "rejects": ("sequence", "source", "line_number"),
    "changes": (),
    "subjects": ("sequence", "edit_id"),
}
"""The logs of a store, and the columns by which they are searched."""
_IN_USE = timedelta(minutes=10)
"""A version that was the newest this recently may still be read, or be the base of a commit."""
_FEW_ROWS = 1000
"""Scanning this many rows is as fast as looking them up in an index."""
_STALE_FRACTION = 0.1
"""An index is renewed when it lacks more than this fraction of the rows,"""
_MOST_STALE_ROWS = 20_000
"""or more than so many rows, which every commit scans."""
_REWRITE_FACTOR = 2
"""A fragment may be this many times larger than the newer rows that it is merged with."""
_BATCH_BYTES = 8 * 1024 * 1024

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CompactionReport:
    fragments_before: int
    fragments_after: int
    versions_removed: tuple[int, ...] = ()
    bytes_removed: int = 0

    def sentence(self) -> str:
        return (
            f"{self.fragments_before} files of rows are now {self.fragments_after}; "
            f"{len(self.versions_removed)} old versions deleted, {self.bytes_removed:,} bytes freed"
        )


class Compaction:
    """Compaction of one bank and of the logs of its store."""

    def __init__(self, store: ObjectStore, bank: str, policy: GrowthPolicy) -> None:
        self._policy = policy
        self._table = Table(store, f"banks/{bank}")
        self._logs = {name: Table(store, name) for name in _LOGS}
        self._history = BankHistory(store, bank, self._table)
        self._checksums = TableChecksums.of_bank(store, bank)
        self._log_checksums = TableChecksums.of_log(store)
        self._num_windows = 0

    def after_window(self) -> CompactionReport | None:
        """Count a window of a job and run when due; None if it was not, or if the store failed."""
        self._num_windows += 1
        every = self._policy.every_windows
        if every == 0 or self._num_windows % every:
            return None
        try:
            return self.run()
        except (StorageUnavailableError, IntegrityError) as error:
            _logger.warning("compaction failed and runs with the next one: %s", error)
            return None

    def run(self, *, now: datetime | None = None) -> CompactionReport:
        """Merge files, renew indices, archive records and delete versions too old at `now`."""
        before = len(fragments_of(self._table.latest()))
        with _unless_overtaken("bank"):
            merge_small(self._table, self._policy.fragment_bytes, self._checksums)
            for column in _INDEXED:
                renew_index(self._table, column)
        for name, log in self._logs.items():
            with _unless_overtaken(f"table {name}"):
                if log.exists():
                    checksums = self._log_checksums if name == "requests" else None
                    merge_small(log, self._policy.fragment_bytes, checksums)
                    for column in _LOGS[name]:
                        renew_index(log, column)
                    outdated = self._outdated(versions_of(log), now)
                    _delete_versions(log, outdated)
                    if outdated and checksums:
                        checksums.prune()
        archived = self._history.archive()
        tagged = self._history.tags().values()
        outdated = self._outdated(versions_of(self._table), now, tagged, archived.properties)
        old = [number for number in outdated if number <= archived.through]
        num_bytes = _delete_versions(self._table, old)
        if old:
            self._checksums.prune()
        return CompactionReport(
            fragments_before=before,
            fragments_after=len(fragments_of(self._table.latest())),
            versions_removed=tuple(old),
            bytes_removed=num_bytes,
        )

    def _outdated(
        self,
        present: Mapping[int, datetime],
        now: datetime | None,
        tagged: Collection[int] = (),
        counted: Collection[int] | None = None,
    ) -> list[int]:
        keep = self._policy.keep_versions
        if keep == 0 or not present:
            return []
        counting = [number for number in present if counted is None or number in counted]
        stay = {*tagged, *counting[-keep:], max(present)}
        age = max(timedelta(days=self._policy.keep_days), _IN_USE)
        limit = (now or datetime.now(UTC)) - age
        return [
            number for number, made_at in present.items() if made_at < limit and number not in stay
        ]


@contextlib.contextmanager
def _unless_overtaken(what: str) -> Iterator[None]:
    try:
        yield
    except ConcurrentCommitError as error:
        _logger.info("compaction of the %s is left to the next run: %s", what, error)


def _delete_versions(table: Table, versions: Sequence[int]) -> int:
    if not versions:
        return 0
    with storage_errors(table.uri):
        # Lance keeps unreferenced files for a week: a worker may be writing them.
        stats = table.latest().cleanup_old_versions(
            versions=list(versions), error_if_tagged_old_versions=False
        )
    return int(stats.bytes_removed)


def merge_small(table: Table, fragment_bytes: int, checksums: TableChecksums | None = None) -> None:
    """Merge small files into larger ones of about `fragment_bytes`; no row changes."""
    dataset = table.latest()
    fragments = [fragment.metadata for fragment in fragments_of(dataset)]
    sizes = [(fragment.id, fragment.num_rows) for fragment in fragments]
    num_rows = sum(rows for _, rows in sizes)
    if len(sizes) < 2 or not num_rows:
        return
    num_bytes = sum(file.file_size_bytes or 0 for fragment in fragments for file in fragment.files)
    row_bytes = max(num_bytes // num_rows, 1)
    options = optimize.CompactionOptions(
        target_rows_per_fragment=max(fragment_bytes // row_bytes, 1),
        batch_size=max(_BATCH_BYTES // row_bytes, 1),
        num_threads=1,
        excluded_fragment_ids=settled_fragments(sizes),
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


def settled_fragments(sizes: Sequence[tuple[int, int]]) -> list[int]:
    """All ids up to the newest fragment that is too large to be rewritten for the rows after it.

    `sizes` are fragment ids and numbers of rows, oldest first.
    """
    newer_rows = 0
    for position in range(len(sizes) - 1, -1, -1):
        rows = sizes[position][1]
        if newer_rows and rows > _REWRITE_FACTOR * newer_rows:
            return [fragment_id for fragment_id, _ in sizes[: position + 1]]
        newer_rows += rows
    return []


def _check_merged(
    table: Table,
    checksums: TableChecksums,
    old: Sequence[FragmentMetadata],
    new: Sequence[FragmentMetadata],
) -> None:
    """Compare merged rows with the checksums of the old files, and write those of the new ones."""
    written = checksums.rows_of(_paths(old))
    for fragment in new:
        rows = table.read_fragment(fragment)
        for row in row_checksums(rows):
            if written is not None and row not in written:
                raise IntegrityError(
                    f"table {table.uri}: the row of edit {row.edit_id} is not what was written; "
                    "nothing is merged. Verify the bank, and repair it"
                )
        for path in _paths([fragment]):
            checksums.write(path, rows)


def _paths(fragments: Sequence[FragmentMetadata]) -> list[str]:
    return [f"data/{file.path}" for fragment in fragments for file in fragment.files]


def renew_index(table: Table, column: str) -> None:
    """Create or renew the index on a column when many rows are outside it."""
    dataset = table.latest()
    if column not in dataset.schema.names:
        return  # a table of an earlier release, before its next append
    name = f"{column}_index"
    with storage_errors(table.uri):
        covered: set[int] = set()
        for index in dataset.describe_indices():
            if index.name == name:
                for segment in index.segments:
                    covered |= set(segment.fragment_ids)
        rows = {item.fragment_id: item.count_rows() for item in fragments_of(dataset)}
        missing = sum(count for number, count in rows.items() if number not in covered)
        stale_rows = min(_STALE_FRACTION * sum(rows.values()), _MOST_STALE_ROWS)
        if missing < max(_FEW_ROWS, stale_rows):
            return
        if covered:
            dataset.optimize.optimize_indices(index_names=[name])
        else:
            dataset.create_scalar_index(column, "BTREE", name=name)
