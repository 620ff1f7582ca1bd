"""A record as an edit and its probes, with images by path (METHOD.md 7).

Targets stay as published: a backbone puts the one leading space before them (`with_space`).
"""

from dataclasses import dataclass

from liveedit_core.published.layout import ANSWER_CUE, TEXT_LOCALITY_ENDING, Layout
from liveedit_core.published.records import PublishedRecord
from liveedit_core.schema import ProbeKind


@dataclass(frozen=True, kw_only=True)
class Question:
    """A probe, or the edit itself (`RELIABILITY`)."""

    kind: ProbeKind
    prompt: str
    target: str
    image: str | None
    """Path below the image root."""
    hop: int = 0


def edit_prompt(record: PublishedRecord, layout: Layout) -> str:
    """The prompt that is taught."""
    return record.src + layout.prompt_ending


def questions_of(record: PublishedRecord, layout: Layout) -> tuple[Question, ...]:
    """The edit, then its probes."""
    kind = ProbeKind
    prompt = edit_prompt(record, layout)
    asked: list[tuple[ProbeKind, str, str, str | None]] = [
        (kind.RELIABILITY, prompt, record.alt, record.image),
        (kind.TEXT_GENERALITY, record.rephrase + layout.prompt_ending, record.alt, record.image),
        (kind.MODAL_GENERALITY, prompt, record.alt, record.image_rephrase),
        (kind.TEXT_LOCALITY, record.loc + TEXT_LOCALITY_ENDING, record.loc_ans, None),
        (kind.MODAL_LOCALITY, record.m_loc_q + ANSWER_CUE, record.m_loc_a, record.m_loc),
    ]
    plain = [Question(kind=k, prompt=p, target=t, image=at) for k, p, t, at in asked]
    hops = [
        Question(
            kind=kind.PORTABILITY,
            prompt=item.question,
            target=item.answer,
            image=record.image,
            hop=item.hop,
        )
        for item in record.hops
    ]
    return (*plain, *hops)


def entity_of(record: PublishedRecord, layout: Layout) -> str:
    """What the edit's image shows: VLKEB's entity folder, otherwise the image itself."""
    folder, _, _ = record.image.rpartition("/")
    return folder if layout.has_entity_folders and folder else record.image
