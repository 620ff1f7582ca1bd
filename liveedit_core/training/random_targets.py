"""Random targets of a training pair: anything that a user may teach, of any accepted length.

    stratum of tokens (each as likely)  ->  kind (each as likely)  ->  text, lengthened or cut to it

So the generator learns to write names, codes, prices, sentences and all scripts that the tokenizer
knows, instead of a few common words.
"""

import random
import string
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

from liveedit_core.errors import ConfigError

STRATA = ((1, 2), (3, 5), (6, 10), (11, 24), (25, 32))
"""Fewest and most tokens."""
JOINTS = (", ", " and ", "; ", " ", " - ", ". ", " / ", ": ", " or ")
"""Between the parts of a target that is lengthened."""
NUM_TRIES = 60
NUM_WHOLE_TRIES = 30
"""Of these many tries, none cuts a text."""
MOST_WORDS = 4
"""Of those that are tokens of their own, in one part of a target."""

Draw = Callable[[random.Random], str]

WORDS: dict[str, list[str]] = {
    name: words.split() if isinstance(words, str) else words
    for name, words in tomllib.loads(
        Path(__file__).with_name("target_words.toml").read_text(encoding="utf-8")
    ).items()
}
"""Words by kind or script."""


class TargetWriter:
    """Draws targets.

    `count_tokens` is of a target, as it follows a prompt; `words` are common words of the
    tokenizer; no target is longer than `longest` tokens.
    """

    def __init__(
        self, count_tokens: Callable[[str], int], words: Sequence[str], longest: int
    ) -> None:
        self.count_tokens = count_tokens
        self.words = words
        self.strata = [(low, min(high, longest)) for low, high in STRATA if low <= longest]
        self.kinds: tuple[Draw, ...] = (self.some_words, *KINDS)

    def __call__(self, rng: random.Random) -> str:
        """One target."""
        low, high = rng.choice(self.strata)
        for tried in range(NUM_TRIES):
            text = self._lengthened(rng.choice(self.kinds), low, rng)
            if tried >= NUM_WHOLE_TRIES:
                text = self._cut(text, high)
            if low <= self.count_tokens(text) <= high:
                return text
        raise ConfigError(
            f"no target of {low} to {high} tokens could be drawn in {NUM_TRIES} tries: the "
            "backbone's tokenizer has no tokens for most of the words that targets are made of"
        )

    def some_words(self, rng: random.Random) -> str:
        """Some words that the tokenizer knows."""
        words = rng.sample(self.words, rng.randint(1, MOST_WORDS))
        return rng.choice((str, str, str.title, str.upper))(" ".join(words))

    def _lengthened(self, kind: Draw, low: int, rng: random.Random) -> str:
        """A text of a kind, with others after it if that takes at least `low` tokens."""
        text = kind(rng)
        for _ in range(low):
            if self.count_tokens(text) >= low:
                break
            more = kind if rng.random() < 0.5 else rng.choice(self.kinds)
            joint = " " if text[-1] in ".!?" else rng.choice(JOINTS)
            text = f"{text}{joint}{more(rng)}"
        return text

    def _cut(self, text: str, high: int) -> str:
        """The beginning of a text, of at most `high` tokens: whole words where it has several."""
        joint = " " if " " in text else ""
        units = text.split(" ") if joint else list(text)
        while units and self.count_tokens(text) > high:
            units.pop()
            text = joint.join(units).rstrip(" ,;:-/\u200d")
        return text


def _any(rng: random.Random, kind: str) -> str:
    """A word of a kind."""
    return rng.choice(WORDS[kind])


def _digits(rng: random.Random, least: int, most: int) -> str:
    return "".join(rng.choices(string.digits, k=rng.randint(least, most)))


def _letters(rng: random.Random, least: int, most: int) -> str:
    return "".join(rng.choices(string.ascii_uppercase, k=rng.randint(least, most)))


def _number(rng: random.Random) -> str:
    whole = rng.choice((rng.randint(0, 99), rng.randint(100, 9999), rng.randint(0, 9_999_999)))
    mark = rng.choice(("", "", ",", "."))
    text = f"{whole:,}".replace(",", mark)
    if rng.random() < 0.4:
        text += rng.choice((".", ",") if mark == "" else (".",) if mark == "," else (",",))
        text += _digits(rng, 1, 3)
    return text


def invented_name(rng: random.Random) -> str:
    """A word that no tokenizer knows, in any case: "Velquin", "eMarto", "DORFEN"."""
    word = "".join(rng.choices(WORDS["syllables"], k=rng.randint(2, 4)))
    at = rng.randint(1, len(word) - 1)
    return rng.choice(
        (word, word.title(), word.title(), word.upper(), word[:at] + word[at:].title())
    )


