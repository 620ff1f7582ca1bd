"""One JSON object from outside becomes an edit request or a case, or is refused with a reason."""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from liveedit_core.inputs.image_roots import ImageRoots
from liveedit_core.inputs.images import decode_image
from liveedit_core.inputs.jsonl import wrong_type
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import RefusedInputError, RejectType
from liveedit_core.inputs.same_question import digest_of_pixels
from liveedit_core.inputs.text import check_text
from liveedit_core.schema import Case, EditRequest, Probe, ProbeKind

_REQUEST_KEYS = ("image", "prompt", "target", "submitter", "also_asked")
_CASE_KEYS = ("edit", "probes", "entity", "earlier", "tags")
_PROBE_KEYS = ("kind", "image", "prompt", "target", "variant")
_RENAMED_KEYS = {"thing": "entity", "hop": "variant"}
"""Keys of earlier files, and their present names."""
MAX_ENTITY_CHARS = 4_096
MAX_LOCATION_CHARS = 4_096
MAX_SUBMITTER_CHARS = 200
MAX_ALSO_ASKED = 16
MAX_EARLIER = 16
MAX_LARGE_IMAGES = 16
"""Of the largest size in one case; of smaller ones more."""
MAX_TAGS = 32
MAX_TAG_CHARS = 200
_KINDS = tuple(kind.value for kind in ProbeKind if kind is not ProbeKind.RELIABILITY)
_KINDS_WITHOUT_IMAGE = (ProbeKind.TEXT_LOCALITY, ProbeKind.PORTABILITY)


class _ReadImage(NamedTuple):
    encoded: bytes
    pixel_digest: str
    uri: str
    num_pixels: int


class RequestParser:
    """Converts the objects of one file."""

    def __init__(self, images: ImageRoots, limits: InputLimits) -> None:
        self._images = images
        self._limits = limits

    def request(self, content: Mapping[str, Any]) -> EditRequest:
        """The request in `content`."""
        return self._request(content, "", {})

    def case(self, content: Mapping[str, Any]) -> Case:
        """The case in `content`."""
        _check_keys(content, allowed=_CASE_KEYS, required=("edit",), where="a case")
        probes, earlier = content.get("probes", []), content.get("earlier", [])
        if not isinstance(content["edit"], dict):
            raise wrong_type("edit", "an object", content["edit"])
        if not isinstance(probes, list):
            raise wrong_type("probes", "a list", probes)
        if not isinstance(earlier, list) or not all(isinstance(item, dict) for item in earlier):
            raise wrong_type("earlier", "a list of objects", earlier)
        if len(earlier) > MAX_EARLIER:
            raise RefusedInputError(
                f"earlier has {len(earlier):,} edits; at most {MAX_EARLIER:,} are accepted",
                RejectType.TOO_MANY_PROBES,
            )
        if len(probes) > self._limits.max_probes:
            raise RefusedInputError(
                f"the case has {len(probes):,} probes; at most {self._limits.max_probes:,} "
                "are accepted",
                RejectType.TOO_MANY_PROBES,
            )
        entity = _optional_text(content.get("entity", ""), "entity", MAX_ENTITY_CHARS)
        # Most probes ask about the edit's own image: each image is read and decoded once per case.
        images: dict[str, _ReadImage] = {}
        edit = self._request(content["edit"], "edit.", images)
        return Case(
            case_id=edit.edit_id,
            edit=edit,
            entity=entity,
            earlier=tuple(
                self._request(item, f"earlier[{index}].", images)
                for index, item in enumerate(earlier)
            ),
            tags=_tags(content.get("tags", {})),
            probes=tuple(
                self._probe(probe, f"probes[{index}]", images, is_textual=edit.image_bytes is None)
                for index, probe in enumerate(probes)
            ),
        )

    def _request(
        self, content: Mapping[str, Any], prefix: str, images: dict[str, _ReadImage]
    ) -> EditRequest:
        where = prefix.rstrip(".") or "a request"
        _check_keys(content, allowed=_REQUEST_KEYS, required=("prompt", "target"), where=where)
        prompt = check_text(content["prompt"], f"{prefix}prompt", self._limits.max_prompt_chars)
        target = check_text(content["target"], f"{prefix}target", self._limits.max_target_chars)
        submitter = check_submitter(content.get("submitter", ""), f"{prefix}submitter")
        also_asked = check_also_asked(
            content.get("also_asked", []), f"{prefix}also_asked", self._limits.max_prompt_chars
        )
        request = EditRequest(
            image_bytes=None,
            prompt=prompt,
            target=target,
            submitter=submitter,
            also_asked=also_asked,
        )
        if content.get("image") is None:
            return request
        image = self._image(content["image"], f"{prefix}image", images)
        return replace(
            request,
            image_bytes=image.encoded,
            pixel_digest=image.pixel_digest,
            image_uri=image.uri,
        )

    def _probe(
        self, content: object, where: str, images: dict[str, _ReadImage], *, is_textual: bool
    ) -> Probe:
        if not isinstance(content, dict):
            raise wrong_type(where, "an object", content)
        _check_keys(content, allowed=_PROBE_KEYS, required=("kind", "prompt"), where=where)
        kind = _probe_kind(content["kind"], where)
        prompt = check_text(content["prompt"], f"{where}.prompt", self._limits.max_prompt_chars)
        target, name = content.get("target", ""), f"{where}.target"
        if kind.is_locality:  # the right answer is the unedited backbone's: none need be given
            target = _optional_text(target, name, self._limits.max_locality_target_chars)
        else:
            check_text(target, name, self._limits.max_target_chars)
        image = content.get("image")
        if image is None and not (is_textual or kind in _KINDS_WITHOUT_IMAGE):
            raise RefusedInputError(
                f"{where}.image is missing: a {kind.value} probe asks about an image",
                RejectType.MISSING_KEY,
            )
        if image is not None and kind is ProbeKind.TEXT_LOCALITY:
            raise RefusedInputError(
                f"{where}.image must be left out: text_locality asks without an image "
                "(modal_locality asks with one)",
                RejectType.WRONG_TYPE,
            )
        shown = None if image is None else self._image(image, f"{where}.image", images)
        image_bytes = shown and shown.encoded
        variant = _optional_text(content.get("variant", ""), f"{where}.variant", MAX_TAG_CHARS)
        return Probe(
            kind=kind, prompt=prompt, target=target, image_bytes=image_bytes, variant=variant
        )

    def _image(self, location: object, name: str, images: dict[str, _ReadImage]) -> "_ReadImage":
        text = check_text(location, name, MAX_LOCATION_CHARS)
        if text not in images:
            try:
                uri = self._images.uri_of(text)
                image_bytes = self._images.read(uri, max_bytes=self._limits.max_image_bytes)
                image = decode_image(image_bytes, max_pixels=self._limits.max_image_pixels)
            except RefusedInputError as error:
                message = f"{name} {text!r}: {error.message}"
                raise RefusedInputError(message, error.error_type) from error
            pixels = image.width * image.height
            images[text] = _ReadImage(image_bytes, digest_of_pixels(image), uri, pixels)
            self._check_together(images.values())
        return images[text]

    def _check_together(self, images: Collection[_ReadImage]) -> None:
        """Refuse a case whose images together are too large: all are in memory at one time."""
        for what, total, limit in (
            ("bytes", sum(len(one.encoded) for one in images), self._limits.max_image_bytes),
            ("pixels", sum(one.num_pixels for one in images), self._limits.max_image_pixels),
        ):
            if total > MAX_LARGE_IMAGES * limit:
                raise RefusedInputError(
                    f"the images of the case have more than {MAX_LARGE_IMAGES * limit:,} {what} "
                    "together: scale them down",
                    RejectType.IMAGE_TOO_LARGE,
                )


