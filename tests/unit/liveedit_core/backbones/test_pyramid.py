"""Pyramids: which numbers of the tower they hold, and at which image sizes."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.backbones.pyramid import PyramidLevel, TowerPyramid

LEVEL = PyramidLevel(module="0", width=3, grid=2)


def tower() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU()).requires_grad_(False)


def pyramids(pyramid: TowerPyramid, pixels: Tensor) -> Tensor:
    with pyramid.reading() as outputs:
        pyramid.tower(pixels)
    return pyramid.averaged(outputs, pixels)


def test_more_sizes_are_averaged_with_the_first() -> None:
    model = tower()
    pixels = torch.rand(2, 3, 16, 16)
    larger = functional.interpolate(pixels, size=(24, 24), mode="bicubic", antialias=True)
    first, second = (pyramids(TowerPyramid(model, [LEVEL]), part) for part in (pixels, larger))
    both = pyramids(TowerPyramid(model, [LEVEL], [24]), pixels)
    assert both.shape == (2, LEVEL.size)
    torch.testing.assert_close(both, (first + second) / 2)
    assert not torch.allclose(first, second)


def test_without_levels_a_pyramid_is_empty_and_costs_no_pass() -> None:
    pixels = torch.rand(2, 3, 16, 16)
    model = tower()
    model.register_forward_hook(lambda *_: passes.append(1))
    passes: list[int] = []
    assert pyramids(TowerPyramid(model, [], [24]), pixels).shape == (2, 0)
    assert len(passes) == 1
