"""The input of a run in temporary files, so that it needs no memory however long it is.

A case that is read back for plans and tables has edits with ids and texts, and no image. Processes
that score it read the images from a copy of the file in the store, in pieces:

cases/<token>/<number>    deleted at the end of the run, or a month later by another one
"""

import contextlib
import functools
import json
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import numpy as np

from infra.requests.request_log import RequestHeader, RequestLog
from infra.requests.request_reader import LoggedRequest
from infra.storage.object_store import ObjectStore
from liveedit_core.errors import StorageUnavailableError
from liveedit_core.schema import Case, EditRequest, Probe, ProbeKind
from workers.failures import retried

Place = tuple[int, int]
"""Start and size of a case in a `CaseFile`."""
NO_CASE = (0, 0)
"""Of a plain request."""
_ENTRY = np.dtype([("edit_id", "S64"), ("start", "<i8"), ("size", "<i8")])
_ENTRIES_AT_ONCE = 1 << 16
_FOLDER = "cases"
_PIECE_BYTES = 1 << 20
"""Of the copy in the store: some cases of 30 to 100 KB, as an evaluation asks for them."""
_PIECES_KEPT = 4
_LEFT_AFTER = timedelta(days=30)
"""Copies of runs that were killed."""


@dataclass(frozen=True, kw_only=True)
class NamedEdit(EditRequest):
    """An edit without its image."""

    known_id: str
    known_subject: str
    place: Place = NO_CASE

    @classmethod
    def of(cls, edit: EditRequest | RequestHeader, place: Place = NO_CASE) -> Self:
        """The same edit, which belongs to the case at a place."""
        names = ("prompt", "target", "image_uri", "submitter", "also_asked", "pixel_digest")
        return cls(
            **{name: getattr(edit, name) for name in names},
            image_bytes=b"",
            known_id=edit.edit_id,
            known_subject=edit.subject_id,
            place=place,
        )

    @property
    def edit_id(self) -> str:
        return self.known_id

    @property
    def subject_id(self) -> str:
        return self.known_subject


def without_images(case: Case, place: Place) -> Case:
    """The case as plans and tables of an evaluation need it."""
    return replace(
        case,
        edit=NamedEdit.of(case.edit, place),
        earlier=tuple(map(NamedEdit.of, case.earlier)),
        probes=tuple(replace(probe, image_bytes=None) for probe in case.probes),
    )


