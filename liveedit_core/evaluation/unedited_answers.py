"""What the unedited backbone says: the same for every bank version, so it is asked for once.

Two kinds of questions: a free answer of at most so many tokens, and the argmax at each position of
a given target. A memory keeps both by name; the name says all that an answer depends on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.state_source import StateIdentity


class UneditedQuery(NamedTuple):
    """A question to the unedited backbone."""

    item: BackboneInput
    max_new_tokens: int = 0
    """Longest free answer; 0 asks for the argmax at each target position."""


class UneditedAnswer(NamedTuple):
    """What it says."""

    text: str = ""
    """Free answer; empty under teacher forcing."""
    token_ids: tuple[int, ...] = ()
    """Argmax at each target position; empty for a free answer."""


class AnswerCache(Protocol):
    """Remembers answers; forgetting one costs only the time to compute it again."""

    def read(self, questions: Sequence[UneditedQuery]) -> list[UneditedAnswer | None]:
        """Answers in order; None where there is none."""
        ...

    def keep(self, answers: Mapping[UneditedQuery, UneditedAnswer]) -> None:
        """Remember answers."""
        ...


def remembered(
    questions: Sequence[UneditedQuery],
    memory: AnswerCache | None,
    compute: Callable[[Sequence[int]], Sequence[UneditedAnswer]],
) -> list[UneditedAnswer]:
    """Answers in order, those that nobody remembers computed and kept.

    Args:
        questions: any number, repetitions included; each is computed once.
        memory: None remembers nothing.
        compute: answers the questions at some positions.
    """
    found = memory.read(questions) if memory is not None else [None] * len(questions)
    answers = {q: answer for q, answer in zip(questions, found, strict=True) if answer is not None}
    first = {question: i for i, question in reversed(list(enumerate(questions)))}
    missing = sorted(i for question, i in first.items() if question not in answers)
    new = dict(
        zip([questions[i] for i in missing], compute(missing) if missing else (), strict=True)
    )
    if memory is not None and new:
        memory.keep(new)
    answers |= new
    return [answers[question] for question in questions]


def answer_id(identity: StateIdentity, question: UneditedQuery) -> str:
    """Name of an answer (hex, 64 characters, and how it was asked for).

    Args:
        identity: of the rows that the answer is computed from.
        question: a free answer does not depend on the target.
    """
    item, max_new_tokens = question
    if max_new_tokens:
        item = replace(item, target="")
    return f"{identity.state_id(item)}-{max_new_tokens}"
