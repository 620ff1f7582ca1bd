"""A record of a published benchmark, checked strictly, as an edit and its questions.

`layout.py` says which keys make which question. Beside them a record may have

    port_new    [{"port_type": "2-hop", "Q&A": {"Question": ..., "Answer": ...}}], or
                [{"port_q": ..., "port_a": ...}] for one hop

Other keys (`pred`, the answer of some model) are not read. Numbers count as texts. Targets stay as
published, as a backbone adds the one leading space (`with_space`). A question beside the edit and
its generalities that lacks a part is left out, and only that question.
"""

import os.path
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from liveedit_core.inputs.jsonl import json_type_name
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import RefusedInputError
from liveedit_core.inputs.text import check_text
from liveedit_core.published.layout import COMPOSITIONAL, TEXT, Asked, Layout
from liveedit_core.schema import ProbeKind

MAX_PATH_CHARS = 4_096
MAX_TAG_CHARS = 200
_NUM_DERIVED = 3
"""Questions that `derived.py` may add to a case."""


OWN_KINDS = (
    ProbeKind.RELIABILITY,
    ProbeKind.TEXT_GENERALITY,
    ProbeKind.MODAL_GENERALITY,
    ProbeKind.PORTABILITY,
)
"""Questions about the entity of the edit."""


@dataclass(frozen=True)
class Question:
    """A probe, or the edit itself (`RELIABILITY`)."""

    kind: ProbeKind
    prompt: str
    target: str
    image: str | None
    """Path below the image root."""
    variant: str = ""


