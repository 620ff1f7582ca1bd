"""The images below an image root: all checked before a run, read one by one in it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from liveedit_core.errors import InputError
from liveedit_core.inputs.images import decode_image, read_image_file
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import RefusedInputError, RejectType

THUMBNAIL = (8, 8)
"""Size in pixels by which images are compared."""


@dataclass(frozen=True, kw_only=True)
class ImageCheck:
    """Result of checking images, by path."""

    digests: dict[str, bytes] = field(default_factory=dict)
    """sha256 of the usable ones."""
    faults: dict[str, RefusedInputError] = field(default_factory=dict)
    """Why the others cannot be used."""
    thumbnails: dict[str, bytes] = field(default_factory=dict)
    """8 x 8 pixels, RGB, of the usable ones, where they were asked for."""


class ImageFolder:
    """An image root. Links in it are followed: they are its owner's, not the benchmark file's."""

    def __init__(self, root: Path, limits: InputLimits) -> None:
        if not root.is_dir():
            raise InputError(f"image root {str(root)!r} is not a folder")
        self.root = root
        self._limits = limits

    def read(self, path: str) -> bytes:
        """Encoded bytes of an image."""
        return read_image_file(self.root / path, max_bytes=self._limits.max_image_bytes)

    def uri(self, path: str) -> str:
        """`file://` URI of an image."""
        return (self.root / path).resolve().as_uri()

    def check(self, paths: Iterable[str], *, has_thumbnails: bool = False) -> ImageCheck:
        """Read and decode every image once; only a digest is kept, and perhaps a thumbnail."""
        checked = ImageCheck()
        for path in dict.fromkeys(paths):
            try:
                image_bytes = self.read(path)
                image = decode_image(image_bytes, max_pixels=self._limits.max_image_pixels)
                if has_thumbnails:
                    small = image.resize(THUMBNAIL, Image.Resampling.BOX)
                    checked.thumbnails[path] = small.tobytes()
                checked.digests[path] = hashlib.sha256(image_bytes).digest()
            except RefusedInputError as error:
                is_missing = error.error_type == RejectType.IMAGE_NOT_FOUND
                reason = "does not exist in the image root" if is_missing else error.message
                checked.faults[path] = RefusedInputError(
                    f"image {path!r}: {reason}", error.error_type
                )
        return checked
