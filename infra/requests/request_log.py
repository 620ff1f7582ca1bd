"""The log of all requests ever accepted, and of everything that was rejected.

Every bank can be rebuilt from it. So images are stored as bytes even where a URI is known, because
the object behind a URI may change or vanish.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from lance import LanceDataset

from infra.requests.change_log import ChangeLog
from infra.requests.reject_log import RejectLog
from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table, not_null, select_in
from liveedit_core.errors import InputError, IntegrityError
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.schema import EditRequest

_READ_ROWS = 32
"""Requests read at a time: images are large."""
_REQUEST_COLUMNS = ("image_bytes", "prompt", "target", "image_uri", "submitter", "also_asked")

_TABLE = "requests"
_STORED_BEFORE = not_null(
    sequence=pa.int64(),
    edit_id=pa.string(),
    subject_id=pa.string(),
    prompt=pa.string(),
    target=pa.string(),
    image_digest=pa.string(),
    image_uri=pa.string(),
    image_bytes=pa.large_binary(),
    submitter=pa.string(),
    submitted_at=pa.timestamp("us", tz="UTC"),
    supersedes=pa.string(),
)
_SCHEMA = _STORED_BEFORE.append(pa.field("also_asked", pa.list_(pa.string())))
"""A log of an earlier release gets the new column with the next append."""


@dataclass(frozen=True, kw_only=True)
class RequestKey:
    sequence: int
    edit_id: str
    subject_id: str
    supersedes: str
    """The edit of the same image and prompt that this one replaces, or ""."""


_KEY_COLUMNS = tuple(item.name for item in fields(RequestKey))


@dataclass(frozen=True, kw_only=True)
class Admission(RequestKey):
    """The result of appending a request; a duplicate has the number of the first."""

    is_duplicate: bool


@dataclass(frozen=True, kw_only=True)
class RequestHeader(RequestKey):
    """A stored request without its image."""

    prompt: str
    target: str
    image_uri: str
    submitter: str
    submitted_at: datetime
    also_asked: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LoggedRequest:
    sequence: int
    request: EditRequest
    supersedes: str
    submitted_at: datetime


@dataclass
class _Index:
    version: int
    keys: dict[str, RequestKey] = field(default_factory=dict)
    """By edit_id."""
    edits_of: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """Sequence and edit_id of each subject's edits, in the order of the log."""

    def add(self, key: RequestKey) -> None:
        self.keys[key.edit_id] = key
        self.edits_of.setdefault(key.subject_id, []).append((key.sequence, key.edit_id))

    @classmethod
    def read(cls, dataset: LanceDataset) -> "_Index":
        index = cls(dataset.version)
        for row in dataset.to_table(columns=list(_KEY_COLUMNS)).to_pylist():
            index.add(RequestKey(**row))
        return index


