"""What new edits of an edited model replace: edits of the same image and question.

An edit replaces another one if pixels and prompt are equal (without regard to case, spaces and the
image's encoding; no image is that of all textual edits), or if it has another target and

- the image is the same: equal pixels, or the visual key says so and the thumbnails agree. The key
  alone takes filled-in forms of one layout for one image;
- the prompts mean the same: equal, or each passes the prompt gate of the other, and no word says
  that they ask for different things (`inputs.contrasts`).
"""

from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.inputs.contrasts import ask_apart
from liveedit_core.inputs.same_question import (
    have_equal_names,
    looks_alike,
    normalized_prompt,
    pixel_digest,
    thumbnail,
)
from liveedit_core.method.corrections import (
    edit_questions,
    passes_gate,
    prompt_similarities,
    same_image,
)
from liveedit_core.method.editor import Editor, check_has_image
from liveedit_core.method.features import EditQuestion
from liveedit_core.schema import NO_IMAGE, EditRequest, Fact
from liveedit_core.states import LayerStates


@dataclass(frozen=True, kw_only=True)
class Correction:
    """An edit that replaces an older one."""

    edit_id: str
    supersedes: str
    """The older edit."""
    similarity: float
    """The smaller of the two prompt gates, 0..1; 1 for equal prompts."""


class KnownFacts(Mapping[str, Fact]):
    """Facts by edit, and the edits of equal content."""

    def __init__(self, facts: Mapping[str, Fact] | None = None) -> None:
        self._facts: dict[str, Fact] = {}
        self._of_content: dict[str, set[str]] = {}
        self.add(facts or {})

    def add(self, facts: Mapping[str, Fact]) -> None:
        self._facts |= facts
        for edit_id, fact in facts.items():
            for content in (fact.pixel_digest, fact.subject_id):
                self._of_content.setdefault(content, set()).add(edit_id)

    def of_equal_content(self, fact: Fact) -> set[str]:
        """Edits with the pixels of a fact, or with its image and prompt."""
        contents = (fact.pixel_digest, fact.subject_id)
        return set().union(*(self._of_content.get(content, ()) for content in contents))

    def facts_of(self, edit_ids: Collection[str]) -> dict[str, Fact]:
        """Those that are known, as of a `FactSource`."""
        return {key: self._facts[key] for key in edit_ids if key in self._facts}

    def __getitem__(self, edit_id: str) -> Fact:
        return self._facts[edit_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)


@dataclass(kw_only=True)
class Plan:
    """What some requests change, applied in order."""

    requests: dict[str, EditRequest]
    states: list[LayerStates]
    """Of the requests."""
    facts: Mapping[str, Fact]
    """Of the requests, and of the edits held before as far as they are known."""
    place_of: Callable[[str], int | None]
    """Position in the repository of an edit that it holds."""
    added: dict[str, None] = field(default_factory=dict)
    """Edits that answer afterwards and did not before, in order."""
    dropped: dict[str, None] = field(default_factory=dict)
    """Edits that answered before."""
    corrections: list[Correction] = field(default_factory=list)
    """In order; an edit is replaced by at most one that is held or replaced later."""

    def is_held(self, edit_id: str) -> bool:
        """Whether an edit answers."""
        is_old = self.place_of(edit_id) is not None and edit_id not in self.dropped
        return is_old or edit_id in self.added

    def answering(self, edit_id: str) -> str:
        """The edit itself, or the one that replaced it in the end."""
        successor = {item.supersedes: item.edit_id for item in self.corrections}
        while not self.is_held(edit_id):
            edit_id = successor[edit_id]
        return edit_id


