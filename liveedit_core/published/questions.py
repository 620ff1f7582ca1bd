"""A record as an edit and its probes, with images by path (METHOD.md 7).

Targets stay as published: a backbone adds the one leading space (`with_space`).
"""

from dataclasses import dataclass

from liveedit_core.published.layout import ANSWER_CUE, TEXT_LOCALITY_ENDING, Layout
from liveedit_core.published.records import PublishedRecord
from liveedit_core.schema import ProbeKind


@dataclass(frozen=True)
class Question:
    """A probe, or the edit itself (`RELIABILITY`)."""

    kind: ProbeKind
    prompt: str
    target: str
    image: str | None
    """Path below the image root."""
    hop: int = 0


def edit_prompt(record: PublishedRecord, layout: Layout) -> str:
    """The prompt of the edit."""
    return record.src + layout.prompt_ending


def questions_of(record: PublishedRecord, layout: Layout) -> tuple[Question, ...]:
    """The edit, then its probes."""
    prompt, rephrased = edit_prompt(record, layout), record.rephrase + layout.prompt_ending
    loc, m_loc = record.loc + TEXT_LOCALITY_ENDING, record.m_loc_q + ANSWER_CUE
    return (
        Question(ProbeKind.RELIABILITY, prompt, record.alt, record.image),
        Question(ProbeKind.TEXT_GENERALITY, rephrased, record.alt, record.image),
        Question(ProbeKind.MODAL_GENERALITY, prompt, record.alt, record.image_rephrase),
        Question(ProbeKind.TEXT_LOCALITY, loc, record.loc_ans, None),
        Question(ProbeKind.MODAL_LOCALITY, m_loc, record.m_loc_a, record.m_loc),
        *(
            Question(ProbeKind.PORTABILITY, item.question, item.answer, record.image, item.hop)
            for item in record.hops
        ),
    )


def entity_of(record: PublishedRecord, layout: Layout) -> str:
    """The entity in the edit's image: VLKEB's entity folder, otherwise the image itself."""
    folder, _, _ = record.image.rpartition("/")
    return folder if layout.has_entity_folders and folder else record.image
