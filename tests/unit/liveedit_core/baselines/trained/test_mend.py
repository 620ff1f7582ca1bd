"""MEND's change of a matrix is the transformed gradient, and batches are as if one by one."""

import pytest
import torch

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.trained.mend import Mend, MendEditor
from liveedit_core.baselines.trained.rival import answer_loss
from liveedit_core.baselines.trained.settings import MendConfig, MendTraining
from liveedit_core.errors import ConfigError
from liveedit_core.method.editor import edit_input
from liveedit_core.states import pad_hidden
from tests.tiny_backbone import case
from tests.unit.tiny_editors import tiny_training_data, trained, untrained

REQUESTS = [case(seed).edit for seed in range(3)]


def test_an_untrained_network_passes_the_gradient(backbone: VisionLanguageBackbone) -> None:
    """Not standardised and not trained, an edit is one step of gradient descent."""
    rival = Mend(MendTraining(num_layers=1, rank=4, initial_rate=0.5), backbone)
    editor = MendEditor(backbone, rival.requires_grad_(False), MendConfig())
    states = backbone.encode([edit_input(REQUESTS[0])])
    editor.teach(REQUESTS[:1], states)
    last = backbone.decoder.layers[-1].mlp
    weights = [last.up_proj.weight, last.down_proj.weight]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        logits = backbone.target_logits(states, pad_hidden(states).values_BSD, has_end=True)
        loss = answer_loss(logits, states, backbone.end_id)
        gradients = torch.autograd.grad(loss, weights)
    finally:
        for weight in weights:
            weight.requires_grad_(False)
    for part, gradient in zip(editor.parts, gradients, strict=True):
        assert part.change_OI is not None
        torch.testing.assert_close(part.change_OI, -0.5 * gradient, rtol=1e-4, atol=1e-7)


def test_the_loss_of_a_batch_is_that_of_its_edits_alone(
    backbone: VisionLanguageBackbone,
) -> None:
    data = tiny_training_data(backbone)
    rival = trained("mend", backbone, data, steps=2)
    assert isinstance(rival, Mend)
    case_0 = data.cases[0]
    states = data.states([case_0.edit, case_0.generality[0]])
    editor = MendEditor(backbone, rival, MendConfig())
    editor.teach(REQUESTS[:1], states[:1])
    expected = editor.logits(editor.hidden(states[1:]), states[1:])[0]
    layers, parts = rival.edited_layers()
    edited = backbone.with_layers(rival.first_layer, layers)
    edits = data.states([one.edit for one in data.cases[:3]])
    gradients = rival.gradients(edited, parts, rival.below(edits), edits)
    for part, factors in zip(parts, rival.transformed(gradients), strict=True):
        part.factors = factors
    questions = data.states([one.generality[0] for one in data.cases[:3]])
    found = edited.target_logits(questions, rival.below(questions))[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    unedited = backbone.target_logits(states[1:], pad_hidden(states[1:]).values_BSD)[0]
    assert (found - unedited).abs().max() > 1e-3


def test_edits_add_up_and_each_sees_those_before(backbone: VisionLanguageBackbone) -> None:
    states = backbone.encode([edit_input(request) for request in REQUESTS])
    rival = untrained("mend", backbone).requires_grad_(False)
    assert isinstance(rival, Mend)
    one_by_one = MendEditor(backbone, rival, MendConfig(update_scale=1e4))
    for request, state in zip(REQUESTS, states, strict=True):
        one_by_one.teach([request], [state])
    together = MendEditor(backbone, rival, MendConfig(update_scale=1e4))
    together.teach(REQUESTS, states)
    alone = MendEditor(backbone, rival, MendConfig(update_scale=1e4))
    alone.teach(REQUESTS[2:], states[2:])
    for first, second, last in zip(one_by_one.parts, together.parts, alone.parts, strict=True):
        assert first.change_OI is not None
        assert second.change_OI is not None
        torch.testing.assert_close(first.change_OI, second.change_OI, rtol=1e-3, atol=1e-5)
        assert last.change_OI is not None
        assert not torch.allclose(first.change_OI, last.change_OI, rtol=1e-3)


def test_more_layers_than_follow_the_edit_layer_are_refused(
    backbone: VisionLanguageBackbone,
) -> None:
    with pytest.raises(ConfigError, match="only 2 layers follow the edit layer 1"):
        Mend(MendTraining(num_layers=3), backbone)
