"""The router keeps unrelated questions with the backbone; shards are masked, merged, remembered."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.settings import WiseConfig
from liveedit_core.baselines.wise import (
    SideMemory,
    Wise,
    activations,
    hinge,
    ties,
    unrelated_questions,
)
from liveedit_core.errors import ConfigError
from liveedit_core.method.editor import edit_input
from liveedit_core.schema import Case, EditRequest
from liveedit_core.states import LayerStates, Padded, pad_hidden
from tests.tiny_backbone import case, question, request

TINY = WiseConfig(
    alpha=0.5, beta=2.0, gamma=1.0, margin_weight=1.0, learning_rate=0.1, max_steps=60
)
# Rows of a random model are too alike for wide margins and a learned answer at once.
ANSWERING = TINY.with_changes(margin_weight=0.1, learning_rate=1.0)
UNRELATED = [question(seed) for seed in range(50, 53)] + [
    BackboneInput(prompt="The opposite of hot is"),
    BackboneInput(prompt="The color of the sky is"),
]
REQUESTS = [replace(request(seed), target=target) for seed, target in enumerate("osa")]


def wise(backbone: VisionLanguageBackbone, **changes: float) -> Wise:
    return Wise(backbone, TINY.with_changes(**changes), unrelated=UNRELATED)


def teach(model: Wise, requests: list[EditRequest]) -> list[LayerStates]:
    states = model.backbone.encode([edit_input(item) for item in requests])
    model.teach(requests, states)
    return states


def change_of(model: Wise) -> Tensor:
    assert model.side_memory.change_DI is not None
    return model.side_memory.change_DI


def asking(seed: int) -> Case:
    """A case whose questions are its own."""
    made = case(seed)
    return replace(made, probes=tuple(replace(p, prompt=f"{p.prompt} {seed}") for p in made.probes))


def answers(model: Wise, requests: list[EditRequest]) -> list[str]:
    return model.answer([edit_input(item) for item in requests], 1)


@pytest.mark.parametrize("seed", range(3))
def test_inputs_below_epsilon_are_bit_identical(
    seed: int, backbone: VisionLanguageBackbone
) -> None:
    model = wise(backbone)
    teach(model, REQUESTS[seed : seed + 1])
    states = backbone.encode([edit_input(item) for item in REQUESTS] + UNRELATED)
    found_B = activations(model.inputs_of(states), change_of(model))
    is_routed = (found_B >= model.side_memory.epsilon).tolist()
    assert is_routed[seed]
    assert not any(is_routed[len(REQUESTS) :])
    expected = backbone.target_logits(states, pad_hidden(states).values_BSD, has_end=True)
    with torch.no_grad(), model.prompts_end(states):
        logits = model.logits(model.hidden(states), states, has_end=True)
    same = [torch.equal(one, other) for one, other in zip(logits, expected, strict=True)]
    assert same == [not routed for routed in is_routed]


def test_epsilon_is_a_share_of_the_smallest_activation(backbone: VisionLanguageBackbone) -> None:
    model, seen = wise(backbone, threshold_ratio=0.75), []
    for item in REQUESTS:
        states = teach(model, [item])
        seen.append(float(activations(model.inputs_of(states), change_of(model))))
        assert model.side_memory.epsilon == pytest.approx(0.75 * min(seen))


def test_a_mask_leaves_the_stated_share_free(backbone: VisionLanguageBackbone) -> None:
    model = wise(backbone, mask_share=0.3)
    teach(model, REQUESTS[:2])
    touched_DI = change_of(model) != 0
    assert float(touched_DI.float().mean()) == pytest.approx(0.3, abs=0.03)
    assert not (touched_DI & ~model.mask_DI).any()


def test_shards_have_masks_of_their_own(backbone: VisionLanguageBackbone) -> None:
    model = wise(backbone, shard_edits=1, merged_shards=3)
    teach(model, REQUESTS[:2])
    first, second = (shard != 0 for shard in model.shards)
    both = float((first & second).float().mean())
    assert both == pytest.approx(TINY.mask_share**2, abs=0.03)


def test_edits_of_both_shards_are_answered_after_their_merge(
    backbone: VisionLanguageBackbone,
) -> None:
    config = ANSWERING.with_changes(shard_edits=1, merged_shards=2)
    model = Wise(backbone, config, unrelated=UNRELATED)
    teach(model, REQUESTS[:2])
    assert (len(model.shards), model.num_in_shard) == (0, 0)
    assert model.merged_DI is not None
    assert torch.equal(change_of(model), model.merged_DI)
    assert answers(model, REQUESTS[:2]) == ["o", "s"]


def test_an_unfinished_shard_is_answered_beside_what_was_merged(
    backbone: VisionLanguageBackbone,
) -> None:
    model = wise(backbone, shard_edits=2, merged_shards=1)
    teach(model, REQUESTS)
    assert model.num_in_shard == 1
    learned_DI = model.shard_change_DI.detach()
    assert model.merged_DI is not None
    expected = ties([learned_DI, model.merged_DI], [0.4, 0.6], TINY.density)
    torch.testing.assert_close(change_of(model), expected)


def test_steps_of_decoding_follow_the_route_of_their_prompt() -> None:
    memory = SideMemory(nn.Linear(2, 1, bias=False))
    memory.change_DI, memory.epsilon = torch.tensor([[1.0, 0.0]]), 0.5
    routed, unrouted = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    side = nn.Linear(2, 1, bias=False)
    side.weight = nn.Parameter(memory.main.weight + memory.change_DI)
    both = torch.cat([routed, unrouted])
    with torch.no_grad():
        assert torch.equal(memory(both), torch.cat([side(routed), memory.main(unrouted)]))
        memory.is_decoding = True  # the other way round now, but the routes are taken
        step = both.flip(0)
        assert torch.equal(memory(step), torch.cat([side(unrouted), memory.main(routed)]))


def test_rows_after_the_prompt_do_not_count() -> None:
    memory = SideMemory(nn.Linear(1, 1, bias=False))
    memory.change_DI, memory.epsilon = torch.tensor([[1.0]]), 0.5
    rows_BTI = torch.tensor([[[1.0], [0.2], [9.0]], [[0.1], [0.2], [9.0]]])
    for ends, routes in (([2, 2], [True, False]), ([3, 3], [True, True]), ([2, 3], [True, True])):
        memory.ends_B = torch.tensor(ends)
        memory(rows_BTI)
        assert memory.routes_B.tolist() == routes


def test_activations_are_means_over_the_rows_of_an_input() -> None:
    inputs = Padded.pad([torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[6.0, 8.0]])])
    torch.testing.assert_close(activations(inputs, torch.eye(2)), torch.tensor([3.0, 10.0]))


def test_the_margin_loss_is_the_papers(backbone: VisionLanguageBackbone) -> None:
    model = wise(backbone, alpha=5.0, beta=20.0, gamma=10.0)
    edit_1, unrelated_U = torch.tensor([12.0]), torch.tensor([1.0, 4.0, 6.0, 9.0])
    # too active: 1 and 4; too quiet: 8; too near: 12 is less than 10 above 4, 6 and 9
    expected = (1 + 4) / 2 + 8 + (2 + 4 + 7) / 3
    assert float(model.margin_loss(edit_1, unrelated_U)) == pytest.approx(expected)
    assert float(model.margin_loss(torch.tensor([20.0]), torch.tensor([5.0, 0.0]))) == 0.0
    assert float(hinge(torch.tensor([-1.0, 0.0]))) == 0.0


def test_ties_trims_and_takes_the_stronger_sign() -> None:
    one = torch.tensor([[4.0, -3.0, 2.0, 0.1]])
    other = torch.tensor([[2.0, 5.0, 0.0, 0.2]])
    merged = ties([one, other], [0.5, 0.5], 0.75)
    torch.testing.assert_close(merged, torch.tensor([[3.0, 5.0, 2.0, 0.2]]))
    heavier = ties([one, other], [0.75, 0.25], 0.75)
    torch.testing.assert_close(heavier, torch.tensor([[3.5, -3.0, 2.0, 0.2]]))


def test_a_restored_memory_learns_the_same_again(backbone: VisionLanguageBackbone) -> None:
    model = wise(backbone, max_steps=5)
    teach(model, REQUESTS[:1])
    first_DI = change_of(model)
    model.restore()
    assert model.side_memory.change_DI is None
    teach(model, REQUESTS[:1])
    assert torch.equal(change_of(model), first_DI)


def test_unrelated_questions_are_drawn_by_seed_and_half_have_images() -> None:
    cases = [asking(seed) for seed in range(20)]
    config = WiseConfig(num_unrelated=5)
    questions = unrelated_questions(cases, config)
    assert [item.image_bytes is None for item in questions] == [False] * 3 + [True] * 2
    assert unrelated_questions(cases[::-1], config) != questions
    assert unrelated_questions(cases, config) == questions
    assert unrelated_questions(cases, config.with_changes(seed=1)) != questions
    with pytest.raises(ConfigError, match="num_unrelated"):
        unrelated_questions(cases[:2], config)


def test_no_unrelated_questions_are_refused(backbone: VisionLanguageBackbone) -> None:
    with pytest.raises(ConfigError, match="unrelated"):
        Wise(backbone, TINY, unrelated=[])
