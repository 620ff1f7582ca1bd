"""Textual edits: facts about no image, found by their prompt alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from liveedit_core import replacing
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.baselines.lookup import Lookup
from liveedit_core.edited_model import EditedModel
from liveedit_core.errors import InputError
from liveedit_core.inputs.rejects import RefusedInputError
from liveedit_core.method.config import GeneratorConfig, RefineSection
from liveedit_core.method.editor import edit_input
from liveedit_core.method.prompt_key import TEXT_OFFSET, TEXT_OWN_SIMILARITY
from liveedit_core.method.routing import similarity
from liveedit_core.model_folder import read_model
from liveedit_core.schema import EditRequest
from tests.tiny_backbone import (
    AS_WRITTEN,
    OUR_CONFIG,
    PROMPT_SIZE,
    TinyPromptEncoder,
    image,
    plain_convolutions,
    tiny_backbone,
    tiny_generator,
)

SENTINEL = OUR_CONFIG.with_changes(
    gain=10.0,
    prompt_source="sentences",
    prompt_size=PROMPT_SIZE,
    prompt_rank=6,
    visual_rank=6,
    min_gate=0.5,
    has_own_ranks=True,
    rank=8,
    num_target_positions=8,
)
RUNNER_UP = SENTINEL.with_changes(visual_filter="runner_up", visual_gate=0.0)
WHO = "Who made this?"
CITY = "Which city does this come from?"


@pytest.fixture(scope="module", params=[SENTINEL, RUNNER_UP], ids=["sentinel", "runner_up"])
def config(request: pytest.FixtureRequest) -> Iterator[GeneratorConfig]:
    with plain_convolutions():
        yield request.param


def model_of(config: GeneratorConfig, refine: RefineSection = AS_WRITTEN) -> EditedModel:
    """With a backbone that can end an answer: the row of a padding token is zero."""
    backbone = tiny_backbone.__wrapped__().with_prompt_encoder(TinyPromptEncoder())
    drawer = torch.Generator().manual_seed(0)
    backbone.embed.weight[backbone.end_id] = torch.randn(32, generator=drawer) * 0.15
    assert backbone.image_tower is not None
    backbone.image_tower.has_views = backbone.has_image_views = config.has_image_views
    generator = tiny_generator(config)
    generator.prompt_key.log_scale.fill_(3.0)
    return EditedModel(backbone, generator, refine=refine, weak="commit")


def states_of(model: EditedModel, shown: bytes | None, prompt: str) -> Any:
    return model.editor.backbone.encode([BackboneInput(prompt=prompt, image_bytes=shown)])


def test_a_textual_edit_answers_with_any_image_or_none(config: GeneratorConfig) -> None:
    model = model_of(config, RefineSection(mode="on"))
    before = model.answer(None, "The opposite of hot is")
    edit_id = model.edit(None, WHO, "Anna Keller")
    outcome = model.outcome(edit_id)
    assert outcome is not None
    assert outcome.state in ("verified", "refined")
    assert model.answer(None, WHO) == "Anna Keller"
    assert model.answer(None, "The opposite of hot is") == before
    for shown in (None, image(3), image(4)):
        (done,) = model.generate([shown], [WHO], max_new_tokens=3)
        assert done.routing is not None
        assert done.routing.kept == (edit_id,)
        found = model.explain(shown, WHO)
        assert [edit.edit_id for edit in found.kept] == [edit_id]
        assert found.image().size
    model.remove(edit_id)
    assert model.generate([None], [WHO], max_new_tokens=3)[0].routing is None
    with pytest.raises(InputError, match="textual edits alone"):
        model.explain(None, WHO)


def test_its_expert_depends_on_its_request_alone(config: GeneratorConfig) -> None:
    few = RefineSection(mode="on", max_steps=2)
    alone, among = model_of(config, few), model_of(config, few)
    facts = [(None, WHO, "Anna Keller"), (image(0), WHO, "Boris Novak"), (None, CITY, "quiet")]
    edit_ids = among.edit_many(facts)
    for fact, edit_id in zip(facts, edit_ids, strict=True):
        assert alone.edit_many([fact]) == (edit_id,)
    one, other = alone.editor.repository.compact(), among.editor.repository.compact()
    for name in ("visual_features_NK", "prompt_features_NK", "down_LD", "up_LD"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert one.textual_positions.tolist() == other.textual_positions.tolist() == [0, 2]


def test_visual_edits_do_not_see_textual_ones(config: GeneratorConfig) -> None:
    """Kept sets, weights and the calibration of images, bit for bit."""
    visual = [(image(n), WHO, f"entity {n}") for n in range(3)]
    plain, mixed = model_of(config), model_of(config)
    ids = plain.edit_many(visual)
    mixed.edit_many([(None, "When was it first shown?", "1984"), *visual, (None, CITY, "quiet")])
    assert plain.editor.calibration == mixed.editor.calibration
    for n in range(5):
        asked = states_of(plain, image(n), WHO)
        first, second = plain.editor.route(asked), mixed.editor.route(asked)
        assert plain.editor.explain(first) == mixed.editor.explain(second)
    (nothing,) = mixed.generate([None], [WHO], max_new_tokens=2)
    assert nothing.routing is not None
    assert not nothing.routing.kept
    assert not set(ids) & {e.edit_id for e in mixed.explain(None, CITY).kept}


def test_a_visual_and_a_textual_edit_of_one_question_share_the_answer(
    config: GeneratorConfig,
) -> None:
    model = model_of(config)
    visual, textual = model.edit_many([(image(0), WHO, "Boris"), (None, WHO, "Anna")])
    kept = model.explain(image(0), WHO).kept
    assert {edit.edit_id for edit in kept} == {visual, textual}
    weight = {edit.edit_id: edit.weight for edit in kept}
    assert weight[visual] > weight[textual] > 0
    assert [edit.edit_id for edit in model.explain(None, WHO).kept] == [textual]


def test_a_correction_replaces_the_older_one_and_an_image_keeps_them_apart(
    config: GeneratorConfig,
) -> None:
    model = model_of(config)
    visual = model.edit(image(0), WHO, "Boris")
    first = model.edit(None, WHO, "Anna")
    second = model.edit(None, f" {WHO.upper()} ", "Novak")
    assert set(model.edits) == {visual, second}
    assert [(c.edit_id, c.supersedes) for c in model.corrections] == [(second, first)]
    model.remove(second)
    assert set(model.edits) == {visual, first}


def test_prompts_that_name_other_things_correct_nothing(
    config: GeneratorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacing, "passes_gate", lambda *_: True)
    model = model_of(config)
    one, other = (
        model.edit(None, "Who made plane 1?", "A"),
        model.edit(None, "Who made plane 2?", "B"),
    )
    again = model.edit(None, "plane 2, who made it?", "C")
    assert set(model.edits) == {one, again}
    assert [item.supersedes for item in model.corrections] == [other]


def test_a_folder_keeps_textual_edits(config: GeneratorConfig, tmp_path: Path) -> None:
    model = model_of(config)
    edit_id = model.edit_many([(image(0), CITY, "quiet"), (None, WHO, "Anna")])[1]
    model.save(tmp_path)
    generator = model.editor.generator
    experts, facts = read_model(tmp_path, model.editor.backbone.digest, generator)
    again = EditedModel(model.editor.backbone, generator, experts, facts, refine=AS_WRITTEN)
    assert again.generate([None], [WHO]) == model.generate([None], [WHO])
    again.remove(edit_id)
    again.save(tmp_path)
    experts, _ = read_model(tmp_path, model.editor.backbone.digest, generator)
    assert not len(experts.textual_positions)
    assert len(experts.without([edit_id]).compact()) == 1


def test_a_bank_of_the_lookup_routes_the_same(config: GeneratorConfig) -> None:
    model = model_of(config)
    requests = [
        EditRequest(image_bytes=shown, prompt=prompt, target=target)
        for shown, prompt, target in ((None, WHO, "Anna"), (image(0), CITY, "quiet"))
    ]
    lookup = Lookup(model.editor)
    lookup.teach(requests, model.editor.edit_states(requests))
    asked = [BackboneInput(prompt=WHO), BackboneInput(prompt=CITY, image_bytes=image(0))]
    assert lookup.answer(asked, 4) == ["Anna", "quiet"]


def test_every_own_wording_passes_and_the_offset_is_strict(config: GeneratorConfig) -> None:
    model = model_of(config)
    key = model.editor.generator.prompt_key
    draw = torch.Generator().manual_seed(0)
    wordings = [torch.randn(count, config.prompt_size, generator=draw) for count in (1, 3)]
    stored = key(wordings, is_edit=True, is_textual=[True, True]).flatten(1)
    for number, rows_WP in enumerate(wordings):
        asked = key([row[None] for row in rows_WP], is_edit=False)
        own = similarity(asked, stored)[:, number]
        assert own.min() >= TEXT_OWN_SIMILARITY - 0.01
    text_XS = key.text(torch.cat(wordings))
    cosine = float(text_XS[0] @ text_XS[1])
    other = similarity(key([wordings[1][:1]], is_edit=False), stored)[0, 0]
    assert torch.isclose(other, torch.tensor(50 * (cosine - TEXT_OFFSET)), atol=1e-3)


@pytest.mark.parametrize("change", [{"prompt_source": "edit_layer"}, {"min_gate": 0.0}])
def test_it_is_refused_where_prompts_do_not_tell_edits_apart(change: dict[str, Any]) -> None:
    fields = {"prompt_size": 0, "prompt_rank": 0} if "prompt_source" in change else {}
    config = SENTINEL.with_changes(**change, **fields)
    backbone = tiny_backbone()
    if config.prompt_size:
        backbone = backbone.with_prompt_encoder(TinyPromptEncoder())
    model = EditedModel(backbone, tiny_generator(config), refine=RefineSection(mode="off"))
    with pytest.raises(RefusedInputError, match="without an image"):
        model.edit(None, WHO, "Anna")
    request = EditRequest(image_bytes=None, prompt=WHO, target="Anna")
    with pytest.raises(RefusedInputError, match="without an image"):
        model.editor.write_experts([request])


def test_states_without_an_image_have_prompt_embeddings_and_are_those_of_a_batch() -> None:
    backbone = tiny_backbone().with_prompt_encoder(TinyPromptEncoder())
    request = EditRequest(image_bytes=None, prompt=WHO, target="Anna", also_asked=(CITY,))
    (alone,) = backbone.encode([edit_input(request)])
    assert not alone.has_image
    assert alone.prompt_embeddings_WP.shape[0] == 2
    with plain_convolutions():
        both = backbone.encode(
            [edit_input(replace(request, image_bytes=image(0))), edit_input(request)]
        )
    assert torch.equal(both[1].prompt_embeddings_WP, alone.prompt_embeddings_WP)
    torch.testing.assert_close(both[1].hidden_TD, alone.hidden_TD)
