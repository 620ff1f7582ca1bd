"""Changed copies: same bytes, same pixels; each change does what its name says."""

import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw

from liveedit_core.builtin.image_changes import (
    CHANGES,
    MAX_SIDE,
    SCREEN_SIZE,
    SMALL_SIDE,
    changed,
    has_plain_ground,
)
from liveedit_core.errors import ConfigError, InputError

KEY = bytes(range(32))
GROUND = "other background"


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pixels(image_bytes: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(image_bytes)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def drawing(width: int = 160, height: int = 120) -> Image.Image:
    """A red body with a white window and a blue dot, on white."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((width // 4, height // 4, width * 3 // 4, height * 3 // 4), fill=(200, 40, 30))
    draw.rectangle((70, 50, 90, 70), fill="white")
    draw.ellipse((45, 35, 60, 50), fill=(30, 60, 200))
    return image


def photograph(width: int = 200, height: int = 150) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    channels = (x % 256, y % 256, (x * 3 + y * 2) % 256)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


@pytest.mark.parametrize(
    ("change", "image"),
    [
        *((change, drawing()) for change in CHANGES),
        *((change, photograph()) for change in CHANGES if change != GROUND),
    ],
)
def test_a_change_is_deterministic_visible_and_of_the_right_size(
    change: str, image: Image.Image
) -> None:
    original = encoded(image)
    copy = changed(original, change)
    assert copy == changed(original, change)
    height, width = pixels(copy).shape[:2]
    if change == "screenshot":
        assert width <= SCREEN_SIZE[0]
        assert height <= SCREEN_SIZE[1]
    elif change == "small":
        assert max(width, height) == SMALL_SIDE
    elif change == "turned 90":
        assert (height, width) == image.size
    else:
        assert (width, height) == image.size
        assert np.abs(pixels(copy) - np.asarray(image).astype(int)).mean() > 0.5


@pytest.mark.parametrize("change", CHANGES)
def test_large_images_come_back_within_the_limit(change: str) -> None:
    copy = changed(encoded(drawing(600, 450)), change)
    limit = SCREEN_SIZE[0] if change == "screenshot" else MAX_SIDE
    assert max(pixels(copy).shape[:2]) <= limit


def test_turns_and_mirrors_add_up() -> None:
    image = photograph()
    turn, mirror = CHANGES["turned 90"], CHANGES["mirrored"]
    assert turn(turn(image, KEY), KEY) == image.transpose(Image.Transpose.ROTATE_180)
    assert mirror(mirror(image, KEY), KEY) == image


def test_a_small_turn_fills_the_corners_with_the_border_colour() -> None:
    turned = np.asarray(CHANGES["turned 15"](drawing(), KEY))
    assert (turned[0, 0] == 255).all()
    assert (turned[-1, -1] == 255).all()


def test_dimmed_halves_and_grey_takes_the_colours() -> None:
    image = photograph()
    dimmed = np.asarray(CHANGES["dimmed"](image, KEY)).astype(int)
    assert np.abs(dimmed - np.asarray(image) / 2).max() <= 1
    grey = np.asarray(CHANGES["grey"](image, KEY)).astype(int)
    assert np.ptp(grey, axis=-1).max() == 0


def test_hue_keeps_white_and_moves_red() -> None:
    before, after = np.asarray(drawing()), np.asarray(CHANGES["hue"](drawing(), KEY))
    assert (after[0, 0] == 255).all()
    assert np.abs(after[40, 100].astype(int) - before[40, 100]).max() > 40


@pytest.mark.parametrize(("change", "share"), [("cropped 90 %", 0.9), ("cropped 75 %", 0.75)])
def test_a_crop_shows_its_share_of_each_side(change: str, share: float) -> None:
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 100, axis=0)
    cropped = np.asarray(CHANGES[change](Image.fromarray(ramp.repeat(3, axis=2)), KEY))
    assert np.ptp(cropped[50, :, 0]) == pytest.approx(200 * share, abs=3)


def test_blur_lowers_contrast_between_neighbours() -> None:
    before, after = np.asarray(drawing()), np.asarray(CHANGES["blurred"](drawing(), KEY))
    steps = [np.abs(np.diff(image[..., 2].astype(int), axis=1)).max() for image in (before, after)]
    assert steps[1] < steps[0] / 2


def test_only_the_connected_ground_is_replaced() -> None:
    before, after = np.asarray(drawing()), np.asarray(CHANGES[GROUND](drawing(), KEY))
    assert (after[60, 80] == 255).all(), "the white window inside the body stays"
    assert (after[80, 100] == before[80, 100]).all(), "the body stays"
    assert not (after[:20] == 255).all(axis=-1).any(), "the ground around it goes"


def test_backgrounds_differ_between_images_and_need_a_plain_ground() -> None:
    grounds = [np.asarray(CHANGES[GROUND](drawing(), bytes([n]) * 32))[0] for n in range(6)]
    assert all((one != other).any() for one, other in pairwise(grounds))
    assert has_plain_ground(encoded(drawing()))
    assert not has_plain_ground(encoded(photograph()))
    with pytest.raises(InputError, match="near-white"):
        changed(encoded(photograph()), GROUND)


@pytest.mark.parametrize("first_byte", [0, 1], ids=["web page", "phone chat"])
def test_a_screenshot_shows_the_image(first_byte: int) -> None:
    image = Image.new("RGB", (100, 100), (200, 40, 30))
    shot = np.asarray(CHANGES["screenshot"](image, bytes([first_byte]) + KEY[1:]))
    share = (np.abs(shot.astype(int) - (200, 40, 30)).max(axis=-1) < 3).mean()
    assert 0.2 < share < 0.6


def test_transparent_images_lie_on_white() -> None:
    image = Image.new("RGBA", (80, 80), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((30, 30, 50, 50), fill=(200, 40, 30, 255))
    assert has_plain_ground(encoded(image))
    assert pixels(changed(encoded(image), "mirrored"))[0, 0].min() > 250


def test_an_unknown_change_is_refused() -> None:
    with pytest.raises(ConfigError, match="'upside down'"):
        changed(encoded(drawing()), "upside down")