class RequestLog:
    """The tables `requests` and `rejects` of a store."""

    def __init__(self, store: ObjectStore) -> None:
        self._table = Table.open_or_create(store, _TABLE, _SCHEMA)
        self.rejects = RejectLog(store)
        self.changes = ChangeLog(store)
        self._cached_index: _Index | None = None

    @staticmethod
    def exists(store: ObjectStore) -> bool:
        """Whether a store has a request log; opening one creates it."""
        return Table(store, _TABLE).exists()

    def _index_of(self, dataset: LanceDataset) -> _Index:
        if self._cached_index is None or self._cached_index.version != dataset.version:
            self._cached_index = _Index.read(dataset)
        return self._cached_index

    def _index(self) -> _Index:
        return self._index_of(self._table.latest())

    def __len__(self) -> int:
        return int(self._table.latest().count_rows())

    def append(self, requests: Sequence[EditRequest]) -> list[Admission]:
        """Number new requests in order and store them in one commit; pass some dozens at once.

        An edit that is in the log is a duplicate, even when a later one superseded it.
        """

        def attempt(base: LanceDataset) -> list[Admission]:
            index = self._index_of(base)
            # `_admit` changes the index ahead of the table: forget it in case the commit fails.
            self._cached_index = None
            admissions = [_admit(index, request) for request in requests]
            accepted = [
                (admission, request)
                for admission, request in zip(admissions, requests, strict=True)
                if not admission.is_duplicate
            ]
            if accepted:
                index.version = self._table.append(base, _to_rows(accepted))
            self._cached_index = index
            return admissions

        self._table.add_missing_columns(_SCHEMA)
        return self._table.on_latest(attempt)

    def read(self, sequences: Sequence[int] | None = None) -> Iterator[LoggedRequest]:
        """Read requests with their images, by sequence, a few at a time; all by default."""
        dataset = self._table.latest()
        numbers = dataset.to_table(columns=["sequence"]).column("sequence").to_pylist()
        place_of = {number: place for place, number in enumerate(numbers)}
        wanted = sorted(place_of if sequences is None else place_of.keys() & set(sequences))
        for start in range(0, len(wanted), _READ_ROWS):
            places = [place_of[number] for number in wanted[start : start + _READ_ROWS]]
            for row in dataset.take(places).to_pylist():
                yield _from_row(row)

    def headers(
        self,
        *,
        submitter: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        begins_with: str = "",
        edit_ids: Collection[str] | None = None,
    ) -> list[RequestHeader]:
        """Requests by sequence, to which all given filters apply; images are not read.

        `begins_with` is a prefix of the edit_id; the time of submission is in [since, until).
        """
        dataset = self._table.latest()
        stored = set(dataset.schema.names)
        names = [item.name for item in fields(RequestHeader) if item.name in stored]
        if edit_ids is not None:
            rows = select_in(dataset, names, "edit_id", edit_ids)
        else:
            begins = f"starts_with(edit_id, '{begins_with}')" if begins_with.isalnum() else None
            rows = dataset.to_table(columns=names, filter=begins)
        if submitter:
            rows = rows.filter(pc.equal(rows.column("submitter"), submitter))
        if since:
            rows = rows.filter(pc.greater_equal(rows.column("submitted_at"), pa.scalar(since)))
        if until:
            rows = rows.filter(pc.less(rows.column("submitted_at"), pa.scalar(until)))
        sorted_rows = map(_with_wordings, rows.sort_by("sequence").to_pylist())
        return [RequestHeader(**row) for row in sorted_rows]

    def request_keys(self) -> list[RequestKey]:
        return list(self._index().keys.values())

    def find(self, edit_ids: Collection[str]) -> Iterator[LoggedRequest]:
        """The requests of some edits, by sequence; unknown edits are skipped."""
        yield from self.read(self.sequences_of(edit_ids))

    def subjects_of(self, edit_ids: Collection[str]) -> dict[str, str]:
        """The subject of each edit; InputError when the log lacks one of them."""
        known = self._index().keys
        unknown = [edit_id for edit_id in edit_ids if edit_id not in known]
        if unknown:
            raise InputError(f"the request log has no edit {unknown[0]!r}")
        return {edit_id: known[edit_id].subject_id for edit_id in edit_ids}

    def sequences_of(self, edit_ids: Collection[str]) -> list[int]:
        """Numbers of some edits; unknown edits are skipped."""
        known = self._index().keys
        return [known[edit_id].sequence for edit_id in edit_ids if edit_id in known]

    def edits_of_subjects(self, subject_ids: Collection[str]) -> dict[str, list[tuple[int, str]]]:
        """Sequence and edit_id of each subject's edits, in the order of the log."""
        edits_of = self._index().edits_of
        return {
            subject_id: list(edits_of[subject_id])
            for subject_id in subject_ids
            if subject_id in edits_of
        }

    def reject_lines(self, rejected: Sequence[Rejected], *, source: str) -> int:
        """Store rejected lines of the file with digest `source`; returns how many are new."""
        return self.rejects.append([(None, item) for item in rejected], source=source)

    def reject_requests(self, rejected: Sequence[Rejected], *, bank: str = "") -> int:
        """Store requests that `bank`, or with "" every bank, rejects; returns how many are new."""
        known = self._index().keys
        unknown = [item.edit_id for item in rejected if item.edit_id not in known]
        if unknown:
            raise InputError(f"cannot reject {unknown[0]!r}: the request log has no such edit")
        numbered = [(known[item.edit_id].sequence, item) for item in rejected]
        return self.rejects.append(numbered, bank=bank)


def _admit(index: _Index, request: EditRequest) -> Admission:
    edit_id, subject_id = request.edit_id, request.subject_id
    key = index.keys.get(edit_id)
    is_duplicate = key is not None
    if key is None:
        earlier = index.edits_of.get(subject_id)
        supersedes = earlier[-1][1] if earlier else ""
        key = RequestKey(
            sequence=len(index.keys) + 1,
            edit_id=edit_id,
            subject_id=subject_id,
            supersedes=supersedes,
        )
        index.add(key)
    return Admission(**vars(key), is_duplicate=is_duplicate)


def _to_rows(accepted: Sequence[tuple[Admission, EditRequest]]) -> pa.Table:
    now = datetime.now(UTC)
    rows = [
        {
            **{name: getattr(admission, name) for name in _KEY_COLUMNS},
            **{name: getattr(request, name) for name in _REQUEST_COLUMNS},
            "image_digest": hashlib.sha256(request.image_bytes).hexdigest(),
            "submitted_at": now,
        }
        for admission, request in accepted
    ]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _with_wordings(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "also_asked": tuple(row.get("also_asked") or ())}


def _from_row(row: dict[str, Any]) -> LoggedRequest:
    row = _with_wordings(row)
    request = EditRequest(**{name: row[name] for name in _REQUEST_COLUMNS})
    if request.edit_id != row["edit_id"]:
        raise IntegrityError(
            f"request {row['sequence']} of the log hashes to {request.edit_id}, "
            f"stored was {row['edit_id']}: its bytes were altered"
        )
    return LoggedRequest(
        sequence=row["sequence"],
        request=request,
        supersedes=row["supersedes"],
        submitted_at=row["submitted_at"],
    )
