"""Control tokens of a tokenizer in the texts of users.

Written in a prompt or a target, `<|im_end|>` or `<image>` would be encoded as the control token:
the text would end a turn, or stand for an image that is not there. Such texts are refused.
"""

from collections.abc import Sequence
from typing import Any

_PLACEHOLDERS = ("image_token", "video_token", "audio_token")


class SpecialTokens:
    """What a processor's tokenizer takes for control tokens."""

    def __init__(self, processor: Any) -> None:
        tokenizer = processor.tokenizer
        added = [
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        ]
        named = [getattr(processor, name, None) for name in _PLACEHOLDERS]
        texts = {str(token) for token in (*added, *tokenizer.all_special_tokens, *named) if token}
        self._texts = sorted(texts, key=lambda text: (-len(text), text))
        # Letters that a tokenizer does not know become its token for those: no control token.
        unknown = {None, tokenizer.unk_token_id}
        ids = {tokenizer.convert_tokens_to_ids(text): text for text in self._texts}
        self._text_of = {number: text for number, text in ids.items() if number not in unknown}

    def found_in(self, text: str, token_ids: Sequence[int]) -> str:
        """A control token that a text spells, or is encoded with; "" if there is none."""
        spelled = next((token for token in self._texts if token in text), "")
        encoded = (self._text_of[number] for number in token_ids if number in self._text_of)
        return spelled or next(encoded, "")
