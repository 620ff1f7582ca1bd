"""What inputs give together they give alone, bit for bit; layers without modules give what modules
give."""

from collections.abc import Iterator

import pytest
import torch

from liveedit_core.backbones.apart import EditedStates, encode_apart, logits_apart
from liveedit_core.backbones.lowered.packed_linear import can_be_packed, pack_linear_layers
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.builtin.backbone import FAMILY
from liveedit_core.states import LayerStates
from tests.tiny_backbone import EDIT_LAYER, image, plain_convolutions, tiny_backbone

INPUTS = [
    BackboneInput(prompt="What is shown here?", target="silver kettle", image_bytes=image(0)),
    BackboneInput(prompt="Who made this?", target="Anna Keller 1984", image_bytes=image(0)),
    BackboneInput(prompt="The opposite of hot is", target="cold"),
    BackboneInput(prompt="When was it first shown?", target="2020", image_bytes=image(1)),
    BackboneInput(prompt="Name the thing in the picture.", target="a", image_bytes=image(2)),
]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def packed(request: pytest.FixtureRequest) -> Iterator[VisionLanguageBackbone]:
    plain = tiny_backbone.__wrapped__()
    for part in (plain.model.model.language_model, plain.model.lm_head):
        part.to(request.param)
    pack_linear_layers(plain.model)
    with plain_convolutions():
        yield VisionLanguageBackbone(
            plain.model,
            plain.processor,
            edit_layer=EDIT_LAYER,
            digest="tiny",
            family=FAMILY,
            image_tower=plain.image_tower,
            batch_size=3,
        )


def edited(states: list[LayerStates]) -> list[list[EditedStates]]:
    return [[EditedStates(state, state.hidden_TD * 1.1)] for state in states]


needs_packing = pytest.mark.skipif(not can_be_packed(torch.zeros(1)), reason="torch without oneDNN")


@needs_packing
def test_layers_without_modules_give_what_modules_give(packed: VisionLanguageBackbone) -> None:
    lowered = packed.lowered(0, EDIT_LAYER + 1)
    assert lowered is not None
    assert lowered.has_own_bits
    error = 1e-4 if packed.dtype == torch.float32 else 3e-2
    states = packed.encode(INPUTS)
    for item, state in zip(INPUTS, states, strict=True):
        (by_modules_TD,) = packed.hidden_of([item])
        assert torch.allclose(state.hidden_TD, by_modules_TD.float(), rtol=error, atol=error)
    groups = edited(states)
    for (found,), (one,) in zip(logits_apart(packed, groups), groups, strict=True):
        (logits,) = packed.target_logits([one.states], one.hidden_TD[None], has_end=True)
        assert torch.allclose(found, logits, rtol=error, atol=error)


@needs_packing
def test_bits_do_not_depend_on_what_else_is_computed(packed: VisionLanguageBackbone) -> None:
    together, backward = encode_apart(packed, INPUTS), encode_apart(packed, INPUTS[::-1])[::-1]
    logits = logits_apart(packed, edited(together))
    for number, item in enumerate(INPUTS):
        (alone,) = encode_apart(packed, [item])
        for other in (together[number], backward[number]):
            assert torch.equal(alone.hidden_TD, other.hidden_TD)
            assert torch.equal(alone.pyramid_E, other.pyramid_E)
        ((found,),) = logits_apart(packed, edited([alone]))
        assert torch.equal(found, logits[number][0])


def test_a_model_that_cannot_be_lowered_encodes_one_by_one() -> None:
    plain = tiny_backbone()
    assert plain.lowered(0, EDIT_LAYER + 1) is None
    with plain_convolutions():
        states = encode_apart(plain, INPUTS)
        for item, state in zip(INPUTS, states, strict=True):
            assert torch.equal(plain.encode([item])[0].hidden_TD, state.hidden_TD)
        found = logits_apart(plain, edited(states))
    assert [len(logits) for (logits,) in found] == [len(s.target_ids_O) + 1 for s in states]


@needs_packing
def test_layers_with_a_hook_are_not_lowered(packed: VisionLanguageBackbone) -> None:
    handle = packed.decoder.layers[0].register_forward_hook(lambda *_: None)
    assert packed.lowered(0, EDIT_LAYER + 1) is None
    handle.remove()
    assert packed.lowered(0, EDIT_LAYER + 1) is not None
