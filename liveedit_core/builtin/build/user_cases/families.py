"""Question families of the user's world and of EmblemEdit's test: how people ask about an image.

The data lie in `data/*.toml`: a file per side, ten wordings a family, each with its style. Of a
family in `both.toml` the first half of the wordings is asked in development, the second in test.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data"
SIDES = ("development", "test")
DOCUMENTS = ("page", "screenshot", "chart")
"""Domains whose images are read; families of scope "object" are not asked there."""
STYLES = (
    "plain",
    "lower case",
    "misspelt",
    "polite",
    "indirect",
    "two sentences",
    "preamble",
)
CLOSE_FAMILIES = (
    {"name", "nickname"},
    {"kind", "species"},
    {"contact", "who_to_call"},
    {"owner", "maker", "author"},
    {"serial", "order_number", "version"},
    {"place", "next_stop", "distance"},
    {"date_made", "age"},
    {"is_open", "opening_hours"},
    {"deadline", "appointment", "delivery"},
    {"allergy", "ingredients"},
    {"describe", "headline"},
    {"purpose", "instructions"},
)
"""Families whose questions may ask for the same fact: no locality probe has one for another."""


@dataclass(frozen=True)
class Wording:
    """A question as somebody would write it."""

    style: str
    text: str


@dataclass(frozen=True)
class Template:
    """A form of invented answers, with slots, and its stratum of content."""

    content: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Family:
    """One question in the wordings of one side, and the forms of its answers."""

    name: str
    scope: str
    """"any", "object" or "document"."""
    noun: str
    """What is asked for: "the price"."""
    foreign: str
    """Which answers in other scripts suit, a key of `targets.FOREIGN`, or "" for none."""
    answers: tuple[Template, ...]
    short: tuple[Template, ...]
    """Answers of a word or two, without slots and tails."""
    tails: tuple[str, ...]
    wordings: tuple[Wording, ...]
    other_languages: tuple[str, ...]

    def is_close_to(self, other: "Family") -> bool:
        """Whether a question of the other family may ask for the same fact."""
        pair = {self.name, other.name}
        return len(pair) == 1 or any(pair <= group for group in CLOSE_FAMILIES)

    def suits(self, domain: str) -> bool:
        """Whether the question is asked about images of a domain."""
        return self.scope in ("any", "document" if domain in DOCUMENTS else "object")


def read_toml(name: str) -> dict[str, Any]:
    """A data file of this folder."""
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def split_label(line: str) -> tuple[str, str]:
    """("plain", "What is it?") of "plain: What is it?"."""
    label, text = line.split(": ", 1)
    return label, text


def families_of(side: str) -> tuple[Family, ...]:
    """Families that a side asks, sorted by name."""
    own = [_family(name, entry) for name, entry in read_toml(side).items()]
    second = side == "test"
    shared = [_family(name, entry, half=second) for name, entry in read_toml("both").items()]
    return tuple(sorted((*own, *shared), key=lambda family: family.name))


def _family(name: str, entry: Mapping[str, Any], half: bool | None = None) -> Family:
    wordings: Sequence[str] = entry["wordings"]
    languages: Sequence[str] = entry["other_languages"]
    if half is not None:
        middle = len(wordings) // 2
        wordings = wordings[middle:] if half else wordings[:middle]
        languages = languages[1:] if half else languages[:1]
    short = "words"
    if entry["answers"][0].startswith("yes or no: "):
        short = "yes or no"
    elif entry["foreign"] in ("person", "place"):
        short = "name"
    return Family(
        name=name,
        scope=entry["scope"],
        noun=entry["noun"],
        foreign=entry["foreign"],
        answers=tuple(Template(*split_label(line)) for line in entry["answers"]),
        short=tuple(Template(short, word) for word in entry["short"].split(" | ")),
        tails=tuple(entry["tails"]),
        wordings=tuple(Wording(*split_label(line)) for line in wordings),
        other_languages=tuple(languages),
    )


@lru_cache
def text_questions(side: str, kind: str) -> tuple[tuple[str, str], ...]:
    """Text-only `kind` ("questions", "requests") of a side, with their answers."""
    return tuple((question, answer) for question, answer in read_toml("text")[side][kind])
