"""What a question of yes or no claims, compared with the fact as text: embeddings see no digits.

"Is the price 9 euros?" beside "12 euros" claims another number: no. "Is it 12 euros?" has the whole
answer: yes. "12 or 13 euros?" asks which. Where the texts do not decide ("more than 9 euros?"),
nothing is said, and the keys of the forms tell.

Numbers, dates, times and codes are compared in any language; colours, units and names in English.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Literal, NamedTuple

from liveedit_core.inputs.contrasts import ask_apart
from liveedit_core.method.forms.texts import CLAIMS

Verdict = Literal["yes", "no", "which"]
LIKE_NAMES = 0.75
"""Share of equal letters from which on a name is an almost right one."""

_SAME = {other: word for word, others in CLAIMS["same"].items() for other in others.split()}
_KINDS = {name: frozenset(words.split()) for name, words in CLAIMS["kinds"].items()}
_EMPTY, _TITLES = (frozenset(CLAIMS[name].split()) for name in ("empty", "titles"))
_UNDECIDED = re.compile(rf"(?<!\w)({'|'.join(CLAIMS['undecided'].split())})(?!\w)")
_RANGE = re.compile(r"\b(to|till|until|and|or|bis|und)\b|\u2013|^\D*\d{1,2} ?- ?\d{1,2}\b(?!-)")
"""An answer with one may agree with values that it does not name."""
_ASIDE = re.compile(r"\b(yes or no|or not)\b|n't (?=(it|this|that|he|she|they|its?|the)\b)", re.I)
"""Turns nothing: "Isn't it 12 euros?" is answered as "Is it 12 euros?" is."""
_OR = re.compile(r"(?<!\w)(or|oder|ou)(?!\w)")
_ENGLISH = re.compile(r"\b(is|are|was|were|does|did|do|has|can|could|would|will)\b|'s\b")
_DATE = re.compile(r"(?<![\d.-])\d{1,4}([./-])\d{1,2}(\1(\d{2,4})?)?(?![\w-])")
"""Of digits alone: not compared with one that names a month."""
_THOUSANDS = re.compile(r"(?<![\w.,])(?<!\d[ -])[1-9]\d{0,2}([ ']\d{3})+(?![ -]?\d)")
_PART = re.compile(
    r"(?P<hour>\d{1,2})(:(?P<minute>\d\d)(?!\d))?( ?(?P<half>[ap])\.?m\b\.?|(?<=:\d\d))"
    r"|(?P<number>((?<![\w-])-)?\d+([.,]\d+)*)((st|nd|rd|th)\b)?"
    r"|(?P<word>[^\W\d_]+|[$\u20ac\u00a3%])",
    re.I,
)


class Part(NamedTuple):
    """A word or a number of a text."""

    readings: frozenset[str]
    """What it may mean: "1.500" is 1.5 or 1500, "6 pm" is 18:00 and may be called 6."""
    is_value: bool
    """A number, or the letters of a code."""
    has_capital: bool
    is_first: bool
    """Begins the text."""

    @property
    def word(self) -> str:
        """As it is written."""
        return max(sorted(self.readings), key=len)

    def agrees(self, other: "Part") -> bool:
        """Whether both may mean the same."""
        common = self.readings & other.readings
        are_times = all(any(":" in text for text in one.readings) for one in (self, other))
        return any(":" in text for text in common) if are_times else bool(common)

    def is_among(self, others: Sequence["Part"]) -> bool:
        return any(map(self.agrees, others))


def verdict(question: str, prompt: str, target: str) -> Verdict | None:
    """What a question of yes or no is answered beside the fact of an edit; "which": it names
    answers to choose from."""
    question = _ASIDE.sub(" ", _plain(question))
    text, stated = question.casefold(), _plain(target).casefold()
    asked, known, right = parts(question), parts(prompt), parts(target)
    if not right or any(map(_UNDECIDED.search, (text, stated))):
        return None
    missing = [part for part in right if not part.is_among(asked)]
    foreign = [part for part in asked if not part.is_among([*right, *known])]
    is_english = _ENGLISH.search(text) is not None
    has_other_name = is_english and _is_other_name(foreign, right, missing)
    if _OR.search(text):
        is_choice = any(_of_kind(foreign, kind) and _of_kind(right, kind) for kind in _KINDS)
        is_choice |= all(any(part.is_value for part in some) for some in (foreign, right))
        return "which" if is_choice or has_other_name else None
    if _has_all(asked, foreign, right, missing):
        has_more = any(part.is_value for part in foreign)
        return None if has_more or ask_apart(_rest(asked, right), _rest(known, ())) else "yes"
    is_other = not (_RANGE.search(stated) or _have_unlike_dates(question, target, asked, right))
    is_other = is_other and _is_other(foreign, right, missing)
    is_like = _is_like_name(foreign, right, missing, is_english=is_english)
    return "no" if is_other or is_like or has_other_name else None


def parts(text: str) -> list[Part]:
    """The words and numbers of a text that mean something."""
    plain = _THOUSANDS.sub(lambda found: re.sub(r"\D", "", found[0]), _plain(text))
    found = list(_PART.finditer(plain))
    is_code = [False] * len(found)
    for n, (one, two) in enumerate(pairwise(found)):
        between, word = plain[one.end() : two.start()], one["word"] or two["word"]
        if between in ("", "-") and bool(one["word"]) != bool(two["word"]) and len(word) < 4:
            is_code[n] = is_code[n + 1] = True
    result = []
    for n, one in enumerate(found):
        if readings := frozenset(_readings(one)):
            is_value = is_code[n] or any(text[-1].isdigit() for text in readings)
            result.append(Part(readings, is_value, one[0][0].isupper(), n == 0))
    return result


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("\u2019", "'")


def _readings(found: re.Match[str]) -> Iterator[str]:
    if found["hour"]:
        hour, minute = int(found["hour"]), found["minute"] or "00"
        half = (found["half"] or "").lower()
        hours = {"a": [hour % 12], "p": [hour % 12 + 12]}.get(half, [hour, (hour + 12) % 24])
        yield from (f"{h}:{minute}" for h in hours)
        yield from (str(h) for h in [hour, *hours] if minute == "00")
    elif number := found["number"]:
        marks = set(re.sub(r"[-\d]", "", number))
        if re.fullmatch(r"-?[1-9]\d{0,2}([.,]\d{3})+", number) and len(marks) == 1:
            yield re.sub("[.,]", "", number)
        *whole, fraction = re.split("[.,]", number)
        if len(whole) == 1 or len(marks) == 2:
            number = f"{''.join(whole)}.{fraction.rstrip('0')}".rstrip(".")
        yield number
    else:
        word = found["word"].casefold()
        if word not in _EMPTY:
            yield _SAME.get(word, word)
            if len(word) > 3 and word.endswith("s"):
                yield _SAME.get(word[:-1], word[:-1])


def _of_kind(some: Sequence[Part], name: str) -> list[Part]:
    return [part for part in some if part.readings & _KINDS[name]]


def _is_other(foreign: Sequence[Part], right: Sequence[Part], missing: Sequence[Part]) -> bool:
    """Whether a number or a word of some kind is claimed in place of the right one."""
    has_other_value = all(any(part.is_value for part in some) for some in (foreign, missing))
    if has_other_value:
        return not (_of_kind(foreign, "measures") and _of_kind(missing, "measures"))
    wanted = [_of_kind(right, kind) for kind in _KINDS if _of_kind(foreign, kind)]
    return any(some and set(some) <= set(missing) for some in wanted)


def _has_all(
    asked: Sequence[Part], foreign: Sequence[Part], right: Sequence[Part], missing: Sequence[Part]
) -> bool:
    """Whether a question names all of an answer but a unit, or a part of a date."""
    if _of_kind(right, "months"):
        dated = [part for part in asked if _is_of_date(part)]
        other = any(part in foreign for part in dated)
        return bool(dated) and not other and all(_is_of_date(part) for part in missing)
    units = ("measures", "currencies")
    if any(part.is_value for part in right) and not any(_of_kind(foreign, u) for u in units):
        missing = [part for part in missing if not any(part.readings & _KINDS[u] for u in units)]
    return not missing


def _is_of_date(part: Part) -> bool:
    return part.is_value or bool(part.readings & _KINDS["months"])


def _have_unlike_dates(
    question: str, target: str, asked: Sequence[Part], right: Sequence[Part]
) -> bool:
    """Whether one names a month, and the other has a date of digits."""
    return bool(
        (_DATE.search(question) and _of_kind(right, "months"))
        or (_DATE.search(target) and _of_kind(asked, "months"))
    )


def _is_like_name(
    foreign: Sequence[Part], right: Sequence[Part], missing: Sequence[Part], *, is_english: bool
) -> bool:
    """Whether a name is almost the right one. Names of places differ between languages: in others
    than English only one of several names is compared."""
    if not is_english and len(missing) == len(right):
        return False
    names = [part.word for part in missing if part.has_capital]
    claimed = [part.word for part in foreign]
    return any(
        min(len(one), len(two)) > 3 and SequenceMatcher(None, one, two).ratio() >= LIKE_NAMES
        for one in names
        for two in claimed
    )


def _is_other_name(foreign: Sequence[Part], right: Sequence[Part], missing: Sequence[Part]) -> bool:
    """Whether a name of several words is claimed to be another one."""
    if len(right) < 2 or not all(part.has_capital for part in right):
        return False
    names = [p for p in foreign if p.has_capital and not (p.is_first or p.readings & _TITLES)]
    return len(names) > (len(missing) == len(right))


def _rest(some: Sequence[Part], without: Sequence[Part]) -> str:
    """Words of a text, without names and numbers."""
    words = (part.word for part in some if not part.is_among(without))
    return " ".join(word for word in words if word.isalpha())
