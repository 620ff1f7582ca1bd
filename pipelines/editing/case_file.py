"""The input of a run in temporary files, so that it needs no memory however long it is.

A case that is read back for plans and tables has edits with ids and texts, and no image.
"""

import json
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from infra.requests.request_log import RequestHeader
from liveedit_core.errors import StorageUnavailableError
from liveedit_core.schema import Case, EditRequest, Probe, ProbeKind

Place = tuple[int, int]
"""Start and size of a case in a `CaseFile`."""
NO_CASE = (0, 0)
"""Of a plain request."""
_ENTRY = np.dtype([("edit_id", "S64"), ("start", "<i8"), ("size", "<i8")])
_ENTRIES_AT_ONCE = 1 << 16


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
        header, _, rest = self._file.read(*place).partition(b"\n")
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
