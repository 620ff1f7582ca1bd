"""Texts from outside: what is refused, and how any text is shown on a terminal or a page."""

import re
import unicodedata

from liveedit_core.inputs.jsonl import wrong_type
from liveedit_core.inputs.rejects import RefusedInputError, RejectType

_HIDDEN = "\x00-\x08\x0b\x0c\x0d\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069"
"""Control characters but tab and line break, and those that turn the direction of writing."""
_REFUSED = re.compile(f"[{_HIDDEN}]".replace("\x0d", ""))
_ESCAPED = re.compile(f"[{_HIDDEN}\ud800-\udfff]")
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and symbols without a glyph."""
_BLANK_CATEGORIES = ("Cc", "Cf", "Zs", "Zl", "Zp")


def check_text(value: object, name: str, max_chars: int) -> str:
    """Return `value` if it is a text that a reader sees and that can be stored as UTF-8."""
    if not isinstance(value, str):
        raise wrong_type(name, "a text", value)
    check_length(value, name, max_chars)
    if not value.strip():
        raise RefusedInputError(f"{name} is empty", RejectType.EMPTY_TEXT)
    check_encodable(value, name)
    if hidden := _REFUSED.search(value):
        raise RefusedInputError(
            f"{name} holds the control character {escaped(hidden.group())} at position "
            f"{hidden.start() + 1}: remove it",
            RejectType.BAD_TEXT,
        )
    if all(map(_is_blank, value)):
        raise RefusedInputError(
            f"{name} holds only characters that are not visible", RejectType.EMPTY_TEXT
        )
    return value


def check_length(value: str, name: str, max_chars: int) -> None:
    """Refuse a text that is too long."""
    if len(value) > max_chars:
        raise RefusedInputError(
            f"{name} has {len(value):,} characters; at most {max_chars:,} are accepted: shorten it",
            RejectType.TEXT_TOO_LONG,
        )


def check_encodable(value: object, name: str) -> None:
    """Refuse what is no text, or none that UTF-8 holds: no tokenizer takes it."""
    if not isinstance(value, str):
        raise wrong_type(name, "a text", value)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RefusedInputError(
            f"{name} holds half of a character pair (\\ud800 to \\udfff) at position "
            f"{error.start + 1}",
            RejectType.BAD_TEXT,
        ) from error


def escaped(text: str) -> str:
    """The text with control characters, and those that no UTF-8 has, in the notation of Python: a
    terminal obeys them, and a reader sees none. Tabs and line breaks stay."""
    return _ESCAPED.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def _is_blank(letter: str) -> bool:
    is_selector = "\ufe00" <= letter <= "\ufe0f" or "\U000e0100" <= letter <= "\U000e01ef"
    return letter in _BLANK or is_selector or unicodedata.category(letter) in _BLANK_CATEGORIES
