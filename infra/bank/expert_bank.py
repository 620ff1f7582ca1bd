"""The expert bank: a versioned Lance table of experts, one version per committed window.

Workers write fragments that nobody sees; one committer makes those of a window visible in one
transaction. What keeps the effect exactly once, whatever dies or is sent again:

- rows whose edit_id the version holds already are skipped, so a replay changes nothing;
- of two edits of one subject the one with the larger sequence stays. The older row leaves in the
  very transaction that brings the newer one, so no version shows both or neither, and versions
  read before keep the older one;
- an edit that the request log calls removed leaves, and stays out, in the same way;
- a commit succeeds only on top of the version on which it was decided (`Table.commit`), and only
  for the newest writer epoch (`WriterFence`).

The rows of a version depend on the edits committed and the changes of the log, not on windows,
order or fragments.
"""

import functools
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
from lance import LanceDataset

from infra.bank.checksums import FileSeals
from infra.bank.committer import BankCommitter
from infra.bank.history import BankHistory, BankVersion
from infra.bank.matrix_place import MatrixPlace
from infra.bank.reconciliation import all_held, held_of
from infra.bank.schema import BankIdentity, ExpertRow
from infra.bank.version_archive import VersionArchive
from infra.bank.window import FragmentWriter, WrittenFragment
from infra.requests.change_log import ChangeKind
from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table, read_errors
from infra.storage.writer_fence import WriterFence
from liveedit_core.errors import IntegrityError, RepositoryMismatchError
from liveedit_core.method.config import GeneratorConfig

if TYPE_CHECKING:
    from liveedit_core.method.repository import ExpertRepository

__all__ = ["BankIdentity", "BankVersion", "ExpertBank", "ExpertRow", "FragmentWriter"]


