"""Compaction of a growing bank: merge files, renew indices, delete old versions.

Compaction never changes a row, so it needs no writer epoch and may run beside a job: where a commit
and a compaction touch the same file, Lance refuses the later one, which is retried.

- A file is rewritten only together with several times as many newer rows (`storage/upkeep.py`).
  Rows are first compared with their checksums, and the checksums of merged files are written before
  a version shows the files.
- Indices let commits and lookups skip most rows.
- A version is deleted when it is neither tagged, nor among the newest, nor recent. Its record is
  archived first (`BankHistory.archive`).
"""

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from infra.bank.history import BankHistory, versions_of
from infra.bank.policy import GrowthPolicy
from infra.requests import reject_log, request_log, subject_log
from infra.storage import upkeep
from infra.storage.checksums import TableChecksums
from infra.storage.object_store import ObjectStore
from infra.storage.tables import ConcurrentCommitError, Table, fragments_of, storage_errors
from liveedit_core.errors import IntegrityError, StorageUnavailableError

_INDEXED = ("subject_id", "edit_id")
_LOGS = {
    "requests": request_log.INDEXED_COLUMNS,
    "rejects": reject_log.INDEXED_COLUMNS,
    "changes": (),
    "subjects": subject_log.INDEXED_COLUMNS,
}
"""The logs of a store, and the columns by which they are searched."""
_IN_USE = timedelta(minutes=10)
"""A version that was the newest this recently may still be read, or be the base of a commit."""

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
        self._log_checksums = {name: TableChecksums.of_log(store, name) for name in _LOGS}
        self._recorded: set[int] | None = None
        """The versions that have a record; read once."""
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
            upkeep.renew_indices(self._table, _INDEXED)
            upkeep.merge_small(self._table, self._policy.fragment_bytes, self._checksums)
        for name, log in self._logs.items():
            with _unless_overtaken(f"table {name}"):
                if log.exists():
                    checksums = self._log_checksums[name]
                    upkeep.renew_indices(log, _LOGS[name])
                    upkeep.merge_small(log, upkeep.LOG_FRAGMENT_BYTES, checksums)
                    outdated = self._outdated(versions_of(log), now)
                    _delete_versions(log, outdated)
                    if outdated:
                        checksums.prune()
        archived = self._history.archive()
        present = versions_of(self._table)
        tagged = set(self._history.tags().values())
        if self._recorded is None:
            untagged = present.keys() - tagged
            self._recorded = self._history.archived_since(min(untagged, default=0))
        self._recorded = (self._recorded | archived.properties.keys()) & present.keys()
        outdated = self._outdated(present, now, tagged, self._recorded)
        removed, num_bytes = self._delete([one for one in outdated if one <= archived.through])
        return CompactionReport(
            fragments_before=before,
            fragments_after=len(fragments_of(self._table.latest())),
            versions_removed=tuple(removed),
            bytes_removed=num_bytes,
        )

    def _delete(self, versions: Sequence[int]) -> tuple[list[int], int]:
        """Delete versions that nobody tags meanwhile; which, and how many bytes."""
        if not versions:
            return [], 0
        with self._history.deletions.announced(versions):
            tagged = set(self._history.tags().values())
            old = [number for number in versions if number not in tagged]
            num_bytes = _delete_versions(self._table, old)
        self._checksums.prune()
        return old, num_bytes

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