@torch.no_grad()
def plan_edits(
    editor: Editor,
    requests: Sequence[EditRequest],
    facts: Mapping[str, Fact],
    known: Sequence[LayerStates] | None = None,
    *,
    place_of: Callable[[str], int | None] | None = None,
) -> Plan:
    """Decide what `requests` replace, among themselves and of the held edits with these facts.

    `known` are their states (`Editor.edit_states`); `place_of`, if it is known, gives the position
    of an edit that the repository holds.
    """
    repository = editor.repository
    by_id = {request.edit_id: request for request in requests}
    if known is None:
        states = editor.edit_states(list(by_id.values()))
    else:
        states = list({r.edit_id: s for r, s in zip(requests, known, strict=True)}.values())
    if place_of is None:
        places = repository.held_positions.tolist()
        place_of = {repository.edit_ids[place]: place for place in places}.get
    old = facts if isinstance(facts, KnownFacts) else KnownFacts(facts)
    new = KnownFacts({key: fact_of(request) for key, request in by_id.items()})
    plan = Plan(
        requests=by_id,
        states=states,
        facts=ChainMap(dict(new), cast(dict[str, Fact], old)),
        place_of=place_of,
    )
    if by_id:
        similarities = _Matching(editor, plan, old, new).similarities()
        for request in requests:
            _apply(plan, request.edit_id, similarities)
    return plan


def _apply(plan: Plan, new: str, similarities: Mapping[str, Mapping[str, float]]) -> None:
    replaced = [edit_id for edit_id in similarities.get(new, ()) if plan.is_held(edit_id)]
    for edit_id in replaced:
        if edit_id in plan.added:
            del plan.added[edit_id]
        else:
            plan.dropped[edit_id] = None
    # An edit that answers again is no longer replaced.
    plan.corrections = [item for item in plan.corrections if item.supersedes != new] + [
        Correction(edit_id=new, supersedes=edit_id, similarity=similarities[new][edit_id])
        for edit_id in replaced
    ]
    if new in plan.dropped:
        del plan.dropped[new]
    elif plan.place_of(new) is None:
        plan.added.setdefault(new)


def fact_of(request: EditRequest) -> Fact:
    """The fact that a request teaches."""
    return Fact(
        prompt=request.prompt,
        target=request.target,
        subject_id=request.subject_id,
        pixel_digest=pixel_digest(request),
        thumbnail=thumbnail(request.image_bytes),
    )


