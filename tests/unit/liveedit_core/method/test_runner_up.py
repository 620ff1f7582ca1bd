"""The runner-up filter and its calibration, on random directions in place of images."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from liveedit_core.method.calibration import (
    PRIOR_IMAGES,
    TURNED_ALLOWANCE,
    bank_margins,
    calibrate,
    traffic_margins,
)
from liveedit_core.method.config import NUM_VIEWS, GeneratorConfig
from liveedit_core.method.features import Features
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.method.routing import RUNNER_UP_SHARE, RoutingBatch, route
from liveedit_core.method.visual_key import VIEW_SHARE
from tests.tiny_backbone import OUR_CONFIG

RANK = 8
SHIFTS = (4, 1, -1)
"""By how much channels move in further views, of which the second undoes the third."""
CONFIG = OUR_CONFIG.with_changes(
    visual_source="tower_pyramid",
    visual_size=RANK,
    visual_rank=RANK,
    turned_levels=((RANK, 1),),
    num_sentinels=6,
    nearest_sentinels=1,
    visual_filter="runner_up",
    visual_gate=0.0,
    same_image_ratio=0.98,
    min_gate=0.0,
    max_kept=0,
)


@lru_cache
def generator(*, turns: bool = True) -> LiveEditGenerator:
    """With a visual key that leaves pyramids as they are; turned images are random ones, which are
    more alike than those of a world, or not known."""
    torch.manual_seed(0)
    made = LiveEditGenerator(CONFIG if turns else CONFIG.with_changes(turned_levels=()))
    made.visual_key.projection.weight.data.copy_(torch.eye(RANK))
    if turns:
        made.visual_key.set_turned([torch.stack([_mixing(view) for view in range(1, NUM_VIEWS)])])
    made.visual_key.log_scale.fill_(math.log(10.0))
    made.visual_key.offset.fill_(0.45)
    return made.eval().requires_grad_(False)


def directions(count: int, seed: int, spread: float = 1.0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    common = torch.randn(RANK, generator=draw)
    return functional.normalize(common + spread * torch.randn(count, RANK, generator=draw), dim=-1)


def _mixing(view: int) -> Tensor:
    """Channels of the one cell of a level change places."""
    return torch.cat([turned(torch.eye(RANK), view), torch.zeros(1, RANK)])


def keys(images_NR: Tensor) -> Tensor:
    stored: Tensor = generator().visual_key(list(images_NR[:, None]), is_edit=True)[0].flatten(1)
    return stored


def turned(images_NR: Tensor, view: int) -> Tensor:
    """Other directions in place of the views of an image."""
    return images_NR.roll(SHIFTS[view - 1], dims=-1)


def routed(asked_BR: Tensor, keys_NK: Tensor, offset: float, *, turns: bool = True) -> RoutingBatch:
    key = generator(turns=turns).visual_key
    visual, threshold, same = key(list(asked_BR[:, None]), is_edit=False)
    prompt_BQM = torch.zeros(len(asked_BR), CONFIG.num_queries, CONFIG.module_dim)
    features = Features(visual, prompt_BQM, threshold, same)
    prompts_NK = torch.zeros(len(keys_NK), CONFIG.feature_size)
    return route(features, keys_NK, prompts_NK, CONFIG, offset=offset)


def naive_margin(
    q: Tensor, n: int, images_NR: Tensor, offset: float, views: Sequence[int] = (1, 2, 3)
) -> float:
    """From the definition in the docstring of `routing`."""
    ratio = CONFIG.same_image_ratio
    first = [float(q @ image) for image in images_NR]
    cosine = first
    if max(first) < ratio:
        cosine = [
            max([own, *(VIEW_SHARE * float(turned(q, view) @ image) for view in views)])
            for own, image in zip(first, images_NR, strict=True)
        ]
    if cosine[n] >= ratio:
        return cosine[n]
    cosine = [-1.0 if value >= ratio else value for value in cosine]
    best = max(range(len(cosine)), key=cosine.__getitem__)
    sentinels = functional.normalize(generator().visual_key.sentinels, dim=-1)
    others = [float(q @ sentinel) for sentinel in sentinels]
    is_best_image = [float(images_NR[best] @ image) >= ratio for image in images_NR]
    others += [c for c, own in zip(cosine, is_best_image, strict=True) if not own]
    if not is_best_image[n]:
        others.append(cosine[best])
    return cosine[n] - RUNNER_UP_SHARE * max(others) - offset


@pytest.mark.parametrize("offset", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_margins_are_those_of_the_definition(seed: int, offset: float) -> None:
    images_NR = directions(12, seed)
    images_NR = torch.cat([images_NR, images_NR[:3]])  # two edits of one image
    asked = torch.cat([directions(20, seed + 100), images_NR[:4], turned(images_NR[:4], 2)])
    batch = routed(asked, keys(images_NR), offset)
    for b, q in enumerate(asked):
        wanted = [naive_margin(q, n, images_NR, offset) for n in range(len(images_NR))]
        found_N = batch.margin_BN[b] / 10.0
        passing = torch.tensor(wanted) > 0
        assert torch.equal(batch.kept_BN[b], passing)
        torch.testing.assert_close(found_N[passing], torch.tensor(wanted)[passing])


def test_an_edit_of_the_same_image_passes_whatever_else_is_in_the_bank() -> None:
    images_NR = directions(30, 1, spread=0.05)  # images that are hardly told apart
    batch = routed(images_NR, keys(images_NR), offset=0.9)
    assert batch.kept_BN.diagonal().all()


@pytest.mark.parametrize("view", range(1, NUM_VIEWS))
def test_a_mirrored_or_turned_image_is_that_of_its_edit(view: int) -> None:
    image = torch.eye(RANK)[:1]
    (back,) = (other for other in (1, 2, 3) if SHIFTS[other - 1] % RANK == -SHIFTS[view - 1] % RANK)
    batch = routed(turned(image, back), keys(image), offset=0.2)
    assert batch.kept_BN[0, 0]


def test_an_edit_of_an_image_is_not_one_of_its_mirror_image() -> None:
    """Left and right arrows: each is the mirror image of the other."""
    left = torch.eye(RANK)[0]
    right = turned(left, 1)
    assert torch.equal(turned(right, 1), left)
    keys_NK = keys(torch.stack([left, right]))
    asked = torch.stack([left, right, functional.normalize(left + 0.2 * torch.eye(RANK)[5], dim=0)])
    batch = routed(asked, keys_NK, offset=0.2)
    assert batch.kept_BN.tolist() == [[True, False], [False, True], [True, False]]


def test_an_image_that_is_as_like_another_edit_passes_neither() -> None:
    first, second = torch.eye(RANK)[0], torch.eye(RANK)[1]
    between = functional.normalize(first + second, dim=0)
    keys_NK = keys(torch.stack([first, second]))
    assert not routed(between[None], keys_NK, offset=0.2).kept_BN.any()
    near_first = functional.normalize(first + 0.4 * second, dim=0)
    assert routed(near_first[None], keys_NK, offset=0.2).kept_BN.tolist() == [[True, False]]


def test_an_edit_of_the_very_image_forbids_no_other_image() -> None:
    """Another drawing answers, although this one was edited too, with another question."""
    first, second = torch.eye(RANK)[0], torch.eye(RANK)[1]
    other_drawing = functional.normalize(first + 0.4 * second, dim=0)
    keys_NK = keys(torch.stack([first, other_drawing]))
    assert routed(other_drawing[None], keys_NK, offset=0.2).kept_BN.tolist() == [[True, True]]


def test_an_image_whose_figure_is_that_of_an_edit_passes() -> None:
    first, second, page = torch.eye(RANK)[0], torch.eye(RANK)[1], torch.eye(RANK)[6]
    keys_NK = keys(torch.stack([first, second]))
    asked = [page[None], torch.stack([page, functional.normalize(first + 0.1 * page, dim=0)])]
    visual, threshold, same = generator().visual_key(asked, is_edit=False)
    prompt_BQM = torch.zeros(2, CONFIG.num_queries, CONFIG.module_dim)
    features = Features(visual, prompt_BQM, threshold, same)
    batch = route(features, keys_NK, torch.zeros(2, CONFIG.feature_size), CONFIG, offset=0.2)
    assert batch.kept_BN.tolist() == [[False, False], [True, False]]
    alone = routed(asked[1][1:], keys_NK, offset=0.2)
    torch.testing.assert_close(batch.margin_BN[1, 0], alone.margin_BN[0, 0])


def test_similarities_are_those_of_the_images_whatever_the_margins() -> None:
    images = torch.eye(RANK)[:2]
    batch = routed(images, keys(images), offset=0.2)
    torch.testing.assert_close(batch.visual_BN, 10 * torch.eye(2))


def test_nothing_is_kept_of_an_empty_bank() -> None:
    batch = routed(directions(3, 0), torch.zeros(0, CONFIG.visual_width), offset=0.1)
    assert batch.kept_BN.shape == (3, 0)


def repository(images_NR: Tensor, budget: float = 0.02) -> ExpertRepository:
    count = len(images_NR)
    return replace(
        ExpertRepository.empty(CONFIG),
        edit_ids=tuple(f"edit {n}" for n in range(count)),
        visual=keys(images_NR),
        prompt=torch.zeros(count, CONFIG.feature_size),
        ranks_N=torch.zeros(count, dtype=torch.int64),
        false_activation=budget,
    )


@pytest.mark.parametrize("spread", [0.8, 1.0, 3.0])
@pytest.mark.parametrize("budget", [0.02, 0.1])
def test_other_images_pass_about_as_often_as_the_budget_says(spread: float, budget: float) -> None:
    """However alike the images of a world are."""
    images = directions(3000, 5, spread)
    bank = repository(images[:600], budget)
    offset = calibrate(generator(turns=False), bank).offset
    batch = routed(images[600:], bank.visual_features_NK, offset, turns=False)
    # Images that are nearly those of an edit pass by right; in few dimensions there are some.
    is_same_B = (images[600:] @ images[:600].T >= CONFIG.same_image_ratio).any(1)
    measured = (batch.kept_BN.any(1) & ~is_same_B).float().mean().item()
    assert 0.25 * budget < measured < 2 * budget


def test_what_a_bank_says_is_stricter_where_questions_are_turned() -> None:
    bank = repository(directions(600, 5))
    strict, lax = (calibrate(generator(turns=turns), bank) for turns in (True, False))
    weight = lax.num_images / (lax.num_images + PRIOR_IMAGES)
    assert strict.offset - lax.offset == pytest.approx(weight * TURNED_ALLOWANCE)


def test_a_small_bank_falls_back_to_the_generator_and_says_so() -> None:
    found = calibrate(generator(), repository(directions(5, 2)))
    assert found.offset == pytest.approx(0.45)
    assert (found.source, found.num_images) == ("generator", 0)


def test_a_calibration_depends_on_the_set_of_edits_alone() -> None:
    bank = repository(directions(1500, 3))
    shuffled = bank.take(torch.randperm(1500).tolist())
    assert calibrate(generator(), bank) == calibrate(generator(), shuffled)
    more = bank.take(range(1400))
    removed = bank.without(bank.edit_ids[1400:])
    assert calibrate(generator(), more) == calibrate(generator(), removed)


def test_edits_of_one_image_do_not_count_as_strangers() -> None:
    images = directions(100, 4)
    once, thrice = repository(images), repository(images.repeat(3, 1))
    margins = bank_margins(generator(), thrice.visual_features_NK, thrice.prompt_features_NK)
    single = bank_margins(generator(), once.visual_features_NK, once.prompt_features_NK)
    for many, one in zip(margins, single, strict=True):
        torch.testing.assert_close(many, one.repeat(3))
    assert PRIOR_IMAGES < 100


def with_traffic(bank: ExpertRepository, traffic_MR: Tensor) -> ExpertRepository:
    return replace(bank, traffic_MR=traffic_MR)


@pytest.mark.parametrize("num_edits", [5, 200])
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_traffic_passes_as_often_as_the_budget_says(spread: float, num_edits: int) -> None:
    """Also where the bank is too small to say it, or half of its edits are from another world."""
    world, budget = directions(4000, 7, spread), 0.1
    edits = torch.cat([world[: num_edits // 2], directions(num_edits - num_edits // 2, 8)])
    others = world[2000:]
    others = others[(others @ edits.T < CONFIG.same_image_ratio).all(1)]
    bank = repository(edits, budget)

    def measured(calibrated: ExpertRepository) -> float:
        offset = calibrate(generator(turns=False), calibrated).offset
        batch = routed(others, bank.visual_features_NK, offset, turns=False)
        return batch.kept_BN.any(1).float().mean().item()

    share = measured(with_traffic(bank, world[1000:2000]))
    assert 0.5 * budget < share < 1.5 * budget
    assert abs(share - budget) < abs(measured(bank) - budget)


def test_margins_of_traffic_are_those_of_the_definition() -> None:
    images_NR, traffic_MR = directions(12, 3), directions(30, 103)
    keys_NK = keys(images_NR)
    prompts_NK = torch.zeros(12, CONFIG.feature_size)
    margins = traffic_margins(generator(), traffic_MR, keys_NK, prompts_NK)
    others = traffic_MR[((traffic_MR @ images_NR.T) < CONFIG.same_image_ratio).all(1)]
    wanted = [max(naive_margin(q, n, images_NR, 0.0, ()) for n in range(12)) for q in others]
    torch.testing.assert_close(margins, torch.tensor(wanted))


def test_images_that_may_be_edited_ones_are_no_strangers() -> None:
    bank, others = repository(directions(40, 3)), directions(50, 9, spread=3.0)
    is_same_M = (others @ directions(40, 3).T >= CONFIG.same_image_ratio).any(1)
    others = others[~is_same_M]
    alone = calibrate(generator(), with_traffic(bank, others))
    # The edited images themselves would pass; here they come last, so that no prompt changes.
    both = calibrate(generator(), with_traffic(bank, torch.cat([others, directions(40, 3)])))
    assert alone == both
    assert alone.num_images == len(others)
    edited = calibrate(generator(), with_traffic(bank, directions(40, 3)))
    assert edited.offset == pytest.approx(0.45)
    assert (edited.source, edited.num_images) == ("generator", 0)


def test_more_alike_traffic_makes_the_filter_stricter() -> None:
    bank = repository(directions(100, 4))
    near = functional.normalize(directions(100, 4) + 0.5 * directions(100, 9, 5.0), dim=-1)
    far = -directions(100, 4)
    strict, lax = (calibrate(generator(), with_traffic(bank, part)) for part in (near, far))
    assert strict.offset > calibrate(generator(), bank).offset > lax.offset


def test_each_image_of_the_traffic_is_asked_with_the_prompt_of_one_edit() -> None:
    """Of two edits with other questions, an image is asked the one and then the other."""
    gated = LiveEditGenerator(
        CONFIG.with_changes(
            min_gate=0.5,
            prompt_source="sentences",
            prompt_size=8,
            prompt_rank=2,
        )
    )
    gated.visual_key.load_state_dict(generator().visual_key.state_dict())
    gated.prompt_key.offset.fill_(0.5)
    prompts_NK = torch.zeros(2, CONFIG.feature_size)
    prompts_NK[:, :2], prompts_NK[:, 3] = 10 * torch.eye(2), 10.0
    images = torch.eye(RANK)[:2]
    near_first = functional.normalize(images[0] + 0.6 * torch.eye(RANK)[2], dim=0)
    visual = keys(images)
    margins = traffic_margins(gated, near_first.repeat(4, 1), visual, prompts_NK)
    own, other = margins[:2]
    assert own > 0 > other
    assert torch.equal(margins, torch.stack([own, other] * 2))


def test_traffic_calibrates_independently_of_the_order_of_edits() -> None:
    bank = with_traffic(repository(directions(1200, 3)), directions(300, 6))
    shuffled = bank.take(torch.randperm(1200).tolist())
    assert calibrate(generator(), bank) == calibrate(generator(), shuffled)
    empty = calibrate(generator(), bank.take([]))
    assert empty.offset == pytest.approx(0.45)
    assert empty.source == "generator"


def test_edits_of_one_image_count_once() -> None:
    images = directions(100, 4)
    once, often = (
        calibrate(generator(), repository(images)),
        calibrate(generator(), repository(images.repeat(5, 1))),
    )
    assert 90 < once.num_images == often.num_images <= 100
    assert once.offset == pytest.approx(often.offset, abs=0.01)
    few = calibrate(generator(), repository(images[:4].repeat(50, 1)))
    assert (few.source, few.num_images) == ("generator", 0)


def test_a_bank_larger_than_the_sample_is_stricter() -> None:
    images = directions(4000, 6)
    small, large = repository(images[:1000]), repository(images)
    assert calibrate(generator(), large).offset > calibrate(generator(), small).offset


def test_the_paper_has_no_offset() -> None:
    config = GeneratorConfig(hidden_size=32, num_image_tokens=4, edit_layer=1, module_dim=32)
    paper = LiveEditGenerator(config)
    found = calibrate(paper, ExpertRepository.empty(config))
    assert (found.source, found.offset) == ("paper", 0.0)
