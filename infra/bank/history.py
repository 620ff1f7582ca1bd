"""How a bank came to be: what each version changed, when, by whom and why.

Every commit keeps a record with its version: the edits that it added and removed by id, so that the
history of an edit and the newest state of the log are read without touching a row. Versions that
only reorder files (compaction) carry no record; they hold what the version before them holds.
Records of versions that were cleaned up are read from where they were filed (`VersionArchive`).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

import pyarrow as pa
from lance import LanceDataset

from infra._compat import transaction_properties
from infra.bank.version_archive import VersionArchive
from infra.storage.tables import Table, read_errors, storage_errors
from liveedit_core.errors import InputError, IntegrityError

_RECORD_KEY = "liveedit.window"
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ID_COLUMNS = ("edit_id", "subject_id")


@dataclass(frozen=True, kw_only=True)
class BankVersion:
    """What a version is and how it came to be."""

    version: int
    committed_at: datetime
    message: str
    """Of a window, up to where it goes; of a change, its reason."""
    epoch: int
    num_edits: int
    """Experts that the version holds."""
    num_added: int
    num_superseded: int
    """Experts that gave way to a newer edit of their subject."""
    first_sequence: int
    """Smallest request number that the version added; 0 when it added none."""
    last_sequence: int
    """Largest request number that any window up to this version added."""
    kind: str = "window"
    """"window", or what a person asked for: "remove", "restore", "rollback", "repair", ..."""
    author: str = ""
    """Who asked for it; "" for the windows of a job."""
    num_removed: int = 0
    """Experts that left because their edit was removed, or their rows were damaged."""
    last_change: int = 0
    """Number of the newest change (`ChangeLog`) that the version takes into account."""
    added: tuple[str, ...] | None = None
    """Edits that came; None in versions of earlier releases, which kept no list."""
    removed: tuple[str, ...] | None = None
    """Edits that left, superseded ones included."""

    def properties(self) -> dict[str, str]:
        """As Lance keeps it with the version."""
        content = {**asdict(self), "committed_at": self.committed_at.isoformat()}
        del content["version"]
        return {_RECORD_KEY: json.dumps(content)}


@dataclass(frozen=True, kw_only=True)
class EditEvent:
    """What a version did to one edit."""

    version: int
    event: Literal["added", "removed", "superseded"]
    window: BankVersion
    """The version's record: time, author, reason."""


