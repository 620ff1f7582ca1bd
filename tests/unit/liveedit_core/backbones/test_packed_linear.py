"""Packed linear layers give what plain ones give, also after their weights change."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from liveedit_core.backbones.lowered.packed_linear import (
    PackedLinear,
    can_be_packed,
    pack_linear_layers,
)

pytestmark = pytest.mark.skipif(not can_be_packed(torch.zeros(1)), reason="torch without oneDNN")


def packed_and_plain(dtype: torch.dtype) -> tuple[nn.Sequential, nn.Sequential]:
    """Two layers, frozen, packed and as they are."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(48, 96), nn.Linear(96, 48, bias=False)).to(dtype)
    plain = layers.requires_grad_(False)
    packed = copy.deepcopy(plain)
    pack_linear_layers(packed)
    return packed, plain


def weight_of(layers: nn.Sequential, number: int) -> nn.Parameter:
    return layers.get_parameter(f"{number}.weight")


def is_close(one: Tensor, other: Tensor) -> bool:
    tolerance = 1e-5 if one.dtype == torch.float32 else 2e-2
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 5, 16, 70])
def test_outputs_are_those_of_plain_layers(dtype: torch.dtype, rows: int) -> None:
    packed, plain = packed_and_plain(dtype)
    values = torch.randn(2, rows, 48).to(dtype)
    found = packed(values)
    assert all(isinstance(part, PackedLinear) and part._packed is not None for part in packed)
    assert is_close(found, plain(values))


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    packed, _ = packed_and_plain(torch.float32)
    values = torch.randn(40, 48)
    assert torch.equal(packed(values)[:7], packed(values[:7]))


def test_a_changed_weight_is_packed_again() -> None:
    packed, plain = packed_and_plain(torch.float32)
    values = torch.randn(3, 48)
    packed(values)
    for module in (packed, plain):
        weight_of(module, 0).mul_(2)
    assert is_close(packed(values), plain(values))
    for module in (packed, plain):
        weight_of(module, 1).data = torch.ones(48, 96)
    assert is_close(packed(values), plain(values))


def test_gradients_of_inputs_and_weights_are_those_of_plain_layers() -> None:
    gradients = []
    for module in packed_and_plain(torch.float32):
        values = torch.linspace(-1, 1, 96).reshape(2, 48).requires_grad_()
        weight = weight_of(module, 1).requires_grad_()
        loss = module(values).square().sum()
        gradients.append(torch.autograd.grad(loss, [values, weight]))
    for found, wanted in zip(*gradients, strict=True):
        assert is_close(found, wanted)


def test_a_deep_copy_is_plain_and_independent() -> None:
    packed, plain = packed_and_plain(torch.float32)
    values = torch.randn(3, 48)
    packed(values)
    other = copy.deepcopy(packed)
    assert [type(part) for part in other] == [nn.Linear, nn.Linear]
    weight_of(other, 0).mul_(2)
    assert is_close(packed(values), plain(values))


def test_a_weight_in_a_file_is_still_there_after_it_was_packed(tmp_path: Path) -> None:
    packed, plain = packed_and_plain(torch.float32)
    file = tmp_path / "weight"
    file.write_bytes(weight_of(plain, 0).numpy().tobytes())
    mapped = torch.from_file(str(file), size=96 * 48).reshape(96, 48)
    weight_of(packed, 0).data = mapped
    values = torch.randn(3, 48)
    assert is_close(packed(values), plain(values))
    assert torch.equal(weight_of(packed, 0), weight_of(plain, 0))
