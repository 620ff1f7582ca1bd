"""The vectorised code computes what float64 loops written from the equations compute."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.routing import fused_residual, route
from liveedit_core.states import LayerStates, pad_hidden
from liveedit_core.training import losses
from tests.properties import naive
from tests.properties.naive import NaiveFeatures, Weights, numbers
from tests.properties.strategies import configs, seeds, states
from tests.tiny_backbone import tiny_generator


def assert_close(ours: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(numbers(ours), expected, rtol=1e-4, atol=2e-5)


def key_weights(generator: LiveEditGenerator) -> Weights | None:
    return Weights(generator.visual_key) if generator.has_pyramid else None


def naive_bank(edits: list[LayerStates], generator: LiveEditGenerator) -> list[NaiveFeatures]:
    weights, key = Weights(generator.edit_extractor), key_weights(generator)
    return [naive.extract(state, weights, generator.config, key) for state in edits]


@given(st.data(), configs, seeds)
@settings(max_examples=12)
def test_features_and_experts(data: st.DataObject, config: GeneratorConfig, seed: int) -> None:
    generator = tiny_generator(config, seed)
    edits = data.draw(states(config, 1, 3))
    ours = generator.edit_features(edits)
    inputs = generator.input_features(edits)
    assert inputs.sentinel_BQM is not None
    key = key_weights(generator)
    for i, expected in enumerate(naive_bank(edits, generator)):
        asked = naive.extract(edits[i], Weights(generator.input_extractor), config, key)
        assert_close(ours.prompt_BQM[i], expected.prompt)
        assert_close(inputs.prompt_BQM[i], asked.prompt)
        if key is None:
            assert_close(ours.visual_BQM[i], expected.visual)
            assert_close(inputs.visual_BQM[i], asked.visual)
            assert asked.sentinel is not None
            assert_close(inputs.sentinel_BQM[i], asked.sentinel)
    down_BRD, up_BRD = generator.write_matrices(edits)
    end_row = numbers(generator.end_row()[0]) if config.has_target_embeddings else None
    for i, state in enumerate(edits):
        for matrix, module in (
            (down_BRD[i], generator.down_generator),
            (up_BRD[i], generator.up_generator),
        ):
            assert_close(matrix, naive.write_matrix(state, Weights(module), config, end_row))


@given(st.data(), configs, seeds)
@settings(max_examples=12)
def test_routing_and_residual(data: st.DataObject, config: GeneratorConfig, seed: int) -> None:
    generator = tiny_generator(config, seed)
    edits = data.draw(states(config, 0, 6))
    questions = data.draw(states(config, 1, 3))
    bank, key = naive_bank(edits, generator), key_weights(generator)
    width = config.feature_size
    matrices = (0, config.rank, config.hidden_size)
    visual_NK, prompt_NK = torch.zeros(0, width), torch.zeros(0, width)
    down_NRD, up_NRD = torch.zeros(matrices), torch.zeros(matrices)
    if edits:
        features = generator.edit_features(edits)
        visual_NK, prompt_NK = features.visual_BQM.flatten(1), features.prompt_BQM.flatten(1)
        down_NRD, up_NRD = generator.write_matrices(edits)
    evidence = float(generator.margin_weight())
    routing = route(generator.input_features(questions), visual_NK, prompt_NK, config, evidence)
    hidden_BTD = pad_hidden(questions).values_BSD
    added_BTD = fused_residual(
        generator.hidden_norm(hidden_BTD), routing.weights_BN, down_NRD, up_NRD, config.gain
    )
    down, up = [numbers(matrix) for matrix in down_NRD], [numbers(matrix) for matrix in up_NRD]
    for j, state in enumerate(questions):
        inputs = naive.extract(state, Weights(generator.input_extractor), config, key)
        kept, margins = naive.keep(inputs, bank, config, key)
        weights = naive.weigh(inputs, bank, config, evidence, key)
        assert_close(routing.margin_BN[j], np.array(margins))
        assert routing.kept_BN[j].tolist() == kept
        assert_close(routing.weights_BN[j], np.array(weights))
        norm = Weights(generator.hidden_norm)
        expected = naive.residual(numbers(state.hidden_TD), norm, weights, down, up) * config.gain
        assert_close(added_BTD[j, : state.num_tokens], expected)


@given(seeds, st.integers(2, 6))
@settings(max_examples=15)
def test_routing_losses(seed: int, size: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    scores = 4 * torch.randn(size, size, generator=draw)
    sentinel = 4 * torch.randn(size, generator=draw)
    square, columns = numbers(scores), numbers(torch.cat([scores, sentinel[:, None]], 1))
    diagonal, last = list(range(size)), [size] * size
    for ours, expected in (
        (losses.info_nce(scores), naive.info_nce(square, diagonal)),
        (losses.soft_absolute(scores), naive.absolute(square)),
        (losses.hard_neighbour(scores, sentinel), naive.info_nce(columns, diagonal)),
        (losses.hard_sentinel(scores, sentinel), naive.info_nce(columns, last)),
    ):
        assert_close(ours, np.array(expected))


@given(seeds, st.lists(st.integers(1, 4), min_size=1, max_size=4))
@settings(max_examples=15)
def test_edit_losses(seed: int, lengths: list[int]) -> None:
    draw = torch.Generator().manual_seed(seed)
    edited = [2 * torch.randn(length, 7, generator=draw) for length in lengths]
    original = [2 * torch.randn(length, 7, generator=draw) for length in lengths]
    labels = [torch.randint(0, 7, (length,), generator=draw) for length in lengths]
    first, second = [numbers(e) for e in edited], [numbers(o) for o in original]
    tokens = [label.tolist() for label in labels]
    for ours, expected in (
        (losses.target_nll(edited, labels), naive.nll(first, tokens)),
        (losses.locality_kl(edited, original), naive.kl(second, first)),
        (losses.locality_kl(edited, original, "edited_to_original"), naive.kl(first, second)),
    ):
        assert_close(ours, np.array(expected))
