"""What of an image its pyramid is taken from: without uniform borders, and in further views.

A camera, a page or a slide adds borders; a scan may be mirrored or lie on its side. Both sides of
routing are trimmed; further views are taken of edited images alone, as alternative keys.
"""

import numpy as np
from PIL import Image

TOLERANCE = 24
"""Largest difference of a channel from the colour of the border, 0..255."""
BORDER_SHARE = 0.9
"""Share of the outermost pixels that must have that colour."""
MAX_ROUNDS = 3
"""A border may lie within another one."""
LEAST_SIDE = 16
LARGEST_SIDE = 768
"""Larger images are halved, and halved again: no tower sees more."""
LEAST_AREA = 0.02
"""Of the image; what is left must not be smaller."""

VIEWS = (
    None,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
)


def trimmed(image: Image.Image) -> Image.Image:
    """An RGB image without its uniform borders, and reduced."""
    while max(image.size) > LARGEST_SIDE and min(image.size) > 1:
        image = image.reduce(2)
    for _ in range(MAX_ROUNDS):
        box = _content_box(image)
        if box is None:
            break
        image = image.crop(box)
    return image


def views(image: Image.Image) -> list[Image.Image]:
    """The image in the order of `VIEWS`: as it is, mirrored, and turned to either side."""
    return [image if view is None else image.transpose(view) for view in VIEWS]


def _content_box(image: Image.Image) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of what lies within a uniform border; None without one."""
    pixels = np.asarray(image).astype(np.int16)
    outermost = np.concatenate((pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
    colour = np.median(outermost, axis=0)
    if (np.abs(outermost - colour).max(1) <= TOLERANCE).mean() < BORDER_SHARE:
        return None
    is_content = np.abs(pixels - colour).max(2) > TOLERANCE
    rows = np.flatnonzero(is_content.sum(1) >= 2)
    columns = np.flatnonzero(is_content.sum(0) >= 2)
    if not len(rows) or not len(columns):
        return None
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    width, height = right - left, bottom - top
    is_small = min(width, height) < LEAST_SIDE or width * height < LEAST_AREA * pixels[..., 0].size
    is_whole = width >= image.width - 1 and height >= image.height - 1
    return None if is_small or is_whole else (int(left), int(top), int(right), int(bottom))
