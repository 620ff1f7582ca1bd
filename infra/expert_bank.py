"""The expert bank: a versioned Lance table of experts, one version per committed window.

Workers write fragments that nobody sees; one committer makes those of a window visible in one
transaction. What keeps the effect exactly once, whatever dies or is sent again:

- rows whose edit_id the version holds already are skipped, so a replay changes nothing;
- of two edits of one subject the one with the larger sequence stays. The older row leaves in the
  very transaction that brings the newer one, so no version shows both or neither, and versions
  read before keep the older one;
- a commit succeeds only on top of the version on which it was decided (`Table.commit`), and only
  for the newest writer epoch (`WriterFence`).

The rows of a version depend on the set of edits committed, not on windows, order or fragments.
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
from lance import LanceDataset
from lance.fragment import FragmentMetadata

from infra._compat import transaction_properties
from infra.bank_reader import MatrixPlace, read_repository
from infra.bank_schema import BankIdentity, ExpertRow
from infra.bank_window import FragmentWriter, RowKey, WindowPlan, WrittenFragment, plan_window
from infra.object_store import ObjectStore
from infra.tables import Table, select_in, sql_in
from infra.writer_fence import WriterFence
from liveedit_core.config import GeneratorConfig
from liveedit_core.errors import IntegrityError, RepositoryMismatchError
from liveedit_core.repository import ExpertRepository

_WINDOW_KEY = "liveedit.window"

__all__ = ["BankIdentity", "BankVersion", "ExpertBank", "ExpertRow", "FragmentWriter"]


@dataclass(frozen=True, kw_only=True)
class BankVersion:
    """What a version is and how it came to be."""

    version: int
    committed_at: datetime
    message: str
    epoch: int
    num_edits: int
    """Experts that the version holds."""
    num_added: int
    num_superseded: int
    first_sequence: int
    """Smallest request number that the window added."""
    last_sequence: int


class ExpertBank:
    """A bank in a store; open it with `open_or_create` or `open`."""

    def __init__(self, store: ObjectStore, name: str, table: Table, identity: BankIdentity) -> None:
        """Wrap an open table; for the class methods."""
        self.name = name
        self.identity = identity
        self._store = store
        self._table = table
        self._fence = WriterFence(store, name)

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
        return FragmentWriter(self.uri, self._store.table_options(), self.identity)

    def acquire_writer(self) -> int:
        """Become the one committer: claim a new epoch, which fences every earlier writer.

        Raises:
            StorageUnavailableError: The store does not create objects exclusively.
        """
        return self._fence.acquire()

    def commit(self, fragments: Sequence[str], *, epoch: int, message: str = "") -> int:
        """Make the rows of a window visible, in one version.

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
        subjects = {key.subject_id for fragment in written for key in fragment.keys}

        def attempt(base: LanceDataset) -> int:
            # The base is read before the epoch is checked: a commit that succeeds on it was not
            # preceded by any commit of a newer writer.
            self._fence.check(epoch)
            # Only rows of these subjects can be duplicates or rivals: a commit costs the same
            # however many edits the bank holds.
            rivals = select_in(base, RowKey._fields, "subject_id", subjects)
            plan = plan_window(RowKey.of_table(rivals), written)
            if not plan.added:
                return int(base.version)
            sequences = [key.sequence for key in plan.added]
            record = {
                "committed_at": datetime.now(UTC).isoformat(),
                "message": message,
                "epoch": epoch,
                "num_edits": base.count_rows() + len(plan.added) - len(plan.superseded),
                "num_added": len(plan.added),
                "num_superseded": len(plan.superseded),
                "first_sequence": min(sequences),
                "last_sequence": max(sequences),
            }
            return self._commit_plan(base, written, plan, {_WINDOW_KEY: json.dumps(record)})

        return self._table.on_latest(attempt)

    def _commit_plan(
        self,
        base: LanceDataset,
        written: Sequence[WrittenFragment],
        plan: WindowPlan,
        properties: dict[str, str],
    ) -> int:
        new: list[FragmentMetadata] = []
        for fragment, positions in zip(written, plan.positions, strict=True):
            if len(positions) == len(fragment.keys):
                new.append(fragment.metadata)
            elif positions:
                # A fragment of wanted and unwanted rows: write the wanted ones again.
                rows = self._table.read_fragment(fragment.metadata).take(pa.array(positions))
                new += self._table.write_fragments(rows.cast(base.schema))
        without = sql_in("edit_id", [key.edit_id for key in plan.superseded])
        return self._table.commit(base, new, without=without, properties=properties)

    def load_rows(self, columns: Sequence[str], version: int | None = None) -> pa.Table:
        """Some columns of all rows of a version, sorted by sequence.

        Args:
            columns: Names of the columns wanted; no others are read.
            version: Which version; the newest by default.
        """
        dataset = self._table.latest() if version is None else self._table.at(version)
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

    def subject_sequences(self, version: int | None = None) -> dict[str, int]:
        """Of each subject that a version knows, the sequence of the edit it holds."""
        rows = self.load_rows(["subject_id", "sequence"], version)
        pairs = zip(
            rows.column("subject_id").to_pylist(), rows.column("sequence").to_pylist(), strict=True
        )
        return dict(pairs)

    def load_repository(
        self,
        config: GeneratorConfig,
        version: int | None = None,
        *,
        matrices: MatrixPlace = "auto",
    ) -> ExpertRepository:
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
            IntegrityError: No window was committed as this version.
        """
        record = transaction_properties(self._table.at(version), version).get(_WINDOW_KEY)
        if not record:
            raise IntegrityError(f"bank {self.name!r}: version {version} is no committed window")
        content = json.loads(record)
        committed_at = datetime.fromisoformat(content.pop("committed_at"))
        return BankVersion(version=version, committed_at=committed_at, **content)

    def history(self) -> list[BankVersion]:
        """All committed windows, oldest first."""
        windows = []
        for version in range(1, self.version + 1):
            with contextlib.suppress(IntegrityError):
                windows.append(self.window(version))
        return windows
