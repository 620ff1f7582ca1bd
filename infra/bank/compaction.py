"""Upkeep of a bank that grows for years: merged files, fresh indices, old versions cleaned up.

Every window adds files, and every version keeps its own. Upkeep never changes a row, so it needs no
writer epoch and may run beside a job, from any process: Lance refuses it, or a commit, where both
touch the same file, and whoever was refused tries again. What it leaves are versions without a
record of ours, which hold what the version before them holds.

- Files are merged geometrically (`fragment_merging.py`), each edit a logarithmic number of times.
- Indices on `subject_id` and `edit_id` let a commit, and a look at one edit, skip what they cover.
- A version goes when it is neither tagged, nor among the newest, nor young. Its record is filed
  first (`version_archive.py`), so the log of a bank stays whole.
"""

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from infra._compat import transaction_properties
from infra.bank.checksums import FileSeals
from infra.bank.fragment_merging import merge_small, renew_index
from infra.bank.policy import GrowthPolicy
from infra.bank.version_archive import RECORD_PREFIX, VersionArchive
from infra.storage.object_store import ObjectStore
from infra.storage.tables import ConcurrentCommitError, Table, storage_errors
from liveedit_core.errors import IntegrityError, StorageUnavailableError

_INDEXED = ("subject_id", "edit_id")
_IN_USE = timedelta(minutes=10)
"""What was the newest version so recently may just be read, or committed on top of."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Upkeep:
    """What a round did."""

    fragments_before: int
    fragments_after: int
    versions_removed: tuple[int, ...] = ()
    bytes_removed: int = 0

    def sentence(self) -> str:
        """For people."""
        merged = f"{self.fragments_before} files of rows are now {self.fragments_after}"
        gone = f"{len(self.versions_removed)} old versions went, {self.bytes_removed:,} bytes freed"
        return f"{merged}; {gone}"


class BankGrowth:
    """Upkeep of one bank and of the request log it is made from."""

    def __init__(self, store: ObjectStore, bank: str, policy: GrowthPolicy) -> None:
        """Name the bank; it need not exist yet.

        Args:
            store: Where it lives.
            bank: Its name.
            policy: What stays.
        """
        self._store = store
        self._policy = policy
        self._table = Table(store, f"banks/{bank}")
        self._requests = Table(store, "requests")
        self._archive = VersionArchive(store, bank)
        self._seals = FileSeals(store, bank)
        self._num_windows = 0

    def after_window(self) -> Upkeep | None:
        """Count a window of the editing job, and do what is due.

        Returns:
            What was done; None when nothing was due, or the store did not let it happen: the next
            round does it then.
        """
        self._num_windows += 1
        every = self._policy.every_windows
        if every == 0 or self._num_windows % every:
            return None
        try:
            return self.tend()
        except (StorageUnavailableError, IntegrityError) as error:
            _logger.warning("upkeep is put off to the next round: %s", error)
            return None

    def tend(self, *, now: datetime | None = None) -> Upkeep:
        """Merge files, renew indices, file records and remove old versions.

        Args:
            now: The time that ages are reckoned from; the present by default.

        Raises:
            IntegrityError: There is no such bank, or a file of it is missing.
            StorageUnavailableError: The store does not answer.
        """
        before = len(self._table.latest().get_fragments())
        with _unless_overtaken("bank"):
            self.compact()
        if self._requests.exists():
            with _unless_overtaken("request log"):
                merge_small(self._requests, self._policy.fragment_bytes)
                self._drop(self._requests, self._outdated(_versions(self._requests), now))
        self.file_records()
        removed, num_bytes = self.clean_up(now=now)
        if removed:
            self._seals.prune()
        return Upkeep(
            fragments_before=before,
            fragments_after=len(self._table.latest().get_fragments()),
            versions_removed=tuple(removed),
            bytes_removed=num_bytes,
        )

    def compact(self) -> None:
        """Merge small files and renew the indices.

        Raises:
            ConcurrentCommitError: A commit came between; nothing is lost.
        """
        merge_small(self._table, self._policy.fragment_bytes, self._seals)
        for column in _INDEXED:
            renew_index(self._table, column)

    def file_records(self) -> int:
        """File the records of all versions there are.

        Returns:
            How many versions were looked at.
        """
        newest = self._table.latest()
        through = self._archive.read().through
        present = [number for number in _versions(self._table) if number > through]
        if not present:
            return 0
        with storage_errors(newest.uri):
            texts = {number: transaction_properties(newest, number) for number in present}
        ours = {
            number: {key: text for key, text in pairs.items() if key.startswith(RECORD_PREFIX)}
            for number, pairs in texts.items()
        }
        self._archive.add(max(present), {number: kept for number, kept in ours.items() if kept})
        return len(present)

    def clean_up(self, *, now: datetime | None = None) -> tuple[list[int], int]:
        """Remove versions that the policy does not keep, and files that no version needs.

        Args:
            now: The time that ages are reckoned from; the present by default.

        Returns:
            The versions that went, and the bytes that were freed.
        """
        filed = self._archive.read()
        present = _versions(self._table)
        gone = self._outdated(present, now, _tagged(self._table), filed.properties)
        gone = [number for number in gone if number <= filed.through]
        return gone, self._drop(self._table, gone)

    def _outdated(
        self,
        present: Mapping[int, datetime],
        now: datetime | None,
        tagged: Collection[int] = (),
        counted: Collection[int] | None = None,
    ) -> list[int]:
        """Versions that are neither tagged, nor young, nor among the newest of those that count."""
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

    def _drop(self, table: Table, versions: Sequence[int]) -> int:
        if not versions:
            return 0
        with storage_errors(table.uri):
            # Files of no version are left for a week: a worker may just be writing them.
            stats = table.latest().cleanup_old_versions(
                versions=list(versions), error_if_tagged_old_versions=False
            )
        return int(stats.bytes_removed)


@contextlib.contextmanager
def _unless_overtaken(what: str) -> Iterator[None]:
    try:
        yield
    except ConcurrentCommitError as error:
        _logger.info("upkeep of the %s is left to the next round: %s", what, error)


def _versions(table: Table) -> dict[int, datetime]:
    """When each version that is still there was made, rising."""
    newest = table.latest()
    with storage_errors(table.uri):
        found = {
            int(entry["version"]): made_at.astimezone(UTC)
            for entry in newest.versions()
            if isinstance(made_at := entry["timestamp"], datetime)
        }
    return dict(sorted(found.items()))


def _tagged(table: Table) -> set[int]:
    newest = table.latest()
    with storage_errors(table.uri):
        return {int(tag["version"]) for tag in newest.tags.list().values()}
