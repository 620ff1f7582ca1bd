"""The frozen layers after l_e as one module that training can differentiate through and shard."""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from liveedit_core.states import LayerStates

if TYPE_CHECKING:
    from liveedit_core.backbones.huggingface import HuggingFaceBackbone


def target_rows(
    states: Sequence[LayerStates], rows_BTD: Tensor, *, has_end: bool
) -> tuple[Tensor, list[int]]:
    """Rows that predict the target tokens (and, with `has_end`, what follows them), of all items in
    one tensor, and how many each has."""
    wanted = []
    for row, state in enumerate(states):
        start, stop = state.target_span
        wanted.append(rows_BTD[row, start - 1 : stop if has_end else stop - 1])
    return torch.cat(wanted), [len(part) for part in wanted]


class RecomputedLayer(nn.Module):
    """A decoder layer that keeps only its input for the backward pass and runs again there."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        if hasattr(layer, "attention_type"):
            self.attention_type = layer.attention_type

    def forward(self, hidden_BTD: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the layer's."""
        if not (torch.is_grad_enabled() and hidden_BTD.requires_grad):
            return self.layer(hidden_BTD, *args, **kwargs)
        # Stopping early is a must under ZeRO-3: a recomputation to the very end releases weights
        # before torch compares them with those of the first pass, and finds them empty.
        return checkpoint(
            self.layer, hidden_BTD, *args, use_reentrant=False, early_stop=True, **kwargs
        )


class DecoderSuffix(nn.Module):
    """Layers l_e + 1 .., final norm and head of a backbone; holds nothing else of it.

    Args:
        backbone: shares its weights with this module, unless `dtype` is another than its own.
        dtype: in which the layers compute; logits are float32.
        has_activation_checkpointing: whether layers run again in the backward pass.
    """

    def __init__(
        self,
        backbone: "HuggingFaceBackbone",
        *,
        dtype: torch.dtype = torch.float32,
        has_activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.end_id = backbone.end_id
        parts = backbone.suffix, backbone.model.lm_head
        has_other_dtype = any(p.dtype != dtype for part in parts for p in part.parameters())
        decoder = _without_embeddings(backbone.suffix)
        head = backbone.model.lm_head
        if has_other_dtype:
            decoder, head = copy.deepcopy(decoder).to(dtype), copy.deepcopy(head).to(dtype)
        if has_activation_checkpointing:
            decoder.layers = nn.ModuleList(RecomputedLayer(layer) for layer in decoder.layers)
        self.decoder = decoder
        self.head = head
        self.dtype = dtype
        self.requires_grad_(False)

    def forward(self, states: Sequence[LayerStates], hidden_BTD: Tensor) -> list[Tensor]:
        """Logits [O + 1, V] of each item, at its target positions and the one after.

        Args:
            states: give the spans.
            hidden_BTD: padded rows at l_e, residual included; differentiable.
        """
        rows = self.decoder(inputs_embeds=hidden_BTD.to(self.dtype), use_cache=False)
        wanted_XD, lengths = target_rows(states, rows.last_hidden_state, has_end=True)
        return list(self.head(wanted_XD).float().split(lengths))


def drop_suffix(backbone: "HuggingFaceBackbone") -> None:
    """Free the layers after l_e; from now on the backbone only encodes."""
    backbone.decoder.layers = backbone.prefix.layers
    backbone.suffix = nn.Identity()
    backbone.model.lm_head = nn.Identity()


def _without_embeddings(decoder: Any) -> Any:
    """A view of a decoder part that does not hold the table of input embeddings, and whose hooks
    are its own."""
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    part.embed_tokens = nn.Identity()
    for name, value in vars(part).items():
        if name.endswith("_hooks") and isinstance(value, OrderedDict):
            setattr(part, name, OrderedDict(value))
    return part
