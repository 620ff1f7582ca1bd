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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from liveedit_core.backbones.generation import Continuation
from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.backbones.vision_language import as_vision_language
from liveedit_core.builtin.backbone import BUILTIN, builtin_generator_folder, load_named_backbone
from liveedit_core.errors import ConfigError, InputError
from liveedit_core.explanation import Explanation, explain
from liveedit_core.inputs.datasets import validate_request, validate_tokens
from liveedit_core.inputs.images import read_image_file
from liveedit_core.inputs.limits import MAX_TARGET_TOKENS
from liveedit_core.method.editor import Editor, Routing
from liveedit_core.method.generator import LiveEditGenerator, load_generator
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.model_folder import Fact, read_model, save_model
from liveedit_core.schema import EditRequest

ImageSource = bytes | str | Path
"""An encoded image, or the path of one."""


@dataclass(frozen=True, kw_only=True)
class Generation(Continuation):
    """The generated text of one request."""

    routing: Routing | None
    """The edits that were kept; None for a request without an image, or if there are no edits."""

    @property
    def text(self) -> str:
        """The first, or only, sequence."""
        return self.texts[0]


class EditedModel:
    """A frozen backbone, a generator made for it, and experts that can be added and removed.

    `facts` (of the first experts) let explanations name them and new answers replace them.
    """

    def __init__(
        self,
        backbone: Backbone,
        generator: LiveEditGenerator,
        repository: ExpertRepository | None = None,
        facts: Mapping[str, Fact] | None = None,
    ) -> None:
        self._backbone = as_vision_language(backbone)
        experts = repository or ExpertRepository.empty(generator.config)
        self._editor: Editor | None = Editor(backbone, generator, experts)
        self._facts = dict(facts or {})
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
        return self._editor.repository.edit_ids if self._editor else ()

    def fact(self, edit_id: str) -> Fact | None:
        """What an edit taught, if it is known."""
        return self._facts.get(edit_id)

    def edit(self, image: ImageSource, prompt: str, target: str) -> str:
        """Teach an answer, in place of an earlier one if there is one; returns the edit's id."""
        return self.edit_many([(image, prompt, target)])[0]

    def edit_many(self, facts: Iterable[tuple[ImageSource, str, str]]) -> tuple[str, ...]:
        """Apply several edits, or none if one of them raises an error."""
        requests = [
            EditRequest(image_bytes=_bytes_of(image), prompt=prompt, target=target)
            for image, prompt, target in facts
        ]
        for request in requests:
            validate_request(request)
            validate_tokens(request, self._backbone.count_tokens)
        with self._writing:
            editor = self.editor
            latest = {request.subject_id: request for request in requests}
            new = [r for r in latest.values() if r.edit_id not in editor.repository.edit_ids]
            replaced = {
                edit_id
                for edit_id, fact in self._facts.items()
                if fact.subject_id in latest and edit_id != latest[fact.subject_id].edit_id
            }
            experts = editor.write_experts(new)
            kept = editor.repository.without(replaced)
            self._facts = {k: v for k, v in self._facts.items() if k not in replaced} | {
                request.edit_id: Fact.of(request) for request in new
            }
            self._editor = editor.with_repository(
                kept.with_experts(editor.generator.config, experts)
            )
        return tuple(request.edit_id for request in requests)

    def remove(self, *edit_ids: str) -> None:
        """Remove edits; raises InputError, and removes none, if one does not exist."""
        with self._writing:
            editor = self.editor
            if unknown := sorted(set(edit_ids) - set(editor.repository.edit_ids)):
                raise InputError(f"no such edits: {', '.join(unknown)}")
            self._editor = editor.with_repository(editor.repository.without(edit_ids))
            self._facts = {k: v for k, v in self._facts.items() if k not in edit_ids}

    def generate(
        self, images: Sequence[ImageSource | None], prompts: Sequence[str], **arguments: Any
    ) -> list[Generation]:
        """Continue plain questions, each with an image or None, in the backbone's prompt format.

        Without an image, or if no edit is kept, the backbone alone generates. `arguments` are those
        of transformers' `generate`: max_new_tokens, num_beams, do_sample, ...
        """
        if len(images) != len(prompts):
            raise InputError(f"expected an image or None for each of {len(prompts)} prompts")
        inputs = [
            BackboneInput(prompt=prompt, image_bytes=None if image is None else _bytes_of(image))
            for image, prompt in zip(images, prompts, strict=True)
        ]
        editor = self.editor
        routings: dict[int, Routing] = {}
        route = editor.router(routings) if len(editor.repository) else None
        return [
            Generation(**vars(done), routing=routings.get(i))
            for i, done in enumerate(self._backbone.continuations(inputs, route, **arguments))
        ]

    def answer(
        self, image: ImageSource | None, prompt: str, *, max_new_tokens: int = MAX_TARGET_TOKENS
    ) -> str:
        """The greedy answer to one question."""
        options = {"max_new_tokens": max_new_tokens, "do_sample": False, "num_beams": 1}
        return self.generate([image], [prompt], **options)[0].text

    def explain(self, image: ImageSource, prompt: str) -> Explanation:
        """Which edits a question keeps, and why."""
        item = BackboneInput(prompt=prompt, image_bytes=_bytes_of(image))
        return explain(self.editor, item, self._facts)

    def save(self, folder: Path | str) -> None:
        """Write the experts and facts; `open_model(..., experts=folder)` reads them."""
        with self._writing:
            save_model(Path(folder), self.editor, self._facts)


def open_model(
    backbone: str = BUILTIN,
    generator: str | Path = BUILTIN,
    experts: ExpertRepository | Path | str | None = None,
    options: LoadOptions | None = None,
) -> EditedModel:
    """Load an edited model.

    Args:
        backbone: "builtin", a folder, or "owner/model" with or without "@revision".
        generator: "builtin", or the folder of a checkpoint made for this backbone.
        experts: a bank version (`ExpertBank.load_repository`), a folder of `EditedModel.save`, or
            None to start empty.
        options: dtype and device of the backbone; the layers are the generator's.
    """
    is_builtin = str(generator) == BUILTIN
    trained = load_generator(builtin_generator_folder() if is_builtin else Path(generator))
    options = (options or LoadOptions()).with_changes(edit_layer=-1, prompt_layers=None)
    options = trained.config.load_options(options)
    loaded = load_named_backbone(backbone, options)
    if experts is None or isinstance(experts, ExpertRepository):
        return EditedModel(loaded, trained, experts)
    return EditedModel(loaded, trained, *read_model(Path(experts), loaded.digest, trained))


def _bytes_of(image: ImageSource) -> bytes:
    return image if isinstance(image, bytes) else read_image_file(Path(image))
