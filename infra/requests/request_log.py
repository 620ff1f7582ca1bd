"""The durable log of all requests ever accepted, and of all that was refused.

The log is the source of truth: every bank can be made again from it. Therefore images are kept
as bytes even where a URI is known, as what a URI shows may change or vanish.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from lance import LanceDataset

from infra.requests.change_log import ChangeLog
from infra.requests.reject_log import RejectLog, StoredReject
from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table, select_in
from liveedit_core.errors import InputError, IntegrityError
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.schema import EditRequest

if TYPE_CHECKING:
    from infra.bank.expert_bank import ExpertBank

_READ_ROWS = 32
"""Requests read at once: images are large."""

_SCHEMA = pa.schema(
    [
        pa.field("sequence", pa.int64(), nullable=False),
        pa.field("edit_id", pa.string(), nullable=False),
        pa.field("subject_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("image_digest", pa.string(), nullable=False),
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("image_bytes", pa.large_binary(), nullable=False),
        pa.field("submitter", pa.string(), nullable=False),
        pa.field("submitted_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("supersedes", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Admission:
    """What the log made of a request."""

    sequence: int
    """Its number, from 1; a duplicate has the number of the first."""
    edit_id: str
    subject_id: str
    is_duplicate: bool
    """The log held this very edit already; nothing was appended."""
    supersedes: str
    """The edit of the same image and prompt that this one replaces, or ""."""


@dataclass(frozen=True, kw_only=True)
class LoggedRequest:
    """A request as the log keeps it."""

    sequence: int
    request: EditRequest
    supersedes: str
    submitted_at: datetime


@dataclass(frozen=True, kw_only=True)
class RequestHeader:
    """A request without its image."""

    sequence: int
    edit_id: str
    subject_id: str
    prompt: str
    target: str
    image_uri: str
    submitter: str
    submitted_at: datetime
    supersedes: str


@dataclass
class _Index:
    """Which edits one version of the table holds."""

    version: int
    num_requests: int = 0
    sequence_of: dict[str, int] = field(default_factory=dict)
    supersedes_of: dict[str, str] = field(default_factory=dict)
    subject_of: dict[str, str] = field(default_factory=dict)
    edits_of: dict[str, list[str]] = field(default_factory=dict)
    """Of each subject, its edits in the order of the log."""

    def add(self, sequence: int, edit_id: str, subject_id: str, supersedes: str) -> None:
        self.num_requests += 1
        self.sequence_of[edit_id] = sequence
        self.supersedes_of[edit_id] = supersedes
        self.subject_of[edit_id] = subject_id
        self.edits_of.setdefault(subject_id, []).append(edit_id)

    @classmethod
    def read(cls, dataset: LanceDataset) -> "_Index":
        names = ["sequence", "edit_id", "subject_id", "supersedes"]
        index = cls(dataset.version)
        columns = (column.to_pylist() for column in dataset.to_table(columns=names).columns)
        for row in zip(*columns, strict=True):
            index.add(*row)
        return index


class RequestLog:
    """The tables `requests` and `rejects` of a store."""

    def __init__(self, store: ObjectStore) -> None:
        """Open the log, made empty when there is none.

        Args:
            store: Where it lives.
        """
        self._table = Table.open_or_create(store, "requests", _SCHEMA)
        self._rejects = RejectLog(store)
        self.changes = ChangeLog(store)
        """Which edits were removed or restored since."""
        self._cached_index: _Index | None = None

    def _index_of(self, dataset: LanceDataset) -> _Index:
        if self._cached_index is None or self._cached_index.version != dataset.version:
            self._cached_index = _Index.read(dataset)
        return self._cached_index

    def __len__(self) -> int:
        """How many requests were ever accepted."""
        return int(self._table.latest().count_rows())

    def append(self, requests: Sequence[EditRequest]) -> list[Admission]:
        """Number new requests and write them down, all in one commit.

        Args:
            requests: Valid requests; their order gives their numbers. One commit is made a call,
                so hand over some dozens at once.

        Returns:
            One admission a request, in the same order. An edit that the log ever held is a
            duplicate, even when a later one superseded it: handing in a file again does nothing.

        Raises:
            ConcurrentCommitError: Other processes kept appending between.
        """

        def attempt(base: LanceDataset) -> list[Admission]:
            index = self._index_of(base)
            # The index now runs ahead of the table; it is right again if the commit succeeds.
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

        return self._table.on_latest(attempt)

    def read(self, sequences: Sequence[int] | None = None) -> Iterator[LoggedRequest]:
        """Read requests with their images, a few at a time.

        Args:
            sequences: Numbers of the wanted ones, all by default.

        Yields:
            Requests by sequence.

        Raises:
            IntegrityError: A stored request does not hash to its edit_id.
        """
        dataset = self._table.latest()
        numbers = dataset.to_table(columns=["sequence"]).column("sequence").to_pylist()
        wanted = None if sequences is None else set(sequences)
        places = sorted(
            (number, row)
            for row, number in enumerate(numbers)
            if wanted is None or number in wanted
        )
        for start in range(0, len(places), _READ_ROWS):
            rows = dataset.take([row for _, row in places[start : start + _READ_ROWS]])
            for row in rows.to_pylist():
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
        """Requests by sequence, without images, which are not read.

        Args:
            submitter: Only theirs; "" for all.
            since: Only those submitted then or later.
            until: Only those submitted before.
            begins_with: Only those whose edit_id begins so.
            edit_ids: Only these edits.
        """
        names = [item.name for item in fields(RequestHeader)]
        dataset = self._table.latest()
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
        return [RequestHeader(**row) for row in rows.sort_by("sequence").to_pylist()]

    def refused_sequences(self, bank: str) -> set[int]:
        """Numbers of the requests that a bank, or every bank, refused."""
        return self._rejects.refused_sequences(bank)

    def find(self, edit_ids: Collection[str]) -> Iterator[LoggedRequest]:
        """The requests of some edits, by sequence; those that the log lacks are left out."""
        index = self._index_of(self._table.latest())
        known = (index.sequence_of.get(edit_id) for edit_id in edit_ids)
        yield from self.read([sequence for sequence in known if sequence is not None])

    def pending_sequences(self, bank: "ExpertBank") -> list[int]:
        """Numbers of what is to be done for a bank: requests minus bank, rejects and removals.

        A request is done when the newest version holds its edit, or a later edit of its subject.

        Args:
            bank: The bank to complete.

        Returns:
            Numbers for `read`, rising.
        """
        held = bank.subject_sequences()
        refused = self._rejects.refused_sequences(bank.name)
        removed = self.changes.removed()
        index = self._index_of(self._table.latest())
        return sorted(
            sequence
            for edit_id, sequence in index.sequence_of.items()
            if held.get(index.subject_of[edit_id], 0) < sequence
            and sequence not in refused
            and edit_id not in removed
        )

    def subjects_of(self, edit_ids: Collection[str]) -> dict[str, str]:
        """Subject of each edit.

        Raises:
            InputError: The log lacks one of them.
        """
        known = self._index_of(self._table.latest()).subject_of
        unknown = [edit_id for edit_id in edit_ids if edit_id not in known]
        if unknown:
            raise InputError(f"the request log has no edit {unknown[0]!r}")
        return {edit_id: known[edit_id] for edit_id in edit_ids}

    def sequences_of(self, edit_ids: Collection[str]) -> list[int]:
        """Numbers of some edits; those that the log lacks are left out."""
        known = self._index_of(self._table.latest()).sequence_of
        return [known[edit_id] for edit_id in edit_ids if edit_id in known]

    def edits_of_subjects(self, subject_ids: Collection[str]) -> dict[str, list[tuple[int, str]]]:
        """Of each subject, number and id of its edits, in the order of the log."""
        index = self._index_of(self._table.latest())
        return {
            subject_id: [
                (index.sequence_of[edit_id], edit_id) for edit_id in index.edits_of[subject_id]
            ]
            for subject_id in subject_ids
            if subject_id in index.edits_of
        }

    def pending(self, bank: "ExpertBank") -> Iterator[LoggedRequest]:
        """What is still to be done for a bank, by sequence and images included."""
        yield from self.read(self.pending_sequences(bank))

    def reject_lines(self, rejected: Sequence[Rejected], *, source: str) -> int:
        """Write down lines of a file that never became requests.

        Args:
            rejected: What was refused; `line_number` tells lines of one source apart.
            source: Digest of the file, so that a resumed run doubles nothing.

        Returns:
            How many of them are new.
        """
        return self._rejects.append([(None, item) for item in rejected], source=source)

    def reject_requests(self, rejected: Sequence[Rejected], *, bank: str = "") -> int:
        """Write down requests of the log that cannot become experts; they are not pending any more.

        Args:
            rejected: What was refused; `edit_id` names the request.
            bank: The bank that refuses them, or "" when no bank could take them.

        Returns:
            How many of them are new.

        Raises:
            InputError: An edit_id is not in the log.
        """
        index = self._index_of(self._table.latest())
        unknown = [item.edit_id for item in rejected if item.edit_id not in index.sequence_of]
        if unknown:
            raise InputError(f"cannot reject {unknown[0]!r}: the request log has no such edit")
        numbered = [(index.sequence_of[item.edit_id], item) for item in rejected]
        return self._rejects.append(numbered, bank=bank)

    def rejects(self) -> list[StoredReject]:
        """All that was refused, in the order of writing."""
        return self._rejects.read()


def _admit(index: _Index, request: EditRequest) -> Admission:
    edit_id, subject_id = request.edit_id, request.subject_id
    is_duplicate = edit_id in index.sequence_of
    if not is_duplicate:
        earlier = index.edits_of.get(subject_id)
        supersedes = earlier[-1] if earlier else ""
        index.add(index.num_requests + 1, edit_id, subject_id, supersedes)
    return Admission(
        sequence=index.sequence_of[edit_id],
        edit_id=edit_id,
        subject_id=subject_id,
        is_duplicate=is_duplicate,
        supersedes=index.supersedes_of[edit_id],
    )


def _to_rows(accepted: Sequence[tuple[Admission, EditRequest]]) -> pa.Table:
    now = datetime.now(UTC)
    return pa.Table.from_pylist(
        [
            {
                "sequence": admission.sequence,
                "edit_id": admission.edit_id,
                "subject_id": admission.subject_id,
                "prompt": request.prompt,
                "target": request.target,
                "image_digest": hashlib.sha256(request.image_bytes).hexdigest(),
                "image_uri": request.image_uri,
                "image_bytes": request.image_bytes,
                "submitter": request.submitter,
                "submitted_at": now,
                "supersedes": admission.supersedes,
            }
            for admission, request in accepted
        ],
        schema=_SCHEMA,
    )


def _from_row(row: dict[str, Any]) -> LoggedRequest:
    request = EditRequest(
        image_bytes=row["image_bytes"],
        prompt=row["prompt"],
        target=row["target"],
        image_uri=row["image_uri"],
        submitter=row["submitter"],
    )
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
