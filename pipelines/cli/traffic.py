"""Unlabelled images of a folder, as strangers for the visual filter of a bank."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from liveedit_core.backbones.protocol import Backbone
from liveedit_core.backbones.vision_language import as_vision_language
from liveedit_core.errors import ConfigError, InputError
from liveedit_core.inputs.images import read_image_file
from liveedit_core.method.calibration import LEAST_IMAGES, MAX_IMAGES
from liveedit_core.method.generator import LiveEditGenerator


class Traffic(NamedTuple):
    """What a folder holds."""

    unit_MR: Tensor
    """`VisualKey.unit` of each chosen image, float32."""
    num_files: int
    num_unreadable: int
    """As far as was looked: when there are enough images, further ones are not decoded."""


@torch.no_grad()
def read_traffic_images(folder: Path, backbone: Backbone, generator: LiveEditGenerator) -> Traffic:
    """The images of a folder, without its subfolders and equal files: the `MAX_IMAGES` with the
    smallest sha256, in that order. InputError when there are fewer than `LEAST_IMAGES`."""
    tower = as_vision_language(backbone).image_tower
    if tower is None or generator.config.visual_filter != "runner_up":
        raise ConfigError(
            "--images: the visual filter of this bank's generator has no offset that images could "
            'calibrate; train one with model.visual_filter "runner_up"'
        )
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}") from error
    path_of: dict[str, Path] = {}
    num_unreadable = 0
    for path in files:
        try:
            path_of[hashlib.sha256(read_image_file(path)).hexdigest()] = path
        except InputError:
            num_unreadable += 1
    pyramids = []
    for digest in sorted(path_of):
        try:
            image = read_image_file(path_of[digest])
            pyramid_E = tower.features([image], 1)[image].pyramid_E
            pyramids.append(pyramid_E[: tower.pyramid_size].cpu())  # without that of a figure
        except InputError:
            num_unreadable += 1
        if len(pyramids) == MAX_IMAGES:
            break
    if len(pyramids) < LEAST_IMAGES:
        raise InputError(
            f"{folder} has {len(pyramids)} different images that can be read, of {len(files):,} "
            f"files; at least {LEAST_IMAGES} are needed"
        )
    unit_MR = generator.visual_key.unit(torch.stack(pyramids)).float()
    return Traffic(unit_MR, len(files), num_unreadable)