class _Matching:
    """Compares requests with edits, held and new."""

    def __init__(self, editor: Editor, plan: Plan, old: KnownFacts, new: KnownFacts) -> None:
        self.editor, self.plan, self.old, self.new = editor, plan, old, new
        for request in plan.requests.values():
            check_has_image(request, editor.generator)
        features = editor.generator.edit_features(plan.states)
        self.visual_BK = features.visual_BQM.flatten(1)
        prompts = features.prompt_BQM.flatten(1)
        self.prompts: dict[str, Tensor] = dict(zip(plan.requests, prompts, strict=True))

    def similarities(self) -> dict[str, dict[str, float]]:
        """By request and edit, for the pairs of which the later one replaces the earlier one;
        edits in the order in which they are held."""
        asked = edit_questions(self.editor.generator, self.plan.states)
        questions = dict(zip(self.plan.requests, asked, strict=True))
        found: dict[str, dict[str, float]] = {key: {} for key in self.plan.requests}
        forward: dict[tuple[str, str], float] = {}
        for (new, question), alike in zip(questions.items(), self._alike(asked), strict=True):
            fact = self.plan.facts[new]
            equal = self.old.of_equal_content(fact) | self.new.of_equal_content(fact)
            compared = self._compared((equal | alike) - {new})
            likenesses = self._likenesses(question, compared)
            for other, likeness in zip(compared, likenesses, strict=True):
                texts = {normalized_prompt(self.plan.facts[key].prompt) for key in (new, other)}
                has_equal_pixels, is_same_text = other in equal, len(texts) == 1
                if not (has_equal_pixels and is_same_text):
                    if not (is_same_text or passes_gate(likeness, self.editor.generator.config)):
                        continue
                    if not self._may_correct(new, other, has_equal_pixels=has_equal_pixels):
                        continue
                found[new][other] = 1.0
                if not is_same_text:
                    forward[new, other] = float(likeness)
        for (new, other), question in self._asked_back(list(forward), questions).items():
            backward = prompt_similarities([question], self._prompt(new)[None])[0, 0]
            if passes_gate(backward, self.editor.generator.config):
                smaller = min(float(backward), forward[new, other])
                found[new][other] = float(torch.tensor(smaller).sigmoid())
            else:
                del found[new][other]
        return found

    def _alike(self, asked: Sequence[EditQuestion]) -> list[set[str]]:
        """The edits whose image is that of each request, by the visual key."""
        repository, config = self.editor.repository, self.editor.generator.config
        own_ids = list(self.plan.requests)
        own = same_image(asked, self.visual_BK, config)
        held = same_image(asked, repository.visual, config, self.editor.scanned)
        return [
            {own_ids[n] for n in new} | {repository.edit_ids[n] for n in old}
            for new, old in zip(own, held, strict=True)
        ]

    def _compared(self, edit_ids: set[str]) -> list[str]:
        """Those that are held or new and whose fact is known, in the order they are held in."""
        later = {key: n for n, key in enumerate(self.plan.requests)}
        places = {key: self.plan.place_of(key) for key in edit_ids & self.plan.facts.keys()}
        known = [key for key, place in places.items() if place is not None or key in later]

        def order(key: str) -> tuple[int, int]:
            place = places[key]
            return (1, later[key]) if place is None else (0, place)

        return sorted(known, key=order)

    def _likenesses(self, question: EditQuestion, edit_ids: Sequence[str]) -> Sequence[Tensor]:
        """Prompt similarity of a question with each of some edits."""
        if not edit_ids:
            return ()
        prompts_NK = torch.stack([self._prompt(edit_id) for edit_id in edit_ids])
        return prompt_similarities([question], prompts_NK)[0].unbind()

    def _prompt(self, edit_id: str) -> Tensor:
        """Prompt feature of an edit, [K]."""
        place = self.plan.place_of(edit_id)
        if place is None:
            return self.prompts[edit_id]
        return self.editor.repository.prompt[torch.tensor([place])].flatten()

    def _may_correct(self, new: str, other: str, *, has_equal_pixels: bool) -> bool:
        """Whether targets differ, no word sets the prompts apart, and images agree, where the key
        says that they are the same; without images, whether the prompts name the same."""
        fact, old = self.plan.facts[new], self.plan.facts[other]
        if fact.target == old.target or ask_apart(fact.prompt, old.prompt):
            return False
        if fact.pixel_digest == NO_IMAGE and not have_equal_names(fact.prompt, old.prompt):
            return False
        return has_equal_pixels or looks_alike(self._thumbnail(other), fact.thumbnail)

    def _thumbnail(self, edit_id: str) -> str:
        """Of a stored edit, from its image if it was not kept."""
        source = self.editor.repository.fact_source
        if self.plan.facts[edit_id].thumbnail or source is None:
            return self.plan.facts[edit_id].thumbnail
        return "".join(map(thumbnail, source.images_of([edit_id]).values()))

    def _asked_back(
        self, pairs: Sequence[tuple[str, str]], questions: Mapping[str, EditQuestion]
    ) -> dict[tuple[str, str], EditQuestion]:
        """For each pair, the older edit's prompt as a question about the newer one's image."""
        unknown = [(new, other) for new, other in pairs if other not in questions]
        inputs = [
            BackboneInput(
                prompt=self.plan.facts[other].prompt,
                image_bytes=self.plan.requests[new].image_bytes,
            )
            for new, other in unknown
        ]
        asked = edit_questions(self.editor.generator, self.editor.backbone.encode(inputs))
        known = dict(zip(unknown, asked, strict=True))
        return {pair: known.get(pair) or questions[pair[1]] for pair in pairs}
