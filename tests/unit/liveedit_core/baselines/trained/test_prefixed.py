"""A prefix in the cache acts as the same prefix in one sequence; scope decides who gets one."""

import pytest
import torch
from torch import Tensor

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.trained.makers import make_editor
from liveedit_core.baselines.trained.prefixed import PrefixEditor, prefixed_logits, with_prefix
from liveedit_core.baselines.trained.settings import RecipeConfig, RivalName, SeracConfig
from liveedit_core.method.editor import edit_input
from liveedit_core.schema import ProbeKind
from liveedit_core.states import LayerStates
from pipelines.training.editors import LOCALITIES
from tests.tiny_backbone import case, question
from tests.unit.tiny_editors import tiny_editor, tiny_training_data, trained

TEXT = ProbeKind.TEXT_LOCALITY
NAMES: list[RivalName] = ["serac", "recipe"]
REQUESTS = [case(seed).edit for seed in range(4)]


def test_spans_move_by_the_prefix(backbone: VisionLanguageBackbone) -> None:
    (state,) = backbone.encode([edit_input(REQUESTS[0])])
    moved = with_prefix(state, torch.ones(3, backbone.hidden_size))
    assert moved.num_tokens == state.num_tokens + 3
    for name in ("image_span", "prompt_span", "target_span"):
        start, stop = getattr(state, name)
        assert getattr(moved, name) == (start + 3, stop + 3)
    assert torch.equal(moved.hidden_TD[3:], state.hidden_TD)


@pytest.mark.parametrize("name", NAMES)
def test_logits_from_the_cache_are_those_of_one_sequence(
    name: RivalName, backbone: VisionLanguageBackbone
) -> None:
    editor = tiny_editor(name, backbone)
    assert isinstance(editor, PrefixEditor)
    torch.manual_seed(3)
    prefix_KD = 3 * torch.randn(5, backbone.hidden_size)
    item = edit_input(REQUESTS[1])
    (state,) = backbone.encode([item])
    ids = state.target_ids_O.tolist()
    (whole_OV,) = prefixed_logits(editor.edited, [state], [prefix_KD])

    def only_the_target(number: int, tokens_T: Tensor) -> list[int]:
        return [ids[len(tokens_T) - (state.num_tokens - len(ids))]]

    with editor.begun_with(prefix_KD) as generating:
        (done,) = generating.continuations(
            [item],
            None,
            max_new_tokens=len(ids),
            is_greedy=True,
            prefix_allowed_tokens_fn=only_the_target,
            output_logits=True,
            return_dict_in_generate=True,
        )
    assert len(ids) > 2
    found_OV = torch.cat(done.details.logits)
    torch.testing.assert_close(found_OV, whole_OV, rtol=1e-3, atol=1e-3)
    assert (found_OV - backbone_logits(backbone, state)).abs().max() > 0.1


def backbone_logits(backbone: VisionLanguageBackbone, state: LayerStates) -> Tensor:
    """Without a prefix."""
    return backbone.target_logits([state], state.hidden_TD[None])[0]


@pytest.mark.parametrize(
    ("name", "closed"),
    [("serac", SeracConfig(least_scope=1.0)), ("recipe", RecipeConfig(sentinel_margin=1e6))],
)
def test_questions_out_of_every_scope_get_the_backbones_answer(
    name: RivalName, closed: SeracConfig, backbone: VisionLanguageBackbone
) -> None:
    rival = trained(name, backbone, tiny_training_data(backbone), steps=1)
    editor = make_editor(name, rival, closed, backbone, batch_size=4)
    inputs = [edit_input(REQUESTS[0]), question(9)]
    editor.teach(REQUESTS, backbone.encode([edit_input(request) for request in REQUESTS]))
    assert editor.answer(inputs, 4) == backbone.generate(inputs, None, max_new_tokens=4)


@pytest.mark.parametrize("name", NAMES)
def test_training_brings_edits_into_scope_and_texts_out_of_it(
    name: RivalName, backbone: VisionLanguageBackbone
) -> None:
    data = tiny_training_data(backbone)
    rival = trained(name, backbone, data, steps=60)
    config = SeracConfig() if name == "serac" else RecipeConfig()
    editor = make_editor(name, rival, config, backbone, batch_size=4)
    assert isinstance(editor, PrefixEditor)
    edits = data.states([one.edit for one in data.cases])
    texts = data.states([one.locality[LOCALITIES.index(TEXT)] for one in data.cases])
    editor.teach([case(seed).edit for seed in range(8)], edits)
    assert sum(editor.prefix_of(state) is not None for state in edits) >= 5
    assert [editor.prefix_of(state) for state in texts] == [None] * 8
