"""Images from outside: what decodes, to which colours, and what is refused."""

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from liveedit_core.errors import InputError
from liveedit_core.inputs.images import decode_image, read_image_file
from liveedit_core.inputs.rejects import RefusedInputError, RejectType


def _encode(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and carries no pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT\x35\xaf\x06\x1e"


def _refusal(image_bytes: bytes) -> RefusedInputError:
    with pytest.raises(RefusedInputError) as caught:
        decode_image(image_bytes)
    return caught.value


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_each_format_gives_the_colour_it_holds(image_format: str) -> None:
    decoded = decode_image(_encode(Image.new("RGB", (16, 8), (200, 40, 40)), image_format))
    assert decoded.mode == "RGB"
    assert decoded.size == (16, 8)
    pixel = decoded.getpixel((3, 3))
    assert isinstance(pixel, tuple)
    assert max(abs(a - b) for a, b in zip(pixel, (200, 40, 40), strict=True)) <= 6


def test_transparency_becomes_white() -> None:
    half_black = Image.new("RGBA", (2, 1), (0, 0, 0, 128))
    half_black.putpixel((1, 0), (0, 0, 0, 0))
    decoded = decode_image(_encode(half_black))
    assert decoded.getpixel((0, 0)) == (127, 127, 127)
    assert decoded.getpixel((1, 0)) == (255, 255, 255)


def test_transparent_palette_colour_becomes_white() -> None:
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    decoded = decode_image(_encode(palette, transparency=0))
    assert decoded.getpixel((0, 0)) == (255, 255, 255)
    assert decoded.getpixel((1, 0)) == (200, 0, 0)


def test_sixteen_bit_grey_keeps_its_shades() -> None:
    grey = Image.new("I;16", (2, 1))
    grey.putpixel((0, 0), 257 * 100)
    grey.putpixel((1, 0), 65535)
    decoded = decode_image(_encode(grey))
    assert decoded.getpixel((0, 0)) == (100, 100, 100)
    assert decoded.getpixel((1, 0)) == (255, 255, 255)


def test_a_photo_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees", as phones write it
    assert decode_image(_encode(Image.new("RGB", (8, 4)), "JPEG", exif=exif)).size == (4, 8)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    animated = _encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(animated).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("side", [7_000, 9_600, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_from_its_header(side: int) -> None:
    refusal = _refusal(_png_header(side, side))
    assert refusal.error_type is RejectType.IMAGE_TOO_LARGE


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP"])
def test_truncated_images_are_refused(image_format: str) -> None:
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    whole = _encode(noise, image_format)
    refusal = _refusal(whole[: len(whole) // 2])
    assert refusal.error_type is RejectType.IMAGE_UNREADABLE


@pytest.mark.parametrize(
    ("image_bytes", "reason"),
    [(b"", "empty"), (b"<svg></svg>", "not an image"), (b"\x89PNG\r\n\x1a\n", "damaged|not a")],
)
def test_no_image_is_refused(image_bytes: bytes, reason: str) -> None:
    refusal = _refusal(image_bytes)
    assert refusal.error_type is RejectType.IMAGE_UNREADABLE
    with pytest.raises(InputError, match=reason):
        decode_image(image_bytes)


@given(position=st.integers(0, 200), value=st.integers(0, 255), cut=st.integers(1, 400))
def test_damaged_images_decode_or_are_refused(position: int, value: int, cut: int) -> None:
    damaged = bytearray(_encode(Image.linear_gradient("L").resize((24, 24)).convert("P")))
    damaged[position % len(damaged)] = value
    with contextlib.suppress(InputError):
        assert decode_image(bytes(damaged[:cut])).mode == "RGB"


def test_file_kinds_and_sizes(tmp_path: Path) -> None:
    image = tmp_path / "p.png"
    image.write_bytes(_encode(Image.new("RGB", (4, 4))))
    link = tmp_path / "link.png"
    link.symlink_to(image)
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    assert read_image_file(link) == image.read_bytes()
    for path, expected in (
        (tmp_path / "none.png", RejectType.IMAGE_NOT_FOUND),
        (tmp_path, RejectType.IMAGE_NOT_A_FILE),
        (pipe, RejectType.IMAGE_NOT_A_FILE),
        (Path("/dev/zero"), RejectType.IMAGE_NOT_A_FILE),
        (tmp_path / ("x" * 300), RejectType.IMAGE_UNREADABLE),
        (tmp_path / "nul\0.png", RejectType.IMAGE_UNREADABLE),
    ):
        with pytest.raises(RefusedInputError) as caught:
            read_image_file(path)
        assert caught.value.error_type is expected
    with pytest.raises(RefusedInputError, match="more than 10 bytes"):
        read_image_file(image, max_bytes=10)
