"""Which prompts name the same."""

import pytest

from liveedit_core.inputs.same_question import have_equal_names


@pytest.mark.parametrize(
    ("prompt", "other", "expected"),
    [
        ("Who makes plane 1?", "Who makes plane 2?", False),
        ("Who makes plane 1?", "plane 1: who makes it", True),
        ("What is the capital of France?", "what's the capital of france", True),
        ("What is the capital of France?", "What is the capital of Spain?", False),
        ("Кто директор Москвы?", "Кто директор Тулы?", False),
        ("Please. What is it?", "What is it, as I asked?", True),
        ("Which model is the A-31?", "Which model is the A-32?", False),
    ],
)
def test_names_and_numbers_must_be_in_both(prompt: str, other: str, expected: bool) -> None:
    assert have_equal_names(prompt, other) is expected
    assert have_equal_names(other, prompt) is expected