@dataclass(frozen=True, kw_only=True)
class BankDiff:
    """What differs between two versions, by edit id."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    """Without the superseded ones."""
    superseded: tuple[tuple[str, str], ...]
    """Pairs of one subject: edit of the first version, edit of the second."""


class BankHistory:
    """Versions of one bank's table."""

    def __init__(self, table: Table, bank: str, archive: VersionArchive) -> None:
        """Read an open table.

        Args:
            table: Of the bank.
            bank: Its name, for messages.
            archive: Of the bank.
        """
        self._table = table
        self._bank = bank
        self._archive = archive

    def record(self, version: int) -> BankVersion:
        """How a version came to be.

        Raises:
            IntegrityError: It has no record, no longer exists, or a newer release wrote it.
        """
        record = self._find(self._table.at(version), version)
        if record is None:
            raise IntegrityError(f"bank {self._bank!r}: version {version} is no committed window")
        return record

    def _find(self, dataset: LanceDataset, version: int) -> BankVersion | None:
        with storage_errors(dataset.uri):
            properties = transaction_properties(dataset, version)
        return self._parsed(version, properties)

    def _parsed(self, version: int, properties: Mapping[str, str]) -> BankVersion | None:
        text = properties.get(_RECORD_KEY)
        if not text:
            return None
        content = json.loads(text)
        content["committed_at"] = datetime.fromisoformat(content["committed_at"])
        for name in ("added", "removed"):
            if content.get(name) is not None:
                content[name] = tuple(content[name])
        try:
            return BankVersion(version=version, **content)
        except TypeError as error:
            raise IntegrityError(
                f"bank {self._bank!r}: the record of version {version} was written by another "
                f"release ({error}); use that one"
            ) from error

    def newest_first(self, start: int) -> Iterator[BankVersion]:
        """Records from a version backwards; versions without one are passed over."""
        newest = self._table.latest()
        through = self._archive.through()
        for version in range(start, through, -1):
            try:
                record = self._find(newest, version)
            except IntegrityError as error:
                if "record of version" in error.message:
                    raise
                continue  # cleaned up by other means
            if record is not None:
                yield record
        if through:
            filed = self._archive.read().properties
            for version in sorted((number for number in filed if number <= start), reverse=True):
                record = self._parsed(version, filed[version])
                if record is not None:
                    yield record

    def state_at(self, version: int) -> BankVersion | None:
        """The record that tells what a version holds: its own, or that of the last before it."""
        return next(self.newest_first(version), None)

    def held_at(self, version: int) -> set[str] | None:
        """The edits that a version must hold, from records alone; None where they do not tell."""
        state = self.state_at(version)
        held: set[str] = set()
        decided: set[str] = set()
        for record in self.newest_first(version):
            if record.added is None or record.removed is None:
                return None
            held.update(set(record.added) - decided)
            decided.update(record.added, record.removed)
        return held if state is not None and len(held) == state.num_edits else None

    def events(self, edit_id: str, start: int) -> list[EditEvent]:
        """What versions up to `start` did to one edit, oldest first."""
        found = []
        for record in self.newest_first(start):
            added, removed = self.lists_of(record)
            if edit_id in added:
                found.append(EditEvent(version=record.version, event="added", window=record))
            if edit_id in removed:
                found.append(
                    EditEvent(version=record.version, event=_leaving(record), window=record)
                )
        return found[::-1]

    def lists_of(self, record: BankVersion) -> tuple[Sequence[str], Sequence[str]]:
        """Edits that a version added, and that it took away.

        Both are empty for a version of an earlier release where it or its predecessor is cleaned
        up or damaged.
        """
        if record.added is not None and record.removed is not None:
            return record.added, record.removed
        try:
            difference = self.diff(record.version - 1, record.version)
        except IntegrityError:
            return (), ()
        gone = [old for old, _ in difference.superseded] + list(difference.removed)
        return [*difference.added, *(new for _, new in difference.superseded)], gone

    def diff(self, old: int, new: int) -> BankDiff:
        """What differs between two versions.

        Raises:
            IntegrityError: One of them no longer exists.
        """
        before, after = (self._subjects(version) for version in (old, new))
        gone = {key: subject for key, subject in before.items() if key not in after}
        come = {key: subject for key, subject in after.items() if key not in before}
        successor = {subject: key for key, subject in come.items()}
        pairs = [(key, successor[subject]) for key, subject in gone.items() if subject in successor]
        replaced, replacing = {old for old, _ in pairs}, {new for _, new in pairs}
        return BankDiff(
            added=tuple(key for key in come if key not in replacing),
            removed=tuple(key for key in gone if key not in replaced),
            superseded=tuple(pairs),
        )

    def _subjects(self, version: int) -> dict[str, str]:
        with read_errors(self._table.uri):
            rows: pa.Table = self._table.at(version).to_table(columns=[*_ID_COLUMNS])
        return dict(zip(*(rows.column(name).to_pylist() for name in _ID_COLUMNS), strict=True))

    def tag(self, name: str, version: int) -> None:
        """Give a version a name; it is kept by clean-up as long as it has one.

        Raises:
            InputError: The name is taken by another version, or is no name.
            IntegrityError: There is no such version.
        """
        dataset = self._table.at(version)
        taken = self.tags().get(name)
        if taken == version:
            return
        if taken is not None:
            raise InputError(f"tag {name!r} of bank {self._bank!r} names version {taken} already")
        if name.isdigit() or not _TAG.fullmatch(name):
            raise InputError(
                f"tag {name!r}: expected letters, digits, '.', '-' and '_', and no version number"
            )
        with storage_errors(self._table.uri):
            dataset.tags.create(name, version)

    def untag(self, name: str) -> None:
        """Take a name away; the version stays until it is cleaned up.

        Raises:
            InputError: There is no such tag.
        """
        if name not in self.tags():
            raise InputError(f"bank {self._bank!r} has no tag {name!r}")
        self._table.latest().tags.delete(name)

    def tags(self) -> dict[str, int]:
        """Version of each tag."""
        return {name: int(tag["version"]) for name, tag in self._table.latest().tags.list().items()}


def _leaving(record: BankVersion) -> Literal["superseded", "removed"]:
    """Why edits left with a version: only new and restored edits push others out."""
    return "superseded" if record.kind in ("window", "restore") else "removed"
