"""A lowered tower gives what the modules give, and only towers that it knows are lowered."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from liveedit_core.backbones.image_tower import ImageFeatureCache, ImageTower, PyramidLevel, folded
from liveedit_core.backbones.lowered.tower import LoweredTower, _Convolution
from liveedit_core.backbones.prefix import encoding_of
from liveedit_core.inputs.images import decode_image
from tests.tiny_backbone import image, plain_convolutions, tiny_backbone

MODULES = ("timm_model.blocks.4", "timm_model.blocks.2")
pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN"
)


def tiny_tower() -> nn.Module:
    """The tower of the tiny backbone, folded: its own copy."""
    whole = tiny_backbone().image_tower
    assert whole is not None
    return folded(whole.model.get_submodule(whole.path))


@torch.no_grad()
def test_outputs_are_those_of_the_modules() -> None:
    tower = tiny_tower()
    lowered = LoweredTower.of(tower, MODULES)
    assert lowered is not None
    seen: dict[str, Tensor] = {}
    for name in MODULES:
        module = tower.get_submodule(name)
        module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    for side in (64, 97):
        pixels = torch.randn(2, 3, side, side)
        with plain_convolutions():
            last = tower(pixels).last_hidden_state
        expected = [*(seen[name] for name in MODULES), last]
        levels, found_last = lowered.whole(pixels)
        assert all(map(torch.equal, levels, lowered(pixels)))
        for found, wanted in zip([*levels, found_last], expected, strict=True):
            # Random weights amplify rounding.
            limit = 1e-3 * float(wanted.abs().max())
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=limit)


@torch.no_grad()
def test_a_tower_in_bfloat16_computes_the_same_but_for_its_rounding() -> None:
    tower, pixels = tiny_tower(), torch.randn(1, 3, 64, 64)
    lowered, rounded = (
        LoweredTower.of(tower, MODULES[1:], dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    assert lowered is not None
    assert rounded is not None
    (wanted,), (found,) = lowered(pixels), rounded(pixels)
    assert found.dtype == torch.float32
    assert 1e-4 < float((found - wanted).norm() / wanted.norm()) < 0.1


def test_nothing_behind_the_last_level_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    tower: Any = tiny_tower()
    lowered = LoweredTower.of(tower, MODULES)
    assert lowered is not None
    passed: list[Tensor] = []
    compute = _Convolution.__call__

    def counted(convolution: _Convolution, hidden: Tensor) -> Tensor:
        passed.append(hidden)
        return compute(convolution, hidden)

    monkeypatch.setattr(_Convolution, "__call__", counted)
    lowered(torch.randn(1, 3, 64, 64))
    modules = [tower.timm_model.conv_stem, *tower.timm_model.blocks[:5].modules()]
    assert len(passed) == sum(isinstance(part, nn.Conv2d) for part in modules)


@pytest.mark.parametrize(
    "part", [nn.Sigmoid(), nn.ReLU(), nn.Conv2d(1, 1, 1, dtype=torch.float64), nn.LSTM(1, 1)]
)
def test_a_tower_with_other_parts_is_not_lowered(part: nn.Module) -> None:
    tower: Any = tiny_tower()
    assert LoweredTower.of(tower, MODULES)
    tower.timm_model.blocks[4].append(part)
    assert LoweredTower.of(tower, MODULES) is None


def test_other_towers_and_levels_are_not_lowered() -> None:
    assert LoweredTower.of(nn.Sequential(nn.Conv2d(3, 3, 1)), ["0"]) is None
    assert LoweredTower.of(tiny_tower(), ["", *MODULES]) is None
    assert LoweredTower.of(tiny_tower(), []) is None
    whole = tiny_backbone().image_tower
    assert whole is not None
    with_norms = whole.model.get_submodule(whole.path)
    assert LoweredTower.of(with_norms, MODULES) is None


@pytest.fixture
def onednn() -> Iterator[None]:
    """With oneDNN, which a fixture of the whole session may have turned off before."""
    with torch.backends.mkldnn.flags(enabled=True):
        yield


def test_the_dtype_of_a_tower_is_part_of_the_encoding() -> None:
    backbone = tiny_backbone()
    whole = backbone.image_tower
    assert whole is not None
    parts = (whole.model, whole.processor, whole.path)
    levels = [PyramidLevel(module=MODULES[0], width=112, grid=2)]
    dtypes = (torch.float32, torch.bfloat16)
    towers = [ImageTower(*parts, levels=levels, has_views=True, dtype=dtype) for dtype in dtypes]
    assert tuple(tower.dtype for tower in towers) == dtypes
    given = (backbone.reader.format, torch.bfloat16)
    assert encoding_of(*given, towers[0], None) != encoding_of(*given, towers[1], None)
    without = ImageTower(*parts, levels=levels, dtype=torch.bfloat16)  # it is not lowered
    assert without.dtype == torch.float32


@pytest.mark.usefixtures("onednn")
def test_pyramids_pass_the_lowered_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiny_backbone().image_tower
    assert whole is not None
    levels = [PyramidLevel(module=MODULES[0], width=112, grid=2)]
    tower = ImageTower(whole.model, whole.processor, whole.path, levels=levels, has_views=True)
    with plain_convolutions():
        expected = tower.features([image(1)], 1)[image(1)]
    passed: list[tuple[int, bool]] = []
    compute = LoweredTower._outputs

    def counted(
        lowered: LoweredTower, pixels_BCHW: Tensor, num_stages: int
    ) -> tuple[list[Tensor], Tensor]:
        passed.append((len(pixels_BCHW), num_stages == len(lowered._stages)))
        return compute(lowered, pixels_BCHW, num_stages)

    monkeypatch.setattr(LoweredTower, "_outputs", counted)
    tower.cache = ImageFeatureCache(0)
    found = tower.features([image(1)], 1)[image(1)]
    alone = tower.pyramids_of([decode_image(image(1))])
    # The first comes from the pass for the decoder.
    assert passed == [(1, True), (1, False)]
    assert torch.equal(found.pyramid_E, alone[0])
    for one, wanted in zip(found, expected, strict=True):
        limit = 1e-3 * float(wanted.abs().max())
        torch.testing.assert_close(one, wanted, rtol=1e-3, atol=limit)
