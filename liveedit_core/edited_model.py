"""The edited model as a library: teach it facts, let it generate, ask it why.

    with open_model() as model:
        model.edit("tapir.png", "What is shown here?", "a tapir")
        model.answer("tapir_again.png", "What animal is this?")
        model.explain("tapir_again.png", "What animal is this?").image().save("why.png")

No weight and no hook of the backbone is ever touched: each request generates behind a view of it,
so requests of several threads may run at once, and edits that are made meanwhile hold from the
next request on.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from liveedit_core.backbones.generation import Continuation, Generating, continuations
from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.errors import ConfigError, InputError
from liveedit_core.explanation import Explanation, explain
from liveedit_core.inputs.datasets import validate_request, validate_tokens
from liveedit_core.inputs.images import read_image_file
from liveedit_core.method.editor import Editor, Routing
from liveedit_core.method.generator import LiveEditGenerator, load_generator
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.model_folder import Fact, load_facts, read_repository, save_model
from liveedit_core.schema import EditRequest

ImageSource = bytes | str | Path
"""An encoded image, or where it lies."""


@runtime_checkable
class GeneratingBackbone(Backbone, Generating, Protocol):
    """A backbone that also generates with transformers' own arguments."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What was generated for one request."""

    text: str
    """The first, or only, sequence."""
    texts: tuple[str, ...]
    """All of them, with `num_return_sequences`."""
    token_ids: tuple[tuple[int, ...], ...]
    routing: Routing | None
    """Which edits answered; None for a request without an image, or while there are no edits."""
    details: Any = field(default=None, repr=False)
    """transformers' own output, with `return_dict_in_generate`; of all requests in a batch."""
    row: int = 0
    """Which prompt of that batch this is."""


class EditedModel:
    """A frozen backbone, a generator, and experts that come and go.

    Args:
        backbone: frozen model.
        generator: made for this backbone.
        repository: experts to begin with, such as a bank version; by default none.
        facts: what the experts were made from, as far as it is known; for explanations, and so that
            a new answer to an old question takes its place.

    Raises:
        ConfigError: the backbone cannot generate.
        RepositoryMismatchError: backbone and generator do not fit each other.
    """

    def __init__(
        self,
        backbone: Backbone,
        generator: LiveEditGenerator,
        repository: ExpertRepository | None = None,
        facts: Mapping[str, Fact] | None = None,
    ) -> None:
        if not isinstance(backbone, GeneratingBackbone):
            raise ConfigError(f"a {type(backbone).__name__} cannot generate (see `Generating`)")
        self._backbone = backbone
        experts = repository or ExpertRepository.empty(generator.config)
        self._editor = Editor(backbone, generator, experts)
        self._facts = dict(facts or {})
        self._writing = threading.Lock()
        self._is_open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the experts; the backbone is what it was before, and stays with its owner."""
        self._is_open = False
        self._editor = self._editor.with_repository(
            ExpertRepository.empty(self._editor.generator.config)
        )

    @property
    def editor(self) -> Editor:
        """The engine with the current experts; it never changes, an edit puts another in its place.

        Raises:
            ConfigError: the model is closed.
        """
        if not self._is_open:
            raise ConfigError("this edited model is closed; open another one")
        return self._editor

    @property
    def edits(self) -> tuple[str, ...]:
        """Ids of all edits."""
        return self._editor.repository.edit_ids

    def fact(self, edit_id: str) -> Fact | None:
        """What an edit taught, if that is known."""
        return self._facts.get(edit_id)

    def edit(self, image: ImageSource, prompt: str, target: str) -> str:
        """Teach one fact: for this image and prompt, answer the target.

        Returns:
            The id of the edit. Teaching the same again changes nothing; another target for the same
            image and prompt takes the place of the old one.

        Raises:
            InputError: the image cannot be read, or a text is empty or too long.
            NumericsError: the expert is not finite.
        """
        return self.edit_many([(image, prompt, target)])[0]

    def edit_many(self, facts: Iterable[tuple[ImageSource, str, str]]) -> tuple[str, ...]:
        """Teach several facts at once: all of them, or none where one is not acceptable."""
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
        """Take edits back.

        Raises:
            InputError: there is no such edit; then nothing is removed.
        """
        with self._writing:
            editor = self.editor
            if unknown := sorted(set(edit_ids) - set(editor.repository.edit_ids)):
                raise InputError(f"no such edits: {', '.join(unknown)}")
            self._editor = editor.with_repository(editor.repository.without(edit_ids))
            self._facts = {k: v for k, v in self._facts.items() if k not in edit_ids}

    def generate(
        self, images: Sequence[ImageSource | None], prompts: Sequence[str], **arguments: Any
    ) -> list[Generation]:
        """Continue prompts, each with its image or None.

        Args:
            images: one for each prompt.
            prompts: as a user asks them; the backbone's prompt format is added.
            arguments: of transformers' `generate`: max_new_tokens, num_beams, do_sample, ...

        Returns:
            In the order of the prompts. Requests without an image, and those for which no edit is
            kept, are generated by the backbone alone.
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
        options = {"pad_token_id": self._backbone.pad_id} | arguments
        done = continuations(self._backbone, inputs, route, **options)
        return [_generation(one, routings.get(i)) for i, one in enumerate(done)]

    def answer(self, image: ImageSource | None, prompt: str, *, max_new_tokens: int = 12) -> str:
        """The greedy answer to one question."""
        options = {"max_new_tokens": max_new_tokens, "do_sample": False, "num_beams": 1}
        return self.generate([image], [prompt], **options)[0].text

    def explain(self, image: ImageSource, prompt: str) -> Explanation:
        """Which edits a question keeps, and why."""
        item = BackboneInput(prompt=prompt, image_bytes=_bytes_of(image))
        return explain(self.editor, item, self._facts)

    def save(self, folder: Path | str) -> None:
        """Write the experts, what they were made from and what they belong to.

        `open_model(..., experts=folder)` reads it again.
        """
        with self._writing:
            save_model(Path(folder), self.editor, self._facts)


