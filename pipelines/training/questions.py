"""The questions that the prompt key is fitted on."""

import re
from collections.abc import Sequence
from importlib.resources import files

IMAGE_NOUNS = (
    "the picture",
    "this image",
    "the thing shown",
    "that thing",
    "this picture",
    "the image",
    "this thing",
    "the object shown here",
    "the thing in the picture",
    "this photo",
    "what you see here",
    "the item pictured",
    "this object",
    "the one in the image",
)
MOST_VARIANTS = 6
"""Of a family."""
MOST_LETTERS = 90
"""Of a wording that gets a variant."""
_PRONOUN = re.compile(r"\b(it|this|that)\b", re.IGNORECASE)


def question_families() -> list[list[str]]:
    """Questions about images, each in several wordings and some in several languages: hand-written
    ones, those of EmblemEdit that its evaluation does not ask, and variants of both."""
    from liveedit_core.builtin.build.questions import EVALUATION_ONLY, FAMILIES

    families = {name: list(wordings[:-EVALUATION_ONLY]) for name, wordings in FAMILIES.items()}
    text = (files("liveedit_core.builtin.build") / "question_corpus.tsv").read_text("utf-8")
    for line in text.splitlines()[1:]:
        family, _, wording = line.split("\t")
        families.setdefault(family, []).append(wording)
    return [
        [*wordings, *variants(wordings, number)]
        for number, wordings in enumerate(families.values())
    ]


def variants(wordings: Sequence[str], number: int) -> list[str]:
    """Some wordings with a noun in place of their first pronoun ("How old is the picture?"), so
    that the words for what is shown do not count as what is asked. `number` says which nouns."""
    short = [w for w in wordings if w.isascii() and len(w) < MOST_LETTERS and _PRONOUN.search(w)]
    return [
        _PRONOUN.sub(IMAGE_NOUNS[(MOST_VARIANTS * number + i) % len(IMAGE_NOUNS)], wording, count=1)
        for i, wording in enumerate(short[:MOST_VARIANTS])
    ]
