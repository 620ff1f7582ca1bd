"""The codebook follows Algorithm 1, and what lies outside all radii is not touched."""

from dataclasses import replace

import torch

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.grace import Codebook, Grace
from liveedit_core.baselines.settings import GraceConfig
from liveedit_core.method.editor import edit_input
from liveedit_core.states import pad_hidden
from tests.tiny_backbone import request


def at(*place: float) -> torch.Tensor:
    return torch.tensor(place, dtype=torch.float32)


def test_a_far_edit_adds_a_key_with_the_initial_radius() -> None:
    book = Codebook(2)
    assert book.insert(at(0, 0), (1,), 1.0) == 0
    assert book.insert(at(5, 0), (2,), 1.0) == 1
    assert book.radii_K.tolist() == [1.0, 1.0]


def test_a_near_edit_with_the_same_target_widens_the_radius() -> None:
    book = Codebook(2)
    book.insert(at(0, 0), (1,), 1.0)
    assert book.insert(at(1.5, 0), (1,), 1.0) is None
    assert book.insert(at(0.5, 0), (1,), 1.0) is None
    assert (len(book), book.radii_K.tolist()) == (1, [1.5])


def test_a_near_edit_with_another_target_splits_the_distance() -> None:
    book = Codebook(2)
    book.insert(at(0, 0), (1,), 1.0)
    assert book.insert(at(1.5, 0), (2,), 1.0) == 1
    torch.testing.assert_close(book.radii_K, torch.tensor([0.75, 0.75]), atol=1e-3, rtol=0)
    assert float(book.radii_K.sum()) < 1.5
    assert book.insert(at(1.5, 1.0), (3,), 1.0) == 2  # 1.0 from the second key
    torch.testing.assert_close(book.radii_K, torch.tensor([0.75, 0.5, 0.5]), atol=1e-3, rtol=0)


def test_a_split_never_widens_a_radius() -> None:
    book = Codebook(2)
    book.insert(at(0, 0), (1,), 0.2)
    book.insert(at(1.0, 0), (2,), 1.0)
    assert abs(float(book.radii_K[0]) - 0.2) < 1e-6


def test_an_edit_at_a_known_key_takes_its_place() -> None:
    book = Codebook(2)
    book.insert(at(3, 4), (1,), 1.0)
    assert book.insert(at(3, 4), (2,), 1.0) == 0
    assert (len(book), book.labels) == (1, [(2,)])


def test_inputs_outside_all_radii_are_bit_identical(backbone: VisionLanguageBackbone) -> None:
    inputs = [edit_input(request(seed)) for seed in range(6)]
    states = backbone.encode(inputs)
    model = Grace(backbone, GraceConfig(radius=1e-3, max_steps=20, learning_rate=0.3))
    model.teach([request(1)], states[1:2])
    expected = backbone.target_logits(states, pad_hidden(states).values_BSD)
    with torch.no_grad(), model.prompts_end(states):
        found = model.logits(model.hidden(states), states)
    same = [torch.equal(one, other) for one, other in zip(found, expected, strict=True)]
    assert same == [True, False, True, True, True, True]


def test_values_learned_together_are_those_learned_alone(backbone: VisionLanguageBackbone) -> None:
    requests = [replace(request(seed), target="o") for seed in range(3)]
    states = backbone.encode([edit_input(item) for item in requests])
    config = GraceConfig(radius=1e-3, max_steps=15, learning_rate=0.1)
    together, apart = Grace(backbone, config), Grace(backbone, config)
    together.teach(requests, states)
    for item, state in zip(requests, states, strict=True):
        apart.teach([item], [state])
    assert len(together.codebook) == 3
    torch.testing.assert_close(
        together.codebook.values_KD, apart.codebook.values_KD, rtol=1e-3, atol=1e-3
    )


def test_a_value_is_taken_when_the_loss_is_low_enough(backbone: VisionLanguageBackbone) -> None:
    states = backbone.encode([edit_input(request(0))])
    model = Grace(backbone, GraceConfig(stop_loss=1e6))
    model.teach([request(0)], states)
    expected = backbone.target_logits(states, pad_hidden(states).values_BSD)
    with torch.no_grad(), model.prompts_end(states):
        (found,) = model.logits(model.hidden(states), states)
    torch.testing.assert_close(found, expected[0])
