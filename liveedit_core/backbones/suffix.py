"""The frozen layers after l_e as one module that training can differentiate through and shard."""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from liveedit_core.backbones.families import Positions
from liveedit_core.errors import IntegrityError
from liveedit_core.states import LayerStates


@dataclass(frozen=True, kw_only=True)
class SuffixParts:
    """What of a model runs after l_e."""

    trunk: Any
    """Takes embeddings alone and gives rows after the final norm; holds no weight that is not
    needed for it."""
    layers: str
    """Path of the list of decoder layers in the trunk."""
    head: Any
    positions: Positions | None
    """How the trunk learns which rows are padding and where rows stand; None where it need not,
    as causal attention never sees right padding."""
    logit_cap: float | None = None
    """Logits are squeezed into plus and minus this."""


class HasSuffix(Protocol):
    """A backbone whose layers after l_e can be had by themselves."""

    end_id: int

    def suffix_parts(self) -> SuffixParts:
        """Views that share the weights of the model."""
        ...


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
        for name in ("attention_type", "layer_type"):
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))

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
        backbone: HasSuffix,
        *,
        dtype: torch.dtype = torch.float32,
        has_activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.end_id = backbone.end_id
        parts = backbone.suffix_parts()
        trunk, head = parts.trunk, parts.head
        if any(p.dtype != dtype for part in (trunk, head) for p in part.parameters()):
            trunk, head = in_dtype(trunk, dtype), in_dtype(head, dtype)
        if has_activation_checkpointing:
            layers = trunk.get_submodule(parts.layers)
            for i, layer in enumerate(layers):
                if next(layer.parameters(), None) is not None:
                    layers[i] = RecomputedLayer(layer)
        self.trunk = trunk
        self.head = head
        self.dtype = dtype
        self.positions = parts.positions
        self.logit_cap = parts.logit_cap
        self.requires_grad_(False)

    def forward(
        self, states: Sequence[LayerStates], hidden_BTD: Tensor, *, has_end: bool = True
    ) -> list[Tensor]:
        """Logits [O + 1, V] of each item, at its target positions and the one after.

        Args:
            states: give the spans.
            hidden_BTD: padded rows at l_e, residual included; differentiable.
            has_end: also the position after the target; without it [O, V].
        """
        rows_BTD = hidden_BTD.to(self.dtype)
        places = padded_places(self.trunk, self.positions, states, rows_BTD)
        output = self.trunk(inputs_embeds=rows_BTD, use_cache=False, **places)
        wanted_XD, lengths = target_rows(states, output.last_hidden_state, has_end=has_end)
        logits_XV = self.head(wanted_XD).float()
        if self.logit_cap is not None:
            logits_XV = torch.tanh(logits_XV / self.logit_cap) * self.logit_cap
        return list(logits_XV.split(lengths))


def padded_places(
    trunk: Any, positions: Positions | None, states: Sequence[LayerStates], rows_BTD: Tensor
) -> dict[str, Tensor]:
    """Mask and positions of padded rows, as a family derives them from tokens.

    Raises:
        IntegrityError: positions depend on the grid of an image, and a state does not have it.
    """
    if positions is None:
        return {}
    mask_BT = torch.zeros(rows_BTD.shape[:2], dtype=torch.int64, device=rows_BTD.device)
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
    """A copy whose parameters have another number format; buffers keep theirs, as the frequencies
    of rotary positions must not be rounded."""
    copied = copy.deepcopy(module)
    for parameter in copied.parameters():
        parameter.data = parameter.data.to(dtype)
    return copied


def own_hooks(part: nn.Module) -> None:
    """Give a view hooks of its own; a shallow copy shares those of the original."""
    for name, value in vars(part).items():
        if name.endswith("_hooks") and isinstance(value, OrderedDict):
            setattr(part, name, OrderedDict(value))


def without_embeddings(decoder: Any) -> Any:
    """A view of a decoder part that does not hold the table of input embeddings, and whose hooks
    are its own."""
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    part.embed_tokens = nn.Identity()
    own_hooks(part)
    return part
