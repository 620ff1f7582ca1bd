"""Photographs of the user's world: windows of sample photographs and wallpapers, named by eye.

A window is a box of shares of width and height (left, top, right, bottom); windows of one
photograph overlap by less than a fifth. All windows of a photograph are one series.
"""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from liveedit_core.builtin.build.world.photo_table import AUTHORS, FOLDERS, PHOTOS, PLAIN_WINDOWS
from liveedit_core.builtin.build.world.table import SOURCES, WorldEntity

Box = tuple[float, float, float, float]

READ_SIDE = 1600
"""Longer side, in pixels, to which photographs are scaled before windows are cut."""
CROWD_WINDOWS: tuple[Box, ...] = tuple(
    (column / 4, row / 3, (column + 1) / 4, (row + 1) / 3)
    for row in range(3)
    for column in range(4)
)


def photo_file(sources: Path, origin: str, path: str) -> Path:
    """Where a file of a source lies below the folder of unpacked packages."""
    return sources / SOURCES[origin].folder / FOLDERS[origin] / path


def opened(file: Path) -> Image.Image:
    """A photograph as RGB, scaled to `READ_SIDE`."""
    with Image.open(file) as picture:
        picture.draft("RGB", (READ_SIDE, READ_SIDE))
        layer = picture.convert("RGBA")
    layer.thumbnail((READ_SIDE, READ_SIDE))
    image = Image.new("RGB", layer.size, (200, 214, 230))
    image.paste(layer, mask=layer)
    return image


def cut(image: Image.Image, box: Box) -> Image.Image:
    """The window of an image."""
    width, height = image.size
    return image.crop(
        (
            round(box[0] * width),
            round(box[1] * height),
            round(box[2] * width),
            round(box[3] * height),
        )
    )


def overlap(one: Box, other: Box) -> float:
    """Common area as a share of the smaller window."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return max(width, 0.0) * max(height, 0.0) / min(areas)


def photographs(sources: Path) -> Iterator[WorldEntity]:
    """The named windows, and unnamed ones beside them for the crowd."""
    for (origin, path), windows in PHOTOS.items():
        image = opened(photo_file(sources, origin, path))
        licence, credit = AUTHORS.get(path, ("", ""))
        for name, kind, box in windows:
            yield WorldEntity(
                name=name,
                kind=kind,
                domain="photo",
                origin=origin,
                path=f"{path}#{','.join(f'{share:g}' for share in box)}",
                series=f"{origin}/{path}",
                picture=cut(image, box),
                licence=licence,
                credit=credit,
            )
        taken = [box for _, _, box in windows]
        yield from crowd_windows(origin, path, image, taken)
    for origin, path in PLAIN_WINDOWS:
        yield from crowd_windows(origin, path, opened(photo_file(sources, origin, path)), [])


def crowd_windows(
    origin: str, path: str, image: Image.Image, taken: list[Box]
) -> Iterator[WorldEntity]:
    """Twelfths of an image that are beside the windows taken."""
    if min(image.size) < 600:
        return
    licence, credit = AUTHORS.get(path, ("", ""))
    for index, box in enumerate(CROWD_WINDOWS, 1):
        if all(overlap(box, other) < 0.2 for other in taken):
            yield WorldEntity(
                name=f"{plain_stem(path)} detail {index}",
                kind="photo detail",
                domain="photo",
                origin=origin,
                path=f"{path}#{','.join(f'{share:g}' for share in box)}",
                series=f"{origin}/{path}",
                picture=cut(image, box),
                for_cases=False,
                licence=licence,
                credit=credit,
            )


def plain_stem(path: str) -> str:
    """Words of a file name, or of the folder that names a wallpaper."""
    parts = path.split("/")
    stem = parts[0] if "contents" in parts else parts[-1].rsplit(".", 1)[0]
    return stem.split("_by_")[0].replace("_", " ").replace("-", " ").lower()
