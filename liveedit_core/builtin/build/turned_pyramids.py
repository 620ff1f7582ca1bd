"""Fits the maps that stand for passes of mirrored and turned images (`TurnedPyramids`).

    python -m liveedit_core.builtin.build.turned_pyramids

Images of edits of EmblemEdit's `train` and of the user's world's `crowd`; prints the mean cosine of
keys with those of passes, for images of `validation`.
"""

import random

import torch
from safetensors.torch import save_file
from torch import Tensor

from liveedit_core.backbones.image_tower import ImageTower
from liveedit_core.backbones.image_views import TurnedPyramids
from liveedit_core.builtin.backbone import (
    PYRAMID_SHAPES,
    TURNED,
    builtin_generator_folder,
    load_builtin_backbone,
)
from liveedit_core.builtin.benchmark import load_builtin_cases
from liveedit_core.method.generator import load_generator
from liveedit_core.schema import Case

SEED = 0
IMAGES = 900
"""Of each benchmark."""
CHECKED = 125


def pyramids_of(tower: ImageTower, cases: list[Case], count: int) -> Tensor:
    """[N, V, E] of images of edits."""
    images = sorted({case.edit.image_bytes for case in cases if case.edit.image_bytes})
    chosen = random.Random(SEED).sample(images, min(count, len(images)))
    return torch.stack([tower.view_pyramids(image) for image in chosen])


def main() -> None:
    tower = load_builtin_backbone(has_image_views=True).image_tower
    assert tower is not None
    tower.turned = None
    emblems, world = load_builtin_cases("train"), load_builtin_cases("crowd", "user_world")
    fitted = TurnedPyramids.fitted(
        PYRAMID_SHAPES, torch.cat([pyramids_of(tower, some, IMAGES) for some in (emblems, world)])
    )
    save_file(fitted.maps, TURNED)
    key = load_generator(builtin_generator_folder()).visual_key
    checked = load_builtin_cases("validation"), load_builtin_cases("validation", "user_world")
    wanted_NVE = torch.cat([pyramids_of(tower, some, CHECKED) for some in checked])
    pairs = [(key.unit(fitted(one_VE[0])), key.unit(one_VE)) for one_VE in wanted_NVE]
    cosine_NV = torch.stack([(found * wanted).sum(-1) for found, wanted in pairs])
    print("mean cosine by view", [round(float(cosine), 3) for cosine in cosine_NV.mean(0)])


if __name__ == "__main__":
    with torch.no_grad():
        main()
