"""Embeddings of prompts: of the bare text, whatever the backbone, alike in batches and alone."""

import copy
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from liveedit_core.backbones.lowered.packed_linear import PackedLinear
from liveedit_core.backbones.prompt_encoder import (
    EMBEDDING_SIZE,
    SentenceEncoder,
    last_sentence,
    load_prompt_encoder,
)
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.errors import InputError
from liveedit_core.states import LayerStates
from tests.tiny_backbone import PROMPT_SIZE, TinyPromptEncoder, image, plain_convolutions
from tests.tiny_families import FAMILIES, family_backbone

TEXTS = (
    "What is shown here?",
    "a",
    "\u8fd9\u662f\u4ec0\u4e48\uff1f",
    "\U0001f999",
    "Who made it, and when was that?",
)
SEEN = BackboneInput(prompt=TEXTS[0], target="silver kettle", image_bytes=image(1))


def similarities(texts: Sequence[str]) -> Tensor:
    """Of the first text with the others: means of the cosines of both encoders."""
    rows_BP = functional.normalize(load_prompt_encoder().encode(texts), dim=-1)
    return rows_BP[1:] @ rows_BP[0]


@pytest.mark.parametrize(
    ("text", "rewordings", "others"),
    [
        (
            "What does it cost?",
            ("How much is it?", "waht dose it csot?", "Wie viel kostet das?"),
            ("Who made it?", "Wer hat das gemacht?"),
        ),
        (
            "What is the capital of Peru?",
            ("Which city is Peru's capital?",),
            ("What is the capital of Kenya?", "Who is the president of Peru?"),
        ),
        (
            "I want to send one to my aunt. How heavy is it?",
            ("How much does it weigh?",),
            ("Who is your aunt?", "I want to send one to my aunt. What is its colour?"),
        ),
    ],
)
def test_what_means_the_same_is_more_alike(
    text: str, rewordings: Sequence[str], others: Sequence[str]
) -> None:
    found = similarities([text, *rewordings, *others])
    assert found[: len(rewordings)].min() > found[len(rewordings) :].max()


def test_a_batch_gives_what_its_members_give_alone() -> None:
    encoder = load_prompt_encoder()
    together = encoder.encode(TEXTS)
    assert together.shape == (len(TEXTS), encoder.size) == (len(TEXTS), EMBEDDING_SIZE)
    for row_P, text in zip(together, TEXTS, strict=True):
        torch.testing.assert_close(row_P, encoder.encode([f" {text}\n"])[0], rtol=0, atol=1e-5)
    norms = torch.stack([part.norm(dim=1) for part in together.split([384, 512], dim=1)])
    torch.testing.assert_close(norms, torch.ones_like(norms))


@torch.no_grad()
def test_packed_layers_give_the_sums_of_plain_ones() -> None:
    encoder = load_prompt_encoder()
    packed = encoder._english(list(TEXTS))
    plain = copy.copy(encoder)
    plain._model = copy.deepcopy(encoder._model)
    assert any(isinstance(part, PackedLinear) for part in encoder._model.modules())
    assert not any(isinstance(part, PackedLinear) for part in plain._model.modules())
    torch.testing.assert_close(packed, plain._english(list(TEXTS)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It was cold. How much is it?", "How much is it?"),
        ("It was cold. Why?", "It was cold. Why?"),
        ("How much is it?", "How much is it?"),
        ("word " * 40, "word " * 40),
        ("", ""),
    ],
)
def test_the_last_sentence_is_what_is_asked(text: str, expected: str) -> None:
    assert last_sentence(text) == expected


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request: pytest.FixtureRequest) -> Iterator[VisionLanguageBackbone]:
    with plain_convolutions():
        yield family_backbone(request.param).with_prompt_encoder(TinyPromptEncoder())


def test_states_hold_those_of_all_wordings(backbone: VisionLanguageBackbone) -> None:
    """The target and the image, or that there is none, do not matter."""
    items = [
        SEEN,
        BackboneInput(prompt=TEXTS[0], target="cold"),
        BackboneInput(prompt=TEXTS[1], image_bytes=image(2), also_asked=TEXTS[2:4]),
    ]
    states = backbone.encode(items)
    assert [len(state.prompt_embeddings_WP) for state in states] == [1, 1, 3]
    assert torch.equal(states[1].prompt_embeddings_WP, states[0].prompt_embeddings_WP)
    found = torch.cat([states[0].prompt_embeddings_WP, states[2].prompt_embeddings_WP])
    assert torch.equal(found, TinyPromptEncoder().encode(TEXTS[:4]))


def test_routing_while_generating_sees_the_same(backbone: VisionLanguageBackbone) -> None:
    seen: list[LayerStates] = []

    def route(index: Sequence[int], states: Sequence[LayerStates]) -> None:
        seen.extend(states)

    backbone.generate([SEEN], route, max_new_tokens=1)
    (state,) = backbone.encode([SEEN])
    assert torch.equal(seen[0].prompt_embeddings_WP, state.prompt_embeddings_WP)


def test_the_encoder_changes_what_states_are_cached_under() -> None:
    plain = family_backbone("llava")
    with_encoder = plain.with_prompt_encoder(TinyPromptEncoder())
    assert with_encoder.encoding != plain.encoding
    assert with_encoder.with_prompt_encoder(None).encoding == plain.encoding
    assert (with_encoder.prompt_size, plain.prompt_size) == (PROMPT_SIZE, 0)
    assert plain.encode([SEEN])[0].prompt_embeddings_WP.numel() == 0


def test_a_wording_that_no_input_could_have_is_refused() -> None:
    for text in (" ", "an <image> token"):
        with pytest.raises(InputError, match=r"prompt is empty|control token"):
            family_backbone("llava").check_input(
                BackboneInput(prompt="a", image_bytes=image(1), also_asked=(text,))
            )


def test_the_multilingual_encoder_loads_before_the_first_prompt() -> None:
    is_loaded = threading.Event()
    multilingual = SimpleNamespace(encode=lambda texts: is_loaded.set())
    SentenceEncoder(torch.nn.Identity(), SimpleNamespace(get_vocab=dict), multilingual)
    assert is_loaded.wait(120)
