"""The log of all requests ever accepted, and of everything that was rejected.

Every bank can be rebuilt from it. So images are stored as bytes even where a URI is known, because
the object behind a URI may change or vanish.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from lance import LanceDataset

from infra.requests.change_log import ChangeLog
from infra.requests.reject_log import RejectLog
from infra.requests.request_index import LOST_PLACE, RequestIndex, RequestKey, read_index
from infra.requests.request_reader import (
    REQUEST_COLUMNS,
    LoggedRequest,
    RequestReader,
    with_texts,
)
from infra.requests.subject_log import SubjectLog
from infra.storage.checksums import TableChecksums
from infra.storage.object_store import ObjectStore
from infra.storage.tables import (
    Table,
    batches_of,
    count_rows,
    not_null,
    read_rows,
    select_in,
    sql_in,
)
from infra.storage.upkeep import Upkeep
from liveedit_core.errors import InputError
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.inputs.same_question import pixel_digest, question_id
from liveedit_core.schema import EditRequest

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
_SCHEMA = pa.schema(
    [
        *_STORED_BEFORE,
        pa.field("also_asked", pa.list_(pa.string())),
        *(pa.field(name, pa.string()) for name in ("pixel_digest", "question_id", "source")),
        pa.field("place", pa.int64()),
    ]
)
"""A log of an earlier release gets the new columns with the next append. `image_bytes` are empty
without an image."""
INDEXED_COLUMNS = (
    *("sequence", "edit_id", "subject_id"),
    *("pixel_digest", "question_id", "source"),
)
"""By which the table is searched."""


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
    pixel_digest: str = ""
    """"" for requests of an earlier release."""


class RequestLog:
    """The tables `requests` and `rejects` of a store."""

    def __init__(self, store: ObjectStore) -> None:
        self._table = Table.open_or_create(store, _TABLE, _SCHEMA)
        self.store = store
        self.checksums = TableChecksums.of_log(store)
        self.rejects = RejectLog(store)
        self.changes = ChangeLog(store)
        self.subjects = SubjectLog(store)
        self._upkeep = Upkeep(self._table, INDEXED_COLUMNS, self.checksums)
        self._places = ("", 0, 0)
        """A source, its last place, and how many rows of the log have been read for that."""

    @staticmethod
    def exists(store: ObjectStore) -> bool:
        """Whether a store has a request log; opening one creates it."""
        return Table(store, _TABLE).exists()

    def index(self) -> RequestIndex:
        """Numbers and subjects of all requests: reads the whole log."""
        return self._table.on_latest(lambda base: read_index(base, self.subjects))

    def index_of(
        self,
        edit_ids: Iterable[str] = (),
        *,
        subject_ids: Iterable[str] = (),
        pixel_digests: Iterable[str] = (),
        sequences: Collection[int] = (),
    ) -> RequestIndex:
        """Numbers and subjects of some requests, and of those that share a subject with them."""
        wanted = {"edit_id": edit_ids, "subject_id": subject_ids, "pixel_digest": pixel_digests}
        sets = {column: set(texts) for column, texts in wanted.items()}
        return self._table.on_latest(
            lambda base: read_index(base, self.subjects, sets, sequences=sequences)
        )

    def __len__(self) -> int:
        return count_rows(self._table.latest())

    def append(
        self, requests: Sequence[EditRequest], *, source: str = "", first_place: int = 1
    ) -> list[Admission]:
        """Number new requests in order and store them in one commit; pass some dozens at once.

        An edit that is in the log is a duplicate, unless a later one of its image and question
        overtook it: then its author came back to it. That is decided once for each place of a
        source, so that reading a source again changes nothing; without `source`, never.
        """

        def attempt(base: LanceDataset) -> list[Admission]:
            index = self._index_for(base, requests)
            num_logged = count_rows(base)
            admissions: list[Admission] = []
            rows: list[dict[str, Any]] = []
            again: list[int] = []
            for place, request in enumerate(requests, first_place):
                found = index.found_again(request, source=source, place=place)
                number = num_logged + len(rows) - len(again) + 1
                again += [item["sequence"] for item in found]
                index.lost.difference_update(again)
                row = None
                if not found:
                    row = index.new_row(
                        request,
                        number=number,
                        source=source,
                        place=place,
                        last_place=lambda: self._last_place(base, source),
                    )
                rows += [_to_row(item, request) for item in ([row] if row else found)]
                key = index.add(row) if row else index.newest(request.edit_id)
                assert key is not None
                is_duplicate = row is None and key.sequence not in again
                admissions.append(Admission(**vars(key), is_duplicate=is_duplicate))
            if rows:
                self.write(base, pa.Table.from_pylist(rows, _SCHEMA), again=again)
            return admissions

        self.add_missing_columns()
        admissions = self._table.on_latest(attempt)
        self._upkeep.count(sum(not item.is_duplicate for item in admissions))
        return admissions

    def _index_for(self, base: LanceDataset, requests: Sequence[EditRequest]) -> RequestIndex:
        """What decides whether these requests are new, and what they supersede."""
        pixels_of = {request.edit_id: pixel_digest(request) for request in requests}
        wanted = {
            "edit_id": set(pixels_of),
            "question_id": {question_id(request) for request in requests},
            "subject_id": {request.subject_id for request in requests},
        }
        index = read_index(base, self.subjects, wanted)
        known = {pixels for key, pixels in pixels_of.items() if key in index.numbers_of}
        if not known:
            return index
        return read_index(base, self.subjects, {**wanted, "pixel_digest": known})

    def _last_place(self, base: LanceDataset, source: str) -> int:
        """Place of the last request of a source that the log holds; 0 if there is none."""
        known, last, num_read = self._places
        if known == source:
            rows = read_rows(base, ["source", "place"], offset=num_read)
            rows = rows.filter(pc.equal(rows.column("source"), source))
        else:
            last, rows = 0, read_rows(base, ["place"], filter=sql_in("source", [source]))
        places: list[int] = rows.column("place").to_pylist()
        last = max([last, *places])
        self._places = (source, last, count_rows(base))
        return last

    def add_missing_columns(self) -> None:
        """Give a log of an earlier release all columns."""
        self._table.add_missing_columns(_SCHEMA)

    def write(
        self,
        base: LanceDataset,
        rows: pa.Table,
        *,
        again: Sequence[int] = (),
        without_fragments: Collection[int] = (),
    ) -> int:
        """Commit rows with their checksums, in place of lost ones or of whole fragments."""
        written = self.checksums.write_rows(self._table, rows) if len(rows) else []
        return self._table.commit(
            base,
            [fragment for fragment, _ in written],
            without=f"sequence IN ({', '.join(map(str, again))})" if again else None,
            without_fragments=without_fragments,
        )

    @property
    def table(self) -> Table:
        return self._table

    def reader(self) -> RequestReader:
        """What a worker needs to read requests."""
        return RequestReader(self._table)

    def read(self, sequences: Sequence[int] | None = None) -> Iterator[LoggedRequest]:
        """Read requests with their images, by sequence, a few at a time; all by default."""
        return self.reader().read(sequences)

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
            rows = read_rows(dataset, names, filter=begins)
        if submitter:
            rows = rows.filter(pc.equal(rows.column("submitter"), submitter))
        if since:
            rows = rows.filter(pc.greater_equal(rows.column("submitted_at"), pa.scalar(since)))
        if until:
            rows = rows.filter(pc.less(rows.column("submitted_at"), pa.scalar(until)))
        keys = self.index_of(rows.column("edit_id").to_pylist()).keys
        return [
            RequestHeader(**{**with_texts(row), **vars(keys[row["sequence"]])})
            for row in rows.sort_by("sequence").to_pylist()
        ]

    def sequences(self) -> npt.NDArray[np.int64]:
        """The numbers of all requests."""
        rows = self._table.on_latest(lambda base: read_rows(base, ["sequence"]))
        numbers: npt.NDArray[np.int64] = rows.column("sequence").to_numpy()
        return numbers

    def keys_of(self, edit_ids: Sequence[str]) -> Iterator[RequestKey]:
        """The requests of some edits, a few at a time, each time by sequence; an edit whose author
        came back to it has several."""
        for part in batches_of(edit_ids):
            keys, wanted = self.index_of(part).keys, set(part)
            yield from (key for key in keys.values() if key.edit_id in wanted)

    def find(self, edit_ids: Collection[str]) -> Iterator[LoggedRequest]:
        """The requests of some edits, by sequence; unknown and lost ones are skipped."""
        yield from self.read(self.sequences_of(edit_ids))

    def subjects_of(self, edit_ids: Collection[str]) -> dict[str, str]:
        """The subject of each edit; InputError when the log lacks one of them."""
        found = self.index_of(edit_ids).subjects(edit_ids)
        unknown = [edit_id for edit_id in edit_ids if edit_id not in found]
        if unknown:
            raise InputError(f"the request log has no edit {unknown[0]!r}")
        return found

    def lost(self) -> set[int]:
        """Numbers of the requests whose rows were damaged, until they are sent again."""
        dataset = self._table.latest()
        if "place" not in dataset.schema.names:
            return set()
        rows = read_rows(dataset, ["sequence"], filter=f"place = {LOST_PLACE}")
        return set(rows.column("sequence").to_pylist())

    def numbers_of(
        self, edit_ids: Collection[str], *, with_lost: bool = True
    ) -> dict[str, list[int]]:
        """The numbers of each of these edits that the log holds, ascending."""

        def numbered(base: LanceDataset) -> pa.Table:
            names = [name for name in ("sequence", "edit_id", "place") if name in base.schema.names]
            return select_in(base, names, "edit_id", edit_ids)

        numbers_of: dict[str, list[int]] = {}
        for row in self._table.on_latest(numbered).sort_by("sequence").to_pylist():
            if with_lost or row.get("place") != LOST_PLACE:
                numbers_of.setdefault(row["edit_id"], []).append(row["sequence"])
        return numbers_of

    def sequences_of(self, edit_ids: Collection[str]) -> list[int]:
        """Newest numbers of some edits; unknown edits and lost requests are skipped."""
        found = self.numbers_of(edit_ids, with_lost=False)
        return [found[edit_id][-1] for edit_id in edit_ids if edit_id in found]

    def edits_of_subjects(self, subject_ids: Collection[str]) -> dict[str, list[tuple[int, str]]]:
        """Sequence and edit_id of each subject's edits, in the order of the log."""
        edits_of = self.index_of(subject_ids=subject_ids).edits_of
        return {
            subject_id: edits_of[subject_id] for subject_id in subject_ids if subject_id in edits_of
        }

    def reject_lines(self, rejected: Sequence[Rejected], *, source: str) -> int:
        """Store rejected lines of the file with digest `source`; returns how many are new."""
        return self.rejects.append([(None, item) for item in rejected], source=source)

    def reject_requests(self, rejected: Sequence[Rejected], *, bank: str = "") -> int:
        """Store requests that `bank`, or with "" every bank, rejects; returns how many are new."""
        numbers_of = self.numbers_of({item.edit_id for item in rejected})
        unknown = [item.edit_id for item in rejected if item.edit_id not in numbers_of]
        if unknown:
            raise InputError(f"cannot reject {unknown[0]!r}: the request log has no such edit")
        numbered = [(number, item) for item in rejected for number in numbers_of[item.edit_id]]
        return self.rejects.append(numbered, bank=bank)


def _to_row(row: dict[str, Any], request: EditRequest) -> dict[str, Any]:
    image = request.image_bytes or b""
    return {
        **{name: getattr(request, name) for name in REQUEST_COLUMNS},
        **row,
        "image_bytes": image,
        "image_digest": hashlib.sha256(image).hexdigest(),
        "submitted_at": datetime.now(UTC),
    }
