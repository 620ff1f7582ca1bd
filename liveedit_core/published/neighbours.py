"""Questions about samples that a record names as its neighbours (ComprehendEdit).

neighbour_generality    samples of the file with the edits: their own answer is right
neighbour_locality      samples that the models of its authors answered rightly: the unedited
                        answer is right
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from liveedit_core.published.layout import Layout
from liveedit_core.published.records import PublishedRecord, Question

NUM_ASKED = 4
"""Samples of each list that are asked about: the most that the tables of the authors' code use."""
NUMBER_KEY = "pid"


@dataclass
class Samples:
    """Samples of one file by number: their `pid`, or their position where they have none."""

    questions: dict[int, Question | None] = field(default_factory=dict)
    """None: the sample has no answer, or is no sample."""

    def add(self, content: object, question: Question | None) -> str:
        """Add the next sample of the file; returns what is wrong with its number, or ""."""
        position = len(self.questions)
        number = content.get(NUMBER_KEY, position) if isinstance(content, dict) else position
        if type(number) is not int:
            return f"{NUMBER_KEY} must be a whole number"
        if number in self.questions:
            return f"{NUMBER_KEY} {number} is that of an earlier record"
        self.questions[number] = question if question and question.target else None
        return ""


def with_neighbours(
    record: PublishedRecord, layout: Layout, own: Samples, others: Samples, problems: list[str]
) -> PublishedRecord:
    """The record with questions about its neighbours; unknown ones go to `problems`."""
    left_out = set()

    def questions() -> Iterator[Question]:
        for key, numbers in record.neighbours.items():
            about = layout.neighbours[key]
            samples = (others if about.kind.is_locality else own).questions
            if not samples:
                left_out.add(f"{about.kind} left out because {layout.samples_file} is not there")
                continue
            for number in numbers[-NUM_ASKED:] if about.is_farthest else numbers[:NUM_ASKED]:
                sample = samples.get(number)
                if sample is not None:
                    yield replace(sample, kind=about.kind, variant=about.variant)
                elif number not in samples:
                    problems.append(f"{record.place}: {key} names sample {number}: there is none")

    asked = dict.fromkeys((*record.questions, *questions()))
    return replace(record, questions=tuple(asked), left_out=(*record.left_out, *left_out))