def check_submitter(value: object, name: str = "submitter") -> str:
    """Return the name of who submits; it may be ""."""
    return _optional_text(value, name, MAX_SUBMITTER_CHARS)


def check_also_asked(value: object, name: str, max_chars: int) -> tuple[str, ...]:
    """Return other wordings of a prompt, each checked as a prompt is."""
    if not isinstance(value, list | tuple):
        raise wrong_type(name, "a list of texts", value)
    if len(value) > MAX_ALSO_ASKED:
        raise RefusedInputError(
            f"{name} has {len(value):,} wordings; at most {MAX_ALSO_ASKED:,} are accepted",
            RejectType.TOO_MANY_WORDINGS,
        )
    return tuple(
        check_text(text, f"{name}[{index}]", max_chars) for index, text in enumerate(value)
    )


def _optional_text(value: object, name: str, max_chars: int) -> str:
    return "" if value == "" else check_text(value, name, max_chars)


def _check_keys(
    content: Mapping[str, Any], *, allowed: tuple[str, ...], required: tuple[str, ...], where: str
) -> None:
    for key in content:
        if key not in allowed:
            raise RefusedInputError(
                f"unknown key {key[:80]!r} in {where}; {_key_hint(key, allowed)}",
                RejectType.UNKNOWN_KEY,
            )
    for key in required:
        if key not in content:
            raise RefusedInputError(f"key {key!r} is missing in {where}", RejectType.MISSING_KEY)


def _key_hint(key: str, allowed: tuple[str, ...]) -> str:
    if _RENAMED_KEYS.get(key) in allowed:
        return f"it is now called {_RENAMED_KEYS[key]!r}"
    near = difflib.get_close_matches(key, allowed, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(allowed)}"


def _probe_kind(value: object, where: str) -> ProbeKind:
    if not isinstance(value, str):
        raise wrong_type(f"{where}.kind", "a text", value)
    if value not in _KINDS:
        reason = f"is no known probe kind; known: {', '.join(_KINDS)}"
        if value == ProbeKind.RELIABILITY:
            reason = "is the edit itself, which is always evaluated: leave it out"
        raise RefusedInputError(
            f"{where}.kind {value[:80]!r} {reason}", RejectType.UNKNOWN_PROBE_KIND
        )
    return ProbeKind(value)


def _tags(value: object) -> dict[str, str]:
    """Strata of a case."""
    if not isinstance(value, dict):
        raise wrong_type("tags", "an object", value)
    if len(value) > MAX_TAGS:
        raise RefusedInputError(
            f"tags has {len(value):,} keys; at most {MAX_TAGS:,} are accepted",
            RejectType.WRONG_TYPE,
        )
    return {
        check_text(key, "a key of tags", MAX_TAG_CHARS): check_text(
            text, f"tags.{key[:80]}", MAX_TAG_CHARS
        )
        for key, text in value.items()
    }
