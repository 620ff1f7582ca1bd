"""The suffix that training differentiates through gives the backbone's own logits."""

import torch

from liveedit_core.backbones.suffix import DecoderSuffix
from liveedit_core.method.editor import edit_input
from liveedit_core.states import pad_hidden
from tests.tiny_backbone import EDIT_LAYER, NUM_LAYERS, case, tiny_backbone

BACKBONE = tiny_backbone()
STATES = BACKBONE.encode([edit_input(case(seed).edit) for seed in range(3)])
HIDDEN = pad_hidden(STATES).values_BSD


def gradient(suffix: DecoderSuffix) -> torch.Tensor:
    rows = HIDDEN.clone().requires_grad_()
    torch.cat(suffix(STATES, rows)).square().mean().backward()
    assert rows.grad is not None
    return rows.grad


def test_its_logits_are_the_backbones() -> None:
    found = BACKBONE.suffix()(STATES, HIDDEN)
    for row, expected in zip(
        found, BACKBONE.target_logits(STATES, HIDDEN, has_end=True), strict=True
    ):
        assert torch.equal(row, expected)


def test_checkpointing_runs_layers_twice_for_the_same_gradient() -> None:
    calls = [0, 0]
    gradients = []
    for index, has_checkpointing in enumerate((False, True)):
        suffix = BACKBONE.suffix(has_activation_checkpointing=has_checkpointing)
        layer = BACKBONE.decoder.layers[EDIT_LAYER + 1].mlp

        def count(*_: object, index: int = index) -> None:
            calls[index] += 1

        handle = layer.register_forward_pre_hook(count)
        gradients.append(gradient(suffix))
        handle.remove()
    assert calls == [1, 2]
    assert torch.equal(*gradients)


def test_another_dtype_leaves_the_backbone_as_it_is() -> None:
    suffix = BACKBONE.suffix(dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in suffix.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in BACKBONE.model.parameters()} == {torch.float32}
    for row, expected in zip(
        suffix(STATES, HIDDEN), BACKBONE.suffix()(STATES, HIDDEN), strict=True
    ):
        assert row.dtype == torch.float32
        assert not torch.equal(row, expected)
        assert torch.allclose(row, expected, atol=0.1 * float(expected.abs().max()))


def test_it_holds_nothing_of_the_layers_before() -> None:
    names = {name for name, _ in BACKBONE.suffix().named_parameters()}
    layers = {int(name.split("layers.")[1].split(".")[0]) for name in names if "layers." in name}
    assert layers == set(range(EDIT_LAYER + 1, NUM_LAYERS))
    assert not any("embed" in name or "vision" in name for name in names)
