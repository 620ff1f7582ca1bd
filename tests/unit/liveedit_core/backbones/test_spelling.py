"""Misspelt words are read as known ones; everything else stays as it is."""

import pytest

from liveedit_core.backbones.spelling import Spelling

WORDS = (
    "[PAD]",
    "the",
    "what",
    "is",
    "made",
    "mad",
    "still",
    "this",
    "material",
    "contain",
    "wine",
)
"""A vocabulary, the frequent words first."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("waht is tihs?", "what is this?"),
        ("Waht dose it conatin?", "what dose it contain?"),
        ("is it stil mdae", "is it still made"),
        ("wihch materal? thiss!", "wihch material? this!"),
        ("whine in AB-4711-X", "whine in AB-4711-X"),
        ("wat isin 7", "wat isin 7"),
        ("Was ist das f\u00fcr ein tihs?", "Was ist das f\u00fcr ein tihs?"),
        ("\u8fd9\u662f\u4ec0\u4e48\uff1f", "\u8fd9\u662f\u4ec0\u4e48\uff1f"),
        ("", ""),
    ],
)
def test_words_are_corrected(text: str, expected: str) -> None:
    assert Spelling(WORDS).corrected(text) == expected


def test_a_corrected_text_stays_as_it_is() -> None:
    spelling = Spelling(WORDS)
    once = spelling.corrected("waht is teh materail mdae of")
    assert spelling.corrected(once) == once
