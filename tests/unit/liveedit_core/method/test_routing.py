"""Filter, weights and fusion on cases worked out by hand (Eq. 5 to 7)."""

import math

import pytest
import torch

from liveedit_core.method.features import Features
from liveedit_core.method.routing import route, soft_weights
from tests.tiny_backbone import TINY_CONFIG

# One query token of width 4: sim(a, b) = <a, b> / 2.
CONFIG = TINY_CONFIG.with_changes(num_queries=1, module_dim=4, num_attention_heads=4)


def features(visual: float, prompt: float, sentinel: float) -> Features:
    """Features whose similarity to a unit key is half of the given number."""

    def along(value: float) -> torch.Tensor:
        return torch.tensor([[[value, 0.0, 0.0, 0.0]]])

    # The sentinel's own similarity is <visual, sentinel> / 2.
    return Features(
        visual_BQM=along(visual), prompt_BQM=along(prompt), sentinel_BQM=along(sentinel)
    )


def keys(*values: float) -> torch.Tensor:
    return torch.tensor([[value, 0.0, 0.0, 0.0] for value in values])


def test_only_experts_above_the_sentinel_are_kept() -> None:
    # similarities 3, 1, 2 against the sentinel's 2: equality is not enough
    routing = route(features(2.0, 2.0, 2.0), keys(3, 1, 2), keys(1, 1, 1), CONFIG)
    assert routing.kept_BN.tolist() == [[True, False, False]]
    assert routing.margin_BN.tolist() == [[1.0, -1.0, 0.0]]


def test_nothing_kept_gives_zero_weights() -> None:
    routing = route(features(2.0, 2.0, 9.0), keys(1, 2), keys(1, 1), CONFIG)
    assert not routing.kept_BN.any()
    assert routing.weights_BN.tolist() == [[0.0, 0.0]]


def test_an_empty_bank_keeps_nothing() -> None:
    routing = route(features(2.0, 2.0, 0.0), keys()[:0].reshape(0, 4), torch.zeros(0, 4), CONFIG)
    assert routing.kept_BN.shape == (1, 0)
    assert soft_weights(torch.zeros(1, 0), torch.zeros(1, 0), routing.kept_BN).shape == (1, 0)


def test_max_kept_keeps_the_best_and_all_ties() -> None:
    config = CONFIG.with_changes(max_kept=2)
    best = route(features(2.0, 2.0, 0.0), keys(1, 4, 2, 3), keys(1, 1, 1, 1), config)
    assert best.kept_BN.tolist() == [[False, True, False, True]]
    tied = route(features(2.0, 2.0, 0.0), keys(3, 4, 3, 1), keys(1, 1, 1, 1), config)
    assert tied.kept_BN.tolist() == [[True, True, True, False]]
    below = route(features(2.0, 2.0, 2.5), keys(1, 4, 2, 1), keys(1, 1, 1, 1), config)
    assert below.kept_BN.tolist() == [[False, True, False, False]]


def test_the_visual_gate_is_stricter_for_other_images_if_the_image_itself_was_edited() -> None:
    config = CONFIG.with_changes(
        visual_gate=2.0, visual_midpoint=1.0, other_image_midpoint=2.5, same_image_ratio=0.9
    )
    itself = torch.tensor([[[4.0, 0.0, 0.0, 0.0]]])  # an edit of this image has margin 4 - 1
    inputs = features(2.0, 2.0, 1.0)._replace(same_image_BQM=itself)

    def factors(*visual: float) -> list[float]:
        stored, prompts = keys(*visual), keys(*[1.0] * len(visual))
        plain = route(inputs, stored, prompts, CONFIG).weights_BN
        gated = route(inputs, stored, prompts, config).weights_BN
        return (gated / plain)[0].tolist()

    def gate(margin: float, midpoint: float) -> float:
        return 1 / (1 + math.exp(-2 * (margin - midpoint)))

    assert factors(4, 3) == pytest.approx([gate(3, 1), gate(2, 2.5)])
    assert factors(3.5, 3) == pytest.approx([gate(2.5, 1), gate(2, 1)])


def test_averaged_experts_have_one_weight_whatever_the_prompt() -> None:
    config = CONFIG.with_changes(soft_routing="average")
    routing = route(features(2.0, 2.0, 2.0), keys(3, 4, 1, 5), keys(1, -9, 1, 2), config)
    assert routing.kept_BN.tolist() == [[True, True, False, True]]
    assert routing.weights_BN[0].tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])
    nothing = route(features(2.0, 2.0, 9.0), keys(1, 1), keys(1, 1), config)
    assert nothing.weights_BN.tolist() == [[0.0, 0.0]]


def test_without_the_hard_filter_only_the_bounds_are_left() -> None:
    inputs, visual, prompt = features(2.0, 2.0, 2.5), keys(1, 4, 2, 3), keys(1, 1, -1, 1)
    free = CONFIG.with_changes(has_hard_filter=False)
    assert route(inputs, visual, prompt, free).kept_BN.tolist() == [[True] * 4]
    bound = free.with_changes(max_kept=2, min_gate=0.5)
    kept = route(inputs, visual, prompt, bound).kept_BN.tolist()
    assert kept == [[False, True, False, True]]


def test_what_passes_the_gate_of_a_prompt_key_has_its_whole_share() -> None:
    inputs, visual, prompt = features(2.0, 2.0, 1.0), keys(3, 3, 3), keys(0.1, 1.1, -0.1)
    gated = CONFIG.with_changes(min_gate=0.5)
    texts = gated.with_changes(prompt_source="sentences", prompt_size=2, prompt_rank=1)
    shares = [1 / (1 + math.e), math.e / (1 + math.e)]
    gates = [1 / (1 + math.exp(-0.1)), 1 / (1 + math.exp(-1.1))]
    found = route(inputs, visual, prompt, texts).weights_BN[0].tolist()
    assert found == pytest.approx([*shares, 0])
    before = route(inputs, visual, prompt, gated).weights_BN[0].tolist()
    assert before == pytest.approx([shares[0] * gates[0], shares[1] * gates[1], 0])
    trained = route(
        inputs, visual, prompt, texts, candidates_BN=torch.tensor([[True, True, False]])
    )
    assert trained.weights_BN[0].tolist() == pytest.approx(before)
