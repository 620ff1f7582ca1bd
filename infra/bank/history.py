"""The history of a bank: what each version changed, when, by whom and why.

Every commit stores a record in its Lance transaction, with the ids of the edits added and removed.
Versions made by compaction have no record; they hold what the version before them holds. Before
a version is deleted, `archive` copies its record to `histories/<bank>/`. Such a file never changes:
two processes that archive at once leave two with the same records, and the next call merges them.
"""

import itertools
import json
import math
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime

from lance import LanceDataset

from infra._compat import create_tag, transaction_properties
from infra.bank.deletions import Deletions
from infra.storage.disk import ObjectEntry
from infra.storage.object_store import ObjectStore
from infra.storage.tables import (
    Table,
    manifest_names,
    read_errors,
    read_rows,
    storage_errors,
)
from infra.storage.upkeep import settled
from liveedit_core.errors import InputError, IntegrityError, StorageUnavailableError
from liveedit_core.method.config import DEFAULT_BUDGET

_RECORD_PREFIX = "liveedit."
"""Only properties of a version with this prefix are archived."""
_RECORD_KEY = "liveedit.window"
"""The stored name; it must not change."""
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SEGMENT_BYTES = 4 * 1024 * 1024
"""Archive objects of this size are never merged with newer records."""
_READ_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class BankVersion:
    """The record that was committed with a version."""

    version: int
    committed_at: datetime
    message: str
    epoch: int
    num_edits: int
    num_added: int = 0
    num_superseded: int = 0
    first_sequence: int = 0
    """Smallest request number that the version added; 0 when it added none."""
    last_sequence: int
    """Largest request number that any version up to this one added."""
    kind: str = "window"
    """"window", or what a person asked for: "remove", "restore", "rollback", "repair", or
    "calibrate", which a job's recipe may ask for too."""
    author: str = ""
    """"" for the windows of a job."""
    num_removed: int = 0
    """Experts whose edit was removed or whose rows were damaged; without superseded ones."""
    last_change: int = 0
    """Number of the newest change (`ChangeLog`) that the version takes into account."""
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    """Edits that left, superseded ones included."""
    false_activation: float = DEFAULT_BUDGET
    """Share of questions about other images that may keep an expert."""
    traffic: str = ""
    """sha256 of the images by which the visual filter is calibrated (`traffic.py`); "" without."""

    def properties(self) -> dict[str, str]:
        content = {**asdict(self), "committed_at": self.committed_at.isoformat()}
        del content["version"]
        return {_RECORD_KEY: json.dumps(content)}


@dataclass(frozen=True, kw_only=True)
class EditEvent:
    event: str
    """"added", "removed" or "superseded"."""
    record: BankVersion


@dataclass(frozen=True, kw_only=True)
class BankDiff:
    added: tuple[str, ...]
    removed: tuple[str, ...]
    """Without the superseded ones."""
    superseded: tuple[tuple[str, str], ...]
    """Pairs of one subject: edit of the first version, edit of the second."""


