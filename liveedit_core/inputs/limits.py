"""How much of an untrusted input is accepted before it is refused."""

from typing import Annotated, Self

from pydantic import Field

from liveedit_core.settings import List, PositiveInt, Settings

LARGEST_PIXEL_LIMIT = 89_000_000
"""Pillow itself starts to suspect a decompression bomb a little above this."""

MAX_TARGET_TOKENS = 32
"""Longest target that is accepted by default, and so the longest free answer."""


class InputLimits(Settings):
    """Limits of untrusted input; everything beyond them is rejected with a reason, never cut."""

    max_line_bytes: PositiveInt = 1_048_576
    max_image_bytes: PositiveInt = 20_971_520
    max_image_pixels: Annotated[int, Field(ge=1, le=LARGEST_PIXEL_LIMIT)] = 40_000_000
    """Most pixels (width times height) of an image; read from its header, before decoding."""
    max_prompt_chars: PositiveInt = 2_000
    """Longest prompt in characters; refused before anything is tokenized."""
    max_target_chars: PositiveInt = 500
    max_locality_target_chars: PositiveInt = 4_000
    """The same for locality probes, whose target is a hint: the unedited answer counts."""
    max_prompt_tokens: PositiveInt = 256
    max_target_tokens: PositiveInt = MAX_TARGET_TOKENS
    max_probes: PositiveInt = 256
    max_benchmark_bytes: PositiveInt = 134_217_728
    """JSON file of a published benchmark, read as a whole; the real ones have about 4 million."""
    image_roots: List[str] = ()
    """Folders and `s3://` prefixes that files may name images in, beside the folder of the file and
    the store. Images elsewhere are refused, and so are symbolic links."""

    def for_generator(self, max_target_tokens: int | None) -> Self:
        """The same, with no longer targets than its experts hold (None: any)."""
        if max_target_tokens is None or max_target_tokens >= self.max_target_tokens:
            return self
        return self.with_changes(max_target_tokens=max_target_tokens)
