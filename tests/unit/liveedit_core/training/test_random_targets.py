"""Random targets are of every length and kind that is asked for, and drawn from the seed."""

import random
import re
import unicodedata
from collections import Counter

import pytest

from liveedit_core.errors import ConfigError
from liveedit_core.training.random_targets import STRATA, TargetWriter

WORDS = ("kettle", "raven", "harbor", "lamp", "is", "it")


def count(text: str) -> int:
    """As a byte-level tokenizer: four letters, a digit, or two bytes of another script."""
    bytes_of_others = sum(len(letter.encode()) for letter in text if not letter.isascii())
    digits = sum(letter.isdigit() for letter in text)
    letters = sum(letter.isascii() and not letter.isdigit() for letter in text)
    return digits + -(-letters // 4) + bytes_of_others // 2


def drawn(longest: int, number: int = 400, seed: int = 0) -> list[str]:
    writer, rng = TargetWriter(count, WORDS, longest), random.Random(seed)
    return [writer(rng) for _ in range(number)]


def test_strata_of_length_are_equally_likely_and_all_fits() -> None:
    lengths = [count(text) for text in drawn(32)]
    strata = Counter(next(s for s in STRATA if s[0] <= n <= s[1]) for n in lengths)
    assert set(strata) == set(STRATA)
    assert min(strata.values()) > 400 / len(STRATA) / 2
    assert {*range(1, 33)} == set(lengths)


@pytest.mark.parametrize("longest", [1, 4, 7])
def test_no_target_is_longer_than_an_expert_holds(longest: int) -> None:
    lengths = {count(text) for text in drawn(longest)}
    assert lengths <= {*range(1, longest + 1)}
    assert longest in lengths


def test_every_kind_is_there() -> None:
    texts = drawn(32, 800)
    assert len(set(texts)) > 700
    assert all(text == text.strip() and text for text in texts)
    for pattern in (
        r"[A-Z]+-\d+-[A-Z]+",
        r"[$€£]\s?\d+[.,]\d\d\b|\d+[.,]\d\d €",
        r"\d (kg|km|°C|kWh)",
        r"\d{4}-\d\d-\d\d",
        r"\w+@\w+\.\w+",
        r"^[A-Z][a-z]+ .* [a-z]+\.$",
        r"[a-z][A-Z][a-z]",
    ):
        assert any(re.search(pattern, text) for text in texts), pattern
    letters = {unicodedata.name(letter, "").split(" ")[0] for text in texts for letter in text}
    assert letters >= {"CYRILLIC", "GREEK", "CJK", "HIRAGANA", "KATAKANA", "HANGUL", "ARABIC"}
    assert any("WITH ACUTE" in unicodedata.name(letter, "") for text in texts for letter in text)
    assert any(unicodedata.category(letter) == "So" for text in texts for letter in text)


def test_the_seed_decides() -> None:
    assert drawn(32, 30, seed=5) == drawn(32, 30, seed=5)
    assert drawn(32, 30, seed=5) != drawn(32, 30, seed=6)


def test_a_tokenizer_that_knows_nothing_is_named() -> None:
    with pytest.raises(ConfigError, match="no target of 1 to 2 tokens"):
        TargetWriter(lambda text: 0, WORDS, 2)(random.Random(0))
