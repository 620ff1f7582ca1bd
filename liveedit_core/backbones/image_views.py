"""What of an image its pyramid is taken from: without uniform borders, and in further views.

A camera, a page or a slide adds borders; a scan may be mirrored or lie on its side. Both sides of
routing are trimmed; further views are taken of edited images alone, as alternative keys; where
`TurnedPyramids` were fitted for a tower, it sees none of them. The image
of a question may show an edited one within a page or a chat: its largest figure is looked at too.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

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

VIEWS = (
    None,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
)

_TURNED: tuple[Callable[[Tensor], Tensor], ...] = (
    partial(torch.flip, dims=(-1,)),
    partial(torch.rot90, k=1, dims=(-2, -1)),
    partial(torch.rot90, k=-1, dims=(-2, -1)),
)
"""How the further views move the cells of a level [.., height, width]."""
_SAME_TURN = (((0, 1), (1, 0)), ((0, 2), (3, 0)), ((0, 3), (2, 0)))
"""By further view, pairs of views of which the second is the first, turned like that."""
_RIDGE = 1e-5
"""Of the mean square of a channel."""


class TurnedPyramids:
    """Pyramids of an image in the further views, from the image's own, without a pass of the tower.

    Cells of a level move to where they lie in the view, and its channels are mixed by a linear map:
    the filter that answers to an edge answers to the turned edge as another filter does.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], maps: Mapping[str, Tensor]) -> None:
        """Channels and cells a side of each level; maps [C + 1, C], the last row added, by
        "view.level"."""
        self._shapes = tuple(shapes)
        self.maps = dict(maps)

    @classmethod
    def fitted(cls, shapes: Sequence[tuple[int, int]], pyramids_NVE: Tensor) -> "TurnedPyramids":
        """Least squares over the cells of images, in all of `VIEWS`."""
        levels = [_levels(shapes, pyramids_NE) for pyramids_NE in pyramids_NVE.unbind(1)]
        maps = {}
        for view, (turned, pairs) in enumerate(zip(_TURNED, _SAME_TURN, strict=True), 1):
            for level in range(len(shapes)):
                seen = torch.cat([turned(levels[first][level]) for first, _ in pairs])
                wanted = torch.cat([levels[second][level] for _, second in pairs])
                maps[f"{view}.{level}"] = _least_squares(_cells(seen), _cells(wanted))
        return cls(shapes, maps)

    def __call__(self, own_E: Tensor) -> Tensor:
        """In the order of `VIEWS`, the image as it is first, [V, E]."""
        levels = _levels(self._shapes, own_E[None])
        pyramids = [own_E]
        for view, turned in enumerate(_TURNED, 1):
            parts = []
            for number, level_1CHW in enumerate(levels):
                map_CC = self.maps[f"{view}.{number}"].to(own_E.device)
                cells_XC = _cells(turned(level_1CHW)) @ map_CC[:-1] + map_CC[-1]
                parts.append(cells_XC.T.flatten())
            pyramids.append(torch.cat(parts))
        return torch.stack(pyramids)


def _levels(shapes: Sequence[tuple[int, int]], pyramids_NE: Tensor) -> list[Tensor]:
    """[N, C, cells, cells] of each level."""
    parts = pyramids_NE.split([width * side**2 for width, side in shapes], dim=1)
    return [
        part.unflatten(1, (-1, side, side)) for part, (_, side) in zip(parts, shapes, strict=True)
    ]


def _cells(level_NCHW: Tensor) -> Tensor:
    return level_NCHW.movedim(1, -1).flatten(0, -2)


def _least_squares(seen_XC: Tensor, wanted_XC: Tensor) -> Tensor:
    """[C + 1, C]; the last row is added."""
    seen_XC = torch.cat([seen_XC, torch.ones_like(seen_XC[:, :1])], dim=1).double()
    squares_CC = seen_XC.T @ seen_XC
    squares_CC.diagonal().add_(_RIDGE * squares_CC.diagonal().mean())
    map_CC: Tensor = torch.linalg.solve(squares_CC, seen_XC.T @ wanted_XC.double())
    return map_CC.float().contiguous()


def trimmed(image: Image.Image) -> Image.Image:
    """An RGB image without its uniform borders, and reduced."""
    image = _reduced(image, LARGEST_SIDE)
    for _ in range(MAX_ROUNDS):
        box = _content_box(image)
        if box is None:
            break
        image = image.crop(box)
    return image


def views(image: Image.Image) -> list[Image.Image]:
    """The image in the order of `VIEWS`: as it is, mirrored, and turned to either side."""
    return [image if view is None else image.transpose(view) for view in VIEWS]


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
