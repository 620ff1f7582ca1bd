"""The repository stacks experts; stored matrices behave like those in memory and are read late."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.errors import ShapeError
from liveedit_core.method.editor import Editor
from liveedit_core.method.expert import Expert
from liveedit_core.method.repository import ExpertRepository
from tests.random_states import assert_same_experts, random_expert
from tests.tiny_backbone import TINY_CONFIG, image, tiny_backbone, tiny_generator

RANKS = (4, 2, 7, 1, 3)


def expert(seed: int) -> Expert:
    """One of several ranks."""
    return random_expert(seed, TINY_CONFIG, RANKS[seed % len(RANKS)])


def repository(*seeds: int) -> ExpertRepository:
    return ExpertRepository.from_experts(TINY_CONFIG, [expert(seed) for seed in seeds])


def test_each_row_is_its_expert() -> None:
    stacked = repository(4, 5)
    for row, seed in enumerate((4, 5)):
        one = expert(seed)
        assert stacked.edit_ids[row] == one.edit_id
        assert torch.equal(stacked.visual_features_NK[row], one.visual_feature_QM.flatten())
        assert torch.equal(stacked.prompt_features_NK[row], one.prompt_feature_QM.flatten())
        down_LD, up_LD = stacked.matrices(torch.tensor([row]))
        assert torch.equal(down_LD, one.down_RD)
        assert torch.equal(up_LD, one.up_RD)
    assert len(stacked.down_LD) == len(stacked.up_LD) == sum(RANKS[n % 5] for n in (4, 5))


def test_adding_is_stacking() -> None:
    more = [expert(2), expert(3)]
    assert_same_experts(repository(1).with_experts(TINY_CONFIG, more), repository(1, 2, 3))
    empty = ExpertRepository.empty(TINY_CONFIG)
    assert len(empty) == 0
    assert_same_experts(empty.with_experts(TINY_CONFIG, more), repository(2, 3))


def test_removing_leaves_the_others_untouched() -> None:
    assert_same_experts(repository(1, 2, 3).without({"edit-2"}), repository(1, 3))
    assert_same_experts(repository(1).without(["edit-1"]), ExpertRepository.empty(TINY_CONFIG))
    assert_same_experts(repository(1, 2).without(["of somebody else"]), repository(1, 2))


def test_experts_that_do_not_answer_stay_behind() -> None:
    held = replace(repository(1, 2, 3), held_N=torch.tensor([True, False, True]))
    assert (len(held), held.held_ids) == (2, ("edit-1", "edit-3"))
    assert_same_experts(held.compact(), repository(1, 3))
    assert_same_experts(held.without(["edit-3"]), repository(1))
    assert_same_experts(held.with_experts(TINY_CONFIG, [expert(4)]), repository(1, 3, 4))
    assert_same_experts(repository(4).joined(held), repository(4, 1, 3))


def test_take_orders() -> None:
    assert_same_experts(repository(1, 2, 3).take([2, 0]), repository(3, 1))


def test_ids_ranks_and_tensors_must_agree() -> None:
    good = repository(1, 2)
    with pytest.raises(ShapeError, match="visual has 2 rows"):
        replace(good, edit_ids=("one",))
    with pytest.raises(ShapeError, match="2 edits of 10 slots, but down has 9 rows"):
        replace(good, ranks_N=good.ranks_N + torch.tensor([0, 1]))


@dataclass
class Counted:
    """Stored matrices that record what is read."""

    content: list[Tensor]
    read: list[int] = field(default_factory=list)
    num_calls: int = 0

    def __len__(self) -> int:
        return len(self.content)

    def __getitem__(self, index_U: Tensor) -> Tensor:
        self.read += index_U.tolist()
        self.num_calls += 1
        return torch.cat(
            [torch.zeros(0, TINY_CONFIG.hidden_size), *(self.content[n] for n in index_U.tolist())]
        )


def stored(resident: ExpertRepository) -> tuple[ExpertRepository, Counted]:
    ranks = resident.ranks_N.tolist()
    down, up = (Counted(list(slots.split(ranks))) for slots in (resident.down_LD, resident.up_LD))
    return replace(resident, down=down, up=up), down


def test_stored_matrices_are_selected_and_extended_without_reading_them() -> None:
    resident = repository(1, 2, 3)
    lazy, down = stored(resident)
    more = [expert(4), expert(5)]
    changed = lazy.take([2, 0]).with_experts(TINY_CONFIG, more).without({"edit-4"})
    expected = resident.take([2, 0]).with_experts(TINY_CONFIG, more).without({"edit-4"})
    assert down.read == []
    assert changed.edit_ids == expected.edit_ids == ("edit-3", "edit-1", "edit-5")
    used = torch.tensor([2, 1])
    for mine, theirs in zip(changed.matrices(used), expected.matrices(used), strict=True):
        assert torch.equal(mine, theirs)
    assert down.read == [0]
    assert torch.equal(changed.down_LD, expected.down_LD)
    assert torch.equal(changed.up_LD, expected.up_LD)


def test_stored_matrices_are_read_at_once_after_many_changes() -> None:
    changed, down = stored(repository(1, 2, 3))
    replaced = changed.take([])
    seeds = [1, 2, 3]
    for seed in range(4, 16):  # as an `EditedModel` does: each edit replaces the oldest one
        both = changed.with_experts(TINY_CONFIG, [expert(seed)]).joined(replaced)
        oldest = both.edit_ids.index(f"edit-{seeds[0]}")
        seeds = [*seeds[1:], seed]
        changed = both.take([both.edit_ids.index(f"edit-{n}") for n in seeds])
        replaced = both.take([oldest, *range(4, len(both))])
    assert_same_experts(changed, repository(*seeds))
    assert_same_experts(replaced, repository(*range(12, 0, -1)))
    assert (down.read, down.num_calls) == ([2, 1, 0], 1)


def test_only_the_matrices_of_kept_experts_are_read() -> None:
    backbone, generator = tiny_backbone(), tiny_generator()
    inputs = [BackboneInput(prompt="what is it?", image_bytes=image(1))]
    states = backbone.encode(inputs)
    resident = repository(*range(40))
    lazy, down = stored(resident)
    plain = Editor(backbone, generator, resident)
    routing = plain.route(states)
    kept = routing.position_N[routing.kept_BN.any(0)].tolist()
    assert 0 < len(kept) < 40
    hidden_BTD = torch.randn(1, 5, TINY_CONFIG.hidden_size)
    expected = plain.residual(routing)
    found = plain.with_repository(lazy).residual(routing)
    assert expected is not None
    assert found is not None
    assert torch.equal(found(hidden_BTD), expected(hidden_BTD))
    assert down.read == kept
