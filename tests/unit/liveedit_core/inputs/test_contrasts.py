"""Words that make two questions different ones, however alike they are."""

import pytest

from liveedit_core.inputs.contrasts import ask_apart


@pytest.mark.parametrize(
    ("prompt", "other"),
    [
        ("Who owns it?", "Who made it?"),
        ("Who is the owner?", "Who is the previous owner?"),
        ("Where does Anna live?", "Where did Anna live before?"),
        ("When does it open?", "When does it close?"),
        ("What is the first ingredient?", "What is the second ingredient?"),
        ("How tall is it?", "What is its width?"),
        ("Is it open on Monday?", "Is it open on Sunday?"),
        ("Where does Anna work?", "Where does the sister of Anna work?"),
        ("What may I eat?", "What may I not eat?"),
        ("Why can it be opened?", "Why can\u2019t it be opened?"),
        ("Who wrote it?", "When was it written?"),
        ("It is mine. What is its largest part?", "I found it. What is its smallest part?"),
    ],
)
def test_a_word_sets_questions_apart(prompt: str, other: str) -> None:
    assert ask_apart(prompt, other)
    assert ask_apart(other, prompt)


@pytest.mark.parametrize(
    ("prompt", "other"),
    [
        ("What is shown here?", "What is this called?"),
        ("Who owns it?", "Who is the owner of this?"),
        ("Who is its owner?", "To whom does it belong?"),
        ("How old is it?", "What is its age?"),
        ("When was it made?", "In which year was it made?"),
        ("Where does Anna live?", "In which city does Anna live?"),
        ("The shop closed on Monday. What is it?", "I opened the first one. What is this?"),
        ("hwo do i stroe thsi?", "I do not want to spoil it by storing it in the wrong way."),
        ("\u8fd9\u662f\u4ec0\u4e48\uff1f", "\u9019\u662f\u4ec0\u9ebc\uff1f"),
        ("What is it made from?", "What material was used for this?"),
        ("I have to know its weight before I lift it.", "Could you please tell me its weight?"),
        ("In which year did this first appear?", "In what year was this created?"),
        ("", "?"),
    ],
)
def test_other_words_for_the_same_do_not(prompt: str, other: str) -> None:
    assert not ask_apart(prompt, other)
    assert not ask_apart(other, prompt)
