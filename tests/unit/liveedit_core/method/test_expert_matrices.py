"""Matrices that are read on demand answer like those in memory, and only what is used is read."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.method.editor import Editor
from liveedit_core.method.repository import ExpertRepository
from tests.random_states import random_expert
from tests.tiny_backbone import TINY_CONFIG, image, tiny_backbone, tiny_generator


@dataclass
class Counted:
    """Stored matrices that note what is read."""

    content: Tensor
    read: list[int] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.content.shape)

    def __getitem__(self, index_U: Tensor) -> Tensor:
        self.read += index_U.tolist()
        return self.content[index_U]


def repository(*seeds: int) -> ExpertRepository:
    return ExpertRepository.from_experts(TINY_CONFIG, [random_expert(seed) for seed in seeds])


def stored(resident: ExpertRepository) -> tuple[ExpertRepository, Counted]:
    down = Counted(resident.down_NRD)
    return replace(resident, down=down, up=Counted(resident.up_NRD)), down


def test_what_is_stored_can_be_chosen_from_and_added_to_without_reading_it() -> None:
    resident = repository(1, 2, 3)
    lazy, down = stored(resident)
    more = [random_expert(4), random_expert(5)]
    changed = lazy.take([2, 0]).with_experts(TINY_CONFIG, more).without({"edit-4"})
    expected = resident.take([2, 0]).with_experts(TINY_CONFIG, more).without({"edit-4"})
    assert down.read == []
    assert changed.edit_ids == expected.edit_ids == ("edit-3", "edit-1", "edit-5")
    used = torch.tensor([2, 1])
    for mine, theirs in zip(changed.matrices(used), expected.matrices(used), strict=True):
        assert torch.equal(mine, theirs)
    assert down.read == [0]
    assert torch.equal(changed.down_NRD, expected.down_NRD)
    assert torch.equal(changed.up_NRD, expected.up_NRD)


def test_an_editor_reads_the_experts_that_it_keeps() -> None:
    backbone, generator = tiny_backbone(), tiny_generator()
    inputs = [BackboneInput(prompt="what is it?", image_bytes=image(1))]
    states = backbone.encode(inputs)
    resident = repository(*range(40))
    lazy, down = stored(resident)
    plain = Editor(backbone, generator, resident)
    routing = plain.route(states)
    kept = routing.kept_BN.any(0).nonzero().flatten().tolist()
    assert 0 < len(kept) < 40
    hidden_BTD = torch.randn(1, 5, TINY_CONFIG.hidden_size)
    expected = plain.residual(routing)
    found = plain.with_repository(lazy).residual(routing)
    assert expected is not None
    assert found is not None
    assert torch.equal(found(hidden_BTD), expected(hidden_BTD))
    assert down.read == kept
