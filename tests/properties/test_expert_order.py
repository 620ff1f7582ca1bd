"""A bank is a set: the order of its experts carries no meaning."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.method.routing import route, slot_residual
from liveedit_core.states import pad_hidden
from tests.properties.strategies import configs, seeds, states
from tests.random_states import random_expert
from tests.tiny_backbone import tiny_generator


@given(st.data(), configs, seeds, st.permutations(range(7)))
@settings(max_examples=20)
def test_routing_and_residual(
    data: st.DataObject, config: GeneratorConfig, seed: int, order: list[int]
) -> None:
    generator = tiny_generator(config, seed)
    questions = data.draw(states(config, 1, 3))
    bank = ExpertRepository.from_experts(
        config, [random_expert(seed + n, config, 1 + n % 3) for n in range(len(order))]
    )
    shuffled = bank.take(order)
    features = generator.input_features(questions)
    hidden_BTD = pad_hidden(questions).values_BSD
    outcomes = []
    for members in (bank, shuffled):
        routing = route(
            features,
            members.visual_features_NK,
            members.prompt_features_NK,
            config,
            generator.margin_weight(),
        )
        residual_BTD = slot_residual(
            generator.hidden_norm(hidden_BTD),
            routing.weights_BN.repeat_interleave(members.ranks_N, 1),
            members.down_LD,
            members.up_LD,
            config.gain,
        )
        outcomes.append((routing, residual_BTD))
    (first, first_residual), (second, second_residual) = outcomes
    assert torch.equal(first.kept_BN[:, order], second.kept_BN)
    torch.testing.assert_close(first.weights_BN[:, order], second.weights_BN)
    torch.testing.assert_close(first_residual, second_residual, rtol=1e-5, atol=1e-5)
