"""A prompt encoder small enough for any test."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

PROMPT_SIZE = 64


class TinyPromptEncoder:
    """A direction drawn from a hash of each text."""

    identity = "tiny"

    def __init__(self, size: int = PROMPT_SIZE) -> None:
        self.size = size

    def rows(self, wordings: tuple[str, ...]) -> Tensor:
        return self.encode(wordings)

    def encode(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self._row(text.strip()) for text in texts])

    def _row(self, text: str) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
        drawn = torch.randn(self.size, generator=torch.Generator().manual_seed(seed))
        return functional.normalize(drawn, dim=-1)
