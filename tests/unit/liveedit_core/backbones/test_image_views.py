"""Trimmed images and their views, and the pyramids of these."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from liveedit_core.backbones.image_tower import (
    PYRAMIDS_AT_ONCE,
    ImageFeatureCache,
    ImageTower,
    folded,
)
from liveedit_core.backbones.image_views import (
    LARGEST_SIDE,
    figure,
    trimmed,
)
from liveedit_core.builtin.backbone import builtin_generator_folder
from liveedit_core.builtin.build.turned_pyramids import VIEWS, fitted, views, with_maps
from liveedit_core.method.config import NUM_VIEWS
from liveedit_core.method.generator import load_generator
from liveedit_core.method.visual_key import VIEW_SHARE, VisualKey
from tests.tiny_backbone import OUR_CONFIG, plain_convolutions, tiny_backbone

GREY = (90, 90, 90)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def framed(image: Image.Image, border: int, colour: tuple[int, int, int] = GREY) -> Image.Image:
    size = (image.width + 2 * border, image.height + 2 * border)
    frame = Image.new("RGB", size, colour)
    frame.paste(image, (border, border))
    return frame


@pytest.mark.parametrize("border", [1, 30])
def test_a_uniform_border_is_trimmed(border: int) -> None:
    image = noise(80, 60)
    assert trimmed(framed(image, border)).tobytes() == image.tobytes()


def test_a_border_within_a_border_is_trimmed() -> None:
    image = noise(80, 60)
    twice = framed(framed(image, 10), 12, (255, 255, 255))
    assert trimmed(twice).tobytes() == image.tobytes()


@pytest.mark.parametrize(
    "image",
    [
        noise(64, 64),
        Image.new("RGB", (64, 64), GREY),
        framed(noise(8, 8), 40),  # too little would be left
        Image.new("RGB", (1, 1)),
        Image.new("RGB", (1, 2000)),
    ],
)
def test_other_images_stay_whole(image: Image.Image) -> None:
    found = trimmed(image)
    assert found.size == image.size or max(image.size) > LARGEST_SIDE


@pytest.mark.parametrize(
    ("border", "inside", "is_content"),
    [
        ((90, 90), 114, False),
        ((90, 90), 115, True),
        ((90, 90), 66, False),
        ((90, 90), 65, True),
        ((90, 91), 114, False),  # the colour between the two is 90.5
        ((90, 91), 115, True),
        ((250, 250), 226, False),
        ((250, 250), 225, True),
        ((5, 5), 29, False),
        ((5, 5), 30, True),
    ],
)
def test_what_differs_enough_from_the_border_is_content(
    border: tuple[int, int], inside: int, is_content: bool
) -> None:
    pixels = np.full((80, 80, 3), border[0], dtype=np.uint8)
    pixels[:, 40:] = border[1]
    pixels[20:60, 20:60, 1] = inside
    assert (trimmed(Image.fromarray(pixels)).size == (40, 40)) is is_content


def test_large_images_are_reduced() -> None:
    found = trimmed(noise(2 * LARGEST_SIDE, 400))
    assert found.size == (LARGEST_SIDE, 200)


def test_the_figure_of_a_page_is_the_image_within_it() -> None:
    image = noise(100, 80)
    page = Image.new("RGB", (300, 220), (250, 250, 250))
    page.paste(noise(120, 6, seed=1), (20, 12))  # a line of text
    page.paste(image, (60, 60))
    found = figure(page)
    assert found is not None
    assert abs(found.width - image.width) <= 2
    assert abs(found.height - image.height) <= 2
    middle = (found.width // 2, found.height // 2)
    near = {image.getpixel((50 + x, 40 + y)) for x in (-1, 0, 1) for y in (-1, 0, 1)}
    assert found.getpixel(middle) in near


@pytest.mark.parametrize(
    "image",
    [
        noise(90, 90),  # one figure, which is all of it
        Image.new("RGB", (90, 90), GREY),
        framed(noise(12, 12), 60),  # too small
        framed(noise(60, 60), 30),  # what is left without the border
        Image.new("RGB", (1, 1)),
        Image.new("RGB", (1, 900)),
    ],
)
def test_other_images_have_no_figure(image: Image.Image) -> None:
    assert figure(image) is None


def test_views_are_mirrored_and_turned() -> None:
    image = noise(30, 20)
    upright, mirrored, left, right = views(image)
    assert len(VIEWS) == NUM_VIEWS
    assert upright is image
    pixels = np.asarray(image)
    assert np.array_equal(np.asarray(mirrored), pixels[:, ::-1])
    assert np.array_equal(np.asarray(left), np.rot90(pixels))
    assert np.array_equal(np.asarray(right), np.rot90(pixels, -1))


def test_pyramids_are_those_of_the_trimmed_image() -> None:
    whole = tiny_backbone().image_tower
    assert whole is not None
    tower = ImageTower(
        whole.model, whole.processor, whole.path, levels=whole.levels, has_views=True
    )
    plain = ImageTower(whole.model, whole.processor, whole.path, levels=whole.levels)
    image = noise(70, 50)
    bordered = encoded(framed(image, 20))
    with plain_convolutions():
        own = tower.features([bordered], 1)[bordered]
        expected_E, turned_E = plain.pyramids_of([image, image.rotate(90, expand=True)])
    own_E = own.pyramid_E[: tower.pyramid_size]
    torch.testing.assert_close(own_E, expected_E, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(own_E, turned_E, rtol=1e-3, atol=1e-3)
    # The decoder sees the image as it is.
    as_it_is = plain.features([bordered], 1)[bordered].projected_ID
    torch.testing.assert_close(own.projected_ID, as_it_is, rtol=1e-3, atol=1e-3)


def test_few_images_at_once_pass_the_tower_of_pyramids(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiny_backbone().image_tower
    assert whole is not None
    tower = ImageTower(
        whole.model, whole.processor, whole.path, levels=whole.levels, has_views=True
    )
    passed = counted(tower, monkeypatch)
    images = [encoded(framed(noise(70, 50, seed), 20)) for seed in range(PYRAMIDS_AT_ONCE + 2)]
    with plain_convolutions():
        together = tower.features(images, len(images))
        assert max(passed) <= PYRAMIDS_AT_ONCE
        assert sum(passed) >= len(images)
        tower.cache = ImageFeatureCache(0)
        for image in images:
            alone = tower.features([image], 1)[image].pyramid_E
            torch.testing.assert_close(together[image].pyramid_E, alone, rtol=1e-5, atol=1e-5)


def test_the_pass_for_the_decoder_counts_where_nothing_is_trimmed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = tiny_backbone().image_tower
    assert whole is not None
    tower, plain = (
        ImageTower(
            whole.model,
            whole.processor,
            whole.path,
            levels=whole.levels,
            more_sizes=(96,),
            has_views=has_views,
        )
        for has_views in (True, False)
    )
    image, page = noise(70, 50), framed(noise(70, 50), 20)
    with plain_convolutions():
        expected = plain.pyramids_of([image, trimmed(page)])
        passed = counted(tower, monkeypatch)
        found = tower.features([encoded(page), encoded(image)], 2)
    assert sorted(passed) == [1, 1, len(found[encoded(page)].pyramid_E) // tower.pyramid_size]
    for one, pyramid_E in zip((image, page), expected, strict=True):
        own_E = found[encoded(one)].pyramid_E[: tower.pyramid_size]
        torch.testing.assert_close(own_E, pyramid_E, rtol=1e-3, atol=1e-3)


def counted(tower: ImageTower, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that pass the tower of pyramids from here on."""
    passed: list[int] = []
    compute = tower._part

    def part(pixels_BCHW: torch.Tensor) -> torch.Tensor:
        passed.append(len(pixels_BCHW))
        return compute(pixels_BCHW)

    monkeypatch.setattr(tower, "_part", part)
    return passed


