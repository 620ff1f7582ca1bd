"""What is frozen about an input (METHOD.md 6), and its padded batches.

Rows at the edit layer never change, whatever is edited, so they are computed once (`LayerStates`)
and everything else works on them. In a sequence the order is

    [text before] image rows, prompt rows, target rows
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Span = tuple[int, int]
"""Half-open range of rows."""


@dataclass(frozen=True, kw_only=True)
class LayerStates:
    """Constants of one input: rows at layer l_e and what is needed to route and score it."""

    hidden_TD: Tensor
    """Output of decoder layer l_e at every position; float32."""
    pyramid_E: Tensor
    """Several levels of the image tower in one row (`backbones/pyramid.py`); empty for a text-only
    input and for a backbone without a pyramid."""
    target_embeddings_OD: Tensor
    """Input embeddings of the target tokens."""
    image_span: Span
    prompt_span: Span
    """Prompt tokens after the image, up to and including the last one before the target."""
    target_span: Span
    target_ids_O: Tensor
    """int64 token ids of the target."""
    grid: tuple[int, ...] | None = None
    """Grid of the image's patches, for families whose positions depend on it."""

    @property
    def has_image(self) -> bool:
        """Whether the input has an image; if not, the experts are never asked."""
        return self.image_span[1] > self.image_span[0]

    @property
    def num_tokens(self) -> int:
        """T."""
        return int(self.hidden_TD.shape[0])


class Rows(NamedTuple):
    """Padded rows of a batch with their mask; a tuple, so that hooks of modules see its tensors."""

    rows_BSD: Tensor
    mask_BS: Tensor

    @classmethod
    def pad(cls, parts: Sequence[Tensor]) -> "Rows":
        """Pad rows of different lengths with zeros."""
        lengths = torch.tensor([len(part) for part in parts])
        rows = pad_sequence(list(parts), batch_first=True)
        mask = torch.arange(rows.shape[1]) < lengths[:, None]
        return cls(rows_BSD=rows, mask_BS=mask.to(rows.device))


def hidden_rows(states: Sequence[LayerStates]) -> Rows:
    """All rows at l_e of each input."""
    return Rows.pad([state.hidden_TD for state in states])


def prompt_rows(states: Sequence[LayerStates]) -> Rows:
    """h_p of each input."""
    return Rows.pad([state.hidden_TD[slice(*state.prompt_span)] for state in states])


def image_rows(states: Sequence[LayerStates]) -> Rows:
    """h_v of each input."""
    return Rows.pad([state.hidden_TD[slice(*state.image_span)] for state in states])


def pyramids(states: Sequence[LayerStates]) -> Tensor:
    """Pyramid of each input, [B, E]; all have an image."""
    return torch.stack([state.pyramid_E for state in states])