class ExpertBank:
    """A bank in a store; open it with `open_or_create` or `open`."""

    def __init__(self, store: ObjectStore, name: str, table: Table, identity: BankIdentity) -> None:
        """Wrap an open table; for the class methods."""
        self.name = name
        self.identity = identity
        self._store = store
        self._table = table
        self._fence = WriterFence(store, name)
        self.versions = BankHistory(table, name, VersionArchive(store, name))
        """What each version changed, and tags."""

    @classmethod
    def open_or_create(cls, store: ObjectStore, name: str, identity: BankIdentity) -> "ExpertBank":
        """The bank of this name, made empty when there is none.

        Args:
            store: Where it lives.
            name: Its name, "main".
            identity: What its experts must have in common.

        Raises:
            RepositoryMismatchError: It exists and was made for another backbone, generator, layer,
                shape or embedding.
        """
        table = Table.open_or_create(store, f"banks/{name}", identity.schema())
        found = BankIdentity.from_schema(table.schema, name)
        found.check_same(identity, name)
        return cls(store, name, table, found)

    @classmethod
    def open(cls, store: ObjectStore, name: str) -> "ExpertBank":
        """An existing bank, whatever its identity.

        Raises:
            IntegrityError: There is no bank of this name.
        """
        table = Table(store, f"banks/{name}")
        if not table.exists():
            raise IntegrityError(f"there is no bank {name!r} in {store.root_uri}")
        return cls(store, name, table, BankIdentity.from_schema(table.schema, name))

    @property
    def uri(self) -> str:
        """Where the table is."""
        return self._table.uri

    @property
    def store_uri(self) -> str:
        """Root of the store that holds the bank."""
        return self._store.root_uri

    @property
    def version(self) -> int:
        """The newest version."""
        return int(self._table.latest().version)

    def fragment_writer(self) -> FragmentWriter:
        """The handle that workers write with."""
        options = self._store.table_options()
        return FragmentWriter(self.uri, options, self.identity, FileSeals(self._store, self.name))

    def dataset(self, version: int) -> LanceDataset:
        """A version as Lance sees it, for upkeep and verification.

        Raises:
            IntegrityError: There is no such version any more.
        """
        return self._table.at(version)

    def has_version(self, version: int) -> bool:
        """Whether a version is still there; its record stays when it is cleaned up."""
        try:
            self._table.at(version)
        except IntegrityError:
            return False
        return True

    @functools.cached_property
    def committer(self) -> BankCommitter:
        """Who writes versions; for what no method here does."""
        return BankCommitter(self._store, self.name, self._table, self.fragment_writer())

    def acquire_writer(self) -> int:
        """Become the one committer: claim a new epoch, which fences every earlier writer.

        Raises:
            StorageUnavailableError: The store does not create objects exclusively.
        """
        return self._fence.acquire()

    def commit(self, fragments: Sequence[str], *, epoch: int, message: str = "") -> int:
        """Make the rows of a window visible, in one version, after all changes of the log.

        Args:
            fragments: What `FragmentWriter.write` returned, in any order, also repeatedly.
            epoch: From `acquire_writer`.
            message: Kept with the version.

        Returns:
            The new version, or the newest one when the window brings nothing new.

        Raises:
            WriterFencedError: A newer writer has taken over.
            ConcurrentCommitError: Other commits kept coming between.
        """
        written = [WrittenFragment.from_json(text) for text in fragments]
        return self.committer.commit_window(written, epoch=epoch, message=message)

    def commit_repair(
        self, fragments: Sequence[str], *, author: str, reason: str, epoch: int
    ) -> int:
        """The same for experts that were lost and are written again."""
        written = [WrittenFragment.from_json(text) for text in fragments]
        return self.committer.commit_window(
            written, epoch=epoch, message=reason, kind="repair", author=author
        )

    def apply_changes(self, *, epoch: int) -> int:
        """Carry out the changes of the request log that the bank does not show yet.

        Every commit does so first; a job that may have nothing to commit calls it when it starts.

        Args:
            epoch: From `acquire_writer`.

        Returns:
            The newest version; one was made for each change.

        Raises:
            WriterFencedError: A newer writer has taken over.
        """
        return self.committer.apply_changes(epoch)

    def has_waiting_changes(self) -> bool:
        """Whether the request log holds changes that the newest version does not show."""
        return self.committer.has_waiting_changes()

    def remove(
        self, edit_ids: Collection[str], *, author: str, reason: str, epoch: int | None
    ) -> int:
        """Withdraw edits: written down in the request log, then shown by one new version.

        The version answers, bit for bit, as one that never had the edits. So where a removed edit
        had superseded another, that one answers again, unless it is removed as well. Older
        versions stay as they are. The other banks of the store follow with their next commit.

        Args:
            edit_ids: Edits of the request log, whether the bank holds them or not.
            author: Who decided.
            reason: Why.
            epoch: From `acquire_writer`. None only writes it down: the job that is the writer now
                carries it out before its next window.

        Returns:
            The new version; the newest one if all of them were removed before.

        Raises:
            InputError: The log lacks one of the edits; nothing is removed then.
            WriterFencedError: A newer writer has taken over.
        """
        return self._decide("remove", author, reason, epoch, removed=edit_ids)

    def restore(
        self, edit_ids: Collection[str], *, author: str, reason: str, epoch: int | None
    ) -> int:
        """Take removals back, in the same way.

        The expert comes from an older version of the bank; where none holds it any more, the edit
        is pending and the next editing job writes it again. A newer edit of the same image and
        prompt that was not removed stays in force.

        Args:
            edit_ids: Removed edits; others are left as they are.
            author: Who decided.
            reason: Why.
            epoch: As of `remove`.

        Returns:
            The new version; the newest one if none of them was removed.

        Raises:
            InputError: The log lacks one of the edits; nothing is restored then.
            WriterFencedError: A newer writer has taken over.
        """
        return self._decide("restore", author, reason, epoch, restored=edit_ids)

    def _decide(
        self,
        kind: ChangeKind,
        author: str,
        reason: str,
        epoch: int | None,
        *,
        removed: Collection[str] = (),
        restored: Collection[str] = (),
    ) -> int:
        """Write a change down, and carry it out."""
        if epoch is not None:
            self._fence.check(epoch)
        log = self.committer.log
        log.subjects_of([*removed, *restored])
        log.changes.append(
            kind, removed=removed, restored=restored, bank=self.name, author=author, reason=reason
        )
        return self.version if epoch is None else self.apply_changes(epoch=epoch)

    def roll_back(self, version: int, *, author: str, reason: str, epoch: int) -> int:
        """Make the newest version hold what an older one holds, by removing and restoring.

        Requests that no version has shown yet stay pending.

        Args:
            version: The one to go back to.
            author: Who decided.
            reason: Why.
            epoch: From `acquire_writer`.

        Returns:
            The new version; the newest one if it holds the same edits already.

        Raises:
            InputError: The log lacks one of the edits.
            IntegrityError: There is no such version any more.
            WriterFencedError: A newer writer has taken over.
        """
        self.apply_changes(epoch=epoch)
        removed, restored = self.committer.way_back(self._table.at(version))
        why = reason or f"back to version {version}"
        return self._decide("rollback", author, why, epoch, removed=removed, restored=restored)

    def load_rows(self, columns: Sequence[str], version: int | None = None) -> pa.Table:
        """Some columns of all rows of a version, sorted by sequence.

        Args:
            columns: Names of the columns wanted; no others are read.
            version: Which version; the newest by default.
        """
        dataset = self._table.latest() if version is None else self._table.at(version)
        with read_errors(self.uri):
            rows = dataset.to_table(columns=[*dict.fromkeys([*columns, "sequence"])])
        return rows.sort_by("sequence").select(list(columns))

    def edit_ids(self, version: int | None = None) -> list[str]:
        """The edits that a version holds, by sequence."""
        ids: list[str] = self.load_rows(["edit_id"], version).column("edit_id").to_pylist()
        return ids

    def num_edits(self, version: int | None = None) -> int:
        """How many experts a version holds."""
        dataset = self._table.latest() if version is None else self._table.at(version)
        return int(dataset.count_rows())

    def subject_sequences(
        self, version: int | None = None, *, subject_ids: Collection[str] | None = None
    ) -> dict[str, int]:
        """Of each subject that a version knows, the sequence of the edit it holds.

        Args:
            version: Which version; the newest by default.
            subject_ids: Look for these only, which takes no longer in a large bank.
        """
        dataset = self._table.latest() if version is None else self._table.at(version)
        held = all_held(dataset) if subject_ids is None else held_of(dataset, subject_ids)
        return {subject_id: key.sequence for subject_id, key in held.items()}

    def load_repository(
        self,
        config: GeneratorConfig,
        version: int | None = None,
        *,
        matrices: MatrixPlace = "auto",
    ) -> "ExpertRepository":
        """The experts of a version as tensors, sorted by sequence; no other columns are read.

        Args:
            config: Of the generator that wrote them.
            version: Which version; the newest by default.
            matrices: "resident" in memory; "on_demand", read when an input keeps their expert;
                "auto", resident up to a gibibyte.

        Raises:
            RepositoryMismatchError: The generator's sizes are not the bank's.
        """
        for name in ("edit_layer", "hidden_size", "module_dim", "num_queries", "rank"):
            here, there = getattr(config, name), getattr(self.identity, name)
            if here != there:
                raise RepositoryMismatchError(
                    f"bank {self.name!r} has {name} {there}, the generator has {here}"
                )
        dataset = self._table.latest() if version is None else self._table.at(version)
        options = self._store.table_options()

        from infra.bank.reader import read_repository  # torch: programs that only look need none

        return read_repository(dataset, config, options=options, matrices=matrices)

    def file_keys(self, version: int) -> list[str]:
        """Keys in the store of all files that the rows of a version are in.

        Raises:
            IntegrityError: There is no such version any more.
        """
        paths: list[str] = []
        for fragment in self._table.at(version).get_fragments():
            paths += [f"data/{file.path}" for file in fragment.data_files()]
            removed_rows = fragment.deletion_file()
            paths += [removed_rows] if removed_rows else []
        return [f"banks/{self.name}/{path}" for path in sorted(paths)]

    def window(self, version: int) -> BankVersion:
        """How a version came to be.

        Raises:
            IntegrityError: No window or change was committed as this version.
        """
        return self.versions.record(version)

    def history(self) -> list[BankVersion]:
        """All committed windows and changes, oldest first."""
        return list(self.versions.newest_first(self.version))[::-1]
