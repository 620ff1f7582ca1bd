"""Cases in a temporary file, so that their images need no memory.

What remains in memory is a case whose edits have their ids and texts, and no image.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from infra.requests.request_log import RequestHeader
from liveedit_core.errors import StorageUnavailableError
from liveedit_core.schema import Case, EditRequest, Probe, ProbeKind


@dataclass(frozen=True, kw_only=True)
class NamedEdit(EditRequest):
    """An edit without its image."""

    known_id: str
    known_subject: str

    @classmethod
    def of(cls, edit: EditRequest | RequestHeader) -> Self:
        """The same edit."""
        names = ("prompt", "target", "image_uri", "submitter", "also_asked", "pixel_digest")
        return cls(
            **{name: getattr(edit, name) for name in names},
            image_bytes=b"",
            known_id=edit.edit_id,
            known_subject=edit.subject_id,
        )

    @property
    def edit_id(self) -> str:
        return self.known_id

    @property
    def subject_id(self) -> str:
        return self.known_subject


def without_images(case: Case) -> Case:
    """The case as plans and tables of an evaluation need it."""
    return replace(
        case,
        edit=NamedEdit.of(case.edit),
        earlier=tuple(map(NamedEdit.of, case.earlier)),
        probes=tuple(replace(probe, image_bytes=None) for probe in case.probes),
    )


class CaseFile:
    """Whole cases on disk, read back by their place."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="liveedit-cases-")  # noqa: SIM115
        self._num_bytes = 0

    def add(self, case: Case) -> tuple[int, int]:
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
        try:
            self._file.seek(self._num_bytes)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise StorageUnavailableError(
                f"cannot keep the cases in {tempfile.gettempdir()} ({error.strerror}): make room "
                "there, or name another folder with TMPDIR"
            ) from error
        place = (self._num_bytes, len(data))
        self._num_bytes += len(data)
        return place

    def read(self, place: tuple[int, int]) -> Case:
        start, size = place
        self._file.seek(start)
        header, _, rest = self._file.read(size).partition(b"\n")
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
