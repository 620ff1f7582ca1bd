"""Questions whose answers follow from an edit's fact, for portability probes."""

import random
import re
from collections.abc import Callable
from decimal import Decimal

from liveedit_core.builtin.build.user_cases.families import Family
from liveedit_core.builtin.build.user_cases.targets import Answer

Derived = tuple[str, str] | None
"""Question and answer, or None where nothing follows."""

VARIANTS = ("yes or no", "another language", "inside a sentence", "composed question")
MAX_TOKENS = 24
WORDINGS = {
    "development": {
        "yes or no": "Is the {noun} {answer}?",
        "inside a sentence": 'Write one sentence that begins with "The {noun} is".',
        "twice": "What is twice the {noun}?",
        "year": "Which year is in the {noun}?",
        "last": "What is the last character of the {noun}?",
        "first": "With which letter does the {noun} begin?",
    },
    "test": {
        "yes or no": "Is it right that the {noun} is {answer}?",
        "inside a sentence": 'Answer in one full sentence of the form "The {noun} is ...".',
        "twice": "How much is the {noun} times two?",
        "year": "Take the {noun}: which year does it name?",
        "last": "How does the {noun} end? Give the last character.",
        "first": "Tell me the first letter of the {noun}.",
    },
}
"""By side: the two share none."""


def derived_question(
    side: str,
    variant: str,
    family: Family,
    answer: Answer,
    other: Answer,
    *,
    rng: random.Random,
    count_tokens: Callable[[str], int],
) -> Derived:
    """A question of a variant; `other` is a wrong answer of the same family."""
    if variant == "another language":
        return rng.choice(family.other_languages), answer.text
    wordings = WORDINGS[side]
    noun = family.noun
    if answer.content in ("sentence", "yes or no") or family.foreign == "sentence":
        return None
    if variant == "yes or no":
        is_true = rng.random() < 0.5
        asked = answer if is_true else other
        prompt = wordings[variant].format(noun=noun, answer=asked.text)
        return prompt, "yes" if is_true else "no"
    if variant == "inside a sentence":
        sentence = f"The {noun} is {answer.text}."
        if count_tokens(sentence) > MAX_TOKENS:
            return None
        return wordings[variant].format(noun=noun), sentence
    composed = composed_question(answer)
    if composed is None:
        return None
    step, result = composed
    return wordings[step].format(noun=noun), result


def composed_question(answer: Answer) -> Derived:
    """A further step from an answer (a key of `WORDINGS`), and its result."""
    text = answer.text
    numbers = re.findall(r"\d+(?:\.\d+)?", text)
    if answer.content in ("number", "price") and len(numbers) == 1 and "," not in text:
        doubled = text.replace(numbers[0], str(2 * Decimal(numbers[0])))
        return "twice", doubled
    years = re.findall(r"\b(?:18|19|20)\d\d\b", text)
    if answer.content == "date" and len(years) == 1:
        return "year", years[0]
    if answer.content == "code" and text[-1].isalnum():
        return "last", text[-1]
    if answer.content in ("name", "words") and text[0].isalpha() and text.isascii():
        return "first", text[0].upper()
    return None
