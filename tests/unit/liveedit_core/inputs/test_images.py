"""Images from outside: what decodes, to which colours, and what is refused."""

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from liveedit_core.errors import InputError, LiveEditError
from liveedit_core.inputs.containers import (
    MAX_BLOCKS,
    MAX_CHUNKS,
    MAX_RUN_LENGTH_BYTES,
    MAX_SCANS,
    MAX_SEGMENTS,
)
from liveedit_core.inputs.decoders import DECODERS
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
        decode_image(image_bytes, max_pixels=40_000_000)
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


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _with_chunk(*chunks: bytes) -> bytes:
    """A red PNG with further chunks before its pixels."""
    data = _encode(Image.new("RGB", (8, 8), "red"))
    place = data.index(b"IDAT") - 4
    return data[:place] + b"".join(chunks) + data[place:]


def _with_segment(*segments: bytes) -> bytes:
    data = _encode(Image.new("RGB", (8, 8), "red"), "JPEG")
    return data[:2] + b"".join(segments) + data[2:]


@pytest.mark.parametrize(
    "image_bytes",
    [
        _with_chunk(_chunk(b"eXIf", b"\0\x08 junk")),
        _with_chunk(_chunk(b"pHYs", b"x")),
        _with_chunk(_chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 5_000_000))),
        _with_chunk(_chunk(b"tEXt", b"k\0v")[:-1] + b"!"),
        _with_segment(b"\xff\xe1\0\x20Exif\0\0MM\0\x2a\xff\xff\xff\xff" + b"x" * 16),
        _with_segment(b"\xff\xe2\0\x0eMPF\0junk junk"),
    ],
    ids=["exif", "resolution", "text bomb", "checksum", "jpeg exif", "jpeg pictures"],
)
def test_junk_metadata_never_spoils_good_pixels(image_bytes: bytes) -> None:
    red, green, blue = decode_image(image_bytes).getpixel((4, 4))  # type: ignore[misc]
    assert red > 250 > 5 > max(green, blue)


def _progressive(num_scans: int) -> bytes:
    """A whole progressive JPEG of 8 x 8 pixels with further refinement scans."""

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    tables = segment(0xC4, b"\x00\x01" + bytes(15) + b"\0") + segment(
        0xC4, b"\x10\x01" + bytes(15) + b"\0"
    )
    frame = segment(0xC2, struct.pack(">BHHB", 8, 8, 8, 1) + b"\x01\x11\0")
    scans = segment(0xDA, b"\x01\x01\0\0\0\0") + b"\x7f"
    scans += segment(0xDA, b"\x01\x01\0\x01\x3f\x01") + b"\x7f"
    refinement = segment(0xDA, b"\x01\x01\0\x01\x3f\x10") + b"\x7f"
    quantization = segment(0xDB, b"\0" + b"\x01" * 64)
    start = b"\xff\xd8" + quantization + frame + tables
    return start + scans + refinement * (num_scans - 2) + b"\xff\xd9"


def test_scans_of_a_jpeg_are_counted_before_it_is_decoded() -> None:
    assert decode_image(_progressive(MAX_SCANS)).size == (8, 8)
    refusal = _refusal(_progressive(MAX_SCANS + 1))
    assert refusal.error_type is RejectType.IMAGE_TOO_LARGE
    assert "scans" in refusal.message
    photo = Image.effect_noise((64, 64), 80)
    photo.info["comment"] = b"\xff\xda" * 1_000  # marks of scans that are none
    noisy = _encode(photo.convert("RGB"), "JPEG", progressive=True, comment=photo.info["comment"])
    assert decode_image(noisy).size == (64, 64)


def _run_length_bitmap(num_bytes: int) -> bytes:
    """A BMP of 8 x 8 pixels, run-length coded in very short runs."""
    head = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 8, 1, 0, 0, 0, 256, 0) + bytes(1024)
    start = b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(head)) + head
    return start + b"\x00\x02\x00\x00" * ((num_bytes - len(start)) // 4)


def _gif_with_comments(num_blocks: int) -> bytes:
    data = _encode(Image.new("P", (8, 8)), "GIF")
    place = data.index(b",", 13)
    return data[:place] + b"!\xfe" + b"\x01a" * (num_blocks - 1) + b"\0" + data[place:]


@pytest.mark.parametrize(
    ("image_bytes", "what"),
    [
        (_gif_with_comments(MAX_BLOCKS + 1), "blocks"),
        (_with_chunk(_chunk(b"prVt", b"") * (MAX_CHUNKS + 1)), "chunks"),
        (_with_segment(b"\xff\xfe\0\x02" * (MAX_SEGMENTS + 1)), "segments"),
        (_run_length_bitmap(MAX_RUN_LENGTH_BYTES + 8), "run-length"),
    ],
    ids=["blocks", "chunks", "segments", "runs"],
)
def test_files_of_too_many_parts_are_refused(image_bytes: bytes, what: str) -> None:
    refusal = _refusal(image_bytes)
    assert refusal.error_type is RejectType.IMAGE_TOO_LARGE
    assert what in refusal.message


def test_a_gif_with_few_comments_is_decoded() -> None:
    assert decode_image(_gif_with_comments(1_000)).size == (8, 8)


def test_an_image_is_decoded_once_and_cannot_be_changed_for_others() -> None:
    data = _encode(Image.new("RGB", (8, 8), (255, 0, 1)))
    with patch.object(DECODERS, "decoded", wraps=DECODERS.decoded) as decoder:
        first = decode_image(data)
        first.putpixel((0, 0), (0, 0, 0))
        assert decode_image(bytes(bytearray(data))).getpixel((0, 0)) == (255, 0, 1)
        assert decoder.call_count == 1
        with pytest.raises(RefusedInputError, match="8 x 8 pixels"):
            decode_image(data, max_pixels=63)


_SEEDS = [
    _encode(Image.effect_noise((16, 16), 80).convert("RGB"), "JPEG", progressive=True),
    _encode(Image.effect_noise((16, 16), 80).convert("P"), "GIF"),
    _encode(Image.effect_noise((16, 16), 80).convert("RGB"), "WEBP"),
    _encode(Image.effect_noise((16, 16), 80).convert("P"), "BMP"),
    _run_length_bitmap(2_000),
    _with_chunk(_chunk(b"eXIf", b"MM\0\x2a\0\0\0\x08\0\0"), _chunk(b"tEXt", b"k\0v")),
    _progressive(5),
]


@pytest.mark.filterwarnings("ignore")
@given(
    seed=st.sampled_from(_SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 3_000), st.integers(0, 255)), max_size=6),
    cut=st.integers(1, 3_000),
    tail=st.binary(max_size=20),
)
def test_any_bytes_are_an_image_or_refused(
    seed: bytes, changes: list[tuple[int, int]], cut: int, tail: bytes
) -> None:
    damaged = bytearray(seed[:cut])
    for position, value in changes:
        damaged[position % len(damaged)] = value
    with contextlib.suppress(LiveEditError):
        assert decode_image(bytes(damaged) + tail, max_pixels=1_000_000).mode == "RGB"


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