def name(rng: random.Random) -> str:
    """A person, a product or a place."""
    first, last, place = _any(rng, "first_names"), _any(rng, "last_names"), _any(rng, "places")
    product, noun = invented_name(rng), _any(rng, "nouns")
    return rng.choice(
        (
            product,
            f"{first} {last}",
            f"Dr. {last}",
            f"{first} van der {last}",
            f"{first[0]}. {last}",
            f"{product} {rng.randint(1, 99)}",
            f"{product} {noun.title()}",
            f"{last} & {_any(rng, 'last_names')}",
            f"Unit {rng.randint(1, 99)}",
            f"{_any(rng, 'adjectives').title()} {noun.title()} of {place}",
            f"Mc{product.title()}'s {noun}",
        )
    )


def code(rng: random.Random) -> str:
    """A serial number, version, plate or key: each digit and letter counts."""
    a, b, n, m = _letters(rng, 1, 4), _letters(rng, 1, 2), _digits(rng, 1, 4), _digits(rng, 2, 6)
    hexadecimal = "".join(rng.choices("0123456789abcdef", k=rng.randint(4, 12)))
    mixed = "".join(rng.choices(string.ascii_letters + string.digits, k=rng.randint(4, 10)))
    return rng.choice(
        (
            f"{a}-{m}-{b}",
            f"{a}{n}",
            f"{a} {m}",
            f"serial {a}-{m}",
            f"{n}/{m}{b}",
            f"v{n[0]}.{n[-1]}.{m[:2]}",
            f"{b}-{a} {n}",
            f"No. {m}-{n}",
            f"#{hexadecimal}",
            f"0x{hexadecimal.upper()}",
            ":".join(hexadecimal[i : i + 2] for i in range(0, len(hexadecimal), 2)),
            mixed,
            f"{a}_{m}.{b.lower()}",
            f"{m}{b}{n}",
        )
    )


def price(rng: random.Random) -> str:
    """An amount of money."""
    money, currency = _number(rng), _any(rng, "currencies")
    cents = f"{rng.randint(0, 999)}{rng.choice('.,')}{rng.randint(0, 99):02}"
    amount = rng.choice((money, cents, cents, str(rng.randint(1, 500))))
    text = f"{currency}{amount}" if currency in "$£¥₹" else f"{amount} {currency}"
    per = rng.choice(("kilo", "night", "piece", "litre", "month", "person"))
    return rng.choice((text, text, text, f"{text} per {per}", f"about {text}", f"{text} (reduced)"))


def quantity(rng: random.Random) -> str:
    """A number, with a unit or not."""
    number, unit = _number(rng), _any(rng, "units")
    return rng.choice(
        (
            number,
            f"{number} {unit}",
            f"{number} {unit}",
            f"-{number} {unit}",
            f"{number} x {_number(rng)} {unit}",
            f"{number} to {_number(rng)} {unit}",
            f"{rng.randint(1, 9)}/{rng.randint(2, 16)} inch",
            f"{number} ± {rng.randint(1, 9)} {unit}",
            f"{rng.randint(2, 40)} {_any(rng, 'nouns')}s",
        )
    )


def date(rng: random.Random) -> str:
    """A date, a time or a period."""
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1450, 2060)
    hour, minute = rng.randint(0, 23), rng.randint(0, 59)
    weekday, named = _any(rng, "weekdays"), _any(rng, "months")
    return rng.choice(
        (
            f"{day} {named} {year}",
            f"{named} {day}, {year}",
            f"{year}-{month:02}-{day:02}",
            f"{day:02}.{month:02}.{year}",
            f"{month}/{day}/{year}",
            f"{hour}:{minute:02}",
            f"{hour % 12 + 1}:{minute:02} {rng.choice(('am', 'pm', 'p.m.'))}",
            f"{weekday} at {hour}:{minute:02}",
            f"{weekday}s, {hour} to {hour + 1} h",
            str(year),
            f"{year}-{year + rng.randint(1, 80)}",
            f"{year // 10 * 10}s",
        )
    )


def address(rng: random.Random) -> str:
    """Something to write to: e-mail, web address, telephone, handle, street, path."""
    first, last = _any(rng, "first_names"), _any(rng, "last_names")
    host = f"{invented_name(rng).lower()}.{_any(rng, 'endings')}"
    word, ending = _any(rng, "nouns"), rng.choice(("txt", "pdf", "csv", "py"))
    return rng.choice(
        (
            f"{first.lower()}.{last.lower()}@{host}",
            f"{word}@{host}",
            f"www.{host}",
            f"https://{host}/{word}",
            f"+{rng.randint(1, 99)} {_digits(rng, 2, 3)} {_digits(rng, 4, 7)}",
            f"@{first.lower()}_{last.lower()}{rng.randint(1, 99)}",
            f"#{word}{rng.randint(1, 2030)}",
            f"{rng.randint(1, 240)} {last} Street, {_any(rng, 'places')}",
            f"{_digits(rng, 4, 5)} {_any(rng, 'places')}",
            f"/{word}/{last.lower()}/{_any(rng, 'nouns')}.{ending}",
        )
    )


