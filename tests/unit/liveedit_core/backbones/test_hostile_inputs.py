"""What a family cannot take is refused with a reason, and no checkpoint's habits bend an answer."""

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

from liveedit_core.backbones.prompts import PromptReader
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.edited_model import EditedModel
from liveedit_core.inputs.rejects import RefusedInputError, RejectType
from liveedit_core.schema import EditRequest
from tests.tiny_backbone import TINY_CONFIG, image, plain_convolutions, tiny_generator
from tests.tiny_families import FAMILIES, family_backbone
from tests.unit.family_parts import SPECIAL

SEEN = BackboneInput(prompt="What is shown here?", target="silver kettle", image_bytes=image(1))
TEXT = BackboneInput(prompt="The opposite of hot is", target="cold")


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request: pytest.FixtureRequest) -> Iterator[VisionLanguageBackbone]:
    with plain_convolutions():
        yield family_backbone(request.param)


@pytest.mark.parametrize("token", SPECIAL)
def test_control_tokens_are_refused_wherever_a_user_writes_them(
    backbone: VisionLanguageBackbone, token: str
) -> None:
    for item in (
        replace(SEEN, prompt=f"What is {token}?"),
        replace(SEEN, target=f"violin{token}"),
        replace(SEEN, also_asked=(f"{token} What?",)),
        replace(TEXT, prompt=f"In HTML, what does `{token}` stand for?"),
    ):
        for act in (backbone.check_input, lambda item: backbone.encode([item])):
            with pytest.raises(RefusedInputError, match="control token") as caught:
                act(item)
            assert token in caught.value.message
            assert caught.value.error_type is RejectType.CONTROL_TOKEN


@pytest.mark.parametrize("text", ["a < b > c", "</b> <i>", "[INST] {image} {prompt}", "x|end|"])
def test_texts_that_only_look_like_control_tokens_are_taken(
    backbone: VisionLanguageBackbone, text: str
) -> None:
    for item in (replace(SEEN, prompt=text, target=text), replace(TEXT, prompt=text)):
        backbone.check_input(item)
        (state,) = backbone.encode([item])
        start, stop = state.target_span
        assert stop - start >= 1
        assert state.has_image == (item.image_bytes is not None)


@pytest.mark.parametrize("text", [None, b"What?", 5, "\ud800"])
def test_what_is_no_text_is_refused(text: Any) -> None:
    backbone = family_backbone("llava")
    for item in (replace(SEEN, prompt=text), replace(SEEN, target=text)):
        with pytest.raises(RefusedInputError, match=r"must be a text|half of a character pair"):
            backbone.check_input(item)
    with pytest.raises(RefusedInputError):
        edited(backbone).answer(SEEN.image_bytes, text)


def test_a_text_that_is_encoded_as_a_control_token_is_refused_too() -> None:
    reader = family_backbone("llava").reader
    assert reader.special.found_in("plain", [reader.tokenizer.eos_token_id]) == "<end>"
    assert reader.special.found_in("plain", [reader.tokenizer.encode("plain")[0]]) == ""


def edited(backbone: VisionLanguageBackbone) -> EditedModel:
    config = TINY_CONFIG.with_changes(num_image_tokens=backbone.num_image_tokens)
    return EditedModel(backbone, tiny_generator(config))


def _stretched(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(1000, 4), (1010, 4)])
def test_what_the_processor_raises_is_a_refusal(size: tuple[int, int]) -> None:
    backbone = family_backbone("qwen2_vl")
    with pytest.raises(RefusedInputError, match=r"processor refuses.*aspect ratio"):
        backbone.check_input(replace(SEEN, image_bytes=_stretched(*size)))
    model = edited(backbone)
    good = EditRequest(image_bytes=image(2), prompt="What?", target="a raven")
    with pytest.raises(RefusedInputError, match="aspect ratio"):
        model.edit_many([good, replace(good, image_bytes=_stretched(*size))])
    assert model.edits == ()


def test_what_the_processor_raises_for_every_input_is_a_fault_of_the_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = family_backbone("llava")

    def fails(reader: PromptReader, item: BackboneInput) -> None:
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(PromptReader, "_prepared", fails)
    with pytest.raises(ZeroDivisionError):
        backbone.check_input(SEEN)


def test_greedy_is_the_argmax_whatever_the_checkpoint_says(
    backbone: VisionLanguageBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {"max_new_tokens": 6}
    questions = [SEEN, TEXT]
    free = backbone.generate(questions, None, **plain)
    (ids,) = (one.token_ids[0] for one in backbone.continuations([SEEN], None, **plain))
    assert ids
    hostile = GenerationConfig(
        eos_token_id=backbone.model.generation_config.eos_token_id,
        suppress_tokens=list(ids),
        repetition_penalty=5.0,
        no_repeat_ngram_size=1,
        do_sample=True,
        temperature=9.0,
        min_new_tokens=5,
    )
    for path in {"", backbone.family.text_generator}:
        monkeypatch.setattr(backbone.model.get_submodule(path), "generation_config", hostile)
    assert backbone.generate(questions, None, **plain) == free
    model = edited(backbone)
    assert model.answer(SEEN.image_bytes, SEEN.prompt, **plain) == free[0]
    assert model.answer(None, TEXT.prompt, **plain) == free[1]
    torch.manual_seed(0)
    (followed,) = model.generate([SEEN.image_bytes], [SEEN.prompt], do_sample=False, **plain)
    assert not set(followed.token_ids[0]) & set(ids)
    assert followed.settings["repetition_penalty"] == 5.0
    assert followed.settings["suppress_tokens"] == list(ids)
    assert (followed.settings["do_sample"], followed.settings["max_new_tokens"]) == (False, 6)
    assert "temperature" not in followed.settings, "it has no effect without sampling"
    (sampled,) = model.generate([None], [TEXT.prompt], **plain)
    assert sampled.settings["temperature"] == 9.0
