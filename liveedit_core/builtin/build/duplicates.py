"""Step 3 of building EmblemEdit: no blank pictures, and no picture that shows two things.

A territory often flies the flag of its country, a white logo vanishes on the white canvas, one
vendor draws two faces alike. Such pictures examine nothing, and across splits they would give
answers away. Of each group of (nearly) equal pictures the first in `KEEP_ORDER` stays.
"""

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from liveedit_core.builtin.build.things import Picture, Thing

KEEP_ORDER = ("known_train", "known_evaluation", "train", "bystander", "evaluation")
THUMBNAIL_SIDE = 16
SAME_BELOW = 3.0
"""Pictures whose thumbnails differ by less (root mean square, of 255) count as one."""
BLANK_BELOW = 6.0
"""Standard deviation (of 255) below which a thumbnail shows nothing."""
MIN_PICTURES = 2


def thumbnail(picture: Picture) -> np.ndarray:
    """The picture as a float32 vector of its coarse colours."""
    with Image.open(io.BytesIO(picture.image)) as image:
        size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
        small = image.convert("RGB").resize(size, Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).ravel()


class SeenPictures:
    """Thumbnails of the pictures that stay."""

    def __init__(self, capacity: int) -> None:
        self.rows = np.empty((capacity, 3 * THUMBNAIL_SIDE**2), dtype=np.float32)
        self.count = 0

    def add(self, picture: Picture) -> bool:
        """Remember a picture; False when it is blank or was there already."""
        row = thumbnail(picture)
        distances = np.square(self.rows[: self.count] - row).mean(1) ** 0.5
        if row.std() < BLANK_BELOW or (distances < SAME_BELOW).any():
            return False
        self.rows[self.count] = row
        self.count += 1
        return True


def drop_duplicates(splits: Mapping[str, list[Thing]]) -> dict[str, list[Thing]]:
    """The same splits without such pictures, and without things of which too few are left."""
    things = [thing for name in KEEP_ORDER for thing in splits[name]]
    seen = SeenPictures(sum(len(thing.pictures) for thing in things))
    for thing in things:
        thing.pictures = [picture for picture in thing.pictures if seen.add(picture)]
    return {
        name: [thing for thing in members if len(thing.pictures) >= MIN_PICTURES]
        for name, members in splits.items()
    }
