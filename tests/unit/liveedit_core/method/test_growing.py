"""A growing repository holds what a stacked one holds, and leaves its snapshots alone."""

import gc
import random
import weakref
from dataclasses import replace

import pytest
import torch

from liveedit_core.method import growing
from liveedit_core.method.expert import Expert
from liveedit_core.method.growing import GrowingRepository, SegmentedRows
from liveedit_core.method.repository import ExpertRepository
from tests.random_states import assert_same_experts, random_expert
from tests.tiny_backbone import TINY_CONFIG


def expert(seed: int) -> Expert:
    return random_expert(seed, TINY_CONFIG, 1 + seed % 4)


def stacked(seeds: list[int]) -> ExpertRepository:
    return ExpertRepository.from_experts(TINY_CONFIG, [expert(seed) for seed in seeds])


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "SEGMENT_ROWS", 3)


@pytest.mark.parametrize("num_first", [0, 1, 7])
def test_any_changes_give_what_stacking_gives(num_first: int) -> None:
    draw = random.Random(num_first)
    growing_experts = GrowingRepository(stacked(list(range(num_first))))
    held, waiting = list(range(num_first)), [*range(num_first)]
    handed_out: list[tuple[ExpertRepository, list[int]]] = []
    for seed in range(num_first, num_first + 60):
        growing_experts.add([expert(seed)])
        waiting.append(seed)
        held.append(seed)
        chosen = set(draw.sample(waiting, draw.randint(0, 2)))
        dropped = [n for n in held if n in chosen]
        again = [n for n in chosen if n not in held]
        growing_experts.hold(
            held=[f"edit-{n}" for n in again], dropped=[f"edit-{n}" for n in dropped]
        )
        held = sorted({*held, *again} - set(dropped))
        handed_out.append((growing_experts.snapshot(), list(held)))
    for repository, seeds in handed_out:
        assert len(repository) == len(seeds)
        assert repository.held_ids == tuple(f"edit-{n}" for n in seeds)
        assert_same_experts(repository.compact(), stacked(seeds))
        for slots, all_slots in zip(
            repository.matrices(repository.held_positions.flip(0)),
            stacked(seeds[::-1]).matrices(torch.arange(len(seeds))),
            strict=True,
        ):
            assert torch.equal(slots, all_slots)


def test_rows_without_the_zeros_at_their_end_grow_as_whole_ones() -> None:
    whole = stacked(list(range(4)))
    whole.prompt_features_NK[:, 5:] = 0.0
    width = whole.prompt_features_NK.shape[1]
    cut = SegmentedRows([whole.prompt_features_NK[:, :5]], 4, width=width)
    experts = GrowingRepository(replace(whole, prompt=cut))
    experts.add([expert(4)])
    held = experts.snapshot()
    assert_same_experts(held.take(range(4)), whole)
    assert_same_experts(held.compact(), whole.joined(stacked([4])))
    assert isinstance(held.prompt, SegmentedRows)
    sizes = [segment.shape for segment in held.prompt.stored_segments()]
    assert sizes == [(4, 5), (1, width)]


def test_a_place_is_that_of_an_edit_that_answers() -> None:
    experts = GrowingRepository(stacked([5, 6]))
    experts.add([expert(7)])
    assert [experts.place_if_held(f"edit-{n}") for n in (5, 6, 7, 8)] == [0, 1, 2, None]
    experts.hold(held=(), dropped=["edit-6"])
    assert experts.place_if_held("edit-6") is None
    assert "edit-6" in experts
    assert "edit-8" not in experts


def test_experts_that_answer_no_more_are_dropped() -> None:
    experts = GrowingRepository(stacked(list(range(6))))
    experts.add([expert(n) for n in range(6, 10)])
    before = experts.snapshot()
    experts.hold(held=(), dropped=[f"edit-{n}" for n in (0, 1, 2, 3, 4, 6, 7)])
    assert experts.is_sparse(num_kept=0)
    assert not experts.is_sparse(num_kept=2)
    fewer = experts.compact(kept=["edit-1", "edit-7", "edit-8"])
    assert len(fewer) == 5
    assert fewer.snapshot().held_ids == ("edit-5", "edit-8", "edit-9")
    fewer.hold(held=["edit-1", "edit-7"], dropped=())
    kept = fewer.snapshot()
    order = [kept.edit_ids.index(f"edit-{n}") for n in (1, 5, 7, 8, 9)]
    assert_same_experts(kept.take(order), stacked([1, 5, 7, 8, 9]))
    assert_same_experts(before, stacked(list(range(10))))


def test_dropped_experts_free_their_memory() -> None:
    experts = GrowingRepository(ExpertRepository.empty(TINY_CONFIG))
    seen = []
    for seed in range(40):
        new = expert(seed)
        seen.append(weakref.ref(new.down_RD))
        experts.add([new])
        experts.hold(held=(), dropped=[f"edit-{seed - 1}"] if seed else ())
        if experts.is_sparse(num_kept=0):
            experts = experts.compact(kept=())
    del new
    gc.collect()
    assert sum(ref() is not None for ref in seen) < 10


def test_an_expert_that_is_written_anew_replaces_the_older_one() -> None:
    experts = GrowingRepository(stacked([1, 2]))
    experts.hold(held=(), dropped=["edit-1"])
    other = replace(expert(1), down_RD=torch.ones(3, TINY_CONFIG.hidden_size))
    other = replace(other, up_RD=torch.ones(3, TINY_CONFIG.hidden_size))
    experts.add([other])
    now = experts.snapshot()
    assert now.held_ids == ("edit-2", "edit-1")
    place = experts.place_if_held("edit-1")
    assert place == 2
    assert torch.equal(now.matrices(torch.tensor([place]))[0], other.down_RD)
    assert GrowingRepository(now).place_if_held("edit-1") == 2
