"""The expert bank: a versioned Lance table of experts, one version per committed window.

Workers write fragments that no version shows; one committer makes those of a window visible in one
transaction. What keeps the effect exactly once, whatever process dies or is retried:

- rows whose edit_id the version holds already are skipped, so a replay changes nothing;
- of two edits of one subject the one with the larger sequence stays. The older row leaves in the
  same transaction that adds the newer one, so no version shows both or neither, and older
  versions keep the older one;
- an edit that is removed in the request log leaves, and stays out, in the same way;
- a commit succeeds only on top of the version on which it was decided (`Table.commit`), and only
  for the newest writer epoch (`WriterFence`).

The rows of a version depend on the edits committed and the changes of the log, not on windows,
order or fragments.
"""

import functools
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
from lance import LanceDataset, LanceFragment

from infra.bank.checksums import BankChecksums
from infra.bank.committer import BankCommitter
from infra.bank.fragments import FragmentWriter, WrittenFragment
from infra.bank.history import BankHistory, BankVersion
from infra.bank.matrix_place import MatrixPlace
from infra.bank.reconciliation import all_held, held_of
from infra.bank.schema import BankIdentity
from infra.requests.change_log import ChangeKind
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table, read_errors
from infra.storage.writer_fence import WriterFence
from liveedit_core.errors import IntegrityError, RepositoryMismatchError
from liveedit_core.method.config import GeneratorConfig

if TYPE_CHECKING:
    from liveedit_core.method.repository import ExpertRepository


