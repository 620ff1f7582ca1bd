"""Adapters begin as nothing and are added as the paper's equation says."""

import pytest
import torch
from torch import nn

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.lora import AdaptedLinear, Lora
from liveedit_core.baselines.settings import LoraConfig
from liveedit_core.errors import ConfigError
from liveedit_core.method.editor import edit_input
from liveedit_core.states import pad_hidden
from tests.tiny_backbone import request


def test_an_untaught_adapter_is_bit_identical(backbone: VisionLanguageBackbone) -> None:
    states = backbone.encode([edit_input(request(seed)) for seed in range(4)])
    model = Lora(backbone, LoraConfig())
    expected = backbone.target_logits(states, pad_hidden(states).values_BSD)
    for one, other in zip(model.logits(model.hidden(states), states), expected, strict=True):
        assert torch.equal(one, other)


def test_an_adapter_adds_its_scaled_product() -> None:
    linear = nn.Linear(5, 3)
    adapted = AdaptedLinear(linear, LoraConfig(rank=2, alpha=6.0), torch.Generator())
    with torch.no_grad():
        adapted.up_OR.normal_()
    rows = torch.randn(4, 5)
    change_OI = 3.0 * adapted.up_OR @ adapted.down_RI
    torch.testing.assert_close(adapted(rows), linear(rows) + rows @ change_OI.T)


def test_a_seed_gives_the_same_adapters(backbone: VisionLanguageBackbone) -> None:
    one, same, other = (Lora(backbone, LoraConfig(seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(one.parameters[0], same.parameters[0])
    assert not torch.equal(one.parameters[0], other.parameters[0])
    first = one.parameters[0].clone()
    one.restore()
    assert torch.equal(one.parameters[0], first)


@pytest.mark.parametrize("projection", ["self_attn.nothing", "mlp"])
def test_what_is_no_projection_is_refused(
    projection: str, backbone: VisionLanguageBackbone
) -> None:
    with pytest.raises(ConfigError, match=projection):
        Lora(backbone, LoraConfig(projections=(projection,)))
