"""Where no expert answers, the output is the backbone's own, bit for bit."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.evaluation.probes import PROTOCOLS
from liveedit_core.evaluation.scoring import CaseScorer
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.editor import Editor
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.states import LayerStates, pad_hidden
from tests.random_states import random_expert
from tests.tiny_backbone import (
    OUR_CONFIG,
    TINY_CONFIG,
    answers,
    case,
    question,
    request,
    tiny_generator,
)

LOUD = OUR_CONFIG.with_changes(gain=60.0, min_gate=0.0)
LOUD_PAPER = TINY_CONFIG.with_changes(gain=60.0)
both_configs = pytest.mark.parametrize("config", [LOUD, LOUD_PAPER], ids=["ours", "paper"])
numbers = st.integers(0, 20)


def empty_editor(backbone: VisionLanguageBackbone, config: GeneratorConfig) -> Editor:
    return Editor(backbone, tiny_generator(config), ExpertRepository.empty(config))


def below_sentinel(editor: Editor, states: Sequence[LayerStates]) -> ExpertRepository:
    """Experts that each input's hard filter refuses: far on the other side of the sentinel."""
    config = editor.generator.config
    features = editor.generator.input_features(states)
    assert features.sentinel_BQM is not None
    direction = features.visual_BQM.mean(0)
    experts = []
    for number in range(4):
        expert = random_expert(number, config)
        away = features.sentinel_BQM.mean(0) - (20 + number) * direction
        experts.append(replace(expert, visual_feature_QM=away))
    return ExpertRepository.from_experts(config, experts)


class LogitRecorder:
    """Remembers everything the output head says, to compare bits rather than words."""

    def __init__(self, backbone: VisionLanguageBackbone) -> None:
        self.head = backbone.model.lm_head
        self.logits: list[Tensor] = []

    def __enter__(self) -> list[Tensor]:
        self.handle = self.head.register_forward_hook(
            lambda module, arguments, output: self.logits.append(output.clone())
        )
        return self.logits

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


def assert_same_bits(
    editor: Editor, backbone: VisionLanguageBackbone, questions: list[BackboneInput]
) -> None:
    with LogitRecorder(backbone) as ours:
        found = answers(editor, questions, 5)
    with LogitRecorder(backbone) as expected:
        texts = backbone.generate(questions, None, max_new_tokens=5)
    assert [answer.text for answer in found] == texts
    assert len(ours) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))


@both_configs
@given(st.lists(numbers, min_size=1, max_size=4))
@settings(max_examples=4)
def test_an_empty_bank(
    backbone: VisionLanguageBackbone, config: GeneratorConfig, chosen: list[int]
) -> None:
    editor = empty_editor(backbone, config)
    assert_same_bits(editor, backbone, [question(number) for number in chosen])


@both_configs
@given(numbers)
@settings(max_examples=4)
def test_nothing_kept(
    backbone: VisionLanguageBackbone, config: GeneratorConfig, number: int
) -> None:
    editor = empty_editor(backbone, config)
    item = question(number)
    states = backbone.encode([item])
    editor = editor.with_repository(below_sentinel(editor, states))
    routing = editor.route(states)
    assert not routing.kept_BN.any()
    assert editor.residual(routing) is None
    assert_same_bits(editor, backbone, [item])


@given(
    st.lists(
        st.sampled_from(("The opposite of hot is", "The color of grass is", "Who")),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=5)
def test_no_image(backbone: VisionLanguageBackbone, prompts: list[str]) -> None:
    editor = empty_editor(backbone, LOUD).with_edits([request(number) for number in range(4)])
    assert_same_bits(editor, backbone, [BackboneInput(prompt=prompt) for prompt in prompts])


@both_configs
@given(numbers)
@settings(max_examples=2)
def test_scores_where_nothing_is_kept(
    backbone: VisionLanguageBackbone, config: GeneratorConfig, number: int
) -> None:
    """Kept and unkept probes share batches; each unkept one keeps the unedited answer."""
    editor = empty_editor(backbone, config)
    cases = [case(number), case(number + 1)]
    scorer = CaseScorer(editor)
    prepared = scorer.prepare(cases, has_free_answers=True, max_new_tokens=4)
    written = editor.write_experts([cases[0].edit])
    banks = (
        ExpertRepository.empty(config),
        ExpertRepository.from_experts(config, written),
        below_sentinel(editor, [p.states for p in prepared.probes if p.states.has_image]),
    )
    for bank in banks:
        for result in scorer.score(prepared, bank, protocols=PROTOCOLS, max_new_tokens=4):
            if not result.kept:
                assert result.answer_after == result.answer_before
                if result.kind.is_locality:
                    assert result.score == 1.0


@both_configs
@given(numbers)
@settings(max_examples=4)
def test_an_unkept_row_of_a_batch_is_untouched(
    backbone: VisionLanguageBackbone, config: GeneratorConfig, number: int
) -> None:
    """One input keeps experts, its neighbour does not: the neighbour's logits stay the same."""
    editor = empty_editor(backbone, config)
    items = [replace(question(number + i), target="1984") for i in range(4)]
    states = backbone.encode(items)
    editor = editor.with_edits([request(number), request(number + 1)])
    routing = editor.route(states)
    routing.kept_BN[2] = False
    routing.weights_BN[2] = 0.0
    hidden_BTD = pad_hidden(states).values_BSD
    residual = editor.residual(routing)
    edited_BTD = hidden_BTD if residual is None else hidden_BTD + residual(hidden_BTD)
    assert torch.equal(edited_BTD[2], hidden_BTD[2])
    edited = backbone.target_logits(states, edited_BTD)
    unedited = backbone.target_logits(states, hidden_BTD)
    assert torch.equal(edited[2], unedited[2])


@both_configs
@given(st.lists(numbers, min_size=1, max_size=3, unique=True), numbers)
@settings(max_examples=2)
def test_an_edit_added_and_removed_leaves_no_trace(
    backbone: VisionLanguageBackbone, config: GeneratorConfig, others: list[int], number: int
) -> None:
    editor = empty_editor(backbone, config).with_edits([request(o + 100) for o in others])
    added = editor.with_edits([request(number)])
    removed = added.with_repository(added.repository.without({request(number).edit_id}))
    assert removed.repository.edit_ids == editor.repository.edit_ids
    questions = [question(number), *(question(o + 100) for o in others)]
    with LogitRecorder(backbone) as expected:
        before = answers(editor, questions, 5)
    with LogitRecorder(backbone) as ours:
        after = answers(removed, questions, 5)
    assert after == before
    assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))
    scorer = CaseScorer(editor)
    prepared = scorer.prepare([case(number)], has_free_answers=True, max_new_tokens=4)
    first = scorer.score(prepared, editor.repository, protocols=PROTOCOLS, max_new_tokens=4)
    assert (
        scorer.score(prepared, removed.repository, protocols=PROTOCOLS, max_new_tokens=4) == first
    )
