"""Linear layers whose weights lie as oneDNN multiplies them.

On CPUs a thread takes a fifth less time than with MKL's kernels on plain weights; outputs differ by
rounding.
"""

import copy
import ctypes
import mmap
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_DTYPES = (torch.float32, torch.bfloat16)
_ROWS = 16
"""Of the products that the format is chosen for; others are right too."""
_COMPARED_ROWS = (130, 65, 27, 7, 3, 2)
"""Of the products that `has_own_bits` compares."""
_ROWS_APART = 32
"""Of every product of `apart` in bfloat16, where kernels differ with the number of rows."""
_PAGE_OUT = 21
"""MADV_PAGEOUT, which never loses data; a kernel before 5.4 refuses it."""


class PackedLinear(nn.Linear):
    """A linear layer with its own weight and a packed copy, made when it is first needed and after
    each change of the weight. Gradients are computed with the weight."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.train(linear.training)
        self._packed: tuple[Tensor, tuple[int, int]] | None = None
        self._has_own_bits: bool | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Linear:
        """A plain layer: who copies one wants to change it."""
        plain = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        plain.weight, plain.bias = copy.deepcopy((self.weight, self.bias), memo)
        return plain.train(self.training)

    def forward(self, values: Tensor) -> Tensor:
        has_gradient = values.requires_grad or self.weight.requires_grad
        if (torch.is_grad_enabled() and has_gradient) or not can_be_packed(self.weight):
            return functional.linear(values, self.weight, self.bias)
        return self.fused(values)

    def fused(self, values: Tensor, what: str = "none", other: Tensor | None = None) -> Tensor:
        """The product without gradients, and what oneDNN does with it: an activation, or "add" or
        "mul" with another tensor."""
        weight, bias = self.packed_weight(), self.bias
        product = torch.ops.mkldnn._linear_pointwise
        found: Tensor = (
            product(values, weight, bias, what, [], "")
            if other is None
            else product.binary(values, other, weight, bias, what)
        )
        return found

    def apart(self, values_XI: Tensor, what: str = "none", other: Tensor | None = None) -> Tensor:
        """As `fused`, of rows that were `padded`: each has the same bits beside any others."""
        if self.weight.dtype == torch.float32 or len(values_XI) == _ROWS_APART:
            return self.fused(values_XI, what, other)
        chunks = values_XI.split(_ROWS_APART)
        others = [None] * len(chunks) if other is None else other.split(_ROWS_APART)
        pairs = zip(chunks, others, strict=True)
        return torch.cat([self.fused(chunk, what, beside) for chunk, beside in pairs])

    @property
    def has_own_bits(self) -> bool:
        """Whether a row of `apart` has the same bits beside any others, by comparison; so it is on
        the processors seen. In float32 kernels for one row alone differ."""
        if self._has_own_bits is None:
            drawer = torch.Generator().manual_seed(0)
            values_XI = torch.randn(_COMPARED_ROWS[0], self.in_features, generator=drawer)
            values_XI = values_XI.to(self.weight.dtype)
            whole, *parts = [self.apart(padded(values_XI[-rows:])) for rows in _COMPARED_ROWS]
            whole = whole[: _COMPARED_ROWS[0]]
            self._has_own_bits = all(
                torch.equal(part[:rows], whole[-rows:])
                for part, rows in zip(parts, _COMPARED_ROWS[1:], strict=True)
            )
        return self._has_own_bits

    def packed_weight(self) -> Tensor:
        state = self.weight.data_ptr(), self.weight._version
        known = self._packed
        if known is None or known[1] != state:
            packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), _ROWS)
            known = self._packed = packed, state
            page_out(self.weight)
        return known[0]


def padded(values_XI: Tensor) -> Tensor:
    """With the rows of zeros that `PackedLinear.apart` asks for."""
    missing = 0 if values_XI.dtype == torch.float32 else -len(values_XI) % _ROWS_APART
    return functional.pad(values_XI, (0, 0, 0, missing)) if missing else values_XI


def page_out(weight: Tensor) -> None:
    """Let Linux take back the memory of a weight that is mapped from a file; it is read again where
    it is used."""
    if sys.platform != "linux":
        return
    page, start = mmap.PAGESIZE, weight.data_ptr()
    first = -(-start // page) * page
    length = (start + weight.nbytes) // page * page - first
    if length > 0:
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), ctypes.c_int(_PAGE_OUT))


def can_be_packed(weight: Tensor) -> bool:
    """Whether this build of torch, and the weight's device and dtype, have the format."""
    is_supported = weight.dtype in _DTYPES and weight.device.type == "cpu"
    return is_supported and torch.backends.mkldnn.is_available()


def pack_linear_layers(module: nn.Module) -> None:
    """Let all linear layers of a module be packed, in place."""
    for name, part in list(module.named_modules()):
        if type(part) is nn.Linear:
            module.set_submodule(name, PackedLinear(part))
