"""One JSON object from outside becomes an edit request or a case, or is refused with a reason."""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from liveedit_core.errors import LiveEditError
from liveedit_core.inputs.images import check_image_bytes, decode_image, read_image_file
from liveedit_core.inputs.jsonl import json_type_name
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import RefusedInputError, RejectType
from liveedit_core.schema import Case, EditRequest, Probe, ProbeKind

Fetch = Callable[[str], bytes]
"""Gets the bytes behind an object-store URI.

A retryable error says nothing about the image and stops the reading of the whole file, which is
read again later; any other exception means that this image cannot be had.
"""

_REQUEST_KEYS = ("image", "prompt", "target", "submitter")
_CASE_KEYS = ("edit", "probes", "entity")
_PROBE_KEYS = ("kind", "image", "prompt", "target", "hop")
MAX_ENTITY_CHARS = 4_096
MAX_HOP = 16
_KINDS = tuple(kind.value for kind in ProbeKind if kind is not ProbeKind.RELIABILITY)
_KINDS_WITHOUT_IMAGE = (ProbeKind.TEXT_LOCALITY, ProbeKind.PORTABILITY)


class RequestParser:
    """Turns the objects of one file into requests and cases; images are read and decoded."""

    def __init__(self, *, folder: Path | str, limits: InputLimits, fetch: Fetch | None) -> None:
        """Set up for one file.

        Args:
            folder: Where relative images start from: a folder, or an `s3://` URI as a text.
            limits: How much is accepted.
            fetch: Gets images by `s3://` URI; None refuses them.
        """
        self._folder = folder
        self._limits = limits
        self._fetch = fetch

    def request(self, content: Mapping[str, Any]) -> EditRequest:
        """The request in `content`; raises `InputError` with the reason for a refusal."""
        return self._request(content, "", {})

    def case(self, content: Mapping[str, Any]) -> Case:
        """The case in `content`; raises `InputError` with the reason for a refusal."""
        _check_keys(content, allowed=_CASE_KEYS, required=("edit",), where="a case")
        probes = content.get("probes", [])
        if not isinstance(content["edit"], dict):
            raise _wrong_type("edit", "an object", content["edit"])
        if not isinstance(probes, list):
            raise _wrong_type("probes", "a list", probes)
        if len(probes) > self._limits.max_probes:
            raise RefusedInputError(
                f"the case has {len(probes):,} probes; at most {self._limits.max_probes:,} "
                "are accepted",
                error_type=RejectType.TOO_MANY_PROBES,
            )
        entity = content.get("entity", "")
        if entity != "":
            check_text(entity, "entity", MAX_ENTITY_CHARS)
        # Most probes ask about the edit's own image: each is read and decoded once a case.
        images: dict[str, bytes] = {}
        edit = self._request(content["edit"], "edit.", images)
        return Case(
            case_id=edit.edit_id,
            edit=edit,
            entity=entity,
            probes=tuple(
                self._probe(probe, f"probes[{index}]", images) for index, probe in enumerate(probes)
            ),
        )

    def _request(
        self, content: Mapping[str, Any], prefix: str, images: dict[str, bytes]
    ) -> EditRequest:
        _check_keys(
            content,
            allowed=_REQUEST_KEYS,
            required=_REQUEST_KEYS[:3],
            where=f"{prefix.rstrip('.') or 'a request'}",
        )
        prompt = check_text(content["prompt"], f"{prefix}prompt", self._limits.max_prompt_chars)
        target = check_text(content["target"], f"{prefix}target", self._limits.max_target_chars)
        submitter = content.get("submitter", "")
        if submitter != "":
            check_text(submitter, f"{prefix}submitter", 200)
        image_bytes = self._image(content["image"], f"{prefix}image", images)
        return EditRequest(
            image_bytes=image_bytes,
            prompt=prompt,
            target=target,
            image_uri=self._uri_of(self._absolute(content["image"])),
            submitter=submitter,
        )

    def _probe(self, content: object, where: str, images: dict[str, bytes]) -> Probe:
        if not isinstance(content, dict):
            raise _wrong_type(where, "an object", content)
        _check_keys(content, allowed=_PROBE_KEYS, required=("kind", "prompt"), where=where)
        kind = _probe_kind(content["kind"], where)
        prompt = check_text(content["prompt"], f"{where}.prompt", self._limits.max_prompt_chars)
        target = content.get("target", "")
        # The right answer to a locality probe is the unedited backbone's: none need be given.
        if target != "" or not kind.is_locality:
            most = self._limits.max_target_chars
            most = self._limits.max_locality_target_chars if kind.is_locality else most
            check_text(target, f"{where}.target", most)
        image = content.get("image")
        if image is None and kind not in _KINDS_WITHOUT_IMAGE:
            raise RefusedInputError(
                f"{where}.image is missing: a {kind.value} probe asks about an image",
                error_type=RejectType.MISSING_KEY,
            )
        if image is not None and kind is ProbeKind.TEXT_LOCALITY:
            raise RefusedInputError(
                f"{where}.image must be left out: text_locality asks without an image "
                "(modal_locality asks with one)",
                error_type=RejectType.WRONG_TYPE,
            )
        image_bytes = None if image is None else self._image(image, f"{where}.image", images)
        hop = _hop(content.get("hop", 0), kind, where)
        return Probe(kind=kind, prompt=prompt, target=target, image_bytes=image_bytes, hop=hop)

    def _image(self, location: object, name: str, images: dict[str, bytes]) -> bytes:
        text = self._absolute(check_text(location, name, 4_096))
        if text not in images:
            try:
                image_bytes = self._read(text)
                check_image_bytes(image_bytes, max_bytes=self._limits.max_image_bytes)
                decode_image(image_bytes, max_pixels=self._limits.max_image_pixels)
            except RefusedInputError as error:
                message = f"{name} {text!r}: {error.message}"
                raise RefusedInputError(message, error_type=error.error_type) from error
            images[text] = image_bytes
        return images[text]

    def _read(self, location: str) -> bytes:
        if "://" not in location or location.startswith("file://"):
            return read_image_file(self._path_of(location), max_bytes=self._limits.max_image_bytes)
        if not location.startswith("s3://"):
            raise RefusedInputError(
                "only a path, file:// or s3:// is read", error_type=RejectType.IMAGE_UNREACHABLE
            )
        if self._fetch is None:
            raise RefusedInputError(
                "no object store is set up here to read s3:// from",
                error_type=RejectType.IMAGE_UNREACHABLE,
            )
        try:
            return self._fetch(location)
        except RefusedInputError:
            raise
        except Exception as error:
            if isinstance(error, LiveEditError) and error.retryable:
                raise
            # Whatever else the caller's store raises: this line is refused, the stream goes on.
            raise RefusedInputError(
                f"cannot be fetched ({error})", error_type=RejectType.IMAGE_UNREACHABLE
            ) from error

    def _absolute(self, location: str) -> str:
        """An image beside a file in an object store has a URI; other paths stay as they are."""
        is_remote = isinstance(self._folder, str) and "://" not in location
        return f"{self._folder}/{location}" if is_remote else location

    def _path_of(self, location: str) -> Path:
        if location.startswith("file://"):
            return Path(url2pathname(urlsplit(location).path))
        return Path(self._folder) / location

    def _uri_of(self, location: str) -> str:
        is_local = "://" not in location or location.startswith("file://")
        return self._path_of(location).resolve().as_uri() if is_local else location


