"""Safe decoding of images from outside: size from the header first, then every pixel."""

import hashlib
import io
import os
import stat
from pathlib import Path
from urllib.parse import unquote

from PIL import Image

from liveedit_core.errors import InputError
from liveedit_core.inputs.decoded_images import ImagesInMemory, ImagesOnDisk
from liveedit_core.inputs.decoders import DECODERS
from liveedit_core.inputs.decoding import check_pixels, unreadable
from liveedit_core.inputs.limits import LARGEST_PIXEL_LIMIT, InputLimits
from liveedit_core.inputs.rejects import RefusedInputError, RejectType

ImageSource = bytes | str | Path | Image.Image
"""An encoded image, the path of one, or a decoded one."""
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_DEFAULT_LIMITS = InputLimits()
_EXPENSIVE_S = 0.2
"""CPU time from which an image is kept on disk: that of a photograph of 20 million pixels."""
_MEMORY = ImagesInMemory(max_bytes=67_108_864)
_DISK = ImagesOnDisk(max_bytes=2_147_483_648, max_age_s=24 * 3600.0)


def decode_image(image_bytes: bytes, *, max_pixels: int = LARGEST_PIXEL_LIMIT) -> Image.Image:
    """Decode a whole image to RGB; transparent parts become white, animations their first frame.

    A process of its own decodes, within limits of time and memory. The last images and refusals are
    remembered, as one image is checked, compared and shown to several models, and many lines may
    name a bad one; expensive images are kept for the other processes of the node. Metadata never
    spoils good pixels: where it cannot be read, the image is upright.
    """
    if not image_bytes:
        raise unreadable("the image is empty (0 bytes)")
    digest = hashlib.sha256(image_bytes).hexdigest()
    refused = f"{digest} {max_pixels}"
    _MEMORY.get(refused)
    image = _MEMORY.get(digest) or _DISK.get(digest)
    if image is None:
        try:
            image, cpu_s = DECODERS.decoded(image_bytes, max_pixels)
        except RefusedInputError as error:
            _MEMORY.put_refusal(refused, error)
            raise
        if cpu_s >= _EXPENSIVE_S:
            _DISK.put(digest, image)
    _MEMORY.put(digest, image)
    check_pixels(image.size, max_pixels)
    return image.copy()


def encoded(image: Image.Image) -> bytes:
    """A decoded image as PNG, which loses nothing of its pixels."""
    buffer = io.BytesIO()
    try:
        kept = image if image.mode in _PNG_MODES else image.convert("RGB")
        kept.save(buffer, "PNG")
    except (OSError, ValueError) as error:
        raise unreadable(f"the image cannot be encoded ({error})") from error
    return buffer.getvalue()


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
        raise unreadable(f"{path} cannot be read ({error})") from error
    check_image_bytes(image_bytes, max_bytes=max_bytes)
    return image_bytes


def check_image_bytes(image_bytes: bytes, *, max_bytes: int) -> None:
    """Refuse an encoded image of more than `max_bytes`."""
    if len(image_bytes) > max_bytes:
        raise RefusedInputError(
            f"the image file has more than {max_bytes:,} bytes: compress it or scale it down",
            RejectType.IMAGE_TOO_LARGE,
        )


def image_bytes_of(image: ImageSource | None) -> bytes | None:
    """The encoded image; a file is read."""
    if image is None or isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):
        return encoded(image)
    if not isinstance(image, str | Path):
        raise InputError(
            f"an image is encoded bytes, a path or a PIL image, got {type(image).__name__}"
        )
    scheme, separator, rest = str(image).partition("://")
    if not separator:
        return read_image_file(Path(image))
    if scheme != "file":
        raise InputError(f"{image}: only paths and file:/// are read here; pass the image's bytes")
    return read_image_file(Path(unquote(rest.removeprefix("localhost"))))
