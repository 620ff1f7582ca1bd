"""A bank in a store, for reading: its versions, their rows, files and experts."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
from lance import LanceDataset, LanceFragment

from infra.bank.fragments import FragmentWriter
from infra.bank.history import BankHistory, BankVersion
from infra.bank.policy import MatrixPlace
from infra.bank.reconciliation import all_held, held_of
from infra.bank.schema import OUTCOME_COLUMNS, BankIdentity
from infra.bank.traffic import read_traffic, traffic_key
from infra.requests.logged_facts import LoggedFacts
from infra.requests.request_log import RequestLog
from infra.storage.checksums import TableChecksums
from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table, count_rows, fragments_of, read_rows
from liveedit_core.errors import IntegrityError, RepositoryMismatchError
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.outcome import WriteOutcome

if TYPE_CHECKING:
    from liveedit_core.method.repository import ExpertRepository

_LOOKED_UP = 2000
"""Requests that are looked up at a time."""


class StoredBank:
    """The reading half of `ExpertBank`.

    A version of None is the newest one; a version that no longer exists is an IntegrityError.
    """

    def __init__(self, store: ObjectStore, name: str, table: Table, identity: BankIdentity) -> None:
        self.name = name
        self.identity = identity
        self.store = store
        self.checksums = TableChecksums.of_bank(store, name)
        self.versions = BankHistory(store, name, table)
        self._table = table

    @classmethod
    def open_or_create(cls, store: ObjectStore, name: str, identity: BankIdentity) -> Self:
        """The bank of this name, created empty when there is none.

        RepositoryMismatchError when it exists with another identity.
        """
        table = Table.open_or_create(store, f"banks/{name}", identity.schema())
        found = BankIdentity.from_schema(table.schema, name)
        found.check_same(identity, name)
        return cls(store, name, table, found)

    @classmethod
    def open(cls, store: ObjectStore, name: str) -> Self:
        """An existing bank, whatever its identity; IntegrityError when there is none."""
        table = Table(store, f"banks/{name}")
        if not table.exists():
            raise IntegrityError(f"there is no bank {name!r} in {store.root_uri}")
        return cls(store, name, table, BankIdentity.from_schema(table.schema, name))

    @property
    def uri(self) -> str:
        return self._table.uri

    @property
    def version(self) -> int:
        return int(self._table.latest().version)

    def has_version(self, version: int) -> bool:
        """Whether a version still exists; its record is kept when it is deleted."""
        try:
            self._table.at(version)
        except IntegrityError:
            return False
        return True

    def history(self) -> list[BankVersion]:
        """The records of all versions, oldest first."""
        return list(self.versions.newest_first(self.version))[::-1]

    def fragment_writer(self) -> FragmentWriter:
        return FragmentWriter(self._table, self.identity, self.checksums)

    def dataset(self, version: int | None = None) -> LanceDataset:
        return self._table.at(version)

    def read_fragment(self, fragment: LanceFragment) -> pa.Table:
        """All rows of a fragment, removed ones included."""
        return self._table.read_fragment(fragment.metadata)

    def file_keys(self, version: int) -> list[str]:
        """Keys in the store of all files that the rows of a version are in, and of its traffic."""
        paths: list[str] = []
        for fragment in fragments_of(self._table.at(version)):
            paths += [f"data/{file.path}" for file in fragment.data_files()]
            removed_rows = fragment.deletion_file()
            paths += [removed_rows] if removed_rows else []
        traffic = self.versions.traffic_at(version)
        keys = [self.checksums.file_key(path) for path in sorted(paths)]
        return [*keys, *([traffic_key(traffic)] if traffic else [])]

    def load_rows(self, columns: Sequence[str], version: int | None = None) -> pa.Table:
        """Some columns of all rows of a version, sorted by sequence; others are not read."""
        dataset = self._table.at(version)
        rows = read_rows(dataset, [*dict.fromkeys([*columns, "sequence"])])
        return rows.sort_by("sequence").select(list(columns))

    def outcomes(self, version: int | None = None) -> dict[str, WriteOutcome]:
        """How the edits of a version turned out; none in a bank that does not store it."""
        if not self.identity.has_outcomes:
            return {}
        rows = self.load_rows(["edit_id", *OUTCOME_COLUMNS], version).to_pylist()
        return {
            row.pop("edit_id"): WriteOutcome(steps=row.pop("refine_steps"), **row) for row in rows
        }

    def has_forms(self, version: int | None = None) -> bool:
        """Whether some experts of a version answer what follows from their facts."""
        if not self.identity.has_forms:
            return False
        return any(map(len, self.load_rows(["forms"], version).column("forms")))

    def edit_ids(self, version: int | None = None) -> list[str]:
        """The edits that a version holds, by sequence."""
        ids: list[str] = self.load_rows(["edit_id"], version).column("edit_id").to_pylist()
        return ids

    def num_edits(self, version: int | None = None) -> int:
        return count_rows(self._table.at(version))

    def subject_sequences(
        self, version: int | None = None, *, subject_ids: Collection[str] | None = None
    ) -> dict[str, int]:
        """Sequence of the edit held for each subject, or only for `subject_ids`."""
        dataset = self._table.at(version)
        held = all_held(dataset) if subject_ids is None else held_of(dataset, subject_ids)
        return {subject_id: key.sequence for subject_id, key in held.items()}

    def pending_sequences(self, log: RequestLog) -> list[int]:
        """Numbers of the requests that still need an expert here, ascending.

        A request is done when the newest version holds its edit or a later one of its subject, or
        when it was rejected, removed, or lost by damage of the log.
        """
        held = self.load_rows(["sequence"]).column("sequence").to_numpy()
        refused = [*log.rejects.sequences(self.name), *log.lost()]
        done = np.concatenate([held, np.array(refused, np.int64)])
        left = np.setdiff1d(log.sequences(), done).tolist()
        removed = log.changes.removed()
        pending: list[int] = []
        for start in range(0, len(left), _LOOKED_UP):  # mostly superseded or removed, or new
            part = left[start : start + _LOOKED_UP]
            index = log.index_of(sequences=part)
            keys = [index.keys[number] for number in part]
            newest = self.subject_sequences(subject_ids={key.subject_id for key in keys})
            pending += [
                key.sequence
                for key in keys
                if newest.get(key.subject_id, 0) < key.sequence and key.edit_id not in removed
            ]
        return pending

    def lost_sequences(self, log: RequestLog) -> list[int]:
        """Numbers of the pending requests whose experts the bank once held, ascending."""
        pending = set(self.pending_sequences(log))
        if not pending:
            return []
        once_held = {
            edit_id
            for record in self.versions.newest_first(self.version)
            for edit_id in (*record.added, *record.removed)
        }
        return sorted(pending & set(log.sequences_of(once_held)))

    def load_repository(
        self, config: GeneratorConfig, version: int | None = None, *, matrices: MatrixPlace = "auto"
    ) -> "ExpertRepository":
        """The experts of a version as tensors, sorted by sequence, with its budget and traffic."""
        for name in ("edit_layer", "hidden_size", "module_dim", "num_queries", "rank"):
            here, there = getattr(config, name), getattr(self.identity, name)
            if here != there:
                raise RepositoryMismatchError(
                    f"bank {self.name!r} has {name} {there}, the generator has {here}"
                )

        import torch  # the command line starts without it

        from infra.bank.reader import read_repository

        version = self.version if version is None else version
        traffic = self.versions.traffic_at(version)
        repository = read_repository(self._table, version, config, matrices=matrices)
        return replace(
            repository,
            false_activation=self.versions.false_activation_at(version),
            traffic_MR=torch.from_numpy(read_traffic(self.store, traffic)) if traffic else None,
            fact_source=LoggedFacts(self.store),
        )
