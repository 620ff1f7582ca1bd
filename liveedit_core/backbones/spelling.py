"""Spelling of prompts: a misspelt word is read as the word that the encoder knows.

Typing errors cut a word into pieces that say little to a sentence encoder. A word that is not in
its vocabulary is replaced by the most frequent one that is and differs from it by two neighbouring
letters in the other order or a letter doubled or not; a long word, also by any one letter. Texts
with letters beyond ASCII are left as they are: the rules are those of English.
"""

import re
from collections.abc import Iterable, Iterator
from string import ascii_lowercase

_WORD = re.compile(r"[A-Za-z]+")
LEAST_LETTERS = 3
LEAST_LETTERS_OF_ANY_CHANGE = 6


class Spelling:
    """The words of a vocabulary, lower case, the most frequent first; others are left out."""

    def __init__(self, words: Iterable[str]) -> None:
        known = [word for word in words if len(word) > 1 and _WORD.fullmatch(word)]
        self._rank = {word: rank for rank, word in enumerate(known)}

    def corrected(self, text: str) -> str:
        """The text with its misspelt words replaced."""
        if any(letter.isalpha() and not letter.isascii() for letter in text):
            return text
        return _WORD.sub(lambda match: self._word(match.group()), text)

    def _word(self, word: str) -> str:
        lower = word.lower()
        if len(lower) < LEAST_LETTERS or lower in self._rank:
            return word
        for changes in (_slips, _any_change):
            known = [other for other in changes(lower) if other in self._rank]
            if known:
                return min(known, key=self._rank.__getitem__)
        return word


def _slips(word: str) -> Iterator[str]:
    """Two neighbours in the other order, a letter twice or once."""
    for i in range(len(word)):
        before, after = word[:i], word[i:]
        yield before + after[0] + after
        if len(after) > 1:
            yield before + after[1] + after[0] + after[2:]
        if after[:1] == after[1:2]:
            yield before + after[1:]


def _any_change(word: str) -> Iterator[str]:
    """One letter left out, added or exchanged."""
    if len(word) < LEAST_LETTERS_OF_ANY_CHANGE:
        return
    for i in range(len(word) + 1):
        before, after = word[:i], word[i:]
        if after:
            yield before + after[1:]
        for letter in ascii_lowercase:
            yield before + letter + after
            if after:
                yield before + letter + after[1:]
