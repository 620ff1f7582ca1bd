"""An expert is verified on its own questions, and refined until it answers them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.edited_model import EditedModel
from liveedit_core.inputs.rejects import WeakEditError
from liveedit_core.method import refine
from liveedit_core.method.config import GeneratorConfig, RefineSection
from liveedit_core.method.editor import Editor, edit_input
from liveedit_core.method.expert import Expert
from liveedit_core.method.refine import (
    UNLIKE_QUESTIONS,
    Refiner,
    unlike_question,
    with_rank_by_need,
)
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates
from tests.tiny_backbone import (
    OUR_CONFIG,
    plain_convolutions,
    request,
    tiny_backbone,
    tiny_generator,
)

KEEPS_ALL = OUR_CONFIG.with_changes(gain=10.0, has_hard_filter=False, min_gate=0.0, visual_gate=0.0)
REQUESTS = [
    request(0),
    replace(request(1), target="Unit 7, serial AB-4711-X"),
    replace(request(2), target="39", also_asked=("Who made this?",)),
]


@pytest.fixture(scope="module")
def backbone() -> Iterator[VisionLanguageBackbone]:
    """One that can end an answer, as the row of a padding token is zero; with the smaller margins
    that its logits allow."""
    own = tiny_backbone.__wrapped__()
    drawer = torch.Generator().manual_seed(0)
    own.embed.weight[own.end_id] = torch.randn(own.hidden_size, generator=drawer) * 0.15
    with plain_convolutions(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(refine, "MARGIN", 1.0)
        patch.setattr(refine, "UNLIKE_MARGIN", 0.1)
        yield own


def refining_editor(
    backbone: VisionLanguageBackbone, config: GeneratorConfig = KEEPS_ALL, max_steps: int = 100
) -> Editor:
    generator = tiny_generator(config)
    refiner = Refiner(backbone, generator, max_steps=max_steps)
    return Editor(backbone, generator, ExpertRepository.empty(config), refiner)


@pytest.fixture(scope="module")
def editor(backbone: VisionLanguageBackbone) -> Editor:
    return refining_editor(backbone)


@pytest.fixture(scope="module")
def experts(editor: Editor) -> list[Expert]:
    """Those of `REQUESTS`, written together."""
    return editor.write_experts(REQUESTS)


def matrices_equal(one: Expert, other: Expert) -> bool:
    return torch.equal(one.down_RD, other.down_RD) and torch.equal(one.up_RD, other.up_RD)


def answer(editor: Editor, expert: Expert, edit: EditRequest, prompt: str) -> str:
    """Greedy, under the routing of a model with this edit alone."""
    repository = ExpertRepository.from_experts(editor.generator.config, [expert])
    route = editor.with_repository(repository).router()
    item = BackboneInput(prompt=prompt, image_bytes=edit.image_bytes)
    return editor.backbone.generate([item], route, max_new_tokens=40)[0]


def test_refined_experts_answer_every_wording_of_their_edits(
    editor: Editor, experts: list[Expert]
) -> None:
    for edit, expert in zip(REQUESTS, experts, strict=True):
        assert expert.outcome.state == "refined", "the generator was never trained"
        assert 1 <= expert.outcome.steps < 100
        assert (expert.outcome.answer, expert.outcome.reason) == ("", "")
        for prompt in (edit.prompt, *edit.also_asked):
            assert answer(editor, expert, edit, prompt) == edit.target


def test_a_refined_expert_answers_whatever_passes_the_gate(
    editor: Editor, experts: list[Expert]
) -> None:
    chosen = [unlike_question(edit.edit_id) for edit in REQUESTS]
    assert set(chosen) < set(UNLIKE_QUESTIONS)
    for edit, expert, prompt in zip(REQUESTS, experts, chosen, strict=True):
        assert answer(editor, expert, edit, prompt) == edit.target


def test_an_outcome_does_not_depend_on_the_other_edits(
    editor: Editor, experts: list[Expert]
) -> None:
    reverse = editor.write_experts(REQUESTS[::-1])[::-1]
    for edit, expert, other in zip(REQUESTS, experts, reverse, strict=True):
        (alone,) = editor.write_experts([edit])
        assert alone.outcome == expert.outcome == other.outcome
        assert matrices_equal(alone, expert)
        assert matrices_equal(other, expert)
        assert torch.equal(alone.visual_feature_QM, expert.visual_feature_QM)
        assert torch.equal(alone.prompt_feature_QM, expert.prompt_feature_QM)


def test_a_right_expert_stays_as_it_is(editor: Editor, experts: list[Expert]) -> None:
    assert editor.refiner is not None
    states = editor.backbone.encode([edit_input(REQUESTS[0])])
    (again,) = editor.refiner.refine(experts[:1], [edit_input(REQUESTS[0])], states)
    assert (again.outcome.state, again.outcome.steps) == ("verified", 0)
    assert matrices_equal(again, experts[0])


def test_an_edit_that_stays_wrong_is_weak(backbone: VisionLanguageBackbone) -> None:
    editor = refining_editor(backbone, max_steps=1)
    (expert,) = editor.write_experts(REQUESTS[1:2])
    assert (expert.outcome.state, expert.outcome.reason) == ("weak", "text")
    assert expert.outcome.steps == 1
    assert expert.outcome.answer not in ("", REQUESTS[1].target)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"has_hard_filter": True}, "filter"), ({"min_gate": 0.999}, "gate")],
)
def test_an_expert_that_routing_drops_is_weak(
    backbone: VisionLanguageBackbone, change: dict[str, Any], reason: str
) -> None:
    config = KEEPS_ALL.with_changes(**change)
    editor = refining_editor(backbone, config)
    if reason == "filter":
        editor.generator.visual_key.offset.fill_(1e3)
    written = Editor(backbone, editor.generator, editor.repository).write_experts(REQUESTS[:1])
    (expert,) = editor.write_experts(REQUESTS[:1])
    assert (expert.outcome.state, expert.outcome.reason) == ("weak", reason)
    states = backbone.encode([edit_input(REQUESTS[0])])
    (unedited,) = backbone.target_logits(states, states[0].hidden_TD[None], has_end=True)
    ids = [i for i in unedited.argmax(-1).tolist() if i != backbone.end_id]
    assert expert.outcome.answer == backbone.decode(ids)
    assert matrices_equal(expert, written[0])


def test_a_settled_edit_runs_the_forwards_of_unfinished_ones(
    editor: Editor, experts: list[Expert], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a rank of a gang does whose peers are not done."""
    others: Iterator[bool] = iter([False, True, True, True, False])  # no more wordings; steps
    states = editor.backbone.encode([edit_input(REQUESTS[0])])
    refiner = Refiner(
        editor.backbone, editor.generator, max_steps=60, is_any=lambda flag: flag or next(others)
    )
    calls: list[int] = []
    logits = editor.backbone.target_logits

    def counted(*arguments: Any, **options: Any) -> list[torch.Tensor]:
        calls.append(1)
        return logits(*arguments, **options)

    monkeypatch.setattr(editor.backbone, "target_logits", counted)
    (expert,) = refiner.refine(experts[:1], [edit_input(REQUESTS[0])], states)
    assert len(calls) == 3, "its own, and two for the others"
    assert matrices_equal(expert, experts[0])


