"""The frozen layers after l_e as one module that training can differentiate through and shard."""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from liveedit_core.backbones.families import Positions
from liveedit_core.backbones.views import WrappedLayer
from liveedit_core.errors import IntegrityError
from liveedit_core.states import LayerStates


class RecomputedLayer(WrappedLayer):
    """A decoder layer that keeps only its input for the backward pass and runs again there."""

    def forward(self, hidden_BTD: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not (torch.is_grad_enabled() and hidden_BTD.requires_grad):
            return self.layer(hidden_BTD, *args, **kwargs)
        # ZeRO-3 needs early_stop: a recomputation to the very end releases weights before torch
        # compares them with those of the first pass, and finds them empty.
        return checkpoint(
            self.layer, hidden_BTD, *args, use_reentrant=False, early_stop=True, **kwargs
        )


class DecoderSuffix(nn.Module):
    """Layers l_e + 1 .., final norm and head of a backbone; holds nothing else of it.

    Args:
        trunk: maps embeddings to hidden states after the final norm.
        layers: path of the list of decoder layers in the trunk.
        positions: see `Family.positions`.
        end_id: token that must follow an answer.
        dtype: in which the layers compute. Where parameters have another, this module holds
            converted copies. Logits are float32.
        logit_cap: logits are squeezed into plus and minus this.
        has_activation_checkpointing: whether layers run again in the backward pass.
    """

    def __init__(
        self,
        trunk: Any,
        head: Any,
        *,
        layers: str,
        positions: Positions | None,
        end_id: int,
        dtype: torch.dtype,
        logit_cap: float | None,
        has_activation_checkpointing: bool,
    ) -> None:
        super().__init__()
        parts = [p.dtype for part in (trunk, head) for p in part.parameters()]
        if any(own.is_floating_point and own != dtype for own in parts):
            trunk, head = in_dtype(trunk, dtype), in_dtype(head, dtype)
        if has_activation_checkpointing:
            own_layers = trunk.get_submodule(layers)
            for i, layer in enumerate(own_layers):
                if next(layer.parameters(), None) is not None:
                    own_layers[i] = RecomputedLayer(layer)
        self.trunk = trunk
        self.head = head
        self.dtype = dtype
        self.end_id = end_id
        self.positions = positions
        self.logit_cap = logit_cap

    def forward(
        self, states: Sequence[LayerStates], hidden_BTD: Tensor, *, has_end: bool = True
    ) -> list[Tensor]:
        """See `protocol.Backbone.target_logits`."""
        hidden_BTD = hidden_BTD.to(self.dtype)
        masks = masks_and_positions(self.trunk, self.positions, states, hidden_BTD)
        output = self.trunk(inputs_embeds=hidden_BTD, use_cache=False, **masks)
        spans = [state.target_span for state in states]
        predicting = [
            output.last_hidden_state[row, start - 1 : stop if has_end else stop - 1]
            for row, (start, stop) in enumerate(spans)
        ]
        logits_XV = self.head(torch.cat(predicting)).float()
        if self.logit_cap is not None:
            logits_XV = torch.tanh(logits_XV / self.logit_cap) * self.logit_cap
        return list(logits_XV.split([len(part) for part in predicting]))


def masks_and_positions(
    trunk: Any, positions: Positions | None, states: Sequence[LayerStates], hidden_BTD: Tensor
) -> dict[str, Tensor]:
    """Mask and positions of padded hidden states, as the family derives them from tokens."""
    if positions is None:
        return {}
    mask_BT = torch.zeros(hidden_BTD.shape[:2], dtype=torch.int64, device=hidden_BTD.device)
    kinds_BT = torch.zeros_like(mask_BT)
    for row, state in enumerate(states):
        mask_BT[row, : state.num_tokens] = 1
        if positions == "prefix":
            kinds_BT[row, state.target_span[0] :] = 1
        elif state.has_image:
            kinds_BT[row, slice(*state.image_span)] = 1
    if positions == "prefix":
        return {"attention_mask": mask_BT, "token_type_ids": kinds_BT}
    if positions == "plain":
        return {"attention_mask": mask_BT}
    if positions == "blocks":
        names = inspect.signature(trunk.forward).parameters
        name = "token_type_ids" if "token_type_ids" in names else "mm_token_type_ids"
        return {"attention_mask": mask_BT, name: kinds_BT}
    grids = [state.grid for state in states if state.has_image]
    if None in grids:
        raise IntegrityError("states without the grid of their image: positions cannot be known")
    places_3BT, _ = trunk.get_rope_index(
        mask_BT,
        mm_token_type_ids=kinds_BT,
        image_grid_thw=torch.tensor(grids, device=mask_BT.device) if grids else None,
        attention_mask=mask_BT,
    )
    return {"attention_mask": mask_BT, "position_ids": places_3BT}


def in_dtype(module: nn.Module, dtype: torch.dtype) -> Any:
    """A copy with converted parameters; buffers keep their dtype, as the frequencies of rotary
    positions must not be rounded, and so do quantized weights, which are whole numbers."""
    copied = copy.deepcopy(module)
    for parameter in copied.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return copied
