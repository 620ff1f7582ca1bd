"""States and logits of several inputs at once, each of which is computed apart.

Padded batches round differently with other neighbours. What the job writes must not depend on which
requests share a micro-batch, bit for bit, as a window is written again after a crash. Where the
layers can be lowered (`lowered.decoder`), many inputs pass them together all the same.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from liveedit_core.backbones.lowered.decoder import LoweredDecoder
from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.states import LayerStates


class EditedStates(NamedTuple):
    """An input, and its hidden states at l_e with a residual, [T, D]."""

    states: LayerStates
    hidden_TD: Tensor


@torch.no_grad()
def encode_apart(backbone: Backbone, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
    """As `Backbone.encode`; the bits of an input's states are the same beside any others."""
    if isinstance(backbone, VisionLanguageBackbone) and _lowered_suffix(backbone) is not None:
        return backbone.encode(inputs, is_apart=True)
    return [state for item in inputs for state in backbone.encode([item])]


@torch.no_grad()
def logits_apart(
    backbone: Backbone, groups: Sequence[Sequence[EditedStates]]
) -> list[list[Tensor]]:
    """As `Backbone.target_logits`, end included, of each group; its bits are the same beside any
    other groups."""
    lowered = _lowered_suffix(backbone)
    if lowered is None:
        return [_logits_of(backbone, group) for group in groups]
    items = [item for group in groups for item in group]
    parts = [item.hidden_TD.to(backbone.device) for item in items]
    logits = iter(lowered.logits(parts, [item.states.target_span for item in items]))
    return [[next(logits) for _ in group] for group in groups]


def _lowered_suffix(backbone: Backbone) -> LoweredDecoder | None:
    """The layers after l_e, where they have their own bits; those up to l_e have too."""
    if not isinstance(backbone, VisionLanguageBackbone):
        return None
    lowered = backbone.lowered(backbone.edit_layer + 1, len(backbone.decoder.layers))
    return lowered if lowered is not None and lowered.has_own_bits else None


def _logits_of(backbone: Backbone, group: Sequence[EditedStates]) -> list[Tensor]:
    hidden_BTD = pad_sequence([item.hidden_TD for item in group], batch_first=True)
    return backbone.target_logits([item.states for item in group], hidden_BTD, has_end=True)
