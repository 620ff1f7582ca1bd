"""The search for an edit layer: fair, short, and it finds the layer that can be edited."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.errors import ConfigError
from pipelines.training.layer_search import (
    LayerRanking,
    LayerScore,
    candidate_layers,
    draw_training,
    encode_views,
    find_layer,
    image_match,
    one_per_entity,
    to_table,
)
from pipelines.training.recipe import LayerSearchSection, ModelSection
from tests.tiny_backbone import EDIT_LAYER, NUM_LAYERS, case, tiny_backbone

MODEL = ModelSection(module_dim=16, num_queries=2, num_attention_heads=2, rank=4)
CASES = [case(number) for number in range(24)]
SECTION = LayerSearchSection(num_cases=8, steps=30, batch_size=8, learning_rate=5e-3)


class SilentHead(nn.Module):
    """Gives every token the same logit."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.head = head

    def forward(self, rows_XD: Tensor) -> Tensor:
        logits: Tensor = self.head(rows_XD) * 0
        return logits


def unteachable_backbone(layer: int) -> VisionLanguageBackbone:
    """A backbone whose answers no edit can change."""
    backbone = copy.copy(tiny_backbone())
    backbone.edit_layer = layer
    backbone.head = SilentHead(backbone.head)
    return backbone


def test_the_layer_that_answers_wins(tmp_path: Path) -> None:
    backbone = copy.copy(tiny_backbone())
    said: list[str] = []

    def at_layer(layer: int) -> VisionLanguageBackbone:
        return tiny_backbone() if layer == EDIT_LAYER else unteachable_backbone(layer)

    backbone.at_layer = at_layer  # type: ignore[method-assign, assignment]
    section = SECTION.with_changes(layers=(EDIT_LAYER - 1, EDIT_LAYER))
    ranking = find_layer(section, MODEL, backbone, CASES, seed=1, say=said.append)
    assert ranking.recommended == EDIT_LAYER
    assert ranking.scores[0].reliability > 2 * ranking.scores[1].reliability
    assert ranking.scores[0].loss < ranking.scores[1].loss
    assert len(said) == 2
    assert ranking.runners_up == ()
    ranking.save(tmp_path / "layers.json")
    content = json.loads((tmp_path / "layers.json").read_text())
    assert content["recommended"] == EDIT_LAYER
    assert [row["layer"] for row in content["layers"]] == [EDIT_LAYER, EDIT_LAYER - 1]
    assert to_table(ranking).row_count == 2


def test_image_rows_count_where_routing_looks_at_them() -> None:
    seeing = LayerScore(
        layer=1,
        reliability=0.6,
        text_generality=0.6,
        modal_generality=0.6,
        image_match=1.0,
        loss=1.0,
        seconds=1.0,
    )
    assert seeing.score(has_visual_rows=False) == pytest.approx(0.6)
    assert seeing.score(has_visual_rows=True) == pytest.approx(0.7)
    ranking = LayerRanking(scores=(seeing,), has_visual_rows=True)
    assert ranking.recommended == 1


@pytest.mark.parametrize(
    ("others", "runners_up"),
    [
        ((0.5, 0.6, 0.4, 0.5), ()),
        ((1.0, 0.2, 0.9, 0.8), (7,)),  # worse on the average, for one case alone
    ],
)
def test_a_lead_within_the_noise_is_told(
    others: tuple[float, ...], runners_up: tuple[int, ...]
) -> None:
    fields: dict[str, float] = dict.fromkeys(
        ("reliability", "text_generality", "modal_generality", "image_match", "loss", "seconds"),
        0.5,
    )
    best = LayerScore(layer=5, by_case=(0.9, 0.9, 0.8, 0.9), **fields)
    second = LayerScore(layer=7, by_case=others, **fields)
    assert LayerRanking(scores=(best, second), has_visual_rows=False).runners_up == runners_up


def test_candidates_leave_a_layer_behind_them() -> None:
    assert candidate_layers(30) == (10, 15, 20, 24, 27)
    assert candidate_layers(32) == (11, 16, 21, 26, 29)
    assert max(candidate_layers(4)) == 2
    assert candidate_layers(8, first=3) == (3, 4, 5, 6)


def test_a_layer_that_is_not_there_is_refused() -> None:
    section = SECTION.with_changes(layers=(NUM_LAYERS - 1,))
    with pytest.raises(ConfigError, match="at least one must follow"):
        find_layer(section, MODEL, tiny_backbone(), CASES, seed=1, say=print)


def test_half_of_the_targets_cannot_be_guessed_from_the_image() -> None:
    drawn = draw_training(CASES, 8, seed=1)
    own = {case.edit.image_bytes: case.edit.target for case in CASES}
    assert all(case.edit.target == own[case.edit.image_bytes] for case in drawn[::2])
    for before, after in zip(drawn[::2], drawn[1::2], strict=True):
        assert after.edit.target == before.edit.target
        kinds = {probe.kind.value: probe.target for probe in after.probes}
        assert kinds["text_generality"] == kinds["modal_generality"] == after.edit.target
    assert drawn == draw_training(CASES[::-1], 8, seed=1)
    with pytest.raises(ConfigError, match="num_cases"):
        draw_training(CASES, 25, seed=1)


def test_image_match_finds_the_same_image() -> None:
    edits = [views[0] for views in encode_views(tiny_backbone(), CASES[:4])]
    assert image_match([(edit, edit, edit) for edit in edits]) == 1.0
    rolled = zip(edits, [*edits[1:], edits[0]], strict=True)
    assert image_match([(edit, other, other) for edit, other in rolled]) == 0.0


def test_an_entity_is_tried_once_and_only_with_all_questions() -> None:
    same = [replace(case, entity="kettle") for case in CASES[:3]]
    mute = replace(CASES[3], probes=CASES[3].probes[:1])
    assert one_per_entity([*same[::-1], mute, CASES[4]]) == [same[0], CASES[4]]


def test_questions_carry_the_target_of_the_edit() -> None:
    (views,) = encode_views(tiny_backbone(), CASES[:1])
    assert len(views) == 3
    assert all(torch.equal(view.target_ids_O, views[0].target_ids_O) for view in views)
