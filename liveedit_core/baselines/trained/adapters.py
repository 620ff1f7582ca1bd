"""Trained low-rank adapters on the projections of decoder layers: W x + B A x."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.backbones.views import with_part
from liveedit_core.errors import ConfigError

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj")
"""Of the attention of Llama-like decoders and of OPT."""


class LowRankChange(nn.Module):
    """B A, zero at first."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.down_RI = nn.Parameter(torch.randn(rank, linear.in_features) / math.sqrt(rank))
        self.up_OR = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.linear(functional.linear(hidden, self.down_RI), self.up_OR)


class ChangedLinear(nn.Module):
    """A frozen linear module and a change that stands elsewhere."""

    def __init__(self, linear: nn.Linear, change: LowRankChange) -> None:
        super().__init__()
        self.linear = linear
        self.change = change

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.linear(hidden) + self.change(hidden)
        return output


def attention_changes(layers: Sequence[nn.Module], rank: int, editor: str) -> nn.ModuleList:
    """A change of each projection of each layer's attention."""
    changes = nn.ModuleList(
        LowRankChange(linear, rank) for layer in layers for _, linear in _projections(layer)
    )
    if not changes:
        raise ConfigError(
            f"{editor}: a {type(layers[0]).__name__} has no linear module self_attn."
            f"{{{', '.join(PROJECTIONS)}}} to adapt"
        )
    return changes


def changed_layers(layers: Sequence[nn.Module], changes: nn.ModuleList) -> list[nn.Module]:
    """Views of layers in which the projections have their changes."""
    left, changed = iter(changes), []
    for layer in layers:
        for path, linear in _projections(layer):
            change = next(left)
            assert isinstance(change, LowRankChange)
            layer = with_part(layer, path, ChangedLinear(linear, change))
        changed.append(layer)
    return changed


def _projections(layer: nn.Module) -> list[tuple[str, nn.Linear]]:
    modules = dict(layer.named_modules())
    named = [(f"self_attn.{name}", modules.get(f"self_attn.{name}")) for name in PROJECTIONS]
    return [(path, module) for path, module in named if isinstance(module, nn.Linear)]
