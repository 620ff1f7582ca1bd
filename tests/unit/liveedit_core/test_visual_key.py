"""The visual key: equations, its closed form, and what it makes of things it has never seen."""

from dataclasses import replace

import torch
from torch import Tensor

from liveedit_core.routing import paired_similarity, similarity
from liveedit_core.visual_key import VisualKey
from tests.tiny_backbone import OUR_CONFIG

NUM_THINGS = 40
CONFIG = replace(OUR_CONFIG, visual_size=30, visual_rank=8, num_sentinels=NUM_THINGS)
THINGS = torch.arange(NUM_THINGS).repeat_interleave(3)
STYLE = 3.0


def drawings(seed: int) -> Tensor:
    """Three drawings of each thing: 10 channels tell things apart, 20 louder ones are style."""
    draw = torch.Generator().manual_seed(seed)
    things = torch.randn(NUM_THINGS, 10, generator=draw)[THINGS]
    things = things + 0.2 * torch.randn(things.shape, generator=draw)
    style = STYLE * torch.randn(len(THINGS), 20, generator=draw)
    return torch.cat([things, style], dim=1)


def margins(key: VisualKey, asked: Tensor, stored: Tensor) -> Tensor:
    visual, threshold = key(asked[:, None], is_edit=False)
    edits, nothing = key(stored[:, None], is_edit=True)
    assert nothing is None
    assert threshold is not None
    return similarity(visual, edits.flatten(1)) - paired_similarity(visual, threshold)[:, None]


@torch.no_grad()
def test_the_discriminant_recognises_unseen_things_in_other_drawings() -> None:
    torch.manual_seed(0)
    key, random_key = VisualKey(CONFIG), VisualKey(CONFIG)
    key.begin_as_discriminant(drawings(1), THINGS, num_components=30, ridge=0.1)
    unseen = drawings(2)
    own = torch.arange(NUM_THINGS)
    first = margins(key, unseen[1::3], unseen[0::3]).argmax(1) == own
    first_at_random = margins(random_key, unseen[1::3], unseen[0::3]).argmax(1) == own
    assert first.float().mean() > 0.8
    assert first_at_random.float().mean() < 0.4


@torch.no_grad()
def test_the_margin_is_symmetric_and_zero_where_a_picture_is_as_near_as_the_crowd() -> None:
    key = VisualKey(CONFIG)
    key.begin_as_discriminant(drawings(1), THINGS, num_components=30, ridge=0.1)
    some = drawings(3)[:7]
    square = margins(key, some, some)
    torch.testing.assert_close(square, square.T, rtol=1e-4, atol=1e-4)
    assert (square.diagonal() > 0).all()


@torch.no_grad()
def test_sentinels_begin_as_drawings_of_different_things() -> None:
    key = VisualKey(CONFIG)
    rows = drawings(1)
    key.begin_as_discriminant(rows, THINGS, num_components=30, ridge=0.1)
    projected = key.projection((rows[::3] - key.mean) / key.deviation)
    distances = torch.cdist(key.sentinels, projected)
    assert sorted(distances.argmin(1).tolist()) == list(range(NUM_THINGS))
    assert distances.min(1).values.max() < 1e-3
