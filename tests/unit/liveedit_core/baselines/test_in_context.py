"""The most similar edits are told, in the paper's words, the most similar one last."""

from dataclasses import replace

import pytest

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.in_context import InContext, prompt_with_facts
from liveedit_core.baselines.settings import InContextConfig
from liveedit_core.method.editor import edit_input
from liveedit_core.schema import EditRequest
from tests.tiny_backbone import image, request


def taught(backbone: VisionLanguageBackbone, config: InContextConfig) -> InContext:
    requests = [
        EditRequest(image_bytes=image(seed), prompt="Who made this?", target=f"maker {seed}")
        for seed in range(4)
    ]
    model = InContext(backbone, config)
    model.teach(requests, backbone.encode([edit_input(item) for item in requests]))
    return model


def test_the_text_is_exactly_this() -> None:
    facts = [("What is shown here?", "silver kettle"), ("Who made this?", "Anna Keller")]
    assert prompt_with_facts(facts, "Who is the artist?") == (
        "New Fact: What is shown here? silver kettle\n"
        "New Fact: Who made this? Anna Keller\n"
        "Prompt: Who is the artist?"
    )
    assert prompt_with_facts([], "Who is the artist?") == "Who is the artist?"


@pytest.mark.parametrize("seed", range(4))
def test_the_own_image_is_told_last(seed: int, backbone: VisionLanguageBackbone) -> None:
    model = taught(backbone, InContextConfig(num_facts=2, least_similarity=0.0))
    item = BackboneInput(prompt="Who made this?", image_bytes=image(seed), target="x")
    (state,) = backbone.encode([item])
    told = model.with_facts(item, state)
    lines = told.prompt.splitlines()
    assert lines[-1] == "Prompt: Who made this?"
    assert lines[-2] == f"New Fact: Who made this? maker {seed}"
    assert len(lines) == 3
    assert (told.image_bytes, told.target) == (item.image_bytes, "x")


def test_a_prompt_tells_edits_of_one_image_apart(backbone: VisionLanguageBackbone) -> None:
    model = InContext(backbone, InContextConfig(num_facts=1, least_similarity=0.0))
    one = request(0)
    other = replace(one, prompt="The color of the sky is", target="blue")
    model.teach([one, other], backbone.encode([edit_input(item) for item in (one, other)]))
    for asked in (one, other):
        item = BackboneInput(prompt=asked.prompt, image_bytes=asked.image_bytes)
        (state,) = backbone.encode([item])
        line = model.with_facts(item, state).prompt.splitlines()[0]
        assert line == f"New Fact: {asked.prompt} {asked.target}"


def test_images_count_for_nothing_where_a_question_has_none(
    backbone: VisionLanguageBackbone,
) -> None:
    item = BackboneInput(prompt="The color of the sky is")
    (state,) = backbone.encode([item])
    told = [
        taught(
            backbone, InContextConfig(num_facts=2, image_weight=share, least_similarity=0.0)
        ).with_facts(item, state)
        for share in (0.0, 1.0)
    ]
    assert told[0] == told[1]


def test_fewer_facts_than_asked_for_are_all_told(backbone: VisionLanguageBackbone) -> None:
    model = taught(backbone, InContextConfig(num_facts=9, least_similarity=0.0))
    item = BackboneInput(prompt="Who made this?", image_bytes=image(0))
    (state,) = backbone.encode([item])
    assert model.with_facts(item, state).prompt.count("New Fact:") == 4


def test_nothing_is_told_where_no_fact_is_similar_enough(
    backbone: VisionLanguageBackbone,
) -> None:
    item = BackboneInput(prompt="Who made this?", image_bytes=image(0))
    (state,) = backbone.encode([item])
    gated = taught(backbone, InContextConfig(least_similarity=0.9999))
    assert gated.with_facts(item, state).prompt.count("New Fact:") == 4
    other = BackboneInput(prompt="When was it first shown?", image_bytes=image(77))
    (state,) = backbone.encode([other])
    assert gated.with_facts(other, state) is other
    assert gated.answer([other], 4) == backbone.generate([other], None, max_new_tokens=4)
