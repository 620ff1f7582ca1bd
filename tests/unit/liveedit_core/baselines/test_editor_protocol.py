"""What every editor promises: it learns, it restores, and the backbone stays as it was."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.fine_tuning import FineTuning
from liveedit_core.baselines.grace import Grace
from liveedit_core.baselines.in_context import InContext
from liveedit_core.baselines.live_edit import LiveEdit
from liveedit_core.baselines.lookup import Lookup
from liveedit_core.baselines.lora import Lora
from liveedit_core.baselines.protocol import ComparedEditor, EditorMemory
from liveedit_core.baselines.settings import (
    FineTuningConfig,
    GraceConfig,
    InContextConfig,
    LoraConfig,
)
from liveedit_core.baselines.trained.settings import RIVALS
from liveedit_core.baselines.unedited import Unedited
from liveedit_core.baselines.wise import Wise
from liveedit_core.evaluation.probes import (
    FREE_GENERATION,
    PROTOCOLS,
    TEACHER_FORCED,
    PreparedCases,
)
from liveedit_core.evaluation.scoring import CaseScorer
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.editor import Editor, edit_input
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import ProbeKind
from tests.tiny_backbone import OUR_CONFIG, case, image, question, tiny_generator
from tests.unit.liveedit_core.baselines.learning_editors import (
    LAYER_EDITORS,
    UNRELATED,
    WISE,
    tuned_projector,
)
from tests.unit.tiny_editors import tiny_editor

CONFIG = OUR_CONFIG.with_changes(gain=60.0, min_gate=0.0)
# GRACE exchanges one row, from which one layer of a random model can make one token, not eight.
CASES = [replace(item, edit=replace(item.edit, target="o")) for item in map(case, range(3))]
REQUESTS = [item.edit for item in CASES]
INPUTS = [
    *map(edit_input, REQUESTS),
    *map(question, range(4, 7)),
    BackboneInput(prompt="The opposite of hot is"),
]

Maker = Callable[[VisionLanguageBackbone], ComparedEditor]


FINDS_ONE = CONFIG.with_changes(
    has_hard_filter=False, max_kept=1, soft_routing="average", visual_gate=0.0
)
"""Every question with an image keeps one edit, with a weight of 1."""


def empty_editor(backbone: VisionLanguageBackbone, config: GeneratorConfig = CONFIG) -> Editor:
    return Editor(backbone, tiny_generator(config), ExpertRepository.empty(config))


LEARNING: dict[str, Maker] = {**LAYER_EDITORS, "FT-M": tuned_projector}
ALL: dict[str, Maker] = {
    **LEARNING,
    "IKE": lambda b: InContext(b, InContextConfig(least_similarity=0.0)),
    "LiveEdit": lambda b: LiveEdit(empty_editor(b)),
    "lookup": lambda b: Lookup(empty_editor(b, FINDS_ONE)),
    **{name: partial(tiny_editor, name) for name in RIVALS},
    "unedited": Unedited,
}


@pytest.fixture(scope="module")
def prepared(backbone: VisionLanguageBackbone) -> PreparedCases:
    return CaseScorer(empty_editor(backbone)).prepare(
        CASES, has_free_answers=True, max_new_tokens=4
    )


def teach(model: ComparedEditor, backbone: VisionLanguageBackbone, count: int) -> None:
    requests = REQUESTS[:count]
    model.teach(requests, backbone.encode([edit_input(request) for request in requests]))


def weights_of(backbone: VisionLanguageBackbone) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}


@pytest.mark.parametrize("name", ALL)
def test_restore_gives_back_the_backbone_bit_for_bit(
    name: str, backbone: VisionLanguageBackbone, prepared: PreparedCases
) -> None:
    before, layers = weights_of(backbone), list(backbone.decoder.layers)
    expected = Unedited(backbone).score(prepared, protocols=PROTOCOLS, max_new_tokens=4)
    texts = backbone.generate(INPUTS, None, max_new_tokens=5)
    model = ALL[name](backbone)
    untaught = model.memory()
    for _ in range(2):  # and it can be taught again
        teach(model, backbone, 2)
        taught = model.answer(INPUTS, 5)
        assert (taught == texts) == (name == "unedited")
        assert model.memory().fixed_bytes == untaught.fixed_bytes
        model.restore()
        assert model.answer(INPUTS, 5) == texts
        restored = model.score(prepared, protocols=PROTOCOLS, max_new_tokens=4)
        assert [(r.score, r.answer_after) for r in restored] == [
            (r.score, r.answer_after) for r in expected
        ]
        assert model.memory() == untaught
    assert all(torch.equal(before[n], t) for n, t in backbone.model.state_dict().items())
    assert [id(layer) for layer in backbone.decoder.layers] == [id(layer) for layer in layers]
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


@pytest.mark.parametrize("name", LEARNING)
def test_an_edit_is_learned(
    name: str, backbone: VisionLanguageBackbone, prepared: PreparedCases
) -> None:
    model = LEARNING[name](backbone)
    teach(model, backbone, 1)
    results = model.score(prepared, protocols=PROTOCOLS, max_new_tokens=4)
    own = {
        result.protocol: result
        for result in results
        if result.kind is ProbeKind.RELIABILITY and result.edit_id == REQUESTS[0].edit_id
    }
    assert own[TEACHER_FORCED].score == 1.0
    assert own[FREE_GENERATION].answer_after.startswith("o")
    assert model.answer(INPUTS[:1], 1) == ["o"]


def test_the_end_of_an_answer_is_learned_with_it(backbone: VisionLanguageBackbone) -> None:
    """(The tiny model's end token has an embedding of zeros: it can be asked for, not learned.)"""
    model = FineTuning(backbone, FineTuningConfig())
    states = backbone.encode(INPUTS[:1])
    with torch.no_grad():
        (logits_XV,) = model.logits(model.hidden(states), states, has_end=True)
    ids = [*states[0].target_ids_O.tolist(), backbone.end_id]
    assert len(logits_XV) == len(ids) == 2
    expected = -sum(logits_XV.log_softmax(-1)[i, token] for i, token in enumerate(ids)) / 2
    torch.testing.assert_close(model.target_loss(logits_XV, states[0]), expected)


@pytest.mark.parametrize("name", [*LEARNING, "IKE", *RIVALS])
def test_answers_in_a_batch_are_those_given_alone(
    name: str, backbone: VisionLanguageBackbone
) -> None:
    model = ALL[name](backbone)
    teach(model, backbone, 2)
    assert model.answer(INPUTS, 4) == [model.answer([item], 4)[0] for item in INPUTS]


@pytest.mark.parametrize(
    "name", ["FT-L", "FT-M", "LoRA", "GRACE", "WISE", "TIME-like", "IKE", *RIVALS]
)
def test_free_generation_goes_through_the_edit(
    name: str, backbone: VisionLanguageBackbone, prepared: PreparedCases
) -> None:
    """Token by token, each forward over all rows, gives what the cache gives."""
    model = ALL[name](backbone)
    teach(model, backbone, 2)
    text = model.answer(INPUTS[:1], 3)[0]
    first = model.answer(INPUTS[:1], 1)[0]
    assert text.startswith(first)
    probes = [p for p in prepared.probes if p.kind is ProbeKind.RELIABILITY][:2]
    results = model.score(
        PreparedCases(probes=tuple(probes)), protocols=PROTOCOLS, max_new_tokens=1
    )
    by_probe = {(r.protocol, r.edit_id): r.answer_after for r in results}
    for probe in probes:  # a target of one token: both protocols ask for the same argmax
        assert by_probe[TEACHER_FORCED, probe.edit_id] == by_probe[FREE_GENERATION, probe.edit_id]


def test_memory_is_counted_from_tensors(backbone: VisionLanguageBackbone) -> None:
    hidden, inner = backbone.hidden_size, 2 * backbone.hidden_size
    assert ALL["FT-L"](backbone).memory().fixed_bytes == 4 * hidden * inner
    # two layers of the projector, from the tower's 1 280 channels
    projector = (1280 + 1) * hidden + (hidden + 1) * hidden
    assert ALL["FT-M"](backbone).memory().fixed_bytes == 4 * projector
    lora = Lora(backbone, LoraConfig(rank=3))
    # queries [32, 32] and values [16, 32] of the two layers after the edit layer
    assert lora.memory().fixed_bytes == 4 * 3 * 2 * ((32 + 32) + (32 + 16))
    grace = Grace(backbone, GraceConfig(max_steps=1))
    teach(grace, backbone, 1)
    labels = 8 * len(backbone.tokenizer.encode(" o"))
    assert grace.memory().stored_bytes == 4 * (2 * hidden + 1) + labels
    wise = Wise(backbone, WISE, unrelated=UNRELATED)
    rows = wise.inputs_of(backbone.encode(UNRELATED))
    # the open shard, 4 bytes an element, its mask, 1 byte, and rows of the two unrelated questions
    fixed = 5 * hidden * inner + rows.mask_BS.numel() * (4 * inner + 1)
    assert wise.memory() == EditorMemory(fixed_bytes=fixed, stored_bytes=0)
    teach(wise, backbone, 1)
    assert wise.memory() == EditorMemory(fixed_bytes=fixed, stored_bytes=4 * hidden * inner)
    in_context = InContext(backbone, InContextConfig())
    teach(in_context, backbone, 1)
    text = len((REQUESTS[0].prompt + REQUESTS[0].target).encode())
    assert in_context.memory().stored_bytes == 4 * (backbone.visual_size + hidden) + text


def test_images_of_the_questions_are_their_own() -> None:
    """The inputs above differ in their images, so a batch cannot be right by chance."""
    assert len({item.image_bytes for item in INPUTS}) == len(INPUTS)
    assert image(0) != image(1)
