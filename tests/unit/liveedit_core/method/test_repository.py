"""The repository stacks experts, and adding and removing are each other's inverse."""

import pytest
import torch

from liveedit_core.errors import ShapeError
from liveedit_core.method.repository import ExpertRepository
from tests.random_states import random_expert
from tests.tiny_backbone import TINY_CONFIG

TENSORS = ("visual_features_NK", "prompt_features_NK", "down_NRD", "up_NRD")


def repository(*seeds: int) -> ExpertRepository:
    return ExpertRepository.from_experts(TINY_CONFIG, [random_expert(seed) for seed in seeds])


def assert_same(first: ExpertRepository, second: ExpertRepository) -> None:
    assert first.edit_ids == second.edit_ids
    for name in TENSORS:
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def test_each_row_is_its_expert() -> None:
    stacked = repository(4, 5)
    for row, seed in enumerate((4, 5)):
        expert = random_expert(seed)
        assert stacked.edit_ids[row] == expert.edit_id
        assert torch.equal(stacked.visual_features_NK[row], expert.visual_feature_QM.flatten())
        assert torch.equal(stacked.prompt_features_NK[row], expert.prompt_feature_QM.flatten())
        assert torch.equal(stacked.down_NRD[row], expert.down_RD)
        assert torch.equal(stacked.up_NRD[row], expert.up_RD)


def test_adding_is_stacking() -> None:
    more = [random_expert(2), random_expert(3)]
    assert_same(repository(1).with_experts(TINY_CONFIG, more), repository(1, 2, 3))
    empty = ExpertRepository.empty(TINY_CONFIG)
    assert len(empty) == 0
    assert_same(empty.with_experts(TINY_CONFIG, more), repository(2, 3))


def test_removing_leaves_the_others_untouched() -> None:
    assert_same(repository(1, 2, 3).without({"edit-2"}), repository(1, 3))
    assert_same(repository(1).without(["edit-1"]), ExpertRepository.empty(TINY_CONFIG))
    assert_same(repository(1, 2).without(["of somebody else"]), repository(1, 2))


def test_take_orders() -> None:
    assert_same(repository(1, 2, 3).take([2, 0]), repository(3, 1))


def test_stored_arrays_give_the_same_repository() -> None:
    original = repository(1, 2)
    arrays = [getattr(original, name).numpy().reshape(2, -1) for name in TENSORS]
    assert_same(
        ExpertRepository.from_arrays(TINY_CONFIG, original.edit_ids, *arrays),
        original,
    )
    none = [array[:0] for array in arrays]
    assert_same(ExpertRepository.from_arrays(TINY_CONFIG, (), *none), repository())


def test_arrays_of_another_shape_are_refused() -> None:
    arrays = [getattr(repository(1, 2), name).numpy() for name in TENSORS]
    with pytest.raises(ShapeError, match="3 edits"):
        ExpertRepository.from_arrays(TINY_CONFIG, ("a", "b", "c"), *arrays)


def test_ids_and_tensors_must_agree() -> None:
    good = repository(1, 2)
    with pytest.raises(ShapeError, match="visual_features_NK"):
        ExpertRepository(
            edit_ids=("one",),
            visual_features_NK=good.visual_features_NK,
            prompt_features_NK=good.prompt_features_NK,
            down=good.down,
            up=good.up,
        )