class BankHistory:
    """Versions, records and tags of one bank's table."""

    def __init__(self, store: ObjectStore, bank: str, table: Table) -> None:
        self._table = table
        self._bank = bank
        self._store = store
        self._archive = VersionArchive(store, bank)
        self.deletions = Deletions(store, bank)

    def record(self, version: int) -> BankVersion:
        """The record of a version; IntegrityError when it has none or no longer exists."""
        record = self._parsed(version, _properties(self._table.at(version), version))
        if record is None:
            raise IntegrityError(f"bank {self._bank!r}: version {version} has no record")
        return record

    def _parsed(self, version: int, properties: Mapping[str, str]) -> BankVersion | None:
        text = properties.get(_RECORD_KEY)
        if not text:
            return None
        content = json.loads(text)
        content["committed_at"] = datetime.fromisoformat(content["committed_at"])
        content.setdefault("false_activation", DEFAULT_BUDGET)  # earlier records lack these two
        content.setdefault("traffic", "")
        try:
            for name in ("added", "removed"):
                content[name] = tuple(content[name])
            if missing := {item.name for item in fields(BankVersion)} - {"version", *content}:
                raise KeyError(*sorted(missing))
            return BankVersion(version=version, **content)
        except (KeyError, TypeError) as error:
            raise IntegrityError(
                f"bank {self._bank!r}: the record of version {version} was written by another "
                f"release ({error}); use that one"
            ) from error

    def newest_first(self, start: int) -> Iterator[BankVersion]:
        """Records from a version backwards; versions without one are skipped."""
        newest = self._table.latest()
        through = self._archive.through()
        for version in range(start, through, -1):
            try:
                properties = _properties(newest, version)
            except IntegrityError:
                continue  # deleted by other means than `Compaction`
            if record := self._parsed(version, properties):
                yield record
        for version, properties in self._archive.newest_first():
            if version <= start and (record := self._parsed(version, properties)):
                yield record

    def state_at(self, version: int) -> BankVersion | None:
        """The record of what a version holds: its own, or that of the last version before it."""
        return next(self.newest_first(version), None)

    def false_activation_at(self, version: int) -> float:
        """The budget of a version."""
        state = self.state_at(version)
        return state.false_activation if state else DEFAULT_BUDGET

    def traffic_at(self, version: int) -> str:
        """sha256 of the traffic of a version; "" without."""
        state = self.state_at(version)
        return state.traffic if state else ""

    def held_at(self, version: int) -> set[str] | None:
        """The edits that a version must hold, by its records; None when records are missing."""
        state = self.state_at(version)
        held: set[str] = set()
        decided: set[str] = set()
        for record in self.newest_first(version):
            held.update(set(record.added) - decided)
            decided.update(record.added, record.removed)
        return held if state is not None and len(held) == state.num_edits else None

    def events(self, edit_id: str, start: int) -> list[EditEvent]:
        """What versions up to `start` did to one edit, oldest first."""
        found: list[EditEvent] = []
        for record in self.newest_first(start):
            if edit_id in record.added:
                found.append(EditEvent(event="added", record=record))
            if edit_id in record.removed:
                # Only new and restored edits supersede others.
                event = "superseded" if record.kind in ("window", "restore") else "removed"
                found.append(EditEvent(event=event, record=record))
        return found[::-1]

    def diff(self, old: int, new: int) -> BankDiff:
        """What differs between two versions; IntegrityError when one no longer exists."""
        before, after = (self._subjects(version) for version in (old, new))
        left = {key: subject for key, subject in before.items() if key not in after}
        added = {key: subject for key, subject in after.items() if key not in before}
        successor = {subject: key for key, subject in added.items()}
        pairs = [(key, successor[subject]) for key, subject in left.items() if subject in successor]
        replaced, replacing = {old for old, _ in pairs}, {new for _, new in pairs}
        return BankDiff(
            added=tuple(key for key in added if key not in replacing),
            removed=tuple(key for key in left if key not in replaced),
            superseded=tuple(pairs),
        )

    def _subjects(self, version: int) -> dict[str, str]:
        names = ["edit_id", "subject_id"]
        rows = read_rows(self._table.at(version), names)
        return dict(zip(*(rows.column(name).to_pylist() for name in names), strict=True))

    def tag(self, name: str, version: int) -> None:
        """Name a version; tagged ones are never deleted. InputError when it is being deleted."""
        dataset = self._table.at(version)
        tagged = self.tags().get(name)
        if tagged is not None and tagged != version:
            raise InputError(f"tag {name!r} of bank {self._bank!r} names version {tagged} already")
        if name.isdigit() or not _TAG.fullmatch(name):
            raise InputError(
                f"tag {name!r}: expected letters, digits, '.', '-' and '_', and no version number"
            )
        if tagged is None:
            self._create_tag(dataset, name, version)
        if version in self.deletions.versions() or not self._is_stored(version):
            if tagged is None:
                self.untag(name)
            raise InputError(
                f"tag {name!r} of bank {self._bank!r}: a clean-up is deleting version {version}; "
                "choose one that stays (growth.keep_versions, growth.keep_days)"
            )

    def _is_stored(self, version: int) -> bool:
        """Asked of the store: an open table may remember a version that is deleted."""
        folder = f"banks/{self._bank}/_versions"
        return any(self._store.exists(f"{folder}/{name}") for name in manifest_names(version))

    def _create_tag(self, dataset: LanceDataset, name: str, version: int) -> None:
        try:
            with storage_errors(self._table.uri):
                create_tag(dataset, name, version)
        except (StorageUnavailableError, ValueError) as error:
            # The answer to the request that made it may have been lost, or another process was
            # first; Lance says of both that the tag exists.
            if self.tags().get(name) == version:
                return
            if isinstance(error, ValueError):
                raise InputError(f"tag {name!r} of bank {self._bank!r}: {error}") from error
            raise

    def untag(self, name: str) -> None:
        """Delete a tag; InputError when there is none."""
        if name not in self.tags():
            raise InputError(f"bank {self._bank!r} has no tag {name!r}")
        newest = self._table.latest()
        try:
            with storage_errors(self._table.uri):
                newest.tags.delete(name)
        except (StorageUnavailableError, ValueError, IntegrityError):
            if name in self.tags():
                raise

    def tags(self) -> dict[str, int]:
        newest = self._table.latest()
        with read_errors(self._table.uri):
            return {name: int(tag["version"]) for name, tag in newest.tags.list().items()}

    def archived_since(self, version: int) -> set[int]:
        """The archived versions from this one on that have a record."""
        newer = itertools.takewhile(lambda item: item[0] >= version, self._archive.newest_first())
        return {number for number, _ in newer}

    def archive(self) -> "ArchivedRecords":
        """Archive the records of all existing versions; returns those that were not archived."""
        newest = self._table.latest()
        new = ArchivedRecords(through=self._archive.through())
        present = [number for number in versions_of(self._table) if number > new.through]
        if present:
            new.through = max(present)
            records = {number: _properties(newest, number) for number in present}
            new.properties = {number: kept for number, kept in records.items() if kept}
            self._archive.add(new.through, new.properties)
        return new


