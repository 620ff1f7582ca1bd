"""Generation routes once, and a key-value cache changes its cost alone."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from liveedit_core.backbones.protocol import Residual
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.edited_model import EditedModel
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.editor import Editor
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.states import LayerStates, pad_hidden
from tests.tiny_backbone import (
    OUR_CONFIG,
    TINY_CONFIG,
    answers,
    question,
    request,
    tiny_generator,
    tiny_without_tower,
)

CONFIGS = (OUR_CONFIG.with_changes(gain=60.0, min_gate=0.0), TINY_CONFIG.with_changes(gain=60.0))
both_configs = pytest.mark.parametrize("config", CONFIGS, ids=["ours", "paper"])


def edited(backbone: VisionLanguageBackbone, config: GeneratorConfig) -> Editor:
    editor = Editor(backbone, tiny_generator(config), ExpertRepository.empty(config))
    return editor.with_edits([request(number) for number in range(8)])


@both_configs
@given(st.lists(st.integers(0, 12), min_size=1, max_size=5))
@settings(max_examples=4)
def test_with_and_without_cache(
    backbone: VisionLanguageBackbone, config: GeneratorConfig, numbers: list[int]
) -> None:
    editor = edited(backbone, config)
    num_routings = 0
    questions = [question(number) for number in numbers]
    encoded = backbone.encode(questions)

    def route(index: Sequence[int], states: Sequence[LayerStates]) -> Residual | None:
        nonlocal num_routings
        num_routings += 1
        return editor.residual(editor.route([encoded[i] for i in index]))

    texts = backbone.generate(questions, route, max_new_tokens=6)
    greedy = {"max_new_tokens": 6, "do_sample": False, "num_beams": 1}
    # Without a tower: transformers always caches when it is given embeddings.
    uncached = tiny_without_tower().continuations(questions, route, use_cache=False, **greedy)
    assert texts == [one.texts[0] for one in uncached]
    assert texts == [answer.text for answer in answers(editor, questions, 6)]
    assert num_routings <= 2 * len(questions)  # once a batch, never once a token


def word_ids(backbone: VisionLanguageBackbone) -> list[int]:
    """Tokens of a space and a word: a text made of them is tokenized into the same tokens again."""
    vocabulary = backbone.tokenizer.get_vocab()
    return [i for token, i in vocabulary.items() if token.startswith("\u0120") and len(token) > 3]


@both_configs
@given(st.integers(0, 12))
@settings(max_examples=4)
def test_generated_tokens_are_the_teacher_forced_argmax(
    backbone: VisionLanguageBackbone, config: GeneratorConfig, number: int
) -> None:
    """Feeding an answer back as the target gives the same tokens: both paths edit alike."""
    editor, allowed = edited(backbone, config), word_ids(backbone)
    item = question(number)
    others = sorted(set(range(len(backbone.tokenizer))) - set(allowed))
    model = EditedModel(backbone, editor.generator, editor.repository)
    (answer,) = model.generate(
        [item.image_bytes], [item.prompt], max_new_tokens=4, suppress_tokens=others, do_sample=False
    )
    states = backbone.encode([replace(item, target=answer.text)])
    assert states[0].target_ids_O.tolist() == list(answer.token_ids[0])
    hidden_BTD = pad_hidden(states).values_BSD
    residual = editor.residual(editor.route(states))
    assert (residual is None) == (answer.routing is None or not answer.routing.kept)
    if residual is not None:
        hidden_BTD = hidden_BTD + residual(hidden_BTD)
    with torch.no_grad():
        (logits_OV,) = backbone.target_logits(states, hidden_BTD)
    logits_OV[:, others] = -torch.inf
    assert tuple(logits_OV.argmax(-1).tolist()) == answer.token_ids[0]
