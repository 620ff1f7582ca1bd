"""What of an image its pyramid is taken from: without uniform borders, and the figure in it.

A camera, a page or a slide adds borders, so both sides of routing are trimmed. The image of a
question may show an edited one within a page or a chat: its largest figure is looked at too.
"""

import numpy as np
from PIL import Image
from scipy import ndimage

TOLERANCE = 24
"""Largest difference of a channel from the colour of the border, 0..255."""
BORDER_SHARE = 0.9
"""Share of the outermost pixels that must have that colour."""
MAX_ROUNDS = 3
"""A border may lie within another one."""
LEAST_SIDE = 16
LARGEST_SIDE = 768
"""Larger images are halved, and halved again: no tower sees more."""
FIGURE_SIDE = 384
"""The same, where a figure is looked for."""
LEAST_STEP = 10
"""Difference of neighbouring pixels within a figure and at its edge, 0..255."""
LEAST_FIGURE, MOST_FIGURE = 0.05, 0.85
"""Share of the image that a figure's box covers."""
LEAST_AREA = 0.02
"""Of the image; what is left must not be smaller."""


def trimmed(image: Image.Image) -> Image.Image:
    """An RGB image without its uniform borders, and reduced."""
    image = _reduced(image, LARGEST_SIDE)
    for _ in range(MAX_ROUNDS):
        box = _content_box(image)
        if box is None:
            break
        image = image.crop(box)
    return image


def figure(image: Image.Image) -> Image.Image | None:
    """The largest part of an RGB image that no even ground divides, trimmed and reduced; None if
    that is the image itself, or small."""
    image = _reduced(image, FIGURE_SIDE)
    pixels = np.asarray(image).astype(np.int16)
    is_edge = np.zeros(pixels.shape[:2], dtype=bool)
    down = _in_any_channel(np.abs(np.diff(pixels, axis=0)) > LEAST_STEP)
    right = _in_any_channel(np.abs(np.diff(pixels, axis=1)) > LEAST_STEP)
    is_edge[1:] |= down
    is_edge[:-1] |= down
    is_edge[:, 1:] |= right
    is_edge[:, :-1] |= right
    labels, _ = ndimage.label(is_edge, structure=np.ones((3, 3)))
    boxes = [(box[1].start, box[0].start, box[1].stop, box[0].stop) for box in _boxes(labels)]
    if not boxes:
        return None
    largest = max(boxes, key=_area)
    if not LEAST_FIGURE <= _area(largest) / is_edge.size <= MOST_FIGURE:
        return None
    found = trimmed(image.crop(largest))
    is_small = min(found.size) < LEAST_SIDE + LEAST_SIDE // 2
    return None if is_small or found.size == trimmed(image).size else found


def _boxes(labels: np.ndarray) -> list[tuple[slice, slice]]:
    found: list[tuple[slice, slice]] = ndimage.find_objects(labels)
    return found


def _area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _reduced(image: Image.Image, side: int) -> Image.Image:
    while max(image.size) > side and min(image.size) > 1:
        image = image.reduce(2)
    return image


def _in_any_channel(flags: np.ndarray) -> np.ndarray:
    found: np.ndarray = flags[..., 0] | flags[..., 1] | flags[..., 2]
    return found


def _content_box(image: Image.Image) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of what lies within a uniform border; None without one."""
    pixels = np.asarray(image)
    outermost = np.concatenate((pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
    colour = np.median(outermost, axis=0)
    if (np.abs(outermost - colour).max(1) <= TOLERANCE).mean() < BORDER_SHARE:
        return None
    # Compared as whole numbers, which takes a tenth of the time.
    most = np.floor(colour + TOLERANCE).clip(max=255).astype(np.uint8)
    least = np.ceil(colour - TOLERANCE).clip(min=0).astype(np.uint8)
    is_content = _in_any_channel((pixels > most) | (pixels < least))
    rows = np.flatnonzero(is_content.sum(1) >= 2)
    columns = np.flatnonzero(is_content.sum(0) >= 2)
    if not len(rows) or not len(columns):
        return None
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    width, height = right - left, bottom - top
    is_small = min(width, height) < LEAST_SIDE or width * height < LEAST_AREA * pixels[..., 0].size
    is_whole = width >= image.width - 1 and height >= image.height - 1
    return None if is_small or is_whole else (int(left), int(top), int(right), int(bottom))
