"""A batch gives what its members give alone, whatever their lengths."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.method.routing import route, slot_residual
from liveedit_core.states import pad_hidden
from tests.properties.strategies import configs, seeds, states
from tests.random_states import random_expert
from tests.tiny_backbone import image, tiny_generator


def assert_same(batched: Tensor, single: Tensor) -> None:
    """Equal to 1e-5 of the tensor's scale."""
    scale = max(1.0, float(single.abs().max())) if single.numel() else 1.0
    torch.testing.assert_close(batched, single, rtol=1e-5, atol=1e-5 * scale)


@given(st.data(), configs, seeds)
@settings(max_examples=15)
def test_features_experts_routing_residual(
    data: st.DataObject, config: GeneratorConfig, seed: int
) -> None:
    generator = tiny_generator(config, seed)
    batch = data.draw(states(config, 2, 5))
    bank = ExpertRepository.from_experts(
        config,
        [random_expert(seed + n, config, 1 + n % 3) for n in range(data.draw(st.integers(0, 6)))],
    )
    keys = bank.visual_features_NK, bank.prompt_features_NK, config, generator.margin_weight()
    features, edits = generator.input_features(batch), generator.edit_features(batch)
    down_BRD, up_BRD = generator.write_matrices(batch)
    routing = route(features, *keys)
    matrices = bank.down_LD, bank.up_LD, config.gain
    normed_BTD = generator.hidden_norm(pad_hidden(batch).values_BSD)
    weights_BL = routing.weights_BN.repeat_interleave(bank.ranks_N, 1)
    residual_BTD = slot_residual(normed_BTD, weights_BL, *matrices)
    assert features.sentinel_BQM is not None
    for i, state in enumerate(batch):
        alone, edit_alone = generator.input_features([state]), generator.edit_features([state])
        assert alone.sentinel_BQM is not None
        assert_same(features.visual_BQM[i], alone.visual_BQM[0])
        assert_same(features.prompt_BQM[i], alone.prompt_BQM[0])
        assert_same(features.sentinel_BQM[i], alone.sentinel_BQM[0])
        assert_same(edits.visual_BQM[i], edit_alone.visual_BQM[0])
        for batched, single in zip(
            (down_BRD, up_BRD), generator.write_matrices([state]), strict=True
        ):
            assert_same(batched[i], single[0])
        routed = route(alone, *keys)
        assert torch.equal(routing.kept_BN[i], routed.kept_BN[0])
        assert_same(routing.weights_BN[i], routed.weights_BN[0])
        normed = generator.hidden_norm(state.hidden_TD[None])
        weights_1L = routed.weights_BN.repeat_interleave(bank.ranks_N, 1)
        single = slot_residual(normed, weights_1L, *matrices)
        assert_same(residual_BTD[i, : state.num_tokens], single[0])


PROMPTS = ("Who?", "What is shown here?", "Name the thing in the picture, if you can tell.")
inputs = st.builds(
    lambda prompt, target, seed, is_seen: BackboneInput(
        prompt=prompt, target=target, image_bytes=image(seed) if is_seen else None
    ),
    st.sampled_from(PROMPTS),
    st.sampled_from(("1984", "golden raven", "a")),
    st.integers(0, 5),
    st.booleans(),
)


@given(st.lists(inputs, min_size=2, max_size=7))
@settings(max_examples=8)
def test_the_backbones_halves(backbone: VisionLanguageBackbone, items: list[BackboneInput]) -> None:
    batch = backbone.encode(items)
    logits = backbone.target_logits(batch, pad_hidden(batch).values_BSD)
    for item, state, row in zip(items, batch, logits, strict=True):
        (alone,) = backbone.encode([item])
        assert_same(state.hidden_TD, alone.hidden_TD)
        assert_same(state.pyramid_E, alone.pyramid_E)
        assert torch.equal(state.target_ids_O, alone.target_ids_O)
        (expected,) = backbone.target_logits([alone], alone.hidden_TD[None])
        assert_same(row, expected)