class ExpertBank:
    """A bank in a store; open it with `open_or_create` or `open`.

    A version of None is the newest one. Methods that read a version raise IntegrityError when it
    no longer exists; methods that write raise WriterFencedError when a newer writer has taken over.
    """

    def __init__(self, store: ObjectStore, name: str, table: Table, identity: BankIdentity) -> None:
        """Wrap an open table; for the class methods."""
        self.name = name
        self.identity = identity
        self.store = store
        self._table = table
        self._fence = WriterFence(store, name)
        self.checksums = BankChecksums(store, name)
        self.versions = BankHistory(store, name, table)
        """What each version changed, and tags."""

    @classmethod
    def open_or_create(cls, store: ObjectStore, name: str, identity: BankIdentity) -> "ExpertBank":
        """The bank of this name, created empty when there is none.

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
        """An existing bank, whatever its identity; IntegrityError when there is none."""
        table = Table(store, f"banks/{name}")
        if not table.exists():
            raise IntegrityError(f"there is no bank {name!r} in {store.root_uri}")
        return cls(store, name, table, BankIdentity.from_schema(table.schema, name))

    @property
    def uri(self) -> str:
        """Where the table is."""
        return self._table.uri

    @property
    def version(self) -> int:
        """The newest version."""
        return int(self._table.latest().version)

    def fragment_writer(self) -> FragmentWriter:
        """The handle that workers write with."""
        return FragmentWriter(self.uri, self.store.table_options(), self.identity, self.checksums)

    def dataset(self, version: int | None = None) -> LanceDataset:
        """A version as a Lance dataset."""
        return self._table.at(version)

    def read_fragment(self, fragment: LanceFragment) -> pa.Table:
        """All rows of a fragment, removed ones included."""
        return self._table.read_fragment(fragment.metadata)

    def has_version(self, version: int) -> bool:
        """Whether a version still exists; its record is kept when it is deleted."""
        try:
            self._table.at(version)
        except IntegrityError:
            return False
        return True

    @functools.cached_property
    def committer(self) -> BankCommitter:
        """Writes versions."""
        return BankCommitter(
            self.store, self.name, self._table, self.fragment_writer(), self.versions
        )

    def acquire_writer(self) -> int:
        """Become the one committer: claim a new epoch, which fences every earlier writer.

        Raises:
            StorageUnavailableError: The store does not create objects exclusively.
        """
        return self._fence.acquire()

    def commit(
        self,
        fragments: Sequence[str],
        *,
        epoch: int,
        message: str = "",
        kind: str = "window",
        author: str = "",
    ) -> int:
        """Show new rows in one version, after all changes of the log.

        Args:
            fragments: What `FragmentWriter.write` returned, in any order, also repeatedly.
            epoch: From `acquire_writer`.
            message: Kept with the version.
            kind: "window", or "repair" for lost experts that were computed again.
            author: Who asked for it; "" for the windows of a job.

        Returns:
            The new version, or the newest one when no row is new.

        Raises:
            ConcurrentCommitError: Others committed first every time.
        """
        written = [WrittenFragment.from_json(text) for text in fragments]
        return self.committer.commit(
            written, epoch=epoch, message=message, kind=kind, author=author
        )

    def apply_changes(self, *, epoch: int) -> int:
        """Apply the changes of the log that the bank does not show yet, one version each.

        Every commit does so first; a job that may have nothing to commit calls it when it starts.
        Returns the newest version.
        """
        return self.committer.apply_changes(epoch)

    def has_waiting_changes(self) -> bool:
        """Whether the log holds changes that the newest version does not show."""
        return self.committer.has_waiting_changes()

    def remove(
        self, edit_ids: Collection[str], *, author: str, reason: str, epoch: int | None
    ) -> int:
        """Remove edits: stored in the change log, then applied as one new version.

        The version answers, bit for bit, as one that never had the edits. So where a removed edit
        had superseded another, that one answers again, unless it is removed as well. Older
        versions stay as they are. The other banks of the store follow with their next commit.

        Args:
            edit_ids: Edits of the request log, whether the bank holds them or not.
            author: Who decided.
            reason: Why.
            epoch: From `acquire_writer`. None only stores the change: the current writer applies
                it before its next window.

        Returns:
            The new version; the newest one if all of them were removed before.

        Raises:
            InputError: The log lacks one of the edits; nothing is removed then.
        """
        return self._change("remove", author, reason, epoch, removed=edit_ids)

    def restore(
        self, edit_ids: Collection[str], *, author: str, reason: str, epoch: int | None
    ) -> int:
        """Undo removals in the same way; edits that are not removed are left as they are.

        The expert comes from an older version of the bank. If none holds it any more, the edit is
        pending and the next editing job computes it again. A newer edit of the same image and
        prompt that was not removed stays.
        """
        return self._change("restore", author, reason, epoch, restored=edit_ids)

    def _change(
        self,
        kind: ChangeKind,
        author: str,
        reason: str,
        epoch: int | None,
        *,
        removed: Collection[str] = (),
        restored: Collection[str] = (),
    ) -> int:
        """Store a change in the log, and apply it."""
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

        Requests that no version has shown yet stay pending. Returns the new version; the newest
        one if it holds the same edits already.
        """
        self.apply_changes(epoch=epoch)
        removed, restored = self.committer.plan_rollback(self._table.at(version))
        why = reason or f"back to version {version}"
        return self._change("rollback", author, why, epoch, removed=removed, restored=restored)

    def load_rows(self, columns: Sequence[str], version: int | None = None) -> pa.Table:
        """Some columns of all rows of a version, sorted by sequence; others are not read."""
        dataset = self._table.at(version)
        with read_errors(self.uri):
            rows = dataset.to_table(columns=[*dict.fromkeys([*columns, "sequence"])])
        return rows.sort_by("sequence").select(list(columns))

    def edit_ids(self, version: int | None = None) -> list[str]:
        """The edits that a version holds, by sequence."""
        ids: list[str] = self.load_rows(["edit_id"], version).column("edit_id").to_pylist()
        return ids

    def num_edits(self, version: int | None = None) -> int:
        """How many experts a version holds."""
        return int(self._table.at(version).count_rows())

    def subject_sequences(
        self, version: int | None = None, *, subject_ids: Collection[str] | None = None
    ) -> dict[str, int]:
        """Of each subject that a version holds, the sequence of its edit.

        With `subject_ids` only these are looked up, in a time that does not grow with the bank.
        """
        dataset = self._table.at(version)
        held = all_held(dataset) if subject_ids is None else held_of(dataset, subject_ids)
        return {subject_id: key.sequence for subject_id, key in held.items()}

    def pending_sequences(self, log: RequestLog) -> list[int]:
        """Numbers of the requests that still need an expert here, rising.

        A request is done when the newest version holds its edit, or a later edit of its subject.
        Rejected and removed ones are not pending.
        """
        held = self.subject_sequences()
        rejected = log.refused_sequences(self.name)
        removed = log.changes.removed()
        return sorted(
            key.sequence
            for key in log.request_keys()
            if held.get(key.subject_id, 0) < key.sequence
            and key.sequence not in rejected
            and key.edit_id not in removed
        )

    def load_repository(
        self,
        config: GeneratorConfig,
        version: int | None = None,
        *,
        matrices: MatrixPlace = "auto",
    ) -> "ExpertRepository":
        """The experts of a version as tensors, sorted by sequence; see `MatrixPlace`.

        Raises:
            RepositoryMismatchError: The generator's sizes are not the bank's.
        """
        for name in ("edit_layer", "hidden_size", "module_dim", "num_queries", "rank"):
            here, there = getattr(config, name), getattr(self.identity, name)
            if here != there:
                raise RepositoryMismatchError(
                    f"bank {self.name!r} has {name} {there}, the generator has {here}"
                )

        from infra.bank.reader import read_repository  # torch: the command line starts without it

        options = self.store.table_options()
        return read_repository(self._table.at(version), config, options=options, matrices=matrices)

    def file_keys(self, version: int) -> list[str]:
        """Keys in the store of all files that the rows of a version are in."""
        paths: list[str] = []
        for fragment in self._table.at(version).get_fragments():
            paths += [f"data/{file.path}" for file in fragment.data_files()]
            removed_rows = fragment.deletion_file()
            paths += [removed_rows] if removed_rows else []
        return [self.checksums.file_key(path) for path in sorted(paths)]

    def history(self) -> list[BankVersion]:
        """The records of all versions, oldest first."""
        return list(self.versions.newest_first(self.version))[::-1]
