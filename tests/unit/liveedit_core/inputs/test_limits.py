"""Texts are refused by the tokens that the backbone and the experts hold."""

import pytest

from liveedit_core.inputs.datasets import validate_tokens
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import RefusedInputError, Rejected
from liveedit_core.schema import EditRequest


class CountedWords:
    """As a tokenizer in which the space before a target that begins with a digit is a token."""

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def count_target_tokens(self, text: str) -> int:
        return self.count_tokens(text) + text[0].isdigit()


class NothingKnown(CountedWords):
    def count_tokens(self, text: str) -> int:
        return 0


def test_a_target_counts_as_it_follows_the_prompt_and_as_far_as_experts_hold_it() -> None:
    request = EditRequest(image_bytes=b"", prompt="one", target="4 711 8")
    validate_tokens(request, CountedWords(), limits=InputLimits().for_generator(None))
    validate_tokens(request, CountedWords(), limits=InputLimits().for_generator(4))
    for limits in (InputLimits().for_generator(3), InputLimits(max_target_tokens=3)):
        with pytest.raises(RefusedInputError, match="target has 4 tokens; at most 3"):
            validate_tokens(request, CountedWords(), limits=limits.for_generator(9))


def test_token_limits_use_the_callers_count() -> None:
    request = EditRequest(image_bytes=b"", prompt="one two three", target="four")

    count_words = CountedWords()
    validate_tokens(request, count_words, limits=InputLimits(max_prompt_tokens=3))
    worded = EditRequest(
        image_bytes=b"", prompt="one", target="four", also_asked=("two", "or two or three")
    )
    with pytest.raises(RefusedInputError, match=r"also_asked\[1\] has 4 tokens; at most 3"):
        validate_tokens(worded, count_words, limits=InputLimits(max_prompt_tokens=3))
    with pytest.raises(RefusedInputError, match="prompt has 3 tokens; at most 2") as caught:
        validate_tokens(request, count_words, limits=InputLimits(max_prompt_tokens=2))
    reject = Rejected.from_error(caught.value, edit_id=request.edit_id)
    assert (reject.error_type, reject.line_number) == ("TooManyTokens", 0)
    with pytest.raises(RefusedInputError, match="no token"):
        validate_tokens(request, NothingKnown())
