"""Questions whose answers follow from an edit's fact, for portability probes."""

import random
import re
from collections.abc import Callable
from decimal import Decimal

from liveedit_core.builtin.build.user_cases.families import Family
from liveedit_core.builtin.build.user_cases.targets import Answer

Derived = tuple[str, str] | None
"""Prompt and target, or None where nothing follows."""

VARIANTS = ("yes or no", "another language", "inside a sentence", "composed question")
MAX_TOKENS = 24


def derived_question(
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
    if answer.content in ("sentence", "yes or no") or family.foreign == "sentence":
        return None
    if variant == "yes or no":
        is_true = rng.random() < 0.5
        asked = answer if is_true else other
        return f"Is the {family.noun} {asked.text}?", "yes" if is_true else "no"
    if variant == "inside a sentence":
        sentence = f"The {family.noun} is {answer.text}."
        if count_tokens(sentence) > MAX_TOKENS:
            return None
        return f'Write one sentence that begins with "The {family.noun} is".', sentence
    return composed_question(family, answer)


def composed_question(family: Family, answer: Answer) -> Derived:
    """A question that needs the fact and one step more."""
    text = answer.text
    numbers = re.findall(r"\d+(?:\.\d+)?", text)
    if answer.content in ("number", "price") and len(numbers) == 1 and "," not in text:
        doubled = text.replace(numbers[0], str(2 * Decimal(numbers[0])))
        return f"What is twice the {family.noun}?", doubled
    years = re.findall(r"\b(?:18|19|20)\d\d\b", text)
    if answer.content == "date" and len(years) == 1:
        return f"Which year is in the {family.noun}?", years[0]
    if answer.content == "code" and text[-1].isalnum():
        return f"What is the last character of the {family.noun}?", text[-1]
    if answer.content in ("name", "words") and text[0].isalpha() and text.isascii():
        return f"With which letter does the {family.noun} begin?", text[0].upper()
    return None