def test_a_long_target_gets_the_rank_it_needs(experts: list[Expert]) -> None:
    down_RD, up_RD = with_rank_by_need(experts[0], 40)
    rank = experts[0].rank
    assert down_RD.shape == up_RD.shape == (41, experts[0].down_RD.shape[1])
    assert torch.equal(down_RD[:rank], experts[0].down_RD)
    assert not up_RD[rank:].any()
    assert down_RD[rank:].any()
    assert torch.equal(down_RD, with_rank_by_need(experts[0], 40)[0])
    assert len(with_rank_by_need(experts[0], 0)[0]) == rank


def test_authors_checkpoints_are_not_refined_unless_asked() -> None:
    paper = GeneratorConfig(hidden_size=32, num_image_tokens=4, edit_layer=1)
    assert not RefineSection().is_on(paper)
    assert RefineSection().is_on(OUR_CONFIG)
    assert RefineSection(mode="on").is_on(paper)
    assert not RefineSection(mode="off").is_on(OUR_CONFIG)


def test_a_weak_edit_is_refused_or_kept_with_its_reason(backbone: VisionLanguageBackbone) -> None:
    edit, generator = REQUESTS[1], tiny_generator(KEEPS_ALL)
    few = RefineSection(max_steps=1)
    strict = EditedModel(backbone, generator, refine=few)
    with pytest.raises(WeakEditError, match=r"instead of 'Unit 7.* not right after 1 refinement"):
        strict.edit_many([edit])
    assert (strict.edits, strict.outcome(edit.edit_id)) == ((), None)
    model = EditedModel(backbone, generator, refine=few, weak="commit")
    (edit_id,) = model.edit_many([edit])
    outcome = model.outcome(edit_id)
    assert outcome is not None
    assert (outcome.state, outcome.reason) == ("weak", "text")
    assert model.edits == (edit_id,)


