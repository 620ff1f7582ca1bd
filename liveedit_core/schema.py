"""Edit requests, probes and cases."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class ProbeKind(StrEnum):
    """What a probe tests; the reliability probe is the edit itself."""

    RELIABILITY = "reliability"
    TEXT_GENERALITY = "text_generality"
    MODAL_GENERALITY = "modal_generality"
    TEXT_LOCALITY = "text_locality"
    MODAL_LOCALITY = "modal_locality"
    IMAGE_SWAP_LOCALITY = "image_swap_locality"
    PROMPT_SWAP_LOCALITY = "prompt_swap_locality"
    NEIGHBOUR_LOCALITY = "neighbour_locality"
    NEIGHBOUR_GENERALITY = "neighbour_generality"
    PORTABILITY = "portability"
    CORRECTION = "correction"

    @property
    def is_locality(self) -> bool:
        """Whether the unedited backbone's answer is the right one."""
        return self.value.endswith("_locality")


PAPER_METRICS: tuple[ProbeKind, ...] = (
    ProbeKind.RELIABILITY,
    ProbeKind.TEXT_GENERALITY,
    ProbeKind.MODAL_GENERALITY,
    ProbeKind.TEXT_LOCALITY,
    ProbeKind.MODAL_LOCALITY,
)
"""The five metrics whose mean the paper reports."""


NO_IMAGE = hashlib.sha256().hexdigest()
"""`pixel_digest` of textual edits: what no image shows is the same for all of them."""


def digest_of_parts(parts: Iterable[bytes]) -> str:
    """sha256 over some parts and their lengths (64 hex digits)."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def edit_id_of(
    image_bytes: bytes | None, prompt: str, target: str, also_asked: Iterable[str] = ()
) -> str:
    """sha256 over image bytes, prompt, target and other wordings (64 hex digits)."""
    texts = (prompt, target, *also_asked)
    return digest_of_parts((image_bytes or b"", *(text.encode() for text in texts)))


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """One fact to teach: for this image and prompt, answer this target."""

    image_bytes: bytes | None = field(repr=False)
    """Encoded image (PNG, JPEG, WebP, GIF); None for a textual edit, whose fact is about no image
    and holds whatever image a question shows."""
    prompt: str
    target: str
    image_uri: str = ""
    """Where the image came from; empty if bytes were given."""
    submitter: str = ""
    also_asked: tuple[str, ...] = ()
    """Other wordings of the prompt that the answer holds for."""
    pixel_digest: str = field(default="", compare=False, repr=False)
    """sha256 of the decoded image (`inputs.same_question`); "" if it was not computed yet, or
    without an image."""

    @property
    def edit_id(self) -> str:
        """See `edit_id_of`."""
        return edit_id_of(self.image_bytes, self.prompt, self.target, self.also_asked)

    @property
    def subject_id(self) -> str:
        """Identity of image and prompt: two edits of one subject, with other targets, conflict."""
        return edit_id_of(self.image_bytes, self.prompt, "")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """What an edit taught; the image is part of the ids only."""

    prompt: str
    target: str
    subject_id: str
    """sha256 of image and prompt."""
    pixel_digest: str = ""
    """sha256 of the decoded image, or `NO_IMAGE`; "" if it is not known."""
    thumbnail: str = ""
    """See `inputs.same_question`; "" if it is not known."""


class FactSource(Protocol):
    """Knows what stored edits taught."""

    def images_of(self, edit_ids: Collection[str]) -> Mapping[str, bytes]:
        """The encoded images of some edits, as far as they are known and have one."""
        ...

    def facts_of(self, edit_ids: Collection[str]) -> Mapping[str, Fact]:
        """The facts of some edits; those that are not known are missing."""
        ...


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One question that tests an edit."""

    kind: ProbeKind
    prompt: str
    target: str
    """The right answer; not used for locality probes, where the unedited answer counts."""
    image_bytes: bytes | None = field(default=None, repr=False)
    """Encoded image, or None for a text-only question."""
    variant: str = ""
    """What sort of probe of its kind it is, for tables: "mirrored", "misspelt", "2 hops"."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """An edit and its probes."""

    case_id: str
    edit: EditRequest
    probes: tuple[Probe, ...] = ()
    entity: str = ""
    """Name of the entity in the image; training holds out whole entities."""
    earlier: tuple[EditRequest, ...] = ()
    """Edits taught before `edit` that it corrects in other words."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Strata of tables: {"domain": "photo", "length": "3-5"}."""

    @property
    def requests(self) -> tuple[EditRequest, ...]:
        """Everything that is taught, in order."""
        return (*self.earlier, self.edit)

    def all_probes(self) -> tuple[Probe, ...]:
        """The reliability probe (the edit itself), then the others."""
        own = Probe(
            kind=ProbeKind.RELIABILITY,
            prompt=self.edit.prompt,
            target=self.edit.target,
            image_bytes=self.edit.image_bytes,
        )
        return (own, *self.probes)


def entity_of(cases: Iterable[Case]) -> dict[str, str]:
    """Entity by case_id; a case without one stands for itself."""
    return {case.case_id: case.entity or case.case_id for case in cases}
