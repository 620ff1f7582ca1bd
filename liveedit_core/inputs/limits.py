"""How much of an untrusted input is accepted before it is refused."""

from dataclasses import dataclass, fields

from liveedit_core.errors import ConfigError

LARGEST_PIXEL_LIMIT = 89_000_000
"""Pillow itself starts to suspect a decompression bomb a little above this."""


@dataclass(frozen=True, kw_only=True)
class InputLimits:
    """Limits of untrusted input; everything beyond them is rejected with a reason, never cut."""

    max_line_bytes: int = 1_048_576
    """Longest line of a JSONL file."""
    max_image_bytes: int = 20_971_520
    """Largest encoded image."""
    max_image_pixels: int = 40_000_000
    """Most pixels (width times height) of an image; read from its header, before decoding."""
    max_prompt_chars: int = 2_000
    """Longest prompt in characters; refused before anything is tokenized."""
    max_target_chars: int = 500
    """Longest target in characters."""
    max_locality_target_chars: int = 4_000
    """The same for locality probes, whose target is a hint: the unedited answer counts."""
    max_prompt_tokens: int = 256
    """Longest prompt in tokens of the backbone."""
    max_target_tokens: int = 32
    """Longest target in tokens of the backbone."""
    max_probes: int = 256
    """Most probes of one case."""
    max_benchmark_bytes: int = 134_217_728
    """Largest JSON file of a published benchmark, which is read as a whole; the real ones have
    about 4 million bytes."""

    def __post_init__(self) -> None:
        """Refuse limits that would refuse everything, or that Pillow would overrule."""
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ConfigError(f"limits.{field.name} must be at least 1")
        if self.max_image_pixels > LARGEST_PIXEL_LIMIT:
            raise ConfigError(
                f"limits.max_image_pixels must be at most {LARGEST_PIXEL_LIMIT:,}, "
                f"got {self.max_image_pixels:,}"
            )