@dataclass(frozen=True, kw_only=True)
class PublishedRecord:
    """A well-formed record."""

    file: str
    """Name of its file."""
    place: str
    """File and position, for messages."""
    number: int
    """Position in all files that were read together."""
    src: str
    """Prompt of the edit as published."""
    rephrase: str
    """The same in other words."""
    form: str
    """What the prompts of its edit are asked as, around `TEXT`."""
    image: str | None
    """Path of the edit's image; None for a textual edit."""
    questions: tuple[Question, ...]
    """The edit, then its probes."""
    entity: str
    """The entity in the edit's image."""
    tags: Mapping[str, str]
    left_out: tuple[str, ...]
    """What of it is not taught or asked, each with the reason."""
    neighbours: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Numbers of other samples, by the key of the list (`neighbours.py`)."""
    earlier: Question | None = None
    """An edit that is taught before its own, as some of its questions need both."""

    @property
    def edit(self) -> Question:
        return self.questions[0]

    @property
    def alt(self) -> str:
        """The new target; "" in records that teach nothing."""
        return self.edit.target

    @property
    def images(self) -> tuple[str, ...]:
        """Paths of all its images."""
        return tuple(dict.fromkeys(item.image for item in self.questions if item.image is not None))

    @property
    def own_images(self) -> tuple[str, ...]:
        """Paths of the images that show its entity."""
        return tuple(
            dict.fromkeys(
                item.image
                for item in self.questions
                if item.image is not None and item.kind in OWN_KINDS
            )
        )


def entity_of(path: str, layout: Layout) -> str:
    """The entity in an image: its folder, where those are entities, otherwise the image itself."""
    folder = path.rpartition("/")[0] if layout.has_entity_folders else ""
    return folder or path


class RecordParser:
    """Checks one record and reports everything that is wrong with it."""

    def __init__(self, layout: Layout, limits: InputLimits) -> None:
        self.layout = layout
        self._limits = limits

    def records(
        self, content: object, file: str, place: str, number: int, faults: list[str]
    ) -> list[PublishedRecord]:
        """The edits of a record; or none, and all that is wrong with it goes to `faults`."""
        try:
            keys = self._keys_of(content)
            asked = self._asked_of(keys)
        except RefusedInputError as error:
            faults.append(error.message)
            return []
        left_out: list[str] = []
        questions = self._questions(keys, asked, left_out, faults)
        hops = self._hops(keys, len(asked), faults)
        composed = [item for item in hops if item.variant == COMPOSITIONAL]
        neighbours = self._neighbours(keys, faults)
        tags = self._tags(keys, faults)
        further: list[Question] = []
        if self.layout.textual and "textual_edit" in keys:
            further = [*self._questions(keys, self.layout.textual, left_out, faults), *composed]
        elif composed:
            left_out.append("compositional questions left out because there is no textual_edit")
        if faults:
            return []
        edit, rephrased, *_ = asked
        own = questions[0]
        record = PublishedRecord(
            file=file,
            place=place,
            number=number,
            src=_as_text(keys[edit.prompt]),
            rephrase=_as_text(keys[rephrased.prompt]),
            form=edit.form,
            image=own.image,
            questions=tuple(dict.fromkeys(i for i in (*questions, *hops) if i not in composed)),
            entity=entity_of(own.image or "", self.layout),
            tags=tags,
            left_out=tuple(left_out),
            neighbours=neighbours,
        )
        if not (further and own.target):  # without an edit, its authors skip both
            return [record]
        textual = replace(
            record,
            src=further[0].prompt,
            rephrase=further[1].prompt,
            image=None,
            questions=tuple(dict.fromkeys(further)),
            earlier=own if composed else None,
            tags={**tags, "content": "textual"},
            left_out=(),
        )
        return [replace(record, tags={**tags, "content": "visual"}), textual]

    def sample(self, content: object, faults: list[str]) -> Question | None:
        """The edit's question alone; or None, and what is wrong with it goes to `faults`."""
        try:
            keys = self._keys_of(content)
            return self._question(keys, self._asked_of(keys)[0], faults)
        except RefusedInputError as error:
            faults.append(error.message)
            return None

    def _keys_of(self, content: object) -> dict[str, Any]:
        """What a record holds, by the usual spelling of its keys."""
        if not isinstance(content, dict):
            raise RefusedInputError(f"must be an object, got {json_type_name(content)}")
        names = self.layout.aliases
        keys = {names[key]: content[key] for key in content if key in names} | {
            key: value for key, value in content.items() if key not in names
        }
        if self.layout.textual and "textual_edit" in content:
            textual = _object(content["textual_edit"], "textual_edit")
            keys |= {f"textual_edit.{key}": _joined(value) for key, value in textual.items()}
        return keys

    def _asked_of(self, keys: Mapping[str, Any]) -> tuple[Asked, ...]:
        """What is asked of a record with these keys."""
        key, asked = self.layout.form_key, self.layout.asked
        if not key:
            return asked[""]
        value = keys.get(key)
        form = value.lower() if isinstance(value, str) else ""
        if form not in asked:
            raise RefusedInputError(f"{key} must be one of {', '.join(asked)}, got {value!r:.200}")
        return asked[form]

    def _question(
        self, keys: Mapping[str, Any], asked: Asked, faults: list[str]
    ) -> Question | None:
        """One question of a record; or None, and what is wrong with it goes to `faults`."""
        values = []
        for key in asked.keys:
            try:
                values.append(self._value(key, keys, asked))
            except RefusedInputError as error:
                if error.message not in faults:  # several questions share a key
                    faults.append(error.message)
        if len(values) < len(asked.keys):
            return None
        *image, prompt, target = values
        return Question(
            asked.kind,
            asked.form.replace(TEXT, prompt, 1),
            target,
            image[0] if image else None,
            asked.variant,
        )

    def _questions(
        self,
        keys: Mapping[str, Any],
        asked: Sequence[Asked],
        left_out: list[str],
        faults: list[str],
    ) -> list[Question]:
        """Those that are asked; sentences about the others go to `left_out`."""
        found = []
        for item in asked:
            if not item.is_needed and not all(_is_text(keys.get(key)) for key in item.keys):
                name = f"{item.kind} {item.variant}".strip()
                lacking = ", ".join(item.keys[:-1]) + f" or {item.keys[-1]}"
                left_out.append(f"{name} left out because {lacking} is missing, empty or no text")
            elif question := self._question(keys, item, faults):
                found.append(question)
        return found

    def _value(self, key: str, keys: Mapping[str, Any], asked: Asked) -> str:
        if key not in keys:
            raise RefusedInputError(f"key {key!r} is missing")
        value = keys[key]
        if key == asked.image:
            return image_path(value, key)
        if key == asked.target and asked.is_needed and value == "":
            return ""  # left out later, as the published loaders do
        limits = self._limits
        if key == asked.prompt:
            return check_text(
                _number_as_text(value), key, limits.max_prompt_chars - len(asked.form) + len(TEXT)
            )
        is_hint = asked.kind.is_locality or self.layout.has_long_targets
        limit = limits.max_locality_target_chars if is_hint else limits.max_target_chars
        return check_text(_number_as_text(value), key, limit)

    def _hops(self, keys: Mapping[str, Any], num_asked: int, faults: list[str]) -> list[Question]:
        """Portability questions."""
        value = keys.get("port_new", [])
        if not isinstance(value, list):
            faults.append(f"port_new must be a list, got {json_type_name(value)}")
            return []
        limit = self._limits.max_probes - num_asked - _NUM_DERIVED
        if len(value) > limit:
            faults.append(f"port_new has {len(value):,} questions; at most {limit:,} are accepted")
            return []
        image = next((key for key in self.layout.port_images if _is_text(keys.get(key))), "image")
        found = []
        for index, item in enumerate(value):
            where = f"port_new[{index}]"
            try:
                texts, prompt, target, variant = self._hop_keys(item, where)
                asked = Asked(ProbeKind.PORTABILITY, prompt, target, image, variant=variant)
                found.append(self._question({**keys, **texts}, asked, faults))
            except RefusedInputError as error:
                faults.append(error.message)
        return [item for item in found if item is not None]

    def _hop_keys(self, item: object, where: str) -> tuple[dict[str, Any], str, str, str]:
        """A portability question by keys that say where it is, the keys, and its variant."""
        content = _object(item, where)
        types = self.layout.port_types
        variant, question, answer = types["1-hop"], "port_q", "port_a"
        if "port_type" in content:
            port_type = content["port_type"]
            if not isinstance(port_type, str) or port_type not in types:
                raise RefusedInputError(f"{where}.port_type must be one of {', '.join(types)}")
            variant, where = types[port_type], f"{where}.Q&A"
            question, answer = "Question", "Answer"
            content = _object(content.get("Q&A", {}), where)
        named = {f"{where}.{key}": value for key, value in content.items()}
        return named, f"{where}.{question}", f"{where}.{answer}", variant

    def _neighbours(self, keys: Mapping[str, Any], faults: list[str]) -> dict[str, list[int]]:
        found = {}
        for key in self.layout.neighbours:
            value = keys.get(key, [])
            if isinstance(value, list) and all(type(item) is int for item in value):
                found[key] = value
            else:
                faults.append(f"{key} must be a list of whole numbers")
        return found

    def _tags(self, keys: Mapping[str, Any], faults: list[str]) -> dict[str, str]:
        found = {}
        for tag, key in self.layout.tags.items():
            if _is_text(keys.get(key)):
                try:
                    found[tag] = check_text(_number_as_text(keys[key]), key, MAX_TAG_CHARS)
                except RefusedInputError as error:
                    faults.append(error.message)
        return found


def image_path(value: object, key: str) -> str:
    """An image's path below the image root, in its shortest form."""
    text = check_text(value, key, MAX_PATH_CHARS)
    path = os.path.normpath(text)
    if os.path.isabs(path) or path.split("/")[0] == ".." or path == "." or "\0" in text:
        raise RefusedInputError(f"{key} {text[:200]!r} leads out of the image root")
    return path


def _number_as_text(value: object) -> object:
    """Answers such as 2 are written without quotes in some files."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value


def _as_text(value: object) -> str:
    return str(_number_as_text(value))


def _is_text(value: object) -> bool:
    text = _number_as_text(value)
    return isinstance(text, str) and bool(text.strip())


def _joined(value: object) -> object:
    """Lists of texts, as the loader of CCKEB's authors reads them."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(value)
    return value


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RefusedInputError(f"{where} must be an object, got {json_type_name(value)}")
    return value
