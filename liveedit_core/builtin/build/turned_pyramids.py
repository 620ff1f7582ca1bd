"""Fits the maps that stand for passes of mirrored and turned images (`VisualKey.turned`).

    python -m liveedit_core.builtin.build.turned_pyramids [--generator FOLDER]

Images of edits of EmblemEdit's `train` and of the user's world's `crowd`; prints the mean cosine of
keys with those of passes, for images of `validation`. With a folder, the maps of the committed file
are put into the visual key of that generator, as training would; nothing else of it changes.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from liveedit_core.backbones.image_tower import ImageTower
from liveedit_core.backbones.image_views import trimmed
from liveedit_core.builtin.backbone import (
    PYRAMID,
    TURNED,
    builtin_generator_folder,
    load_builtin_backbone,
    turned_maps,
)
from liveedit_core.builtin.benchmark import load_builtin_cases
from liveedit_core.inputs.images import decode_image
from liveedit_core.method import visual_key
from liveedit_core.method.generator import LiveEditGenerator, load_generator, save_generator
from liveedit_core.schema import Case

SEED = 0
IMAGES = 900
"""Of each benchmark."""
CHECKED = 125


VIEWS = (
    None,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
)
_SAME_TURN = (((0, 1), (1, 0)), ((0, 2), (3, 0)), ((0, 3), (2, 0)))
"""By further view, pairs of views of which the second is the first, turned like that."""
_RIDGE = 1e-5
"""Of the mean square of a channel."""


def views(image: Image.Image) -> list[Image.Image]:
    """The image as it is, mirrored, and turned to either side."""
    return [image if view is None else image.transpose(view) for view in VIEWS]


def fitted(shapes: Sequence[tuple[int, int]], pyramids_NVE: Tensor) -> dict[str, Tensor]:
    """Least squares over the cells of images, in all of `VIEWS`: by "view.level" [C + 1, C]; shapes
    are channels and cells a side."""
    levels = [_levels(shapes, pyramids_NE) for pyramids_NE in pyramids_NVE.unbind(1)]
    maps = {}
    for view, (turn, pairs) in enumerate(zip(visual_key.TURNED, _SAME_TURN, strict=True), 1):
        for level in range(len(shapes)):
            seen = torch.cat([turn(levels[first][level]) for first, _ in pairs])
            wanted = torch.cat([levels[second][level] for _, second in pairs])
            maps[f"{view}.{level}"] = _least_squares(_cells(seen), _cells(wanted))
    return maps


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


def pyramids_of(tower: ImageTower, cases: list[Case], count: int) -> Tensor:
    """[N, V, E] of images of edits."""
    images = sorted({case.edit.image_bytes for case in cases if case.edit.image_bytes})
    chosen = random.Random(SEED).sample(images, min(count, len(images)))
    seen = [tower.pyramids_of(views(trimmed(decode_image(image)))) for image in chosen]
    return torch.stack([torch.stack(pyramids) for pyramids in seen])


def with_maps(folder: Path) -> LiveEditGenerator:
    """The generator of a folder, its visual key with the maps of the built-in tower."""
    before = load_generator(folder)
    config = before.config.with_changes(turned_levels=tuple((p.width, p.grid) for p in PYRAMID))
    generator = LiveEditGenerator(config).requires_grad_(False)
    generator.load_state_dict(before.state_dict(), strict=False)
    generator.visual_key.set_turned(turned_maps())
    return generator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generator", type=Path)
    folder = parser.parse_args().generator
    if folder is not None:
        print(save_generator(with_maps(folder).half(), folder))
        return
    tower = load_builtin_backbone(has_image_views=True).image_tower
    assert tower is not None
    emblems, world = load_builtin_cases("train"), load_builtin_cases("crowd", "user_world")
    shapes = [(level.width, level.grid) for level in PYRAMID]
    parts = [pyramids_of(tower, some, IMAGES) for some in (emblems, world)]
    save_file(fitted(shapes, torch.cat(parts)), TURNED)
    key = with_maps(builtin_generator_folder()).visual_key
    checked = load_builtin_cases("validation"), load_builtin_cases("validation", "user_world")
    wanted_NVE = torch.cat([pyramids_of(tower, some, CHECKED) for some in checked])
    found_VNE = key.turned(wanted_NVE[:, 0])
    pairs = zip(found_VNE, wanted_NVE[:, 1:].unbind(1), strict=True)
    cosines = [(key.unit(found) * key.unit(wanted)).sum(-1).mean() for found, wanted in pairs]
    print("mean cosine by further view", [round(float(cosine), 3) for cosine in cosines])


if __name__ == "__main__":
    with torch.no_grad():
        main()
