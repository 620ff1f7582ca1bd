"""Experts are written, found again, explained and taken away."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.errors import NumericsError, RepositoryMismatchError
from liveedit_core.method.editor import Editor, edit_input
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.method.routing import fused_residual
from liveedit_core.states import pad_hidden
from tests.tiny_backbone import OUR_CONFIG, TINY_CONFIG, question, request, tiny_generator

LOUD = OUR_CONFIG.with_changes(gain=60.0, min_gate=0.0, max_kept=0)
REQUESTS = [request(seed) for seed in range(5)]
QUESTIONS = [question(seed) for seed in range(5)]


@pytest.fixture(scope="module")
def loud_editor(backbone: VisionLanguageBackbone) -> Editor:
    """Five edits whose residual is large enough to change answers."""
    editor = Editor(backbone, tiny_generator(LOUD), ExpertRepository.empty(LOUD))
    return editor.with_edits(REQUESTS)


PYRAMID = {"visual_source": "tower_pyramid", "visual_size": 9, "visual_rank": 4}


@pytest.mark.parametrize("change", [{"edit_layer": 2}, {"num_image_tokens": 9}, PYRAMID])
def test_a_generator_of_another_backbone_is_refused(
    backbone: VisionLanguageBackbone, change: dict[str, Any]
) -> None:
    config = TINY_CONFIG.with_changes(**change)
    with pytest.raises(RepositoryMismatchError, match="trained on this backbone"):
        Editor(backbone, tiny_generator(config), ExpertRepository.empty(config))


def test_known_states_give_the_same_experts(empty_editor: Editor) -> None:
    states = empty_editor.backbone.encode([edit_input(edit) for edit in REQUESTS])
    first = empty_editor.write_experts(REQUESTS)
    second = empty_editor.write_experts(REQUESTS, states)
    assert [expert.edit_id for expert in first] == [edit.edit_id for edit in REQUESTS]
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.down_RD, other.down_RD)
        assert torch.equal(one.visual_feature_QM, other.visual_feature_QM)
    assert empty_editor.write_experts([]) == []


def test_experts_of_different_ranks_act_together_as_padded_ones(
    backbone: VisionLanguageBackbone,
) -> None:
    config = LOUD.with_changes(has_own_ranks=True, rank=12, num_target_positions=12)
    generator = tiny_generator(config)
    editor = Editor(backbone, generator, ExpertRepository.empty(config)).with_edits(REQUESTS)
    states = backbone.encode([edit_input(edit) for edit in REQUESTS])
    ranks = [len(state.target_ids_O) + 1 for state in states]
    assert editor.repository.ranks_N.tolist() == ranks
    assert len(set(ranks)) > 1
    routing = editor.route(states)
    hidden_BTD = pad_hidden(states).values_BSD
    added = editor.residual(routing)
    assert added is not None
    used = routing.kept_BN.any(0).nonzero().flatten()
    down_NRD, up_NRD = (matrix[used] for matrix in generator.write_matrices(states))
    normed_BTD, weights_BN = generator.hidden_norm(hidden_BTD), routing.weights_BN[:, used]
    padded = fused_residual(normed_BTD, weights_BN, down_NRD, up_NRD, config.gain)
    torch.testing.assert_close(added(hidden_BTD), padded)


def test_a_target_changes_the_expert_and_not_its_features(empty_editor: Editor) -> None:
    edit = REQUESTS[0]
    one, other = empty_editor.write_experts([edit, replace(edit, target="2020")])
    assert not torch.allclose(one.up_RD, other.up_RD, atol=1e-4)
    torch.testing.assert_close(one.visual_feature_QM, other.visual_feature_QM)
    torch.testing.assert_close(one.prompt_feature_QM, other.prompt_feature_QM)


def test_a_non_finite_expert_never_leaves_the_editor(backbone: VisionLanguageBackbone) -> None:
    generator = tiny_generator(TINY_CONFIG)
    generator.up_generator.query[0, 0, 0] = math.nan
    editor = Editor(backbone, generator, ExpertRepository.empty(TINY_CONFIG))
    with pytest.raises(NumericsError, match=REQUESTS[0].edit_id):
        editor.write_experts(REQUESTS)


def test_the_explanation_is_the_routing_by_name(loud_editor: Editor) -> None:
    states = loud_editor.backbone.encode(QUESTIONS)
    batch = loud_editor.route(states)
    assert batch.kept_BN.any()
    for row, routing in enumerate(loud_editor.explain(batch)):
        assert list(routing.weights) == sorted(routing.weights, reverse=True)
        kept = batch.kept_BN[row]
        assert len(routing.kept) == int(kept.sum())
        for edit_id, weight, margin in zip(
            routing.kept, routing.weights, routing.visual_margins, strict=True
        ):
            column = loud_editor.repository.edit_ids.index(edit_id)
            assert weight == batch.weights_BN[row, column].item()
            assert margin == batch.margin_BN[row, column].item() > 0
