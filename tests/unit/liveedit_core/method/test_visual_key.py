"""The visual key and its fit, on entities that it has never seen."""

import pytest
import torch
from torch import Tensor

from liveedit_core.method.config import VisualKeyRecipe
from liveedit_core.method.routing import paired_similarity, similarity
from liveedit_core.method.visual_key import VisualKey
from liveedit_core.training.visual_key_fit import KeyReport, fit_visual_key
from tests.tiny_backbone import OUR_CONFIG

NUM_ENTITIES = 120
CONFIG = OUR_CONFIG.with_changes(visual_size=30, visual_rank=8, num_sentinels=NUM_ENTITIES)
ENTITIES = torch.arange(NUM_ENTITIES).repeat_interleave(3)
STYLE = 3.0


def drawings(seed: int) -> Tensor:
    """Three drawings of each entity: 10 channels tell entities apart, 20 are style."""
    draw = torch.Generator().manual_seed(seed)
    entities = torch.randn(NUM_ENTITIES, 10, generator=draw)[ENTITIES]
    entities = entities + 0.3 * torch.randn(entities.shape, generator=draw)
    style = STYLE * torch.randn(len(ENTITIES), 20, generator=draw)
    return torch.cat([entities, style], dim=1)


def fitted(unedited_fraction: float = 0.1) -> tuple[VisualKey, KeyReport]:
    torch.manual_seed(0)
    key = VisualKey(CONFIG)
    recipe = VisualKeyRecipe(
        num_components=30,
        ridge=0.1,
        unedited_fraction=unedited_fraction,
        answer_fraction=unedited_fraction / 2,
        other_image_fraction=unedited_fraction / 4,
    )
    return key, fit_visual_key(key, drawings(1), ENTITIES, recipe)


def margins(key: VisualKey, asked: Tensor, stored: Tensor) -> Tensor:
    visual, threshold, _ = key(list(asked[:, None]), is_edit=False)
    edits, *nothing = key(list(stored[:, None]), is_edit=True)
    assert nothing == [None, None]
    assert threshold is not None
    return similarity(visual, edits.flatten(1)) - paired_similarity(visual, threshold)[:, None]


@torch.no_grad()
def test_unseen_entities_are_recognised_in_other_drawings() -> None:
    key, _ = fitted()
    torch.manual_seed(0)
    unfitted = VisualKey(CONFIG)
    unseen, own = drawings(2), torch.arange(NUM_ENTITIES)
    first = margins(key, unseen[1::3], unseen[0::3]).argmax(1) == own
    first_unfitted = margins(unfitted, unseen[1::3], unseen[0::3]).argmax(1) == own
    assert first.float().mean() > 0.7
    assert first_unfitted.float().mean() < 0.3


@torch.no_grad()
@pytest.mark.parametrize("fraction", [0.05, 0.3])
def test_the_threshold_lets_the_given_share_of_unedited_entities_pass(fraction: float) -> None:
    key, report = fitted(fraction)
    unseen = drawings(2)
    num_edited = int(report.num_edited)
    stored, unedited = unseen[0::3][:num_edited], unseen[0::3][num_edited:]
    passing = (margins(key, unedited, stored) > 0).any(1).float().mean().item()
    assert fraction / 3 < passing < 3 * fraction


@torch.no_grad()
def test_fewer_unedited_entities_exceed_the_midpoints() -> None:
    key, report = fitted(0.4)
    unseen, num_edited = drawings(2), int(report.num_edited)
    stored, unedited = unseen[0::3][:num_edited], unseen[0::3][num_edited:]
    best = margins(key, unedited, stored).max(1).values
    passing = [
        (best > m).float().mean() for m in (0, report.visual_midpoint, report.other_image_midpoint)
    ]
    assert 0 < report.visual_midpoint < report.other_image_midpoint
    assert passing[0] > passing[1] > passing[2] > 0


@torch.no_grad()
def test_the_report_predicts_results_on_unseen_entities() -> None:
    key, report = fitted()
    unseen, num_edited = drawings(2), int(report.num_edited)
    own = margins(key, unseen[1::3], unseen[0::3])
    kept = (own.diagonal() > 0).float().mean().item()
    firsts = [
        own[i : i + num_edited, i : i + num_edited].argmax(1) == torch.arange(num_edited)
        for i in range(0, NUM_ENTITIES, num_edited)
    ]
    assert report.own_kept == pytest.approx(kept, abs=0.15)
    assert report.own_first == pytest.approx(torch.cat(firsts).float().mean().item(), abs=0.15)


@torch.no_grad()
def test_the_margin_is_symmetric() -> None:
    key, _ = fitted()
    some = drawings(3)[:7]
    square = margins(key, some, some)
    torch.testing.assert_close(square, square.T, rtol=1e-4, atol=1e-4)
    assert (square.diagonal() > 0).all()


@torch.no_grad()
def test_the_same_image_feature_is_that_of_an_edit() -> None:
    key, _ = fitted()
    some = drawings(3)[:7]
    assert torch.equal(
        key(list(some[:, None]), is_edit=False)[2], key(list(some[:, None]), is_edit=True)[0]
    )


@torch.no_grad()
def test_sentinels_are_drawings_of_different_entities() -> None:
    key, _ = fitted()
    projected = key.projection((drawings(1)[::3] - key.mean) / key.deviation)
    distances = torch.cdist(key.sentinels, torch.nn.functional.normalize(projected, dim=-1))
    assert sorted(distances.argmin(1).tolist()) == list(range(NUM_ENTITIES))
    assert distances.min(1).values.max() < 1e-3


def test_the_fit_depends_on_the_seed_alone() -> None:
    first, second = fitted()[0].state_dict(), fitted()[0].state_dict()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