class CaseFile:
    """Whole cases on disk, read back by their place."""

    def __init__(self) -> None:
        self._file = _Appended()

    def add(self, case: Case) -> Place:
        """Write a case; returns its place."""
        images: dict[bytes, int] = {}

        def shown(image: bytes | None) -> int | None:
            return None if image is None else images.setdefault(image, len(images))

        content = {
            **vars(case),
            "tags": dict(case.tags),
            "edit": _packed(case.edit, shown),
            "earlier": [_packed(edit, shown) for edit in case.earlier],
            "probes": [_packed(probe, shown) for probe in case.probes],
        }
        sizes = [len(image) for image in images]
        data = b"\n".join([json.dumps([content, sizes]).encode(), b"".join(images)])
        return self._file.append(data)

    def read(self, place: Place) -> Case:
        return _case(self._file.read(*place))

    def copy_to(self, store: ObjectStore) -> "StoredCases":
        """The cases so far, for other processes."""
        oldest = datetime.now(UTC) - _LEFT_AFTER
        for entry in store.entries(f"{_FOLDER}/"):
            if entry.modified_at < oldest:
                store.delete(entry.key)
        copied = StoredCases(store, f"{_FOLDER}/{uuid.uuid4().hex}/")
        for start in range(0, self._file.num_bytes, _PIECE_BYTES):
            data = self._file.read(start, _PIECE_BYTES)
            store.put(copied.key(start // _PIECE_BYTES), data)
        return copied


@dataclass(frozen=True)
class StoredCases:
    """The copy of a `CaseFile` in a store, and its request log; picklable and small."""

    store: ObjectStore
    prefix: str

    def key(self, number: int) -> str:
        return f"{self.prefix}{number:08d}"

    def __call__(self, cases: Sequence[Case]) -> list[Case]:
        """See `with_images`."""
        return with_images(cases, self._read, lambda edit_ids: _log_of(self.store).find(edit_ids))

    def _read(self, place: Place) -> Case:
        start, size = place
        first, last = start // _PIECE_BYTES, (start + size - 1) // _PIECE_BYTES
        pieces = (_piece(self.store, self.key(number)) for number in range(first, last + 1))
        start -= first * _PIECE_BYTES
        return _case(b"".join(pieces)[start : start + size])

    def delete(self) -> None:
        for key in self.store.list(self.prefix):
            self.store.delete(key)


class FixedCases:
    """Cases to evaluate on, of which only edits and texts are in memory."""

    def __init__(self, cases: Iterable[Case]) -> None:
        """Read the cases one by one."""
        self._file = CaseFile()
        self.cases = [without_images(case, self._file.add(case)) for case in cases]

    def each(self) -> Iterator[Case]:
        """The whole cases, one at a time."""
        return (whole for case in self.cases for whole in self.with_images([case]))

    def with_images(self, cases: Sequence[Case]) -> list[Case]:
        return with_images(cases, self._file.read, lambda edit_ids: ())

    @contextlib.contextmanager
    def stored(self, store: ObjectStore) -> Iterator[StoredCases]:
        """The same for other processes, as long as the context lasts."""
        copied = retried(lambda: self._file.copy_to(store))
        try:
            yield copied
        finally:
            with contextlib.suppress(StorageUnavailableError):  # a later run deletes them
                copied.delete()


@functools.lru_cache(_PIECES_KEPT)
def _piece(store: ObjectStore, key: str) -> bytes:
    return store.get(key)


@functools.lru_cache(1)
def _log_of(store: ObjectStore) -> RequestLog:
    return RequestLog(store)


def with_images(
    cases: Sequence[Case],
    read: Callable[[Place], Case],
    find: Callable[[Collection[str]], Iterable[LoggedRequest]],
) -> list[Case]:
    """Cases that were left `without_images`, perhaps with fewer probes or earlier edits; `find`
    finds the edits of plain requests."""
    plain = [case.edit.edit_id for case in cases if _place_of(case) == NO_CASE]
    logged = {item.request.edit_id: item.request for item in find(plain)} if plain else {}
    whole = []
    for case in cases:
        if (place := _place_of(case)) == NO_CASE:
            whole.append(replace(case, edit=logged[case.edit.edit_id]))
            continue
        full, earlier = read(place), {one.edit_id for one in case.earlier}
        whole.append(
            replace(
                case,
                edit=full.edit,
                earlier=tuple(one for one in full.earlier if one.edit_id in earlier),
                probes=full.probes[: len(case.probes)],
            )
        )
    return whole


def _place_of(case: Case) -> Place:
    return case.edit.place if isinstance(case.edit, NamedEdit) else NO_CASE


def _case(data: bytes) -> Case:
    """A case as `CaseFile` has written it."""
    header, _, rest = data.partition(b"\n")
    content, sizes = json.loads(header)
    images: list[bytes] = []
    for length in sizes:
        images.append(rest[:length])
        rest = rest[length:]
    return Case(
        **{
            **content,
            "edit": _edit(content["edit"], images),
            "earlier": tuple(_edit(item, images) for item in content["earlier"]),
            "probes": tuple(_probe(item, images) for item in content["probes"]),
        }
    )


class EditFile:
    """The edits of an input on disk, in its order, and the places of their cases."""

    def __init__(self) -> None:
        self._file = _Appended()

    def add(self, edit_id: str, place: Place) -> None:
        """Add an edit; a case takes the place of an earlier one, or of a plain request."""
        self._file.append(np.array([(edit_id, *place)], _ENTRY).tobytes())

    def places(self, edit_ids: Collection[str] | None = None) -> dict[str, Place]:
        """The places of those of these edits (by default of all) that the input has, in its
        order."""
        found: dict[str, Place] = {}
        wanted = None if edit_ids is None else np.unique(np.array([*edit_ids], "S64"))
        if wanted is not None and not len(wanted):
            return found
        size = _ENTRY.itemsize * _ENTRIES_AT_ONCE
        for start in range(0, self._file.num_bytes, size):
            entries = np.frombuffer(self._file.read(start, size), _ENTRY)
            if wanted is not None:
                nearest = np.searchsorted(wanted, entries["edit_id"]).clip(max=len(wanted) - 1)
                entries = entries[wanted[nearest] == entries["edit_id"]]
            for name, *place in entries.tolist():
                if place[1] or name.decode() not in found:
                    found[name.decode()] = (place[0], place[1])
        return found


class _Appended:
    """A temporary file that grows."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="liveedit-cases-")  # noqa: SIM115
        self.num_bytes = 0

    def append(self, data: bytes) -> Place:
        """Returns where it is."""
        try:
            self._file.seek(self.num_bytes)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise StorageUnavailableError(
                f"cannot keep the cases in {tempfile.gettempdir()} ({error.strerror}): make room "
                "there, or name another folder with TMPDIR"
            ) from error
        place = (self.num_bytes, len(data))
        self.num_bytes += len(data)
        return place

    def read(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        return self._file.read(size)


def _packed(item: EditRequest | Probe, shown: Any) -> dict[str, Any]:
    return {**vars(item), "image_bytes": shown(item.image_bytes)}


def _edit(content: dict[str, Any], images: Sequence[bytes]) -> EditRequest:
    also_asked = tuple(content["also_asked"])
    number = content["image_bytes"]
    image = None if number is None else images[number]
    return EditRequest(**{**content, "image_bytes": image, "also_asked": also_asked})


def _probe(content: dict[str, Any], images: Sequence[bytes]) -> Probe:
    number = content["image_bytes"]
    image = None if number is None else images[number]
    return Probe(**{**content, "image_bytes": image, "kind": ProbeKind(content["kind"])})
