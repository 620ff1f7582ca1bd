"""Prompt pyramids: of the bare text, in every family, alike in batches, caches and shards."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from liveedit_core.backbones.prefix import PromptPyramidCache
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.errors import ConfigError, InputError
from liveedit_core.states import LayerStates
from tests.tiny_backbone import image, plain_convolutions
from tests.tiny_families import EDIT_LAYER, FAMILY_NAMES, family_backbone, model_and_processor

LAYERS = (1, 0)
TEXTS = (
    "What is shown here?",
    "a",
    "\u8fd9\u662f\u4ec0\u4e48\uff1f",
    "\U0001f999",
    "Who made it, and when was that?",
)
SEEN = BackboneInput(prompt=TEXTS[0], target="silver kettle", image_bytes=image(1))


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def backbone(request: pytest.FixtureRequest) -> Iterator[VisionLanguageBackbone]:
    with plain_convolutions():
        yield family_backbone(request.param).with_prompt_layers(LAYERS)


def alone(backbone: VisionLanguageBackbone, text: str) -> Tensor:
    return backbone.with_prompt_layers(backbone.prompt_layers).encode_prompts([text])[0]


@pytest.mark.parametrize("text", TEXTS)
def test_the_means_are_those_of_the_whole_language_model(
    backbone: VisionLanguageBackbone, text: str
) -> None:
    tokenizer = backbone.tokenizer
    ids = tokenizer.encode(text)
    model = backbone.model.get_submodule(backbone.family.text_trunk)
    more = (
        {"token_type_ids": torch.zeros(1, len(ids)).long()}
        if "prefix" in str(backbone.family.positions)
        else {}
    )
    with torch.no_grad():
        output = model(input_ids=torch.tensor([ids]), output_hidden_states=True, **more)
    own = slice(1 if len(ids) > 1 else 0, None)
    expected = torch.cat([output.hidden_states[layer + 1][0, own].mean(0) for layer in LAYERS])
    torch.testing.assert_close(alone(backbone, text), expected, rtol=1e-4, atol=1e-5)


def test_a_padded_batch_gives_what_its_members_give_alone(backbone: VisionLanguageBackbone) -> None:
    together = backbone.with_prompt_layers(LAYERS).encode_prompts(TEXTS)
    assert together.shape == (len(TEXTS), len(LAYERS) * backbone.hidden_size)
    for row_P, text in zip(together, TEXTS, strict=True):
        torch.testing.assert_close(row_P, alone(backbone, text), rtol=1e-4, atol=2e-5)


def test_states_hold_those_of_all_wordings(backbone: VisionLanguageBackbone) -> None:
    """Surrounding spaces, the target and the image do not matter."""
    items = [
        SEEN,
        BackboneInput(prompt="The opposite of hot is", target="cold"),
        BackboneInput(prompt=f" {TEXTS[1]}\n", image_bytes=image(2), also_asked=TEXTS[2:4]),
    ]
    states = backbone.encode(items)
    assert [len(state.prompt_pyramids_WP) for state in states] == [1, 0, 3]
    found = torch.cat([states[0].prompt_pyramids_WP, states[2].prompt_pyramids_WP])
    for row_P, text in zip(found, TEXTS, strict=False):
        torch.testing.assert_close(row_P, alone(backbone, text), rtol=1e-4, atol=2e-5)


def test_routing_while_generating_sees_the_same(backbone: VisionLanguageBackbone) -> None:
    seen: list[LayerStates] = []

    def route(index: Sequence[int], states: Sequence[LayerStates]) -> None:
        seen.extend(states)

    backbone.generate([SEEN], route, max_new_tokens=1)
    (state,) = backbone.encode([SEEN])
    assert torch.equal(seen[0].prompt_pyramids_WP, state.prompt_pyramids_WP)


def test_without_the_layers_after_the_edit_layer_they_are_the_same(
    backbone: VisionLanguageBackbone,
) -> None:
    model, processor = model_and_processor(backbone.digest)
    cut = VisionLanguageBackbone(
        model, processor, edit_layer=EDIT_LAYER, digest="", prompt_layers=LAYERS, batch_size=4
    )
    before = cut.encode_prompts(TEXTS)
    cut.drop_suffix()
    assert torch.equal(cut.encode_prompts(TEXTS), before)


@pytest.mark.parametrize("layers", [(EDIT_LAYER + 1,), (0, -1)])
def test_layers_that_are_edited_or_do_not_exist_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="prompt layers"):
        family_backbone("llava").with_prompt_layers(layers)
    with pytest.raises(ConfigError, match="prompt layers"):
        family_backbone("llava").with_prompt_layers((1,)).at_layer(0)


def test_only_prompt_layers_change_what_states_are_cached_under() -> None:
    plain = family_backbone("llava")
    assert plain.with_prompt_layers(()).encoding == plain.encoding
    assert plain.with_prompt_layers((0,)).encoding != plain.with_prompt_layers((1,)).encoding
    assert plain.encode([SEEN])[0].prompt_pyramids_WP.numel() == 0


def test_a_wording_that_no_input_could_have_is_refused() -> None:
    for text in (" ", "an <image> token"):
        with pytest.raises(InputError, match="must hold text"):
            family_backbone("llava").check_input(
                BackboneInput(prompt="a", image_bytes=image(1), also_asked=(text,))
            )


def test_a_cached_prompt_is_not_computed_again() -> None:
    asked: list[Sequence[str]] = []

    def encode(texts: Sequence[str]) -> Tensor:
        asked.append(texts)
        return torch.tensor([[float(len(text))] for text in texts])

    cache = PromptPyramidCache(2)
    wanted = [("a", "bb"), ("bb",), ("a", "bb"), ("ccc",), ("a", "bb"), ("bb",)]
    rows = [cache.rows(wordings, encode).flatten().tolist() for wordings in wanted]
    assert rows == [[1, 2], [2], [1, 2], [3], [1, 2], [2]]
    assert asked == [("a", "bb"), ("bb",), ("ccc",), ("bb",)]


def test_neighbours_and_earlier_inputs_change_no_bit(backbone: VisionLanguageBackbone) -> None:
    items = [BackboneInput(prompt=text, image_bytes=image(1)) for text in TEXTS]
    together = backbone.with_prompt_layers(LAYERS).encode(items)
    for item, state in zip(items, together, strict=True):
        (again,) = backbone.with_prompt_layers(LAYERS).encode([item])
        assert torch.equal(again.prompt_pyramids_WP, state.prompt_pyramids_WP)
