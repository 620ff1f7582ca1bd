"""The edited model as a library: edit it, ask it, explain its answers, save it.

    with open_model() as model:
        model.edit("tapir.png", "What is shown here?", "a tapir")
        model.answer("tapir_again.png", "What animal is this?")
        model.explain("tapir_again.png", "What animal is this?").image().save("why.png")

Weights and hooks of the backbone are never modified: each request generates behind a view of it. So
threads may generate concurrently; an edit applies from the next request on.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, get_args

from liveedit_core.backbones.generation import Continuation
from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.backbones.vision_language import as_vision_language
from liveedit_core.builtin.backbone import BUILTIN, builtin_generator_folder, load_named_backbone
from liveedit_core.errors import ConfigError, InputError
from liveedit_core.explanation import Explanation, explain
from liveedit_core.exported_experts import export_experts
from liveedit_core.hops import hopped, hops_of
from liveedit_core.inputs.datasets import validate_question, validate_request, validate_tokens
from liveedit_core.inputs.images import ImageSource, image_bytes_of
from liveedit_core.inputs.limits import MAX_TARGET_TOKENS, InputLimits
from liveedit_core.inputs.rejects import WeakEditError
from liveedit_core.inputs.request_parser import check_also_asked
from liveedit_core.method.config import IndexMode, RefineSection, WeakEdits, checked_budget
from liveedit_core.method.editor import Editor, Routing, check_has_image, edit_input
from liveedit_core.method.forms.writing import form_writer_for
from liveedit_core.method.generator import LiveEditGenerator, load_generator
from liveedit_core.method.growing import GrowingRepository
from liveedit_core.method.refine import refiner_for
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.model_folder import can_append, locked, read_model, save_model
from liveedit_core.outcome import WriteOutcome
from liveedit_core.replacing import Correction, KnownFacts, Plan, plan_edits
from liveedit_core.schema import EditRequest, Fact
from liveedit_core.whole_files import writing_to

Teaching = tuple[ImageSource | None, str, str] | EditRequest
"""Image, prompt and target, or a whole request; without an image it is a textual edit."""


@dataclass(frozen=True, kw_only=True)
class Generation(Continuation):
    """The generated text of one request."""

    routing: Routing | None
    """The edits that were kept; None if no edit can be: for a request without an image, if there
    are no textual ones."""

    @property
    def text(self) -> str:
        """The first, or only, sequence."""
        return self.texts[0]


class EditedModel:
    """A frozen backbone, a generator made for it, and experts that can be added and removed.

    `facts` (of the first experts; by default what their repository knows) let explanations name
    them and new answers replace them. `false_activation` is the share of questions about other
    images that may keep an edit, by default the repository's own.
    """

    def __init__(
        self,
        backbone: Backbone,
        generator: LiveEditGenerator,
        repository: ExpertRepository | None = None,
        facts: Mapping[str, Fact] | None = None,
        *,
        refine: RefineSection | None = None,
        weak: WeakEdits = "refuse",
        false_activation: float | None = None,
        index: IndexMode = "auto",
    ) -> None:
        self._backbone = as_vision_language(backbone)
        if weak not in get_args(WeakEdits):
            raise ConfigError(f"weak is one of {', '.join(get_args(WeakEdits))}, got {weak!r}")
        experts = ExpertRepository.empty(generator.config) if repository is None else repository
        experts = experts.to(self._backbone.device)
        if false_activation is not None:
            experts = replace(experts, false_activation=checked_budget(false_activation))
        # Else a correction would take away what the older edit answered beside its fact.
        refine = (refine or RefineSection()).beside(generator.config, has_forms=bool(experts.forms))
        refiner = refiner_for(backbone, generator, refine)
        form_writer = form_writer_for(backbone, generator, refiner, refine)
        self._experts = GrowingRepository(experts)
        first = self._experts.snapshot()
        self._editor: Editor | None = Editor(
            backbone, generator, first, refiner, index=index, form_writer=form_writer
        )
        self._weak = weak
        self._outcomes: dict[str, WriteOutcome] = {}
        if facts is None and experts.fact_source is not None:
            facts = experts.fact_source.facts_of(experts.held_ids)
        self._facts = KnownFacts(facts)
        """Of the edits that answer, and of those that they replaced or that were removed."""
        self._corrections: dict[str, Correction] = {}
        """By the older edit, whose expert is kept."""
        self._writing = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the experts; the backbone stays with its owner."""
        self._editor = None

    @property
    def editor(self) -> Editor:
        """The engine with the current experts; immutable, an edit replaces it."""
        if self._editor is None:
            raise ConfigError("this edited model is closed; open another one")
        return self._editor

    @property
    def edits(self) -> tuple[str, ...]:
        """Ids of all edits."""
        return self._editor.repository.held_ids if self._editor else ()

    def outcome(self, edit_id: str) -> WriteOutcome | None:
        """How the expert of an edit turned out, if this object wrote it."""
        return self._outcomes.get(str(edit_id))

    def fact(self, edit_id: str) -> Fact | None:
        """What an edit that answers taught, if it is known."""
        return self._facts.get(edit_id) if self._is_held(edit_id) else None

    @property
    def corrections(self) -> tuple[Correction, ...]:
        """What edits of this object replaced, oldest first."""
        return tuple(self._corrections.values())

    def edit(
        self,
        image: ImageSource | None,
        prompt: str,
        target: str,
        *,
        also_asked: Sequence[str] = (),
    ) -> str:
        """Teach an answer; returns the edit's id. It replaces edits of the same image and question
        (`replacing`). `also_asked` are other wordings of the prompt. Without an image the fact
        holds whatever a question shows."""
        request = EditRequest(
            image_bytes=image_bytes_of(image),
            prompt=prompt,
            target=target,
            also_asked=check_also_asked(also_asked, "also_asked", InputLimits().max_prompt_chars),
        )
        return self.edit_many([request])[0]

    def edit_many(self, facts: Iterable[Teaching]) -> tuple[str, ...]:
        """Apply several edits in order, or none if one of them raises an error.

        Returns the edit that answers for each of them: of two that correct each other, the later.
        """
        requests = self._checked(facts)
        with self._writing:
            plan = self._plan(requests)
            self._apply(plan)
        return tuple(plan.answering(request.edit_id) for request in requests)

    def would_replace(self, facts: Iterable[Teaching]) -> tuple[Correction, ...]:
        """What `edit_many` would replace; changes nothing."""
        requests = self._checked(facts)
        with self._writing:
            return tuple(self._plan(requests).corrections)

    def _plan(self, requests: Sequence[EditRequest]) -> Plan:
        return plan_edits(self.editor, requests, self._facts, place_of=self._experts.place_if_held)

    def remove(self, *edit_ids: str) -> None:
        """Remove edits; raises InputError, and removes none, if one does not exist.

        Edits that they replaced in this object answer again.
        """
        with self._writing:
            if unknown := [str(key) for key in edit_ids if not self._is_held(key)]:
                raise InputError(f"no such edits: {', '.join(unknown)}")
            gone = set(edit_ids)
            back = [key for key, item in self._corrections.items() if item.edit_id in gone]
            for edit_id in back:
                del self._corrections[edit_id]
            self._experts.hold(held=back, dropped=gone)
            if self._experts.is_sparse(len(self._corrections)):
                self._compact()
            self._publish()

    def _is_held(self, edit_id: object) -> bool:
        return isinstance(edit_id, str) and self._experts.is_held(edit_id)

    def _checked(self, facts: Iterable[Teaching]) -> list[EditRequest]:
        requests = _requests_of(facts)
        limits = InputLimits().for_generator(self.editor.generator.config.max_target_tokens)
        for request in requests:
            check_has_image(request, self.editor.generator)
            validate_request(request, limits=limits)
            validate_tokens(request, self._backbone, limits=limits)
            self._backbone.check_input(edit_input(request))
        return requests

    def _apply(self, plan: Plan) -> None:
        """Write the missing experts, then change all at once."""
        editor = self.editor
        states = dict(zip(plan.requests, plan.states, strict=True))
        new = [key for key in states if not (self._experts.is_held(key) or self._wrote(key))]
        experts = editor.write_experts(
            [plan.requests[key] for key in new], [states[key] for key in new]
        )
        outcomes = {expert.edit_id: expert.outcome for expert in experts}
        for edit_id, outcome in outcomes.items() if self._weak == "refuse" else ():
            if outcome.state == "weak":
                raise WeakEditError(outcome, plan.requests[edit_id].target)
        self._outcomes |= outcomes
        self._experts.add(experts)
        self._facts.add({edit_id: plan.facts[edit_id] for edit_id in plan.requests})
        self._experts.hold(
            held=[edit_id for edit_id in plan.added if edit_id not in outcomes],
            dropped=[*plan.dropped, *(edit_id for edit_id in new if edit_id not in plan.added)],
        )
        for edit_id in plan.requests:  # those that answer again are no longer replaced
            self._corrections.pop(edit_id, None)
        self._corrections |= {item.supersedes: item for item in plan.corrections}
        self._publish()

    def _wrote(self, edit_id: str) -> bool:
        """Whether the expert of an edit that does not answer may be used again."""
        return edit_id in self._outcomes and edit_id in self._experts

    def _compact(self) -> None:
        self._experts = self._experts.compact(self._corrections)
        self._facts = KnownFacts({key: f for key, f in self._facts.items() if key in self._experts})

    def _publish(self) -> None:
        """Let the experts that are held now answer."""
        self._editor = self.editor.with_repository(self._experts.snapshot())

    def generate(
        self, images: Sequence[ImageSource | None], prompts: Sequence[str], **arguments: Any
    ) -> list[Generation]:
        """Continue plain questions, each with an image or None, in the backbone's prompt format.

        If no edit is kept, the backbone alone generates; without an image only textual edits can
        be. `arguments` are those of transformers' `generate`: max_new_tokens, num_beams, ... The
        checkpoint's generation_config holds beside them; `Generation.settings` says what was
        active.
        """
        return self._generated(images, prompts, **arguments)

    def _generated(
        self, images: Sequence[ImageSource | None], prompts: Sequence[str], **arguments: Any
    ) -> list[Generation]:
        if not (_is_list(images) and _is_list(prompts) and len(images) == len(prompts)):
            raise InputError("expected a list of prompts, and of an image or None for each of them")
        inputs = [self._asked(*pair) for pair in zip(images, prompts, strict=True)]
        editor = self.editor
        inputs, first = hopped(editor, inputs, self._facts.facts_of)
        routings: dict[int, Routing] = {}
        route = editor.router(routings) if len(editor.repository) else None
        continued = self._backbone.continuations(inputs, route, **arguments)
        routings |= {i: replace(routings[i], first=inner) for i, inner in first.items()}
        return [
            Generation(**vars(done), routing=routings.get(i)) for i, done in enumerate(continued)
        ]

    def _asked(self, image: ImageSource | None, prompt: str) -> BackboneInput:
        """A question within `InputLimits`."""
        validate_question(prompt, self._backbone)
        return BackboneInput(prompt=prompt, image_bytes=image_bytes_of(image))

    def answer(
        self, image: ImageSource | None, prompt: str, *, max_new_tokens: int = MAX_TARGET_TOKENS
    ) -> str:
        """The greedy answer to one question, whatever the checkpoint's generation_config says."""
        options = {"max_new_tokens": max_new_tokens, "is_greedy": True}
        return self._generated([image], [prompt], **options)[0].text

    def explain(self, image: ImageSource | None, prompt: str) -> Explanation:
        """Which edits a question keeps, and why; where two edits answer it, both questions'."""
        editor = self.editor
        item = self._asked(image, prompt)
        hop = hops_of(editor, [item], self._facts.facts_of).get(0)
        if hop is None or hop.first is None:
            return explain(editor, item, self._facts)
        first, second = (explain(editor, one, self._facts) for one in (hop.inner, hop.second))
        return replace(second, first=first)

    def save(self, folder: Path | str) -> None:
        """Write the experts and facts; `open_model(..., experts=folder)` reads them.

        Into the folder that it was opened from or saved to last, only what is new is written;
        what was removed since stays in these files until the model is saved elsewhere.
        """
        with writing_to(folder) as place, self._writing, locked(place):
            if not can_append(place, self.editor):
                self._compact()
                self._publish()
            self._experts.saved_parts = save_model(place, self.editor, self._facts)
            self._publish()

    def export(self, file: Path | str, *, is_partial: bool = False) -> int:
        """Write the experts for other runtimes (`export_experts`); returns their number."""
        parts = (self.editor.generator, self.editor.repository, self.editor.backbone.digest)
        return export_experts(file, *parts, is_partial=is_partial)