def open_model(
    backbone: str = "builtin",
    generator: str | Path = "builtin",
    experts: ExpertRepository | Path | str | None = None,
    options: LoadOptions | None = None,
) -> EditedModel:
    """Load what an edited model needs.

    Args:
        backbone: "builtin", a folder, or "owner/model" with or without "@revision".
        generator: "builtin", or the folder of a checkpoint made for this backbone.
        experts: a bank version (`ExpertBank.load_repository`), a folder that `EditedModel.save`
            wrote, or None to start empty.
        options: number format and device of the backbone; the edit layer is the generator's.

    Raises:
        ConfigError: a part cannot be loaded; the message says why.
        RepositoryMismatchError: the parts were not made for each other.
        StorageUnavailableError: the hub cannot be reached.
    """
    trained = load_generator(_generator_folder(generator))
    loaded = _load_backbone(backbone, trained.config.edit_layer, options)
    if experts is None or isinstance(experts, ExpertRepository):
        return EditedModel(loaded, trained, experts)
    folder = Path(experts)
    repository = read_repository(folder, loaded.digest, trained)
    return EditedModel(loaded, trained, repository, load_facts(folder))


def _load_backbone(name: str, edit_layer: int, options: LoadOptions | None) -> GeneratingBackbone:
    if name == "builtin":
        from liveedit_core.builtin.backbone import load_builtin_backbone

        return load_builtin_backbone(edit_layer=edit_layer)

    from liveedit_core.backbones.loading import load_backbone

    return load_backbone(name, (options or LoadOptions()).with_changes(edit_layer=edit_layer))


def _generator_folder(name: str | Path) -> Path:
    if str(name) != "builtin":
        return Path(name)
    from liveedit_core.builtin.generator import builtin_generator_folder

    return builtin_generator_folder()


def _bytes_of(image: ImageSource) -> bytes:
    return image if isinstance(image, bytes) else read_image_file(Path(image))


def _generation(done: Continuation, routing: Routing | None) -> Generation:
    return Generation(
        text=done.texts[0],
        texts=done.texts,
        token_ids=done.token_ids,
        routing=routing,
        details=done.details,
        row=done.row,
    )
