"""One published record: eleven texts and, in VLKEB's portability files, further questions.

    src, alt, image            the edit: prompt, target, image
    rephrase                   its prompt in other words
    image_rephrase             another image of the same entity
    loc, loc_ans               a question without image that has nothing to do with it
    m_loc, m_loc_q, m_loc_a    an image, question and answer that have nothing to do with it
    port_new                   {"port_type": "2-hop", "Q&A": {"Question": ..., "Answer": ...}}, or
                               {"port_q": ..., "port_a": ...} for one hop

Other keys (`pred`, what some model said) are not read.
"""

import os.path
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from liveedit_core.inputs.jsonl import json_type_name
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import RefusedInputError
from liveedit_core.inputs.request_parser import check_text
from liveedit_core.published.layout import ANSWER_CUE, TEXT_LOCALITY_ENDING, Layout

TEXT_KEYS = ("src", "rephrase", "alt", "loc", "loc_ans", "m_loc_q", "m_loc_a")
IMAGE_KEYS = ("image", "image_rephrase", "m_loc")
MAX_PATH_CHARS = 4_096
_HOPS = re.compile(r"([1-4])-hop")


@dataclass(frozen=True, kw_only=True)
class HopQuestion:
    """A question about the edit's image whose answer follows from the taught fact."""

    hop: int
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class PublishedRecord:
    """A record with all its texts as published, known to be well formed."""

    file: str
    """Name of the file it stands in."""
    index: int
    """Its place there, counted from 1."""
    number: int
    """The same over all files that were read together."""
    src: str
    rephrase: str
    alt: str
    """The new target; "" in records that nothing can be taught from."""
    loc: str
    loc_ans: str
    m_loc_q: str
    m_loc_a: str
    image: str
    image_rephrase: str
    m_loc: str
    hops: tuple[HopQuestion, ...] = ()

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return f"{self.file}, record {self.index}"

    @property
    def images(self) -> tuple[str, ...]:
        """Paths of all its images."""
        return self.image, self.image_rephrase, self.m_loc


class RecordParser:
    """Checks records one by one and says everything that is wrong with each."""

    def __init__(self, layout: Layout, limits: InputLimits) -> None:
        """Set up for one benchmark.

        Args:
            layout: How long prompts become.
            limits: Longest texts, most probes.
        """
        cues = layout.prompt_ending
        prompt, target = limits.max_prompt_chars, limits.max_target_chars
        hint = limits.max_locality_target_chars
        self._most = {
            "src": prompt - len(cues),
            "rephrase": prompt - len(cues),
            "alt": target,
            "loc": prompt - len(TEXT_LOCALITY_ENDING),
            "loc_ans": hint,
            "m_loc_q": prompt - len(ANSWER_CUE),
            "m_loc_a": hint,
        }
        self._limits = limits

    def parse(
        self, content: object, *, file: str, index: int, number: int
    ) -> tuple[PublishedRecord | None, list[str]]:
        """The record, or None and what is wrong with it.

        Args:
            content: As JSON gave it.
            file: Name of its file.
            index: Its place there, counted from 1.
            number: The same over all files.
        """
        if not isinstance(content, dict):
            return None, [f"must be an object, got {json_type_name(content)}"]
        problems: list[str] = []
        values: dict[str, Any] = {}
        for key in (*TEXT_KEYS, *IMAGE_KEYS):
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
        return PublishedRecord(file=file, index=index, number=number, hops=hops, **values), []

    def _value(self, key: str, value: object) -> str:
        if key in IMAGE_KEYS:
            return image_path(value, key)
        if key == "alt" and value == "":
            return ""  # published loaders leave such a record out; so does ours, on record
        return check_text(value, key, self._most[key])

    def _hops(self, value: object, problems: list[str]) -> tuple[HopQuestion, ...]:
        if not isinstance(value, list):
            problems.append(f"port_new must be a list, got {json_type_name(value)}")
            return ()
        most = self._limits.max_probes - 8  # of the edit itself, and of its other probes
        if len(value) > most:
            problems.append(f"port_new has {len(value):,} questions; at most {most:,} are accepted")
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
        if "port_type" not in content:
            return self._question(content, 1, ("port_q", "port_a"), where)
        match = _HOPS.fullmatch(str(content["port_type"]))
        if match is None:
            raise RefusedInputError(f'{where}.port_type must be "1-hop" to "4-hop"')
        inner = _object(content.get("Q&A", {}), f"{where}.Q&A")
        return self._question(inner, int(match[1]), ("Question", "Answer"), f"{where}.Q&A")

    def _question(
        self, content: Mapping[str, Any], hop: int, keys: tuple[str, str], where: str
    ) -> HopQuestion:
        for key in keys:
            if key not in content:
                raise RefusedInputError(f"key {key!r} is missing in {where}")
        question, answer = keys
        return HopQuestion(
            hop=hop,
            question=check_text(
                content[question], f"{where}.{question}", self._limits.max_prompt_chars
            ),
            answer=check_text(content[answer], f"{where}.{answer}", self._limits.max_target_chars),
        )


def image_path(value: object, key: str) -> str:
    """An image's path below the image root, in its shortest form.

    Raises:
        InputError: Not a text, empty, or the path leads out of the image root.
    """
    text = check_text(value, key, MAX_PATH_CHARS)
    path = os.path.normpath(text)
    if os.path.isabs(path) or path.split("/")[0] == ".." or path == "." or "\0" in text:
        raise RefusedInputError(f"{key} {text[:200]!r} leads out of the image root")
    return path


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RefusedInputError(f"{where} must be an object, got {json_type_name(value)}")
    return value
