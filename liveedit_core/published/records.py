"""The JSON files of a published benchmark: lists of records, read whole and checked strictly.

    src, alt, image            the edit: prompt, target, image
    rephrase                   its prompt in other words
    image_rephrase             another image of the same entity
    loc, loc_ans               an unrelated question without image
    m_loc, m_loc_q, m_loc_a    an unrelated image, question and answer
    port_new                   {"port_type": "2-hop", "Q&A": {"Question": ..., "Answer": ...}}, or
                               {"port_q": ..., "port_a": ...} for one hop (VLKEB)

Other keys (`pred`, the answer of some model) are not read. Numbers count as texts. A record becomes
an edit and its probes (METHOD.md 7); targets stay as published, as a backbone adds the one leading
space (`with_space`). A locality question that lacks a part is left out, and only that question.
"""

import os.path
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from liveedit_core.errors import InputError
from liveedit_core.inputs.jsonl import json_type_name, parse_json
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import RefusedInputError
from liveedit_core.inputs.text import check_text
from liveedit_core.published.layout import ANSWER_CUE, TEXT_LOCALITY_ENDING, Layout
from liveedit_core.schema import ProbeKind

TEXT_KEYS = ("src", "rephrase", "alt", "loc", "loc_ans", "m_loc_q", "m_loc_a")
IMAGE_KEYS = ("image", "image_rephrase", "m_loc")
LOCALITY_KEYS = {
    ProbeKind.TEXT_LOCALITY: ("loc", "loc_ans"),
    ProbeKind.MODAL_LOCALITY: ("m_loc", "m_loc_q", "m_loc_a"),
}
"""What each locality question consists of."""
MAX_PATH_CHARS = 4_096
_HOPS = re.compile(r"([1-4])-hop")


@dataclass(frozen=True, kw_only=True)
class HopQuestion:
    """A question about the edit's image whose answer follows from the taught fact."""

    hop: int
    """Steps from the edited fact to the answer."""
    question: str
    answer: str

    @property
    def variant(self) -> str:
        """ "1 hop", "2 hops", ..."""
        return f"{self.hop} hop" if self.hop == 1 else f"{self.hop} hops"


@dataclass(frozen=True, kw_only=True)
class PublishedRecord:
    """A well-formed record with all its texts as published."""

    file: str
    """Name of its file."""
    place: str
    """File and position, for messages."""
    number: int
    """Position in all files that were read together."""
    src: str
    rephrase: str
    alt: str
    """The new target; "" in records that teach nothing."""
    loc: str
    loc_ans: str
    m_loc_q: str
    m_loc_a: str
    image: str
    image_rephrase: str
    m_loc: str
    hops: tuple[HopQuestion, ...] = ()
    left_out: tuple[ProbeKind, ...] = ()
    """Locality questions of which a part is missing, empty or no text; their texts are ""."""

    @property
    def images(self) -> tuple[str, ...]:
        """Paths of all its images."""
        own = (self.image, self.image_rephrase)
        return (*own, self.m_loc) if self.m_loc else own


@dataclass(frozen=True)
class Question:
    """A probe, or the edit itself (`RELIABILITY`)."""

    kind: ProbeKind
    prompt: str
    target: str
    image: str | None
    """Path below the image root."""
    variant: str = ""


def edit_prompt(record: PublishedRecord, layout: Layout) -> str:
    """The prompt of the edit."""
    return record.src + layout.prompt_ending


def questions_of(record: PublishedRecord, layout: Layout) -> tuple[Question, ...]:
    """The edit, then its probes."""
    prompt, rephrased = edit_prompt(record, layout), record.rephrase + layout.prompt_ending
    loc, m_loc = record.loc + TEXT_LOCALITY_ENDING, record.m_loc_q + ANSWER_CUE
    questions = (
        Question(ProbeKind.RELIABILITY, prompt, record.alt, record.image),
        Question(ProbeKind.TEXT_GENERALITY, rephrased, record.alt, record.image),
        Question(ProbeKind.MODAL_GENERALITY, prompt, record.alt, record.image_rephrase),
        Question(ProbeKind.TEXT_LOCALITY, loc, record.loc_ans, None),
        Question(ProbeKind.MODAL_LOCALITY, m_loc, record.m_loc_a, record.m_loc),
        *(
            Question(ProbeKind.PORTABILITY, item.question, item.answer, record.image, item.variant)
            for item in record.hops
        ),
    )
    return tuple(item for item in questions if item.kind not in record.left_out)


def entity_of(record: PublishedRecord, layout: Layout) -> str:
    """The entity in the edit's image: VLKEB's entity folder, otherwise the image itself."""
    folder, _, _ = record.image.rpartition("/")
    return folder if layout.has_entity_folders and folder else record.image


