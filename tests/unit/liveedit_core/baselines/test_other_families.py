"""Editors on families whose masks, positions and module names differ."""

from collections.abc import Iterator

import pytest
import torch

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.fine_tuning import FineTuning
from liveedit_core.baselines.projector_tuning import projector_path
from liveedit_core.baselines.settings import FineTuningConfig
from liveedit_core.errors import ConfigError
from liveedit_core.method.editor import edit_input
from liveedit_core.schema import EditRequest
from liveedit_core.states import pad_hidden
from tests.tiny_backbone import image, plain_convolutions, question
from tests.tiny_families import family_backbone
from tests.unit.liveedit_core.baselines.learning_editors import LAYER_EDITORS, tuned_projector

PROMPTS = ("What is shown here?", "Name the thing in the picture.")
REQUESTS = [
    EditRequest(image_bytes=image(i), prompt=prompt, target="o") for i, prompt in enumerate(PROMPTS)
]
INPUTS = [
    *map(edit_input, REQUESTS),
    question(4),
    question(5),
    BackboneInput(prompt="The opposite of hot is"),
    BackboneInput(prompt="Who?"),
]


@pytest.fixture(
    scope="module",
    params=["llava", "qwen2_vl", "blip-2", "paligemma", "qwen3_vl", "gemma3", "mistral3"],
)
def backbone(request: pytest.FixtureRequest) -> Iterator[VisionLanguageBackbone]:
    with plain_convolutions():
        yield family_backbone(request.param)


@pytest.mark.parametrize("name", LAYER_EDITORS)
def test_an_edit_is_learned_generated_and_forgotten(
    name: str, backbone: VisionLanguageBackbone
) -> None:
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    texts = backbone.generate(INPUTS, None, max_new_tokens=4)
    model = LAYER_EDITORS[name](backbone)
    states = backbone.encode(INPUTS[:2])
    untaught = model.ids_of(states)
    logits = backbone.target_logits(states, pad_hidden(states).values_BSD)
    assert untaught == [tuple(row.argmax(-1).tolist()) for row in logits]
    assert model.answer(INPUTS, 4) == texts
    model.teach(REQUESTS[:1], states[:1])
    assert model.ids_of(states[:1]) == [tuple(states[0].target_ids_O.tolist())]
    (answer,) = model.answer(INPUTS[:1], 1)
    assert answer == "o" or answer != texts[0][:1]
    assert model.answer(INPUTS, 4) == [model.answer([item], 4)[0] for item in INPUTS]
    model.restore()
    assert model.ids_of(states) == untaught
    assert model.answer(INPUTS, 4) == texts
    assert all(torch.equal(before[key], v) for key, v in backbone.model.state_dict().items())


def test_a_decoder_without_a_known_matrix_is_refused(backbone: VisionLanguageBackbone) -> None:
    bare = backbone.with_layers(3, [torch.nn.Identity()]).at_layer(2)
    with pytest.raises(ConfigError, match="no linear module"):
        FineTuning(bare, FineTuningConfig())


def test_a_layer_that_remembers_no_tokens_is_refused() -> None:
    backbone = family_backbone("qwen3_5")  # layer 2 has linear attention, layer 3 has not
    for name in ("GRACE", "WISE"):
        with pytest.raises(ConfigError, match="layer 2 counts no tokens"):
            LAYER_EDITORS[name](backbone).answer(INPUTS[:1], 2)


def test_the_projector_is_tuned_through_the_whole_decoder(
    backbone: VisionLanguageBackbone,
) -> None:
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    texts = backbone.generate(INPUTS, None, max_new_tokens=4)
    model = tuned_projector(backbone)
    states = backbone.encode(INPUTS[:1])
    with torch.no_grad():
        untaught = float(model.edit_loss(INPUTS[0], states[0]))
        model.teach(REQUESTS[:1], states)
        assert float(model.edit_loss(INPUTS[0], states[0])) < untaught - 0.5
    answers = model.answer(INPUTS, 4)
    assert answers[:4] != texts[:4]
    assert answers[4:] == texts[4:]
    model.restore()
    assert model.answer(INPUTS, 4) == texts
    assert all(torch.equal(before[key], v) for key, v in backbone.model.state_dict().items())


def test_a_model_without_a_projector_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no module qformer"):
        projector_path(torch.nn.Sequential(torch.nn.Linear(1, 1)))
