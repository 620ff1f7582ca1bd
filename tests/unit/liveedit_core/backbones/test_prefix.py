"""Prompt pyramids: of the bare text, in every family, alike in batches, caches and shards."""

import copy
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from liveedit_core.backbones.prefix import PromptPyramidCache, question_of
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.errors import InputError
from liveedit_core.states import LayerStates
from tests.tiny_backbone import image, plain_convolutions
from tests.tiny_families import FAMILY_NAMES, family_backbone

TEMPLATES = ('"{}" means', "To ask: {} is to ask for the")
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
        yield family_backbone(request.param).with_prompt_templates(TEMPLATES)


def alone(backbone: VisionLanguageBackbone, text: str) -> Tensor:
    return backbone.with_prompt_templates(backbone.prompt_templates).encode_prompts([text])[0]


@pytest.mark.parametrize("text", TEXTS)
def test_pyramids_are_the_last_hidden_states_of_the_whole_language_model(
    backbone: VisionLanguageBackbone, text: str
) -> None:
    model = backbone.model.get_submodule(backbone.family.text_trunk)
    layers = backbone.decoder.layers
    expected = []
    for template in TEMPLATES:
        ids = backbone.tokenizer.encode(template.replace("{}", text))
        is_masked = "prefix" in str(backbone.family.positions)
        more = {"token_type_ids": torch.zeros(1, len(ids)).long()} if is_masked else {}
        seen: list[Tensor] = []
        handle = layers[-1].register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.append(
                output[0] if isinstance(output, tuple) else output
            )
        )
        with torch.no_grad():
            model(input_ids=torch.tensor([ids]), **more)
        handle.remove()
        expected.append(functional.normalize(seen[0][0, -1], dim=-1))
    torch.testing.assert_close(alone(backbone, text), torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_a_padded_batch_gives_what_its_members_give_alone(backbone: VisionLanguageBackbone) -> None:
    together = backbone.with_prompt_templates(TEMPLATES).encode_prompts(TEXTS)
    assert together.shape == (len(TEXTS), len(TEMPLATES) * backbone.hidden_size)
    for row_P, text in zip(together, TEXTS, strict=True):
        torch.testing.assert_close(row_P, alone(backbone, text), rtol=1e-4, atol=2e-5)


def test_states_hold_those_of_all_wordings(backbone: VisionLanguageBackbone) -> None:
    """Surrounding spaces, the target and the image, or that there is none, do not matter."""
    items = [
        SEEN,
        BackboneInput(prompt=TEXTS[0], target="cold"),
        BackboneInput(prompt=f" {TEXTS[1]}\n", image_bytes=image(2), also_asked=TEXTS[2:4]),
    ]
    states = backbone.encode(items)
    assert [len(state.prompt_pyramids_WP) for state in states] == [1, 1, 3]
    torch.testing.assert_close(states[1].prompt_pyramids_WP, states[0].prompt_pyramids_WP)
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


def test_only_prompt_templates_change_what_states_are_cached_under() -> None:
    plain = family_backbone("llava")
    assert plain.with_prompt_templates(()).encoding == plain.encoding
    assert (
        plain.with_prompt_templates(TEMPLATES).encoding
        != plain.with_prompt_templates(TEMPLATES[:1]).encoding
    )
    assert plain.encode([SEEN])[0].prompt_pyramids_WP.numel() == 0


def test_a_wording_that_no_input_could_have_is_refused() -> None:
    for text in (" ", "an <image> token"):
        with pytest.raises(InputError, match=r"prompt is empty|control token"):
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
    together = backbone.with_prompt_templates(TEMPLATES).encode(items)
    for item, state in zip(items, together, strict=True):
        (again,) = backbone.with_prompt_templates(TEMPLATES).encode([item])
        assert torch.equal(again.prompt_pyramids_WP, state.prompt_pyramids_WP)


def test_the_vocabulary_is_not_read_while_another_thread_tokenizes(
    backbone: VisionLanguageBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = copy.copy(backbone.reader)
    vars(reader).pop("spelling", None)
    is_locked: list[bool] = []

    class Tokenizer:
        def get_vocab(self) -> dict[str, int]:
            is_locked.append(reader.lock.locked())
            return {}

    monkeypatch.setattr(reader, "tokenizer", Tokenizer())
    assert reader.spelling.corrected("What") == "What"
    assert is_locked == [True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{'It was cold. ' * 10}How much is it?", "How much is it?"),
        (f"{'It was cold. ' * 10}Why?", f"{'It was cold. ' * 10}Why?"),
        ("It was cold. How much is it?", "It was cold. How much is it?"),
        ("word " * 40, "word " * 40),
        ("", ""),
    ],
)
def test_a_long_prompt_asks_its_last_sentence(text: str, expected: str) -> None:
    assert question_of(text) == expected
