"""The derived questions of a fact and their answers, by rules on its prompt and target.

"How much does it cost?" -> "12 euros"
yes, no    "Would 12 euros be the price?" -> "yes", "Would 45 kg be the price?" -> "no"
reversed   "Which detail of it is 12 euros?" -> "the price"
sentence   'Say it in a sentence starting with "The price is".' -> "The price is 12 euros."
twice, year, last, first    one step further: "24 euros"
"""

import hashlib
import random
import re
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

_DATA = tomllib.loads(Path(__file__).with_name("wordings.toml").read_text(encoding="utf-8"))
WORDINGS: dict[str, list[str]] = _DATA["wordings"]
_WRONG: list[str] = _DATA["wrong answers"]
_ASKED: dict[str, str] = _DATA["asked for"]
CLAIMS: dict[str, Any] = _DATA["claims"]
"""Words of `claims`."""
FORMS = tuple(WORDINGS)
"""What a question can be besides plain; "yes" and "no" are answers of the first."""
NO_NOUN = "answer"
NUM_KEYS = 4
"""Wordings whose mean direction tells a right answer from a wrong one."""
_SENTENCE = re.compile(
    r"(it|this|that|there|he|she|they|you|we|i|the \w+)"
    r"('s| (is|are|was|were|has|have|can|will|must|costs?|weighs?|belongs?|contains?|comes?))\b",
    re.I,
)
"""An answer that is a sentence of its own."""
_NOT_DOUBLED = re.compile(r"[,^]|[^\W\d_]\d|\d-|-\d|(?<!\d)\.\d|\d(st|[nr]d|th)\b|[\d.]{28}", re.I)
"""Beside a number: codes, ordinals, and what two times a number would not be exact of."""
_ASKS_YES_OR_NO = re.compile(
    r"(?!(can|could|will) you |(can|could|may) i (ask|know) )"
    r"(is|are|was|were|does|do|did|can|could|has|have|may|will) ",
    re.I,
)
"""A polite request ("Could you tell me the price?") does not."""


class DerivedForm(NamedTuple):
    """One answer that follows from a fact, and wordings of its question."""

    name: str
    """"yes", "no", or a key of `WORDINGS`."""
    wordings: tuple[str, ...]
    """The first is what its slots are refined on."""
    target: str


def derived_forms(prompt: str, target: str) -> list[DerivedForm]:
    """What follows from a fact; the same for equal texts."""
    noun, answer, forms = noun_of(prompt), target.strip().rstrip("."), []
    if not answer:
        return []
    others = [text for text in _WRONG if not _is_part(text, answer)]
    is_yes_or_no = _ASKS_YES_OR_NO.match(prompt.strip()) or re.match(r"(yes|no)\b", answer, re.I)
    if not is_yes_or_no and len(others) >= NUM_KEYS:
        seed = hashlib.sha256(f"{prompt}\n{target}".encode()).hexdigest()
        wrong = random.Random(seed).sample(others, NUM_KEYS)
        for name, answers in (("yes", [answer] * NUM_KEYS), ("no", wrong)):
            pairs = zip(WORDINGS["yes or no"], answers, strict=False)
            asked = tuple(wording.format(noun=noun, answer=text) for wording, text in pairs)
            forms.append(DerivedForm(name, asked, name))
        if noun != NO_NOUN:
            asked = (WORDINGS["reversed"][0].format(answer=answer),)
            forms.append(DerivedForm("reversed", asked, f"the {noun}"))
    results = {"sentence": f"The {noun} is {answer}."} | one_step(answer)
    if _SENTENCE.match(answer):
        results["sentence"] = f"{answer}."
        results.pop("first", None)
    for name, result in results.items():
        forms.append(DerivedForm(name, (WORDINGS[name][0].format(noun=noun),), result))
    return forms


def _is_part(one: str, other: str) -> bool:
    """Whether one of two texts is part of the other."""
    one, other = one.lower(), other.lower()
    return one in other or other in one


def noun_of(prompt: str) -> str:
    """What a question asks for: "price"; `NO_NOUN` where no rule knows it."""
    for noun, pattern in _ASKED.items():
        if found := re.search(pattern, prompt.lower()):
            return noun or found[1]
    return NO_NOUN


def one_step(answer: str) -> dict[str, str]:
    """Results of the steps that an answer allows: {"twice": "24 euros"}."""
    steps = {}
    numbers = re.findall(r"\d+(?:\.\d+)?", answer)
    years = re.findall(r"\b(?:1[5-9]|20)\d\d\b", answer)
    if len(years) == 1:
        steps["year"] = years[0]
    elif len(numbers) == 1 and not _NOT_DOUBLED.search(answer):
        steps["twice"] = answer.replace(numbers[0], f"{2 * Decimal(numbers[0]):f}")
    if numbers and " " not in answer and answer[-1].isalnum():
        steps["last"] = answer[-1]
    if answer[:1].isalpha() and answer.isascii() and not numbers:
        steps["first"] = answer[0].upper()
    return steps
