"""Misspelt words are read as known ones; everything else stays as it is."""

import pytest

from liveedit_core.backbones.spelling import Spelling


class Words:
    """A tokenizer with some whole words, the frequent ones first."""

    words = ("what", "is", "made", "mad", "still", "this", "material", "contain", "wine", "in")

    def get_vocab(self) -> dict[str, int]:
        pieces = {"wat": 0, "\u0120mdaex": 1}
        return pieces | {f"\u0120{word}": i + 2 for i, word in enumerate(self.words)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("waht is tihs?", "what is this?"),
        ("Waht dose it conatin?", "what dose it contain?"),
        ("is it stil mdae", "is it still made"),
        ("wihch materal? thiss!", "wihch material? this!"),
        ("whine in AB-4711-X", "whine in AB-4711-X"),
        ("wat isin", "wat isin"),
        ("Was ist das f\u00fcr ein tihs?", "Was ist das f\u00fcr ein tihs?"),
        ("\u8fd9\u662f\u4ec0\u4e48\uff1f", "\u8fd9\u662f\u4ec0\u4e48\uff1f"),
        ("", ""),
    ],
)
def test_words_are_corrected(text: str, expected: str) -> None:
    assert Spelling(Words()).corrected(text) == expected


def test_a_corrected_text_stays_as_it_is() -> None:
    spelling = Spelling(Words())
    once = spelling.corrected("waht is teh materail mdae of")
    assert spelling.corrected(once) == once
