"""An image passes the tower once while it is remembered, and memory stays within its bound."""

from collections.abc import Sequence

import pytest
import torch

from liveedit_core.backbones.huggingface import IMAGE_MEMORY_BYTES
from liveedit_core.backbones.image_memory import ImageFeatures, ImageMemory
from liveedit_core.backbones.protocol import BackboneInput
from tests.tiny_backbone import image, plain_convolutions, tiny_backbone


def features(size: int) -> ImageFeatures:
    return torch.zeros(size), torch.zeros(0)


def test_the_image_unused_for_the_longest_time_goes_first() -> None:
    memory = ImageMemory(max_bytes=3 * (1 + 4 * 10))
    for name in (b"a", b"b", b"c"):
        memory.keep(name, features(10))
    assert memory.get(b"a") is not None
    memory.keep(b"d", features(10))
    assert [memory.get(name) is not None for name in (b"a", b"b", b"c", b"d")] == [
        True,
        False,
        True,
        True,
    ]
    assert memory.num_bytes == memory.max_bytes
    memory.keep(b"e", features(1000))
    assert (len(memory), memory.num_bytes) == (0, 0)


def test_a_known_image_does_not_pass_the_tower_again(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    monkeypatch.setattr(backbone, "images", ImageMemory(IMAGE_MEMORY_BYTES))
    passed: list[int] = []
    tower = backbone.model.get_image_features

    def counted(pixel_values: torch.Tensor) -> object:
        passed.append(len(pixel_values))
        return tower(pixel_values=pixel_values)

    monkeypatch.setattr(backbone.model, "get_image_features", counted)

    def ask(prompts: Sequence[str]) -> list[BackboneInput]:
        return [
            BackboneInput(prompt=prompt, target="raven", image_bytes=image(seed))
            for prompt in prompts
            for seed in (501, 502)
        ]

    with plain_convolutions():
        backbone.encode(ask(["What is shown here?", "Who made this?"]))
        later = backbone.encode(ask(["When was it first shown?"]))
        backbone.encode_images([image(502), image(503)])
        assert passed == [2, 1]
        monkeypatch.setattr(backbone, "images", ImageMemory(0))
        expected = backbone.encode(ask(["When was it first shown?"]))
    for state, fresh in zip(later, expected, strict=True):
        torch.testing.assert_close(state.hidden_TD, fresh.hidden_TD, rtol=1e-3, atol=1e-3)
