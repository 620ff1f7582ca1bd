"""Cases of one side: facts that somebody teaches about images, and the probes of each."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from liveedit_core.builtin.build.user_cases.derived import VARIANTS, derived_question
from liveedit_core.builtin.build.user_cases.families import (
    Family,
    Wording,
    families_of,
    text_questions,
)
from liveedit_core.builtin.build.user_cases.targets import Answer, AnswerWriter
from liveedit_core.builtin.image_changes import CHANGES
from liveedit_core.schema import ProbeKind

OTHER_DRAWING = "other drawing"
OTHER_BACKGROUND = "other background"
NUM_CHANGES = 3
"""Changed copies probed for a case."""
PORTABILITY_EVERY = 4
CORRECTION_EVERY = 8
TRUE_NAME_SHARE = 0.5
"""Of the answers to the family "name"; the others are invented."""

UNLIMITED = 100_000
"""No limit: answers of the crowd and of earlier edits."""

Item = TypeVar("Item")


@dataclass(kw_only=True)
class Entity:
    """What an image shows, as it was collected."""

    entity_id: str
    name: str
    kind: str
    domain: str
    split: str
    images: list[dict[str, Any]] = field(repr=False)

    @property
    def origins(self) -> list[str]:
        """Origins of its images."""
        return [image["origin"] for image in self.images]

    def image(self, origin: str) -> dict[str, Any]:
        """Its image of an origin."""
        return next(image for image in self.images if image["origin"] == origin)


Place = tuple[Entity, str]
"""An entity and the origin of one of its images."""


@dataclass(kw_only=True)
class ProbeRow:
    """A probe by reference: an image is (entity_id, origin), changed by `change`."""

    kind: str
    variant: str
    entity_id: str
    """Empty for text-only questions."""
    origin: str
    change: str
    prompt: str
    target: str


@dataclass(kw_only=True)
class CaseRow:
    """A fact about an image, the earlier ones that it corrects, and its probes."""

    origin: str
    prompt: str
    target: str
    tags: dict[str, str]
    earlier: list[dict[str, str]] = field(default_factory=list)
    """Of the same image: {"prompt": ..., "target": ...}."""
    probes: list[ProbeRow] = field(default_factory=list)


class CaseWriter:
    """Writes the cases of one side; what has been used least comes next.

    Args:
        side: whose wordings are used ("development", "test").
        strangers: entities that no case edits.
        nearest: the stranger's image that looks most like an entity's image.
        count_tokens: tokens of a target under the built-in tokenizer.
    """

    def __init__(
        self,
        side: str,
        *,
        strangers: Sequence[Entity],
        nearest: Callable[[Entity, str], Place],
        count_tokens: Callable[[str], int],
        rng: random.Random,
    ) -> None:
        self.side = side
        self.families = families_of(side)
        self.strangers = strangers
        self.nearest = nearest
        self.count_tokens = count_tokens
        self.rng = rng
        self.answers = AnswerWriter(count_tokens, rng)
        self.other_answers = AnswerWriter(count_tokens, rng, max_repeats=UNLIMITED)
        self.used: Counter[tuple[str, str]] = Counter()
        self.num_cases = 0

    def write(self, entity: Entity, num_edits: int) -> list[CaseRow]:
        """Cases about one image of an entity, each of another family."""
        origin = self.rng.choice(entity.origins)
        suiting = [family for family in self.families if family.suits(entity.domain)]
        taught: list[Family] = []
        for _ in range(num_edits):
            free = [f for f in suiting if not any(f.is_close_to(other) for other in taught)]
            taught.append(self.least_used("family", free, lambda family: family.name))
        return [self.case(entity, origin, family, taught) for family in taught]

    def crowd_case(self, entity: Entity) -> CaseRow:
        """One fact about an entity, without probes."""
        suiting = [family for family in self.families if family.suits(entity.domain)]
        family = self.least_used("crowd", suiting, lambda family: family.name)
        origin = self.rng.choice(entity.origins)
        return self.fact(entity, origin, family, self.other_answers)[0]

    def fact(
        self, entity: Entity, origin: str, family: Family, answers: AnswerWriter
    ) -> tuple[CaseRow, Wording, Answer]:
        """A case without probes, its wording and its answer."""
        short = [wording for wording in family.wordings if wording.style != "preamble"]
        wording = self.least_used("edit style", short, lambda wording: wording.style)
        is_true = family.name == "name" and self.rng.random() < TRUE_NAME_SHARE
        answer = answers.write(family, true_name=entity.name if is_true else "")
        tags = {
            "domain": entity.domain,
            "family": family.name,
            "length": answer.length,
            "content": answer.content,
        }
        row = CaseRow(origin=origin, prompt=wording.text, target=answer.text, tags=tags)
        return row, wording, answer

    def case(
        self, entity: Entity, origin: str, family: Family, taught: Sequence[Family]
    ) -> CaseRow:
        """A case with all its probes; `taught`: all families edited here."""
        row, wording, answer = self.fact(entity, origin, family, self.answers)
        self.num_cases += 1

        def add(
            kind: ProbeKind, variant: str, place: Place | None, prompt: str, target: str = ""
        ) -> None:
            row.probes.append(
                ProbeRow(
                    kind=kind.value,
                    variant=variant,
                    entity_id=place[0].entity_id if place else "",
                    origin=place[1] if place else "",
                    change=variant if kind is ProbeKind.MODAL_GENERALITY else "",
                    prompt=prompt,
                    target=target,
                )
            )

        here = (entity, origin)
        rest = [other for other in family.wordings if other != wording]
        for _ in range(2):
            style = self.least_used("style", rest, lambda other: other.style)
            add(ProbeKind.TEXT_GENERALITY, style.style, here, style.text, answer.text)
            rest = [other for other in rest if other.style != style.style]
        for change in self.changes(entity, origin):
            add(ProbeKind.MODAL_GENERALITY, change, here, wording.text, answer.text)
            if change == OTHER_DRAWING:
                drawn = [other for other in entity.origins if other != origin]
                row.probes[-1].origin = self.rng.choice(drawn)
                row.probes[-1].change = ""
        self.add_locality(add, here, wording.text, family, taught)
        self.add_derived(add, here, family, answer)
        self.add_correction(add, row, here, family, answer)
        return row

    def changes(self, entity: Entity, origin: str) -> list[str]:
        """The kinds of changed copies of an image that a case probes."""
        possible = [change for change in CHANGES if change != OTHER_BACKGROUND]
        if entity.image(origin)["has_plain_ground"]:
            possible.append(OTHER_BACKGROUND)
        if len(entity.origins) > 1:
            possible.append(OTHER_DRAWING)
        chosen: list[str] = []
        for _ in range(NUM_CHANGES):
            free = [change for change in possible if change not in chosen]
            chosen.append(self.least_used("change", free, str))
        return chosen

    def add_locality(
        self,
        add: Callable[..., None],
        here: Place,
        prompt: str,
        family: Family,
        taught: Sequence[Family],
    ) -> None:
        """Probes whose right answer is the unedited one."""
        is_request = self.num_cases % 2 == 0
        kind = "requests" if is_request else "questions"
        asked, hint = self.rng.choice(text_questions(self.side, kind))
        add(ProbeKind.TEXT_LOCALITY, "request" if is_request else "question", None, asked, hint)
        stranger = self.stranger(self.strangers)
        add(ProbeKind.MODAL_LOCALITY, "", stranger, self.question(stranger, [family]))
        others = [other for other in self.strangers if other.domain != here[0].domain]
        swap = ProbeKind.IMAGE_SWAP_LOCALITY
        add(swap, "random", self.stranger(self.strangers), prompt)
        add(swap, "nearest", self.nearest(*here), prompt)
        add(swap, "other domain", self.stranger(others), prompt)
        swap = ProbeKind.PROMPT_SWAP_LOCALITY
        add(swap, "another question", here, self.question(here, taught))
        request, hint = self.rng.choice(text_questions(self.side, "requests"))
        add(swap, "unrelated request", here, request, hint)

    def add_derived(
        self, add: Callable[..., None], here: Place, family: Family, answer: Answer
    ) -> None:
        """For a quarter of the cases, a question whose answer follows from the fact."""
        kind = ProbeKind.PORTABILITY
        if self.used[kind.value, ""] * PORTABILITY_EVERY >= self.num_cases:
            return
        other = self.other_answers.write(family, unlike=answer.text)
        found = {}
        for variant in VARIANTS:
            derived = derived_question(
                self.side,
                variant,
                family,
                answer,
                other,
                rng=self.rng,
                count_tokens=self.count_tokens,
            )
            if derived is not None:
                found[variant] = derived
        least = min(self.used[kind.value, variant] for variant in VARIANTS)
        fresh = [v for v in found if self.used[kind.value, v] == least]
        if fresh:
            variant = self.least_used(kind.value, fresh, str)
            self.used[kind.value, ""] += 1
            add(kind, variant, here, *found[variant])

    def add_correction(
        self, add: Callable[..., None], row: CaseRow, here: Place, family: Family, answer: Answer
    ) -> None:
        """For an eighth of the cases, an earlier edit in other words with another target."""
        kind = ProbeKind.CORRECTION
        if self.used[kind.value, ""] * CORRECTION_EVERY >= self.num_cases:
            return
        self.used[kind.value, ""] += 1
        asked = {row.prompt, *(probe.prompt for probe in row.probes)}
        first, third = self.rng.sample([w for w in family.wordings if w.text not in asked], 2)
        other = self.other_answers.write(family, unlike=answer.text)
        row.earlier = [{"prompt": first.text, "target": other.text}]
        add(kind, "earlier wording", here, first.text, answer.text)
        add(kind, "third wording", here, third.text, answer.text)

    def question(self, place: Place, unlike: Sequence[Family]) -> str:
        """A question about an image, not close to the families `unlike`."""
        suiting = [
            family
            for family in self.families
            if family.suits(place[0].domain) and not any(map(family.is_close_to, unlike))
        ]
        return self.rng.choice(self.rng.choice(suiting).wordings).text

    def stranger(self, candidates: Sequence[Entity]) -> Place:
        """One image of a stranger."""
        entity = self.rng.choice(candidates)
        return entity, self.rng.choice(entity.origins)

    def least_used(
        self, what: str, choices: Iterable[Item], name_of: Callable[[Item], str]
    ) -> Item:
        """The choice used least so far, at random among equals; counts as used now."""
        members = list(choices)
        self.rng.shuffle(members)
        chosen = min(members, key=lambda member: self.used[what, name_of(member)])
        self.used[what, name_of(chosen)] += 1
        return chosen


def with_one_or_two_edits(
    entities: Iterable[Entity], num_cases: int, edited_share: float, rng: random.Random
) -> list[tuple[Entity, int]]:
    """Entities to edit, the domains by turns, with the number of edits: two for 40 % of them."""
    queues: dict[str, list[Entity]] = {}
    for entity in sorted(entities, key=lambda entity: entity.entity_id):
        queues.setdefault(entity.domain, []).append(entity)
    for queue in queues.values():
        rng.shuffle(queue)
        del queue[round(len(queue) * edited_share) :]
    plan: list[tuple[Entity, int]] = []
    count = 0
    while count < num_cases and any(queues.values()):
        for queue in queues.values():
            if queue and count < num_cases:
                num_edits = 2 if len(plan) % 5 in (1, 3) else 1
                plan.append((queue.pop(), num_edits))
                count += num_edits
    return plan