RUNNER_UP: dict[str, Any] = {"visual_filter": "runner_up", "visual_gate": 0.0}
SHAPES = ((8, 3), (4, 2))
"""Channels and cells a side of the levels of a tower that turns with its images."""


def turning_pyramids(levels: list[torch.Tensor]) -> torch.Tensor:
    """[N, V, E] of such a tower: turned images move cells, and channels change places by fours."""

    def channels(level: torch.Tensor, order: list[int]) -> torch.Tensor:
        index = [start + place for start in range(0, level.shape[1], 4) for place in order]
        return level[:, index]

    seen = (
        list(levels),
        [channels(level.flip(-1), [0, 3, 2, 1]) for level in levels],
        [channels(torch.rot90(level, 1, (-2, -1)), [1, 2, 3, 0]) for level in levels],
        [channels(torch.rot90(level, -1, (-2, -1)), [3, 0, 1, 2]) for level in levels],
    )
    return torch.stack([torch.cat([one.flatten(1) for one in view], 1) for view in seen], 1)


def test_the_maps_of_a_tower_that_turns_with_its_images_are_found() -> None:
    draw = torch.Generator().manual_seed(0)

    def pyramids(count: int) -> torch.Tensor:
        parts = [torch.randn(count, width, side, side, generator=draw) for width, side in SHAPES]
        return turning_pyramids(parts)

    maps = fitted(SHAPES, pyramids(200))
    levels = [torch.stack([maps[f"{view}.{level}"] for view in (1, 2, 3)]) for level in (0, 1)]
    size = sum(width * side**2 for width, side in SHAPES)
    key = VisualKey(OUR_CONFIG.with_changes(turned_levels=SHAPES, visual_size=size, **RUNNER_UP))
    key.set_turned(levels)
    own_NVE = pyramids(5)
    found_VNE = key.turned(own_NVE[:, 0])
    torch.testing.assert_close(found_VNE, own_NVE[:, 1:].transpose(0, 1), rtol=1e-3, atol=1e-3)


