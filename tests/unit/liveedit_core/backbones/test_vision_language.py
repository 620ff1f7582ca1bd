"""The adapter of the built-in model's kind: FastVLM with an image tower of its own."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from liveedit_core.backbones import prefix
from liveedit_core.backbones.generation import Continuation
from liveedit_core.backbones.prompts import with_space
from liveedit_core.backbones.protocol import BackboneInput, Residual
from liveedit_core.backbones.vision_language import VisionLanguageBackbone, as_vision_language
from liveedit_core.errors import ConfigError, InputError
from liveedit_core.inputs.images import decode_image
from liveedit_core.states import LayerStates
from tests.tiny_backbone import (
    EDIT_LAYER,
    IMAGE_TOKEN,
    NUM_IMAGE_TOKENS,
    image,
    question,
    whole_model,
)
from tests.unit.tiny_models import TinyBackbone

SEEN = BackboneInput(prompt="What is shown here?", target="silver kettle", image_bytes=image(1))
UNSEEN = BackboneInput(prompt="The opposite of hot is", target="cold")


def ids_of(backbone: VisionLanguageBackbone, item: BackboneInput) -> list[int]:
    ids: list[int] = backbone.reader.prepare(item).tokens["input_ids"].tolist()
    return ids


@pytest.mark.parametrize("item", [SEEN, UNSEEN], ids=["image", "text"])
def test_both_halves_give_the_whole_models_numbers(
    backbone: VisionLanguageBackbone, item: BackboneInput
) -> None:
    whole = whole_model(backbone, item)
    (state,) = backbone.encode([item])
    start, stop = state.target_span
    assert torch.equal(state.hidden_TD, whole.hidden_states[EDIT_LAYER + 1][0])
    (logits,) = backbone.target_logits([state], state.hidden_TD[None])
    torch.testing.assert_close(logits, whole.logits[0, start - 1 : stop - 1], rtol=0, atol=1e-5)
    (with_end,) = backbone.target_logits([state], state.hidden_TD[None], has_end=True)
    torch.testing.assert_close(with_end, whole.logits[0, start - 1 : stop], rtol=0, atol=1e-5)


def test_views_share_the_weights_of_the_model(backbone: VisionLanguageBackbone) -> None:
    own = {id(parameter) for parameter in backbone.model.parameters()}
    suffix = list(backbone.suffix().trunk.parameters())
    later = list(backbone.decoder.layers)[EDIT_LAYER + 1 :]
    assert {id(p) for p in suffix} == {
        id(p) for part in [*later, backbone.decoder.norm] for p in part.parameters()
    }
    assert all(id(parameter) in own and not parameter.requires_grad for parameter in suffix)


def test_another_layer_of_the_same_model(backbone: VisionLanguageBackbone) -> None:
    other = backbone.at_layer(EDIT_LAYER + 1)
    (state,), (later,) = backbone.encode([SEEN]), other.encode([SEEN])
    found = backbone.hidden_at(EDIT_LAYER + 1, [state], state.hidden_TD[None])
    torch.testing.assert_close(found[0], later.hidden_TD, rtol=1e-5, atol=1e-5)
    (expected,) = backbone.target_logits([state], state.hidden_TD[None])
    (logits,) = other.target_logits([later], later.hidden_TD[None])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert (backbone.edit_layer, other.edit_layer) == (EDIT_LAYER, EDIT_LAYER + 1)
    with pytest.raises(ConfigError, match="edit layer 3"):
        backbone.at_layer(3)


def test_spans_and_ids_spell_the_input(backbone: VisionLanguageBackbone) -> None:
    state, text_only = backbone.encode([SEEN, UNSEEN])
    prepared = backbone.reader.prepare(SEEN)
    ids, image = prepared.tokens["input_ids"], prepared.image
    prompt, target = prepared.prompt, prepared.target
    assert image == state.image_span == (0, NUM_IMAGE_TOKENS)
    assert ids[:NUM_IMAGE_TOKENS].tolist() == [backbone.reader.image_token_id] * NUM_IMAGE_TOKENS
    assert backbone.decode(ids[slice(*prompt)].tolist()) == "What is shown here? Answer:"
    assert backbone.tokenizer.decode(ids[slice(*target)]) == " silver kettle"
    assert torch.equal(state.target_ids_O, ids[slice(*target)])
    assert torch.equal(state.target_embeddings_OD, backbone.embed(state.target_ids_O))
    assert state.prompt_span == (image[1], target[0])
    assert not text_only.has_image
    assert len(text_only.pyramid_E) == 0
    assert backbone.decode(ids_of(backbone, UNSEEN)) == "The opposite of hot is cold"


def test_the_pyramid_holds_pooled_levels_of_the_tower(backbone: VisionLanguageBackbone) -> None:
    (state,) = backbone.encode([SEEN])
    images = [decode_image(image(1))]
    pixels = backbone.processor.image_processor(images=images, return_tensors="pt")
    with torch.no_grad():
        last = backbone.model.model.vision_tower(pixels["pixel_values"]).last_hidden_state[0]
    assert len(state.pyramid_E) == backbone.visual_size == 320 * 2 * 2 + 1280
    torch.testing.assert_close(state.pyramid_E[-1280:], last.mean((1, 2)))


def test_generation_never_sees_the_target(backbone: VisionLanguageBackbone) -> None:
    questions = [question(seed) for seed in range(4)]
    told = [replace(item, target="silver kettle") for item in questions]
    expected = backbone.generate(questions, None, max_new_tokens=5)
    assert backbone.generate(told, None, max_new_tokens=5) == expected


def test_a_route_is_asked_once_and_its_residual_added(backbone: VisionLanguageBackbone) -> None:
    """The routed residual acts at prefill and at each step; None leaves an input as it is."""
    asked: list[int] = []
    inputs = [question(0), BackboneInput(prompt="The color of grass is"), question(1)]
    encoded = backbone.encode(inputs)

    def route(index: Sequence[int], states: Sequence[LayerStates]) -> Residual | None:
        asked.extend(index)
        for i, state in zip(index, states, strict=True):
            torch.testing.assert_close(state.hidden_TD, encoded[i].hidden_TD, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(state.pyramid_E, encoded[i].pyramid_E, rtol=1e-4, atol=1e-4)
            assert state.prompt_span == encoded[i].prompt_span
            assert state.has_image == states[0].has_image
        return (lambda hidden_BTD: -2 * hidden_BTD.roll(1, -1)) if states[0].has_image else None

    plain = backbone.generate(inputs, None, max_new_tokens=5)
    edited = backbone.generate(inputs, route, max_new_tokens=5)
    assert sorted(asked) == [0, 1, 2]
    assert edited[1] == plain[1]
    assert edited[0] != plain[0]
    assert backbone.generate(inputs, None, max_new_tokens=5) == plain  # the hook is gone


def test_a_long_answer_is_generated_again_without_the_short_ones(
    backbone: VisionLanguageBackbone,
) -> None:
    """Its second batch edits it as the first one did; the texts are those of whole batches."""
    questions = [question(seed) for seed in range(8)]
    asked: list[int] = []

    def route(index: Sequence[int], states: Sequence[LayerStates]) -> Residual:
        asked.extend(index)
        factors_B11 = torch.tensor(index)[:, None, None] / -8
        return lambda hidden_BTD: factors_B11 * hidden_BTD.roll(1, -1)

    def answers(of: VisionLanguageBackbone) -> list[Continuation]:
        return of.continuations(questions, route, max_new_tokens=8, do_sample=False)

    *short, long = [one.token_ids[0] for one in answers(backbone)]
    end_ids = frozenset(next(i for i in ids if i not in long) for ids in short)
    ending = copy.copy(backbone)
    ending.end_ids = end_ids
    ending.model = copy.copy(backbone.model)
    ending.model.generation_config = copy.copy(backbone.model.generation_config)
    ending.model.generation_config.eos_token_id = sorted(end_ids)
    expected = answers(ending)
    asked.clear()
    assert ending.generate(questions, route, max_new_tokens=8) == [one.texts[0] for one in expected]
    assert sorted(asked) == [0, 1, 2, 3, 4, 5, 6, 7, 7]


@pytest.mark.parametrize(
    ("prompt", "target"), [("", "x"), ("  \n", "x"), (f"a {IMAGE_TOKEN}", "x"), ("a", IMAGE_TOKEN)]
)
def test_prompts_that_would_confuse_the_model_are_refused(
    backbone: VisionLanguageBackbone, prompt: str, target: str
) -> None:
    item = BackboneInput(prompt=prompt, target=target, image_bytes=image(0))
    with pytest.raises(InputError, match=r"prompt is empty|control token"):
        backbone.encode([item])


def test_braces_in_a_prompt_are_text(backbone: VisionLanguageBackbone) -> None:
    item = BackboneInput(prompt="What is {0} {prompt}? {image}", image_bytes=image(0))
    assert backbone.decode(ids_of(backbone, item)) == "What is {0} {prompt}? {image} Answer:"


@pytest.mark.parametrize(
    ("prompt", "target", "expected"),
    [("Who:", "me", " me"), ("Who: ", "me", "me"), ("Who:", " me", " me"), ("Who:", "", "")],
)
def test_targets_get_one_space(prompt: str, target: str, expected: str) -> None:
    assert with_space(prompt, target) == expected


def test_a_stand_in_is_refused_where_the_adapter_is_needed(
    backbone: VisionLanguageBackbone,
) -> None:
    assert as_vision_language(backbone) is backbone
    with pytest.raises(ConfigError, match="a TinyBackbone can neither be trained for"):
        as_vision_language(TinyBackbone())


def test_questions_about_one_image_run_its_rows_once(
    backbone: VisionLanguageBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to each alone up to the rounding of other products."""
    other = BackboneInput(prompt="What is shown here?", image_bytes=image(2))
    items = [
        SEEN,
        UNSEEN,
        replace(SEEN, prompt="And what is this, in more words than one?", target="kettle"),
        other,
        replace(SEEN, target=""),
    ]
    num_rows: list[int] = []
    run = prefix.hidden_after

    def counted(*arguments: Any) -> torch.Tensor:
        num_rows.append(arguments[4]["inputs_embeds"].shape[:2].numel())
        return run(*arguments)

    monkeypatch.setattr(prefix, "hidden_after", counted)
    together = backbone.encode(items)
    alone = [backbone.encode([item])[0] for item in items]
    lengths = [state.num_tokens for state in alone]
    of_texts = max(lengths[0], lengths[2], lengths[4]) - NUM_IMAGE_TOKENS
    of_others = 2 * max(lengths[1], lengths[3])
    assert sum(num_rows[: -len(items)]) == NUM_IMAGE_TOKENS + 3 * of_texts + of_others
    for one, state in zip(together, alone, strict=True):
        assert state.image_span == one.image_span
        torch.testing.assert_close(one.hidden_TD, state.hidden_TD, rtol=1e-5, atol=1e-5)