def check_text(value: object, name: str, max_chars: int) -> str:
    """Return `value` if it is a text with something in it that can be stored as UTF-8.

    Raises:
        InputError: Not a text, empty, too long, or not encodable.
    """
    if not isinstance(value, str):
        raise _wrong_type(name, "a text", value)
    if not value.strip():
        raise RefusedInputError(f"{name} is empty", error_type=RejectType.EMPTY_TEXT)
    if len(value) > max_chars:
        raise RefusedInputError(
            f"{name} has {len(value):,} characters; at most {max_chars:,} are accepted: shorten it",
            error_type=RejectType.TEXT_TOO_LONG,
        )
    return _encodable(value, name)


def _check_keys(
    content: Mapping[str, Any], *, allowed: tuple[str, ...], required: tuple[str, ...], where: str
) -> None:
    for key in content:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(allowed)}"
            raise RefusedInputError(
                f"unknown key {key[:80]!r} in {where}; {hint}", error_type=RejectType.UNKNOWN_KEY
            )
    for key in required:
        if key not in content:
            raise RefusedInputError(
                f"key {key!r} is missing in {where}", error_type=RejectType.MISSING_KEY
            )


def _probe_kind(value: object, where: str) -> ProbeKind:
    if not isinstance(value, str):
        raise _wrong_type(f"{where}.kind", "a text", value)
    if value not in _KINDS:
        reason = (
            "is the edit itself and is asked without being listed"
            if value == ProbeKind.RELIABILITY
            else f"is no known probe kind; known: {', '.join(_KINDS)}"
        )
        raise RefusedInputError(
            f"{where}.kind {value[:80]!r} {reason}", error_type=RejectType.UNKNOWN_PROBE_KIND
        )
    return ProbeKind(value)


def _hop(value: object, kind: ProbeKind, where: str) -> int:
    """How many steps a portability probe takes; 0 where it does not say."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(f"{where}.hop", "a whole number", value)
    if not 0 <= value <= MAX_HOP or (value and kind is not ProbeKind.PORTABILITY):
        raise RefusedInputError(
            f"{where}.hop is for portability probes, from 1 to {MAX_HOP}; "
            f"got {value} in a {kind.value} probe",
            error_type=RejectType.WRONG_TYPE,
        )
    return value


def _encodable(text: str, name: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RefusedInputError(
            f"{name} holds half of a character pair (\\ud800 to \\udfff) at position "
            f"{error.start + 1}",
            error_type=RejectType.BAD_TEXT,
        ) from error
    return text


def _wrong_type(name: str, expected: str, value: object) -> RefusedInputError:
    return RefusedInputError(
        f"{name} must be {expected}, got {json_type_name(value)}",
        error_type=RejectType.WRONG_TYPE,
    )