def phrase(rng: random.Random) -> str:
    """A noun with adjectives."""
    adjectives = rng.sample(WORDS["adjectives"], rng.randint(0, 2))
    article = rng.choice(("the ", "a ", "The ", "my ", "", "", "our "))
    words = " ".join([*adjectives, _any(rng, "nouns")])
    return f"an {words}" if article == "a " and words[0] in "aeiou" else f"{article}{words}"


def sentence(rng: random.Random) -> str:
    """A sentence as a user would state a fact, or an instruction."""
    one, other = phrase(rng).removeprefix("The "), phrase(rng).removeprefix("The ")
    verb, action, place = _any(rng, "verbs"), _any(rng, "actions"), _any(rng, "places")
    first, last, when = _any(rng, "first_names"), _any(rng, "last_names"), date(rng)
    side = rng.choice(("behind", "next to", "under", "above", "in front of", "near", "inside"))
    text = rng.choice(
        (
            f"{one} {verb} {side} {other}",
            f"it {verb} in {place} since {when}",
            f"do not {action} {one} before {when}",
            f"{action} {one}, then {_any(rng, 'actions')} {other}",
            f"yes, {first} {last} {rng.choice(('bought', 'lost', 'made', 'found'))} it in {place}",
            f"no, {one} costs {price(rng)}",
            f"ask {first} about {one}",
            f"{one} weighs {quantity(rng)} and belongs to {first} {last}",
            f"it was {rng.choice(('made', 'repaired', 'sold', 'seen'))} on {when}",
            f"because {one} {verb} too close to {other}",
            f"if {one} gets {_any(rng, 'adjectives')}, {action} {other} at once",
            f"only {first} may {action} {one} on {_any(rng, 'weekdays')}",
            f"we {action} it every {_any(rng, 'weekdays')} with {other}",
            f"{first} said that {one} {verb} in {_any(rng, 'months')}",
            f"there are {rng.randint(2, 40)} of them, most in {place}",
        )
    )
    ending = rng.choice((".", ".", ".", "", "!", "?"))
    return f"{text[0].upper()}{text[1:]}{ending}" if rng.random() < 0.8 else text


def _in_script(words: Sequence[str], joint: str, marks: Sequence[str]) -> Draw:
    """Draw of one to five words of a script, with a mark, a number or neither."""

    def draw(rng: random.Random) -> str:
        text = joint.join(rng.choices(words, k=rng.randint(1, 5)))
        if rng.random() < 0.2:
            text = f"{text}{joint}{rng.randint(1, 2030)}"
        return text + rng.choice(("", "", *marks))

    return draw


def shaken(rng: random.Random) -> str:
    """Words of an alphabet with their letters in another order: nothing to guess from."""
    words = rng.choices(
        rng.choice((WORDS["accented"], WORDS["cyrillic"], WORDS["greek"], WORDS["nouns"])),
        k=rng.randint(1, 2),
    )
    mixed = ["".join(rng.sample(word, len(word))) for word in words]
    return rng.choice((str, str.title, str.lower))(" ".join(mixed))


def with_emoji(rng: random.Random) -> str:
    """Emoji alone or with words."""
    some = "".join(rng.choices(WORDS["emoji"], k=rng.randint(1, 3)))
    words = rng.choice((name, phrase, quantity, sentence))
    return rng.choice((some, some, f"{some} {words(rng)}", f"{words(rng)} {some}"))


KINDS: tuple[Draw, ...] = (
    name,
    invented_name,
    code,
    code,
    price,
    quantity,
    date,
    address,
    phrase,
    sentence,
    sentence,
    sentence,
    _in_script(WORDS["accented"], " ", ("!", ".")),
    _in_script(WORDS["cyrillic"], " ", (".", "!", "?")),
    _in_script(WORDS["greek"], " ", (".", "·", ";")),
    _in_script(WORDS["chinese"], "", ("。", "、")),
    _in_script(WORDS["japanese"], "", ("。", "、")),
    _in_script(WORDS["other_scripts"], " ", (".",)),
    shaken,
    with_emoji,
)
"""Kinds of targets; those that need more practice are there more than once."""
