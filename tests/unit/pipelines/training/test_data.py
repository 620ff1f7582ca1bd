"""Material is drawn once, its states are encoded once, and losing the cache changes nothing."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.builtin.benchmark import load_entities
from liveedit_core.states import LayerStates
from pipelines.job.sections import StatesSection
from pipelines.training.data import Material, prepare_material
from pipelines.training.recipe import DataSection, TrainRecipe
from tests.tiny_backbone import tiny_backbone

HELD_OUT = frozenset(entity.name for entity in load_entities("train", "known_train")[3:])
DATA = DataSection(cases_per_entity=2, num_pairs=3)


def recipe(root: Path, *, is_cached: bool = True) -> TrainRecipe:
    states = StatesSection(is_cached=is_cached, dtype="float32")
    return TrainRecipe(run_root=str(root), data=DATA, states=states)


class Encoded:
    """Counts what a backbone encodes."""

    def __init__(self, backbone: VisionLanguageBackbone, patch: pytest.MonkeyPatch) -> None:
        self.num_inputs = 0
        encode = backbone.encode

        def counted(inputs: Sequence[BackboneInput]) -> list[LayerStates]:
            self.num_inputs += len(inputs)
            return encode(inputs)

        patch.setattr(backbone, "encode", counted)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Encoded:
    return Encoded(tiny_backbone(), monkeypatch)


def prepared(root: Path, *, is_cached: bool = True, folder: str = "material") -> Material:
    made = recipe(root, is_cached=is_cached)
    return prepare_material(made, tiny_backbone(), root / folder, HELD_OUT)


def all_states(material: Material) -> list[LayerStates]:
    return material.data.states(range(len(material.data.inputs)))


def test_states_are_encoded_once_whatever_is_prepared_again(
    tmp_path: Path, encoded: Encoded
) -> None:
    material = prepared(tmp_path)
    num_distinct = len(set(material.data.inputs))
    assert encoded.num_inputs == num_distinct
    states = all_states(material)
    again = prepared(tmp_path)
    another_run = prepared(tmp_path, folder="other")
    assert list(another_run.data.inputs) == list(material.data.inputs)
    for other in (again, another_run):
        for one, two in zip(all_states(other), states, strict=True):
            assert torch.equal(one.hidden_TD, two.hidden_TD)
    assert encoded.num_inputs == num_distinct
    assert torch.equal(another_run.pyramids.rows, material.pyramids.rows)


def test_without_a_cache_everything_is_computed_when_asked_for(
    tmp_path: Path, encoded: Encoded
) -> None:
    material = prepared(tmp_path, is_cached=False)
    assert encoded.num_inputs == 0
    assert not (tmp_path / "cache").exists()
    plain = all_states(material)
    cached = prepared(tmp_path, folder="cached")
    assert list(cached.data.inputs) == list(material.data.inputs)
    for one, two in zip(all_states(cached), plain, strict=True):
        assert one.target_span == two.target_span
        torch.testing.assert_close(one.hidden_TD, two.hidden_TD, rtol=1e-2, atol=1e-2)


def test_a_cache_that_is_deleted_is_filled_again(tmp_path: Path, encoded: Encoded) -> None:
    material = prepared(tmp_path)
    shutil.rmtree(tmp_path / "cache")
    assert all_states(material)
    before = encoded.num_inputs
    prepared(tmp_path)
    assert encoded.num_inputs == before + len(set(material.data.inputs))


def test_another_draw_replaces_the_material(tmp_path: Path) -> None:
    first = prepared(tmp_path)
    inputs = list(first.data.inputs)
    made = recipe(tmp_path).with_changes(seed=8)
    second = prepare_material(made, tiny_backbone(), tmp_path / "material", HELD_OUT)
    assert list(second.data.inputs) != inputs
    assert len(second.pyramids.by_entity) == 3
