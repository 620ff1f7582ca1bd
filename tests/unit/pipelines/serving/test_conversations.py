"""Turns before a question reach models that have a chat template, and only these."""

import pytest

from liveedit_core.backbones.prompts import PromptReader
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.errors import InputError
from tests.tiny_backbone import image, tiny_backbone
from tests.tiny_families import family_backbone, model_and_processor

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{{ m.role }}: {% for part in m.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
EARLIER = (("system", "Be brief."), ("user", "Hello {prompt}"), ("assistant", "Hi {image}"))


def reader_with_template() -> PromptReader:
    backbone = family_backbone("llava")
    _, processor = model_and_processor("llava")
    processor.chat_template = TEMPLATE
    return PromptReader(backbone.family, processor, image_token_id=backbone.reader.image_token_id)


@pytest.mark.parametrize("seed", [None, 1])
def test_a_template_words_the_whole_conversation(seed: int | None) -> None:
    reader = reader_with_template()
    assert reader.reads_conversations
    encoded = None if seed is None else image(seed)
    alone, after = (
        reader.prepare(BackboneInput(prompt="Who?", image_bytes=encoded, earlier=earlier))
        for earlier in ((), EARLIER)
    )
    text = reader.tokenizer.decode(after.tokens["input_ids"])
    assert "Be brief." in text
    assert "Hello {prompt}" in text
    assert text.index("Hi {image}") < text.index("Who?")
    assert after.num_tokens > alone.num_tokens
    if seed is not None:
        assert after.image[1] - after.image[0] == alone.image[1] - alone.image[0]
        assert after.image[0] > alone.image[0], "the image belongs to the last question"


def test_what_a_template_refuses_is_the_askers_fault() -> None:
    reader = reader_with_template()
    with pytest.raises(InputError, match="refuses these turns"):
        reader.prepare(BackboneInput(prompt="Who?", earlier=(("tool", "x"),)))
    with pytest.raises(InputError, match=r"holds .<image>."):
        reader.prepare(BackboneInput(prompt="Who?", earlier=(("user", reader.image_token),)))


def test_without_a_template_the_question_stands_alone() -> None:
    reader = tiny_backbone().reader
    assert not reader.reads_conversations
    alone, after = (
        reader.prepare(BackboneInput(prompt="Who?", earlier=earlier)) for earlier in ((), EARLIER)
    )
    assert alone.tokens["input_ids"].tolist() == after.tokens["input_ids"].tolist()
