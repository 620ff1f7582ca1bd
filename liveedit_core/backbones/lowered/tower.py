"""An EfficientNet without modules, each convolution one call of oneDNN with its ReLU6.

Weights are laid out for oneDNN once, not in each call, and no module is called. Outputs differ from
those of the modules by rounding (of the built-in tower by 3e-5, where the largest are 30); in
bfloat16, by that of its numbers.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
from torch import Tensor, nn

_ROWS = 64
"""Of the products that weights are laid out for; others are right too."""
_COMPARED = ((5, 2, 1), (128, 192))
"""Images of a batch, and their sides, that `has_own_bits` compares."""
BLOCKS = (nn.Sequential, DepthwiseSeparableConv, InvertedResidual)
LAYERS = (nn.Conv2d, Conv2dSame, nn.ReLU6, nn.Identity)


class LoweredTower:
    """Gives the outputs of some stages of a tower, the levels, and that of the whole."""

    def __init__(
        self, stages: Sequence[Sequence["_Block"]], levels: Sequence[int], dtype: torch.dtype
    ) -> None:
        self._stages = stages
        self._levels = levels
        self._dtype = dtype

    @classmethod
    def of(
        cls, tower: nn.Module, modules: Sequence[str], dtype: torch.dtype = torch.float32
    ) -> Self | None:
        """Of a folded tower of timm in its wrapper, and the modules whose outputs are taken,
        computed in a dtype; None if it has other parts, is not in float32 on the CPU, or if torch
        has no oneDNN."""
        inner: Any = getattr(tower, "timm_model", None)
        names = [f"timm_model.blocks.{i}" for i in range(len(getattr(inner, "blocks", ())))]
        has_kernels = torch.backends.mkldnn.is_available()
        if not modules or not has_kernels or not set(modules) <= set(names):
            return None
        levels = [names.index(module) for module in modules]
        stem = nn.Sequential(inner.conv_stem, inner.bn1)
        head = nn.Sequential(inner.conv_head, inner.bn2)
        stages = [[stem], *inner.blocks, [head]]
        if not all(_is_known(block) for stage in stages for block in stage):
            return None
        # Stem and head are stages of their own here.
        lowered = [[_Block(block, dtype) for block in stage] for stage in stages]
        return cls(lowered, [level + 1 for level in levels], dtype)

    def __call__(self, pixels_BCHW: Tensor) -> list[Tensor]:
        """The outputs [B, C, height, width] of the levels, float32, in the order of the modules;
        nothing behind the last of them is run."""
        return self._outputs(pixels_BCHW, max(self._levels) + 1)[0]

    def whole(self, pixels_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """The same, and the output of the tower."""
        return self._outputs(pixels_BCHW, len(self._stages))

    @cached_property
    def has_own_bits(self) -> bool:
        """Whether the outputs of an image have the same bits beside any other images."""
        (most, *fewer), sides = _COMPARED
        drawer = torch.Generator().manual_seed(0)
        for side in sides:
            pixels_BCHW = torch.randn(most, 3, side, side, generator=drawer)
            together = self._all(pixels_BCHW)
            for number in fewer:
                pairs = zip(self._all(pixels_BCHW[:number]), together, strict=True)
                if not all(torch.equal(apart, beside[:number]) for apart, beside in pairs):
                    return False
        return True

    def _all(self, pixels_BCHW: Tensor) -> list[Tensor]:
        outputs, last_BCHW = self.whole(pixels_BCHW)
        return [*outputs, last_BCHW]

    def _outputs(self, pixels_BCHW: Tensor, num_stages: int) -> tuple[list[Tensor], Tensor]:
        hidden, outputs = pixels_BCHW.to(self._dtype), []
        for stage in self._stages[:num_stages]:
            for block in stage:
                hidden = block(hidden)
            outputs.append(hidden)
        return [outputs[level].float() for level in self._levels], hidden.float()


def _is_known(block: nn.Module) -> bool:
    """Whether a block runs nothing but convolutions, some with a ReLU6, in the order in which it
    holds them."""
    parts = list(block.modules())
    has_known_parts = all(type(part) in (*BLOCKS, *LAYERS) for part in parts)
    weights = [part.weight for part in parts if isinstance(part, nn.Conv2d)]
    return has_known_parts and all(
        weight.dtype == torch.float32 and weight.device.type == "cpu" for weight in weights
    )


class _Block:
    """Convolutions one after the other, and perhaps a residual connection around them."""

    def __init__(self, block: nn.Module, dtype: torch.dtype) -> None:
        self._has_skip = bool(getattr(block, "has_skip", False))
        self._convolutions: list[_Convolution] = []
        for part in block.modules():
            if isinstance(part, nn.Conv2d):
                self._convolutions.append(_Convolution(part, dtype))
            elif isinstance(part, nn.ReLU6):
                self._convolutions[-1].activation = ("hardtanh", [0.0, 6.0])

    def __call__(self, hidden: Tensor) -> Tensor:
        shortcut = hidden
        for convolution in self._convolutions:
            hidden = convolution(hidden)
        return hidden.add_(shortcut) if self._has_skip else hidden


class _Convolution:
    """A convolution and the activation behind it. In bfloat16 one of single cells is a product of
    its rows: on a processor with AMX oneDNN's convolutions of some shapes took 50 times as long."""

    def __init__(self, module: nn.Conv2d, dtype: torch.dtype) -> None:
        self._pads_itself = isinstance(module, Conv2dSame)
        self._kernel_size = list(module.kernel_size)
        self._bias = None if module.bias is None else module.bias.to(dtype)
        self._stride, self._dilation = list(module.stride), list(module.dilation)
        self._form = (module.padding, self._stride, self._dilation, module.groups)
        is_of_cells = self._kernel_size == self._stride == [1, 1] and module.groups == 1
        self._is_product = is_of_cells and dtype == torch.bfloat16
        weight = module.weight.to(dtype)
        self._weight = (
            torch.ops.mkldnn._reorder_linear_weight(weight.flatten(1), _ROWS)
            if self._is_product
            else torch.ops.mkldnn._reorder_convolution_weight(weight, *self._form, None)
        )
        self.activation: tuple[str, list[float]] = ("none", [])

    def __call__(self, hidden: Tensor) -> Tensor:
        if self._is_product:
            rows = hidden.movedim(1, -1)
            product = torch.ops.mkldnn._linear_pointwise
            found: Tensor = product(rows, self._weight, self._bias, *self.activation, "")
            return found.movedim(-1, 1)
        if self._pads_itself:
            hidden = pad_same(hidden, self._kernel_size, self._stride, self._dilation)
        done: Tensor = torch.ops.mkldnn._convolution_pointwise(
            hidden, self._weight, self._bias, *self._form, *self.activation, ""
        )
        return done