def test_the_committed_generator_has_the_committed_maps() -> None:
    committed = load_generator(builtin_generator_folder()).state_dict()
    again = with_maps(builtin_generator_folder()).half().state_dict()
    assert committed.keys() == again.keys()
    assert all(torch.equal(committed[name].half(), tensor) for name, tensor in again.items())


@torch.no_grad()
def test_a_question_is_seen_in_all_views_and_an_edit_in_its_own() -> None:
    size = sum(width * side**2 for width, side in SHAPES)
    key = VisualKey(OUR_CONFIG.with_changes(turned_levels=SHAPES, visual_size=size, **RUNNER_UP))
    key.set_turned([torch.randn(3, width + 1, width) for width, _ in SHAPES])
    image, page = torch.randn(1, size), torch.randn(2, size)
    asked_BVR, nearest_BSR, same_B1R = key([image, page], is_edit=False)
    stored_B1R, *nothing = key([image, page[:1]], is_edit=True)
    assert nothing == [None, None]
    torch.testing.assert_close(stored_B1R, same_B1R)
    rank = key.projection.out_features
    assert nearest_BSR is not None
    assert (asked_BVR.shape, nearest_BSR.shape) == ((2, 8, rank), (2, 2, rank))
    assert not asked_BVR[0, 4:].any()
    seen_VE = torch.cat([page[:1], key.turned(page)[:, 0], page[1:], key.turned(page)[:, 1]])
    shares_V = torch.tensor([1.0, VIEW_SHARE, VIEW_SHARE, VIEW_SHARE] * 2)
    expected_VR = key.unit(seen_VE) * shares_V[:, None] * key.length * key.log_scale.exp()
    torch.testing.assert_close(asked_BVR[1], expected_VR)


def test_a_folded_tower_computes_the_same() -> None:
    whole = tiny_backbone().image_tower
    assert whole is not None
    tower = whole.model.get_submodule(whole.path)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), plain_convolutions():
        expected = tower(pixels).last_hidden_state
        found = folded(tower)(pixels).last_hidden_state
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded(tower).modules())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    once = folded(tower)
    assert folded(once) is once


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
