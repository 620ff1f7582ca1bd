"""The derived questions of a fact and their answers, by rules on its prompt and target.

"How much does it cost?" -> "12 euros"
yes, no    "Would 12 euros be the price?" -> "yes", "Would 45 kg be the price?" -> "no"
sentence   'Say it in a sentence starting with "The price is".' -> "The price is 12 euros."
twice, year, last, first    one step further: "24 euros"
"""

import hashlib
import random
import re
from decimal import Decimal
from typing import NamedTuple

YES_NO = (
    "Would {answer} be the {noun}?",
    "Its {noun} is {answer}, isn't it?",
    "Does it have {answer} as its {noun}?",
    "{answer}: is that the {noun}?",
    "Is it {answer}?",
    "Would you say the {noun} is {answer}?",
    "Am I right in thinking {answer} is the {noun}?",
    "So the {noun} here is {answer}?",
    "Somebody told me the {noun} is {answer}. Yes or no?",
    "Is {answer} the {noun} of this?",
    "Could the {noun} be {answer}?",
    "yes or no: {noun} {answer}",
    "Do you agree that {answer} is its {noun}?",
    "Was {answer} given as the {noun}?",
)
WORDINGS: dict[str, tuple[str, ...]] = {
    "sentence": (
        'Say it in a sentence starting with "The {noun} is".',
        "Finish this sentence: The {noun} is",
        'Tell me the {noun}, using the words "The {noun} is".',
        'Make a sentence out of the {noun}, its first words being "The {noun} is".',
        'Start your reply with "The {noun} is" and go on from there.',
        'Please phrase the {noun} as a statement: "The {noun} is" and so on.',
        'I want a sentence, "The {noun} is" followed by what you know.',
        "Let your reply open with: The {noun} is",
        'State the {noun} like so: "The {noun} is" plus the fact.',
    ),
    "twice": (
        "Double the {noun}: what do you get?",
        "If the {noun} were doubled, what would it be?",
        "What do you get when you add the {noun} to itself?",
        "Two of these: what is the {noun} altogether?",
        "Multiply the {noun} by 2.",
        "Give me the doubled {noun}.",
    ),
    "year": (
        "In what year does the {noun} fall?",
        "Only the year of the {noun}, please.",
        "Tell me just the year, not the whole {noun}.",
        "What year do you see in the {noun}?",
        "the year of the {noun}?",
        "From the {noun}, pick out the year.",
    ),
    "last": (
        "What character is at the very end of the {noun}?",
        "I need the rightmost symbol of the {noun}.",
        "Spell the {noun} backwards: what comes first?",
        "final character of the {noun}?",
        "Which sign closes the {noun}?",
        "Name only the symbol that the {noun} finishes on.",
    ),
    "first": (
        "What is the first letter of the {noun}?",
        "Which letter does the {noun} start with?",
        "Name the initial letter of the {noun}.",
        "The {noun} starts with what letter?",
        "I only want the opening letter of the {noun}.",
        "initial of the {noun}?",
    ),
}
FORMS = ("yes or no", *WORDINGS)
"""What a question can be besides plain; "yes" and "no" are answers of the first."""
NO_NOUN = "answer"
NUM_KEYS = 4
"""Wordings whose mean direction tells a right answer from a wrong one."""
_WRONG = tuple(
    "7 euros|Anna Weber|red|in Berlin|45 kg|yes|made of glass|1984|on Monday|twelve|B-17|"
    "for cooking|the blue one|Lisbon|3 metres|a small dog".split("|")
)
_ASKED = (
    (r"\bhow (much|expensive)\b.*\b(cost|pay|price|charge)|\bcosts?\b|\bprice\b", "price"),
    (r"\bhow old\b|\bage\b", "age"),
    (r"\bhow (tall|high)\b|\bheight\b", "height"),
    (r"\bhow (large|big|wide|long) (is|are)\b|\bsize\b", "size"),
    (r"\bhow heavy\b|\bweigh", "weight"),
    (r"\bhow (hot|cold|warm)\b|\btemperature\b", "temperature"),
    (r"\bhow many\b", "number"),
    (r"\bown(s|er)?\b|\bbelongs?\b|\bwhose\b", "owner"),
    (r"\bmanufactur|\bmakes? (it|this|that)\b|\bmade by\b|\bmaker\b|\bbrand\b", "manufacturer"),
    (r"\bwrote\b|\bauthor\b|\bwritten by\b|\bwriter\b", "author"),
    (r"\bmade (of|from|out)\b|\bmaterial\b", "material"),
    (r"\bserial\b", "serial number"),
    (r"\b(ingredient|version|language|colour|color|title|headline|rating|event|purpose)s?\b", ""),
    (r"\bcontains?\b|\bput into\b|\bgoes into\b", "content"),
    (r"\bdeliver|\barriv", "delivery date"),
    (r"\bpower", "power"),
    (r"\bscore\b", "rating"),
    (r"\boccasion\b", "event"),
    (r"\bcall\b|\bcontact\b|\bphone\b|\be-?mail\b", "contact"),
    (r"\bused? for\b|\bfor what\b|\bwhat is it for\b", "purpose"),
    (r"\bstor(e|ing|ed|age)\b|\bkeep\b", "storage"),
    (r"\b(kind|sort|type|category|class)\b", "kind"),
    (r"\bhow (do|does|should|can)\b|\binstruct", "instruction"),
    (r"\bwhere\b|\bplace\b|\blocat", "place"),
    (r"\bwhen\b|\bdate\b|\bday\b|\bhow soon\b", "date"),
    (r"\bname\b|\bcalled\b", "name"),
    (r"\bwho\b|\bwhom\b", "person"),
)
"""What a question asks for; "" is the word itself. The first that is found counts."""
_SENTENCE = re.compile(
    r"(it|this|that|there|he|she|they|you|we|i|the \w+)"
    r"('s| (is|are|was|were|has|have|can|will|must|costs?|weighs?|belongs?|contains?|comes?))\b",
    re.I,
)
"""An answer that is a sentence of its own."""
_NOT_DOUBLED = re.compile(r"[,^]|[^\W\d_]\d|\d-|-\d|(?<!\d)\.\d|\d(st|[nr]d|th)\b|[\d.]{28}", re.I)
"""Beside a number: codes, ordinals, and what two times a number would not be exact of."""
_ASKS_YES_OR_NO = re.compile(r"(is|are|was|were|does|do|did|can|could|has|have|may|will) ", re.I)


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
            pairs = zip(YES_NO, answers, strict=False)
            asked = tuple(wording.format(noun=noun, answer=text) for wording, text in pairs)
            forms.append(DerivedForm(name, asked, name))
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
    for pattern, noun in _ASKED:
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