def read_files(
    paths: Sequence[Path], layout: Layout, limits: InputLimits, problems: list[str]
) -> tuple[list[PublishedRecord], str]:
    """The well-formed records, and a digest of all that was read; faults go to `problems`."""
    parser = RecordParser(layout, limits)
    digest = sha256(layout.name.encode())
    records: list[PublishedRecord] = []
    number = 0
    for path in paths:
        try:
            data = _read_bytes(path, limits.max_benchmark_bytes)
            contents = _parse_list(data)
        except InputError as error:
            problems.append(f"{path} {error.message}")
            continue
        digest.update(sha256(data).digest())
        for index, content in enumerate(contents, start=1):
            number += 1
            place = f"{path.name}, record {index}"
            record, faults = parser.parse(content, file=path.name, place=place, number=number)
            problems += [f"{place}: {fault}" for fault in faults]
            if record is not None:
                records.append(record)
    return records, digest.hexdigest()


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    if not path.is_file():  # a named pipe would block forever
        raise InputError("is not a file")
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise InputError(f"cannot be read ({error})") from error
    if len(data) > max_bytes:
        raise InputError(
            f"has more than {max_bytes:,} bytes; limits.max_benchmark_bytes accepts no more"
        )
    return data


def _parse_list(data: bytes) -> list[object]:
    complaint = "is not valid JSON in UTF-8"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{complaint}: {error}") from error
    contents = parse_json(text, complaint)
    if not isinstance(contents, list):
        raise InputError(f"must be a list of records [...], got {json_type_name(contents)}")
    if not contents:
        raise InputError("holds no record")
    return contents


class RecordParser:
    """Checks the records of one benchmark and reports everything that is wrong with each."""

    def __init__(self, layout: Layout, limits: InputLimits) -> None:
        prompt = limits.max_prompt_chars - len(layout.prompt_ending)
        hint = limits.max_locality_target_chars
        self._max_chars = {
            "src": prompt,
            "rephrase": prompt,
            "alt": limits.max_target_chars,
            "loc": limits.max_prompt_chars - len(TEXT_LOCALITY_ENDING),
            "loc_ans": hint,
            "m_loc_q": limits.max_prompt_chars - len(ANSWER_CUE),
            "m_loc_a": hint,
        }
        self._limits = limits

    def parse(
        self, content: object, *, file: str, place: str, number: int
    ) -> tuple[PublishedRecord | None, list[str]]:
        """The record, or None and what is wrong with it."""
        if not isinstance(content, dict):
            return None, [f"must be an object, got {json_type_name(content)}"]
        problems: list[str] = []
        left_out = tuple(
            kind
            for kind, keys in LOCALITY_KEYS.items()
            if not all(_is_text(content.get(key)) for key in keys)
        )
        values: dict[str, Any] = {key: "" for kind in left_out for key in LOCALITY_KEYS[kind]}
        for key in (*TEXT_KEYS, *IMAGE_KEYS):
            if key in values:
                continue
            if key not in content:
                problems.append(f"key {key!r} is missing")
                continue
            try:
                values[key] = self._value(key, content[key])
            except RefusedInputError as error:
                problems.append(error.message)
        hops = self._hops(content.get("port_new", []), problems)
        if problems:
            return None, problems
        record = PublishedRecord(
            file=file, place=place, number=number, hops=hops, left_out=left_out, **values
        )
        return record, []

    def _value(self, key: str, value: object) -> str:
        if key in IMAGE_KEYS:
            return image_path(value, key)
        if key == "alt" and value == "":
            return ""  # left out later, as the published loaders do
        return check_text(_number_as_text(value), key, self._max_chars[key])

    def _hops(self, value: object, problems: list[str]) -> tuple[HopQuestion, ...]:
        if not isinstance(value, list):
            problems.append(f"port_new must be a list, got {json_type_name(value)}")
            return ()
        limit = self._limits.max_probes - 8  # the edit itself, and its other probes
        if len(value) > limit:
            problems.append(
                f"port_new has {len(value):,} questions; at most {limit:,} are accepted"
            )
            return ()
        found = []
        for index, item in enumerate(value):
            try:
                found.append(self._hop(item, f"port_new[{index}]"))
            except RefusedInputError as error:
                problems.append(error.message)
        return tuple(dict.fromkeys(found))

    def _hop(self, item: object, where: str) -> HopQuestion:
        content = _object(item, where)
        hop, question, answer = 1, "port_q", "port_a"
        if "port_type" in content:
            match = _HOPS.fullmatch(str(content["port_type"]))
            if match is None:
                raise RefusedInputError(f'{where}.port_type must be "1-hop" to "4-hop"')
            hop, question, answer, where = int(match[1]), "Question", "Answer", f"{where}.Q&A"
            content = _object(content.get("Q&A", {}), where)
        for key in (question, answer):
            if key not in content:
                raise RefusedInputError(f"key {key!r} is missing in {where}")
        limits = self._limits
        asked, right = (_number_as_text(content[key]) for key in (question, answer))
        return HopQuestion(
            hop=hop,
            question=check_text(asked, f"{where}.{question}", limits.max_prompt_chars),
            answer=check_text(right, f"{where}.{answer}", limits.max_target_chars),
        )


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


def _is_text(value: object) -> bool:
    text = _number_as_text(value)
    return isinstance(text, str) and bool(text.strip())


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RefusedInputError(f"{where} must be an object, got {json_type_name(value)}")
    return value
