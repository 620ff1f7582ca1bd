"""Generation routes once, and a key-value cache changes its cost alone."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from liveedit_core.backbones.huggingface import HuggingFaceBackbone
from liveedit_core.backbones.protocol import Residual
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.editor import Editor
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.states import LayerStates, hidden_rows
from tests.tiny_backbone import OUR_CONFIG, TINY_CONFIG, question, request, tiny_generator

CONFIGS = (replace(OUR_CONFIG, gain=60.0, min_gate=0.0), replace(TINY_CONFIG, gain=60.0))
both_configs = pytest.mark.parametrize("config", CONFIGS, ids=["ours", "paper"])


def edited(backbone: HuggingFaceBackbone, config: GeneratorConfig) -> Editor:
    editor = Editor(backbone, tiny_generator(config), ExpertRepository.empty(config))
    return editor.with_edits([request(number) for number in range(8)])


@both_configs
@given(st.lists(st.integers(0, 12), min_size=1, max_size=5))
@settings(max_examples=4)
def test_with_and_without_cache(
    backbone: HuggingFaceBackbone, config: GeneratorConfig, numbers: list[int]
) -> None:
    editor = edited(backbone, config)
    num_routings = 0

    def route(index: Sequence[int], states: Sequence[LayerStates]) -> Residual | None:
        nonlocal num_routings
        num_routings += 1
        return editor.residual(editor.route(states))

    questions = [question(number) for number in numbers]
    answers = [
        backbone.generate(questions, route, max_new_tokens=6, has_cache=has_cache)
        for has_cache in (True, False)
    ]
    assert answers[0] == answers[1]
    assert answers[0] == [answer.text for answer in editor.answer(questions, 6)]
    lengths = {len(backbone.tokenize(item)[0]) for item in questions}
    assert num_routings >= 2 * len(lengths)  # once a batch, never once a token
    assert num_routings <= 2 * len(questions)


@both_configs
@given(st.integers(0, 12))
@settings(max_examples=4)
def test_generated_tokens_are_the_teacher_forced_argmax(
    backbone: HuggingFaceBackbone, config: GeneratorConfig, number: int
) -> None:
    """Feeding an answer back as the target gives the same tokens: both paths edit alike."""
    editor = edited(backbone, config)
    item = question(number)
    answer = editor.answer([item], 4)[0].text
    states = backbone.encode([replace(item, target=answer)] if answer else [item])
    target = states[0].target_ids_O.tolist()
    generated = backbone.tokenizer.encode(answer, add_special_tokens=False)
    if not answer or target != generated:
        return  # the answer does not survive being spelt out and read again
    hidden_BTD = hidden_rows(states).rows_BSD
    residual = editor.residual(editor.route(states))
    if residual is not None:
        hidden_BTD = hidden_BTD + residual(hidden_BTD)
    with torch.no_grad():
        (logits,) = backbone.target_logits(states, hidden_BTD)
    assert logits.argmax(-1).tolist() == target
