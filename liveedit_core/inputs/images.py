"""Safe decoding of images from outside: size from the header first, then every pixel."""

import io
import os
import stat
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import RefusedInputError, RejectType

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Pillow decodes many more, but every decoder can be attacked by a hostile file."""

_DEFAULT_LIMITS = InputLimits()


def decode_image(
    image_bytes: bytes, *, max_pixels: int = _DEFAULT_LIMITS.max_image_pixels
) -> Image.Image:
    """Decode a whole image to RGB; transparent parts become white, animations their first frame."""
    if not image_bytes:
        raise _unreadable("the image is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(image_bytes), formats=IMAGE_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise RefusedInputError(
                    f"the image has {width} x {height} pixels; at most {max_pixels:,} "
                    "are accepted: scale it down",
                    RejectType.IMAGE_TOO_LARGE,
                )
            image.load()
            return _to_rgb(image)
    except RefusedInputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RefusedInputError(
            f"the image claims far more than the {max_pixels:,} pixels that are accepted "
            "(a decompression bomb?)",
            RejectType.IMAGE_TOO_LARGE,
        ) from error
    except UnidentifiedImageError as error:
        raise _unreadable(
            f"these {len(image_bytes):,} bytes are not an image that can be read; "
            "expected PNG, JPEG, WebP, GIF or BMP"
        ) from error
    except Exception as error:  # decoders raise nearly any class on hostile bytes
        raise _unreadable(f"the image is damaged or truncated ({error})") from error


def read_image_file(path: Path, *, max_bytes: int = _DEFAULT_LIMITS.max_image_bytes) -> bytes:
    """Read the encoded bytes of a regular file (symbolic links are followed)."""
    try:
        # Checked before opening: a named pipe would block forever, and a device would never end.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise RefusedInputError(
                f"{path} is {what}; expected an image file", RejectType.IMAGE_NOT_A_FILE
            )
        with open(path, "rb") as file:
            image_bytes = file.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise RefusedInputError(
            f"{path} does not exist (a path is relative to the folder of the file that names it)",
            RejectType.IMAGE_NOT_FOUND,
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise _unreadable(f"{path} cannot be read ({error})") from error
    check_image_bytes(image_bytes, max_bytes=max_bytes)
    return image_bytes


def check_image_bytes(image_bytes: bytes, *, max_bytes: int) -> None:
    """Refuse an encoded image of more than `max_bytes`."""
    if len(image_bytes) > max_bytes:
        raise RefusedInputError(
            f"the image file has more than {max_bytes:,} bytes: compress it or scale it down",
            RejectType.IMAGE_TOO_LARGE,
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16-bit grey: Pillow would clip it to white
        upright = upright.convert("I").point(lambda value: value / 257).convert("L")
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    with_alpha = upright.convert("RGBA")
    white = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, with_alpha).convert("RGB")


def _unreadable(message: str) -> RefusedInputError:
    return RefusedInputError(message, RejectType.IMAGE_UNREADABLE)
