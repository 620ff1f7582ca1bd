"""Answers of the unedited backbone: the same for every bank version, so they are computed once.

A cache keeps them by an id that covers everything an answer depends on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.state_source import StateIdentity


class UneditedQuery(NamedTuple):
    """One input to the unedited backbone."""

    item: BackboneInput
    max_new_tokens: int = 0
    """Upper bound of a free answer; 0: the argmax at each target position and after the target
    instead."""


class UneditedAnswer(NamedTuple):
    """The backbone's answer to a query."""

    text: str = ""
    """Free answer; empty under teacher forcing."""
    token_ids: tuple[int, ...] = ()
    """Argmax at each target position and after the target; empty for a free answer."""


class AnswerCache(Protocol):
    """Stores answers; a lost one costs only the time to compute it again."""

    def read(self, queries: Sequence[UneditedQuery]) -> list[UneditedAnswer | None]:
        """Answers in order; None where there is none."""
        ...

    def write(self, answers: Mapping[UneditedQuery, UneditedAnswer]) -> None: ...


def cached_answers(
    queries: Sequence[UneditedQuery],
    cache: AnswerCache | None,
    compute: Callable[[Sequence[int]], Sequence[UneditedAnswer]],
) -> list[UneditedAnswer]:
    """Answers in order; those not in the cache are computed and added to it. `compute` answers the
    queries at the given positions; a repeated query is computed once."""
    found = cache.read(queries) if cache is not None else [None] * len(queries)
    answers = {q: answer for q, answer in zip(queries, found, strict=True) if answer is not None}
    first = {query: i for i, query in reversed(list(enumerate(queries)))}
    missing = sorted(i for query, i in first.items() if query not in answers)
    if missing:
        new = dict(zip([queries[i] for i in missing], compute(missing), strict=True))
        if cache is not None:
            cache.write(new)
        answers |= new
    return [answers[query] for query in queries]


def answer_id(identity: StateIdentity, query: UneditedQuery) -> str:
    """Id of an answer: that of its hidden states (hex, 64 characters), and `max_new_tokens`."""
    item, max_new_tokens = query
    if max_new_tokens:
        item = replace(item, target="")  # a free answer does not depend on the target
    return f"{identity.state_id(item)}-{max_new_tokens or 'forced'}"