@dataclass
class ArchivedRecords:
    through: int = 0
    """Every version up to this one is archived or had no record; 0 when nothing is archived."""
    properties: dict[int, dict[str, str]] = field(default_factory=dict)


class VersionArchive:
    """Objects `histories/<bank>/<through>-<token>.json`."""

    def __init__(self, store: ObjectStore, bank: str) -> None:
        self._store = store
        self._prefix = f"histories/{bank}/"

    def through(self) -> int:
        """`ArchivedRecords.through`, from the names of the objects alone."""
        return max(map(self._through_of, self._store.list(self._prefix)), default=0)

    def read(self) -> ArchivedRecords:
        """Everything that is archived; IntegrityError when an object is damaged."""
        return _merged(self._segments())

    def newest_first(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Versions and their properties; an object is read when it is needed."""
        keys = sorted(self._store.list(self._prefix), reverse=True)
        limits = map(self._through_of, [*keys[1:], self._prefix + "0-"])
        waiting: dict[int, dict[str, str]] = {}
        last = math.inf
        for key, limit in zip(keys, limits, strict=False):
            try:
                waiting |= _merged({key: self._store.get(key)}).properties
            except IntegrityError:
                if self._store.exists(key):
                    raise
                waiting |= self.read().properties  # merged meanwhile
            # Objects that are not read yet hold no version after `limit`.
            for version in sorted((n for n in waiting if limit < n < last), reverse=True):
                last = version
                yield version, waiting.pop(version)

    def add(self, through: int, properties: Mapping[int, dict[str, str]]) -> None:
        num_bytes = len(json.dumps(dict(properties)))

        def rewritten(entries: list[ObjectEntry]) -> list[ObjectEntry]:
            sizes = [*(entry.num_bytes for entry in entries), num_bytes]
            return entries[len(settled([*enumerate(sizes)], _SEGMENT_BYTES)) :]

        old = self._segments(rewritten)
        records = _merged(old)
        records.through = max(records.through, through)
        records.properties |= properties
        name = f"{records.through:012d}-{uuid.uuid4().hex[:12]}.json"
        self._store.put(self._prefix + name, json.dumps(asdict(records)).encode())
        for key in old:
            self._store.delete(key)

    def _through_of(self, key: str) -> int:
        return int(key.removeprefix(self._prefix).partition("-")[0])

    def _segments(
        self, choose: Callable[[list[ObjectEntry]], list[ObjectEntry]] = list
    ) -> dict[str, bytes]:
        """Objects by key, oldest first; another process may merge some while they are read."""
        for _ in range(_READ_TRIES):
            entries = sorted(self._store.entries(self._prefix), key=lambda entry: entry.key)
            try:
                return {entry.key: self._store.get(entry.key) for entry in choose(entries)}
            except IntegrityError as error:
                missing = error
        raise missing


def _merged(segments: Mapping[str, bytes]) -> ArchivedRecords:
    records = ArchivedRecords()
    for key, data in segments.items():
        try:
            content = json.loads(data)
            records.through = max(records.through, content["through"])
            for version, texts in content["properties"].items():
                records.properties[int(version)] = texts
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"the archived records {key!r} are damaged: {error!r}") from error
    records.properties = dict(sorted(records.properties.items()))
    return records


def _properties(dataset: LanceDataset, version: int) -> dict[str, str]:
    """Our properties of a version; empty when it has none."""
    with read_errors(dataset.uri):
        found = transaction_properties(dataset, version)
    return {key: text for key, text in found.items() if key.startswith(_RECORD_PREFIX)}


def versions_of(table: Table) -> dict[int, datetime]:
    """When each version that still exists was made, in ascending order."""
    newest = table.latest()
    with read_errors(table.uri):
        found = {
            int(entry["version"]): made_at.astimezone(UTC)
            for entry in newest.versions()
            if isinstance(made_at := entry["timestamp"], datetime)
        }
    return dict(sorted(found.items()))
