"""Pyramids hold the right numbers of the tower, and a cached image is not encoded again."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.backbones.image_tower import (
    ImageFeatureCache,
    ImageFeatures,
    ImageTower,
    PyramidLevel,
)
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.inputs.images import decode_image
from tests.tiny_backbone import image, plain_convolutions, tiny_backbone, tiny_without_tower

LEVEL = PyramidLevel(module="0", width=3, grid=2)
SIDE = 16


@dataclass
class _Output:
    pooler_output: Tensor


class TinyTowerModel(nn.Module):
    """Nothing but a tower of two layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vision_tower = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU()).requires_grad_(False)

    def get_image_features(self, pixel_values: Tensor) -> _Output:
        return _Output(self.vision_tower(pixel_values).flatten(2).mT)


class TinyProcessor:
    def image_processor(self, images: Sequence[Any], return_tensors: str) -> dict[str, Tensor]:
        return {"pixel_values": torch.stack([pixels(one, SIDE) for one in images])}


def pixels(decoded: Any, side: int) -> Tensor:
    return torch.from_numpy(np.array(decoded.resize((side, side)))).float().permute(2, 0, 1)


def tower(levels: Sequence[PyramidLevel], more_sizes: Sequence[int]) -> ImageTower:
    return ImageTower(
        TinyTowerModel(), TinyProcessor(), "vision_tower", levels=levels, more_sizes=more_sizes
    )


def test_more_sizes_are_averaged_with_the_first() -> None:
    both = tower([LEVEL], [24])
    first = pixels(decode_image(image(1)), SIDE)[None]
    larger = functional.interpolate(first, size=(24, 24), mode="bicubic", antialias=True)
    pooled = [
        functional.adaptive_avg_pool2d(both.model.vision_tower[0](part), 2).flatten()
        for part in (first, larger)
    ]
    found = both.features([image(1)], 4)[image(1)]
    assert found.pyramid_E.shape == (LEVEL.size,)
    torch.testing.assert_close(found.pyramid_E, (pooled[0] + pooled[1]) / 2)
    assert not torch.allclose(pooled[0], pooled[1])


def test_without_levels_a_pyramid_is_empty_and_costs_no_pass() -> None:
    plain = tower([], [24])
    passes: list[int] = []
    plain.model.vision_tower.register_forward_hook(lambda *_: passes.append(1))
    found = plain.features([image(1), image(2)], 4)
    assert [len(one.pyramid_E) for one in found.values()] == [0, 0]
    assert len(passes) == 1


def features(size: int) -> ImageFeatures:
    return ImageFeatures(torch.zeros(size), torch.zeros(0))


def test_the_least_recently_used_image_is_evicted_first() -> None:
    cache = ImageFeatureCache(max_bytes=3 * (1 + 4 * 10))
    for name in (b"a", b"b", b"c"):
        cache.put(name, features(10))
    assert cache.get(b"a") is not None
    cache.put(b"d", features(10))
    assert [cache.get(name) is not None for name in (b"a", b"b", b"c", b"d")] == [
        True,
        False,
        True,
        True,
    ]
    assert cache.num_bytes == cache.max_bytes
    cache.put(b"e", features(1000))
    assert (len(cache), cache.num_bytes) == (0, 0)


def test_an_image_that_two_threads_encode_is_counted_once() -> None:
    cache = ImageFeatureCache(max_bytes=1000)
    cache.put(b"a", features(10))
    cache.put(b"a", features(10))
    assert (len(cache), cache.num_bytes) == (1, 1 + 4 * 10)


def test_threads_encode_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tower([LEVEL], [])
    encode, both = TinyTowerModel.get_image_features, threading.Barrier(2)

    def meeting(self: TinyTowerModel, pixel_values: Tensor) -> _Output:
        both.wait(timeout=60)
        return encode(self, pixel_values)

    monkeypatch.setattr(TinyTowerModel, "get_image_features", meeting)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda seed: shared.features([image(seed)], 1), (1, 2)))
    monkeypatch.undo()
    for seed, done in zip((1, 2), found, strict=True):
        alone = tower([LEVEL], []).features([image(seed)], 1)
        torch.testing.assert_close(done[image(seed)], alone[image(seed)])


def asked(prompts: Sequence[str]) -> list[BackboneInput]:
    return [
        BackboneInput(prompt=prompt, target="raven", image_bytes=image(seed))
        for prompt in prompts
        for seed in (501, 502)
    ]


def test_a_cached_image_does_not_pass_the_tower_again(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    assert backbone.image_tower is not None
    monkeypatch.setattr(backbone.image_tower, "cache", ImageFeatureCache(1_000_000))
    passed: list[int] = []
    tower = backbone.model.model.vision_tower
    handle = tower.register_forward_pre_hook(lambda _, arguments: passed.append(1), prepend=True)
    with plain_convolutions():
        backbone.encode(asked(["What is shown here?", "Who made this?"]))
        later = backbone.encode(asked(["When was it first shown?"]))
        backbone.generate(asked(["Who made this?"]), None, max_new_tokens=2)
        assert len(passed) == 1
        backbone.image_tower.features([image(502), image(503)], batch_size=2)
        assert len(passed) == 2
        monkeypatch.setattr(backbone.image_tower, "cache", ImageFeatureCache(0))
        expected = backbone.encode(asked(["When was it first shown?"]))
    handle.remove()
    for state, fresh in zip(later, expected, strict=True):
        torch.testing.assert_close(state.hidden_TD, fresh.hidden_TD, rtol=1e-3, atol=1e-3)


def test_with_and_without_a_tower_hidden_states_and_answers_are_the_same() -> None:
    questions = [*asked(["What is shown here?", "Who?"]), BackboneInput(prompt="The color of")]
    with plain_convolutions():
        for one, other in zip(
            tiny_backbone().encode(questions), tiny_without_tower().encode(questions), strict=True
        ):
            assert (one.image_span, one.prompt_span) == (other.image_span, other.prompt_span)
            assert one.target_ids_O.tolist() == other.target_ids_O.tolist()
            torch.testing.assert_close(one.hidden_TD, other.hidden_TD, rtol=1e-4, atol=1e-4)
        answers = [
            backbone.generate(questions, None, max_new_tokens=5)
            for backbone in (tiny_backbone(), tiny_without_tower())
        ]
        assert answers[0] == answers[1]
