"""Decodes images in a process of its own, with limits on its memory and CPU time.

    parent --number of bytes, limit of pixels, bytes--> child --JSON line, pixels--> parent

A file that crashes a decoder, or is costly in a way that nobody counted, ends the child only. It
imports little, so that it starts in a tenth of a second.
"""

import contextlib
import io
import json
import math
import resource
import signal
import struct
import sys
import time
import warnings
from typing import Any, BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from liveedit_core.inputs.containers import check_container, without_metadata
from liveedit_core.inputs.rejects import RefusedInputError, RejectType

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Pillow decodes many more, but every decoder can be attacked by a hostile file."""
MAX_CPU_S = 20
"""Of one image; the most expensive honest ones of 40 million pixels take 6."""
HEADER = struct.Struct(">QQ")

_BYTES_PER_PIXEL = 40
"""With every copy that is made on the way."""
_OTHER_BYTES = 1 << 29


def decoded(image_bytes: bytes, max_pixels: int) -> Image.Image:
    """The image in RGB; metadata that cannot be read is left out."""
    check_container(image_bytes)
    try:
        return _decoded(image_bytes, max_pixels)
    except RefusedInputError as error:
        rest = without_metadata(image_bytes)
        if error.error_type is not RejectType.IMAGE_UNREADABLE or len(rest) == len(image_bytes):
            raise
        return _decoded(rest, max_pixels)


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise RefusedInputError(
            f"the image has {width} x {height} pixels; at most {max_pixels:,} "
            "are accepted: scale it down",
            RejectType.IMAGE_TOO_LARGE,
        )


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Decode what is asked until the parent ends."""
    while len(header := requests.read(HEADER.size)) == HEADER.size:
        num_bytes, max_pixels = HEADER.unpack(header)
        image_bytes = requests.read(num_bytes)
        _limit(max_pixels)
        start_s = time.process_time()
        try:
            image = decoded(image_bytes, max_pixels)
            cpu_s = time.process_time() - start_s
            _answer(answers, {"size": image.size, "cpu_s": cpu_s}, image.tobytes())
        except RefusedInputError as error:
            _answer(answers, {"error_type": error.error_type, "message": error.message})
        except MemoryError:
            message = f"the image needs more than {memory_limit(max_pixels):,} bytes to be decoded"
            _answer(answers, {"error_type": RejectType.IMAGE_TOO_LARGE, "message": message})


def _answer(answers: BinaryIO, answer: dict[str, Any], pixels: bytes = b"") -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.write(pixels)
    answers.flush()


def memory_limit(max_pixels: int) -> int:
    """Bytes that the process may have while it decodes an image of so many pixels."""
    return _BYTES_PER_PIXEL * max_pixels + _OTHER_BYTES


def _limit(max_pixels: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    end_s = math.ceil(used.ru_utime + used.ru_stime) + MAX_CPU_S
    for what, limit in (
        (resource.RLIMIT_CPU, end_s),
        (resource.RLIMIT_AS, memory_limit(max_pixels)),
    ):
        _, most = resource.getrlimit(what)
        resource.setrlimit(
            what, (limit if most == resource.RLIM_INFINITY else min(limit, most), most)
        )


def _decoded(image_bytes: bytes, max_pixels: int) -> Image.Image:
    try:
        with Image.open(io.BytesIO(image_bytes), formats=IMAGE_FORMATS) as image:
            check_pixels(image.size, max_pixels)
            image.load()
            return _to_rgb(image)
    except (RefusedInputError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RefusedInputError(
            f"the image claims far more than the {max_pixels:,} pixels that are accepted "
            "(a decompression bomb?)",
            RejectType.IMAGE_TOO_LARGE,
        ) from error
    except UnidentifiedImageError as error:
        raise unreadable(
            f"these {len(image_bytes):,} bytes are not an image that can be read; "
            "expected PNG, JPEG, WebP, GIF or BMP"
        ) from error
    except Exception as error:  # decoders raise nearly any class on hostile bytes
        raise unreadable(f"the image is damaged or truncated ({error})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # junk in place of its orientation
        upright = image
    if upright.mode.startswith("I"):  # 16-bit grey: Pillow would clip it to white
        upright = upright.convert("I").point(lambda value: value / 257).convert("L")
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    with_alpha = upright.convert("RGBA")
    white = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, with_alpha).convert("RGB")


def unreadable(message: str) -> RefusedInputError:
    return RefusedInputError(message, RejectType.IMAGE_UNREADABLE)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # meant for the parent, with which this one ends
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    with contextlib.suppress(BrokenPipeError):  # the parent was killed
        serve(sys.stdin.buffer, sys.stdout.buffer)
