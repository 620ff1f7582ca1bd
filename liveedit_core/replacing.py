"""What new edits of an edited model replace: edits of the same image and question.

An edit replaces another one if pixels and prompt are equal (without regard to case, spaces and the
image's encoding), or if it has another target and

- the image is the same: equal pixels, or the visual key says so and the thumbnails agree. The key
  alone takes filled-in forms of one layout for one image;
- the prompts mean the same: equal, or each passes the prompt gate of the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.inputs.same_question import (
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
from liveedit_core.method.editor import Editor
from liveedit_core.method.features import EditQuestion
from liveedit_core.schema import EditRequest, Fact
from liveedit_core.states import LayerStates


@dataclass(frozen=True, kw_only=True)
class Correction:
    """An edit that replaces an older one."""

    edit_id: str
    supersedes: str
    """The older edit."""
    similarity: float
    """The smaller of the two prompt gates, 0..1; 1 for equal prompts."""


@dataclass(kw_only=True)
class Plan:
    """What some requests change, applied in order."""

    requests: dict[str, EditRequest]
    states: list[LayerStates]
    """Of the requests."""
    facts: dict[str, Fact]
    """Of all edits, held or not."""
    held: dict[str, None]
    """The edits that answer afterwards, in order."""
    corrections: list[Correction] = field(default_factory=list)
    """In order; an edit is replaced by at most one that is held or replaced later."""

    def answering(self, edit_id: str) -> str:
        """The edit itself, or the one that replaced it in the end."""
        successor = {item.supersedes: item.edit_id for item in self.corrections}
        while edit_id not in self.held:
            edit_id = successor[edit_id]
        return edit_id


@torch.no_grad()
def plan_edits(
    editor: Editor,
    requests: Sequence[EditRequest],
    facts: Mapping[str, Fact],
    known: Sequence[LayerStates] | None = None,
) -> Plan:
    """Decide what `requests` replace, among themselves and of the held edits with these facts;
    `known` are their states (`Editor.edit_states`)."""
    repository = editor.repository
    by_id = {request.edit_id: request for request in requests}
    if known is None:
        states = editor.edit_states(list(by_id.values()))
    else:
        states = list({r.edit_id: s for r, s in zip(requests, known, strict=True)}.values())
    plan = Plan(
        requests=by_id,
        states=states,
        facts={**facts, **{key: fact_of(request) for key, request in by_id.items()}},
        held=dict.fromkeys(repository.edit_ids),
    )
    if not by_id:
        return plan
    features = editor.generator.edit_features(states)
    own = {
        edit_id: (features.visual_BQM[b].flatten(), features.prompt_BQM[b].flatten())
        for b, edit_id in enumerate(by_id)
        if edit_id not in plan.held
    }
    stored = [repository.visual_features_NK, repository.prompt_features_NK]
    for column in (0, 1) if own else ():
        stored[column] = torch.cat([stored[column], torch.stack([f[column] for f in own.values()])])
    similarities = _Matching(editor, plan, (*repository.edit_ids, *own), *stored).similarities()
    for request in requests:
        _apply(plan, request.edit_id, similarities)
    return plan


def _apply(plan: Plan, new: str, similarities: Mapping[tuple[str, str], float]) -> None:
    replaced = [edit_id for edit_id in plan.held if (new, edit_id) in similarities]
    for edit_id in replaced:
        del plan.held[edit_id]
    # An edit that answers again is no longer replaced.
    plan.corrections = [item for item in plan.corrections if item.supersedes != new] + [
        Correction(edit_id=new, supersedes=edit_id, similarity=similarities[new, edit_id])
        for edit_id in replaced
    ]
    plan.held.setdefault(new)


def fact_of(request: EditRequest) -> Fact:
    """The fact that a request teaches."""
    return Fact(
        prompt=request.prompt,
        target=request.target,
        subject_id=request.subject_id,
        pixel_digest=pixel_digest(request),
        thumbnail=thumbnail(request.image_bytes),
    )


@dataclass(frozen=True)
class _Matching:
    """Compares requests with edits, held and new."""

    editor: Editor
    plan: Plan
    edit_ids: tuple[str, ...]
    visual_features_NK: Tensor
    prompt_features_NK: Tensor

    def similarities(self) -> dict[tuple[str, str], float]:
        """By (request, edit), for the pairs of which the later one replaces the earlier one."""
        config, facts = self.editor.generator.config, self.plan.facts
        asked = edit_questions(self.editor.generator, self.plan.states)
        questions = dict(zip(self.plan.requests, asked, strict=True))
        image_BN = same_image(asked, self.visual_features_NK, config)
        prompt_BN = prompt_similarities(asked, self.prompt_features_NK)
        passes_BN = passes_gate(prompt_BN, config)
        place_of = {key: n for n, key in enumerate(self.edit_ids) if key in facts}
        equal_to: dict[str, set[str]] = {}
        for key in place_of:
            for identity in (facts[key].pixel_digest, facts[key].subject_id):
                equal_to.setdefault(identity, set()).add(key)
        found: dict[tuple[str, str], float] = {}
        forward: dict[tuple[str, str], float] = {}
        for b, new in enumerate(self.plan.requests):
            equal = equal_to[facts[new].pixel_digest] | equal_to[facts[new].subject_id]
            alike = {self.edit_ids[n] for n in image_BN[b].nonzero().flatten().tolist()}
            for other in sorted((equal | alike & place_of.keys()) - {new}):
                n = place_of[other]
                texts = {normalized_prompt(facts[key].prompt) for key in (new, other)}
                has_equal_pixels, is_same_text = other in equal, len(texts) == 1
                if not (has_equal_pixels and is_same_text):
                    if not (is_same_text or passes_BN[b, n]):
                        continue
                    if not self._may_correct(new, other, has_equal_pixels=has_equal_pixels):
                        continue
                if is_same_text:
                    found[new, other] = 1.0
                else:
                    forward[new, other] = float(prompt_BN[b, n])
        for (new, other), question in self._asked_back(list(forward), questions).items():
            stored_1K = self.prompt_features_NK[[place_of[new]]]
            backward = prompt_similarities([question], stored_1K)[0, 0]
            if passes_gate(backward, config):
                smaller = min(float(backward), forward[new, other])
                found[new, other] = float(torch.tensor(smaller).sigmoid())
        return found

    def _may_correct(self, new: str, other: str, *, has_equal_pixels: bool) -> bool:
        """Whether targets differ and images agree, where the key says that they are the same."""
        fact, old = self.plan.facts[new], self.plan.facts[other]
        if fact.target == old.target:
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