def test_a_linear_step_takes_a_linear_loss_to_zero(backbone: VisionLanguageBackbone) -> None:
    (states,) = backbone.encode([edit_input(REQUESTS[1])])
    refiner = Refiner(backbone, tiny_generator(KEEPS_ALL), max_steps=1)
    asked = [refine.Question(states, weight=1.0)]
    start, stop = states.target_span
    normed_OD = refiner.generator.hidden_norm(states.hidden_TD[start - 1 : stop])
    down_RD = normed_OD[:2].clone()
    goal_RD = torch.randn(down_RD.shape, generator=torch.Generator().manual_seed(0))
    reach = float(states.hidden_TD.norm(dim=1).mean())
    for height, is_near in ((1e-3 * reach, True), (1e3 * reach, False)):
        up_RD = torch.zeros_like(down_RD, requires_grad=True)
        loss = height + (up_RD * goal_RD).sum()
        loss.backward()
        step_RD = refiner._linear_step(loss, asked, down_RD, up_RD)
        assert (step_RD is not None) == is_near
        if step_RD is not None:
            after = loss.item() + float((step_RD * goal_RD).sum())
            assert after == pytest.approx(0.0, abs=1e-3 * height)


def test_far_answers_are_found_by_adam_and_near_ones_by_linear_steps(
    backbone: VisionLanguageBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    (written,) = Editor(
        backbone, tiny_generator(KEEPS_ALL), ExpertRepository.empty(KEEPS_ALL)
    ).write_experts(REQUESTS[:1])
    for longest, is_down_kept in ((1e9, True), (0.0, False)):
        monkeypatch.setattr(refine, "LONGEST_STEP", longest)
        (expert,) = refining_editor(backbone, max_steps=1).write_experts(REQUESTS[:1])
        assert torch.equal(expert.down_RD[: written.rank], written.down_RD) == is_down_kept
        assert not torch.equal(expert.up_RD[: written.rank], written.up_RD)


def test_a_right_answer_still_counts_until_it_leads_by_the_margin() -> None:
    answer = refine.Answer(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))
    assert answer.margin == 2.0
    assert answer.loss(2.0).item() == pytest.approx(math.log(2))
    assert answer.loss(0.0) < 0.13 < 2.0 < answer.loss(4.0)


def test_each_edit_is_answered_apart(
    backbone: VisionLanguageBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = refining_editor(backbone, max_steps=1)
    sizes: list[int] = []
    target_logits = backbone.target_logits

    def count(states: Sequence[LayerStates], *rest: Any, **more: Any) -> list[torch.Tensor]:
        sizes.append(len(states))
        return target_logits(states, *rest, **more)

    monkeypatch.setattr(backbone, "target_logits", count)
    editor.write_experts(REQUESTS)
    assert sizes[:3] == [1, 1, 2], "its wordings, as they were written"
    assert sizes[3:] == [1, 2, 1, 2, 2, 3], "the same; after the step the unlike question too"