def open_model(
    backbone: str = BUILTIN,
    generator: str | Path = BUILTIN,
    experts: ExpertRepository | Path | str | None = None,
    options: LoadOptions | None = None,
    *,
    refine: RefineSection | None = None,
    weak: WeakEdits = "refuse",
    false_activation: float | None = None,
    index: IndexMode = "auto",
) -> EditedModel:
    """Load an edited model.

    Args:
        backbone: "builtin", a folder, or "owner/model" with or without "@revision".
        generator: "builtin", or the folder of a checkpoint made for this backbone.
        experts: a bank version (`ExpertBank.load_repository`), a folder of `EditedModel.save`, or
            None to start empty.
        options: dtype and device of the backbone; the layers are the generator's.
        refine: whether edits are verified and refined as they are written, and whether they also
            answer what follows from their facts (`RefineSection(derived=True)`; if it is not given,
            they do where those of `experts` do).
        weak: "refuse" raises WeakEditError for an edit whose own question is not answered, and
            applies none of its call; "commit" applies it, and `outcome` says what is wrong.
        false_activation: share of questions about images that were never edited that may keep an
            edit, above 0 and at most 0.5; None: that of the experts, which is 0.02 unless they were
            stored with another one. Only a generator with a runner-up filter can keep to it.
        index: "auto" searches 50 000 edits and more by an index, in memory, that may miss one of
            many that match (`KeyIndex`); "off" always compares with all.
    """
    _check_kinds(
        backbone=(backbone, str),
        generator=(generator, str | Path),
        experts=(experts, ExpertRepository | Path | str | None),
        options=(options, LoadOptions | None),
        refine=(refine, RefineSection | None),
    )
    is_builtin = str(generator) == BUILTIN
    trained = load_generator(builtin_generator_folder() if is_builtin else Path(generator))
    options = (options or LoadOptions()).with_changes(edit_layer=-1, has_prompt_encoder=False)
    options = trained.config.load_options(options)
    loaded = load_named_backbone(backbone, options)
    facts = None
    if isinstance(experts, str | Path):
        experts, facts = read_model(Path(experts), loaded.digest, trained)
    return EditedModel(
        loaded,
        trained,
        experts,
        facts,
        refine=refine,
        weak=weak,
        false_activation=false_activation,
        index=index,
    )


def _check_kinds(**arguments: tuple[object, Any]) -> None:
    for name, (value, kinds) in arguments.items():
        if not isinstance(value, kinds):
            raise ConfigError(f"{name} cannot be {value!r}")


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _requests_of(facts: object) -> list[EditRequest]:
    if not isinstance(facts, Iterable):
        raise InputError(f"expected a list of edits, got {type(facts).__name__}")
    requests = []
    for fact in facts:
        if not isinstance(fact, EditRequest):
            if not isinstance(fact, tuple | list) or len(fact) != 3:
                raise InputError(
                    "an edit is an EditRequest or three things: image (or None), prompt and target"
                )
            image, prompt, target = fact
            fact = EditRequest(image_bytes=image_bytes_of(image), prompt=prompt, target=target)
        requests.append(fact)
    return requests
