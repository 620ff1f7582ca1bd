"""Training on a tiny backbone: every phase learns, and a resumed run equals an undisturbed one."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from liveedit_core.backbones.huggingface import PICTURE_MEMORY_BYTES, HuggingFaceBackbone
from liveedit_core.backbones.picture_memory import PictureMemory
from liveedit_core.config import VisualKeyRecipe
from liveedit_core.state_source import BackboneStates
from liveedit_core.training_data import TrainingData, draw_training_data
from pipelines.train_config import (
    CheckpointSection,
    ModelSection,
    PhaseSection,
    TrainRecipe,
)
from pipelines.training_loop import GeneratorTrainer
from pipelines.training_material import Drawings, Material
from tests.tiny_backbone import case, tiny_backbone

MODEL = ModelSection(
    module_dim=16, num_queries=2, num_attention_heads=2, rank=4, visual_rank=6, num_sentinels=8
)

KEY = VisualKeyRecipe(num_components=8)


@pytest.fixture(scope="module")
def backbone() -> Iterator[HuggingFaceBackbone]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_backbone(), "pictures", PictureMemory(PICTURE_MEMORY_BYTES))
        yield tiny_backbone()


@pytest.fixture(scope="module")
def material(backbone: HuggingFaceBackbone) -> Material:
    cases = [replace(case(i), thing=f"thing {i // 2}") for i in range(8)]
    data = draw_training_data(
        cases,
        BackboneStates(backbone),
        num_pairs=4,
        has_image_locality=True,
        random_target=lambda rng: rng.choice(("kettle", "harbor")),
        rng=random.Random(0),
    )
    rows = torch.randn(16, backbone.visual_size)
    by_thing = tuple((2 * i, 2 * i + 1) for i in range(8))
    return Material(data=data, drawings=Drawings(rows=rows.half(), by_thing=by_thing))


def recipe(**phases: PhaseSection) -> TrainRecipe:
    base = TrainRecipe(
        seed=5, model=MODEL, visual_key=KEY, checkpoint=CheckpointSection(every_steps=2)
    )
    return replace(base, **phases)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("phase", "figure"),
    [
        ("prompt", "absolute"),
        ("experts", "nll"),
        ("joint", "reliability"),
    ],
)
def test_each_phase_descends(
    phase: str, figure: str, backbone: HuggingFaceBackbone, material: Material, tmp_path: Path
) -> None:
    section = PhaseSection(steps=40, batch_size=6, learning_rate=5e-3)
    trainer = GeneratorTrainer(recipe(**{phase: section}), backbone, material, tmp_path)
    trainer.run()
    figures = [float(row[figure]) for row in trainer.curve if row["phase"] == phase]
    assert figures[-1] < 0.9 * figures[0]


def test_a_phase_moves_only_its_own_parameters(
    backbone: HuggingFaceBackbone, material: Material, tmp_path: Path
) -> None:
    section = PhaseSection(steps=2, batch_size=4)
    trainer = GeneratorTrainer(recipe(prompt=section), backbone, material, tmp_path)
    trainer.fit_visual_key()
    before = {k: v.clone() for k, v in trainer.generator.state_dict().items()}
    trainer.run()
    moved = {k for k, v in trainer.generator.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert moved <= {name for name, _ in trainer.named("prompt")}


class InterruptedRunError(Exception):
    """Raised in the middle of a run."""


def test_resumed_run_is_bit_identical(
    backbone: HuggingFaceBackbone,
    material: Material,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    section = PhaseSection(steps=5, batch_size=4)
    whole = recipe(prompt=section, experts=section)
    undisturbed = GeneratorTrainer(whole, backbone, material, tmp_path / "a")
    undisturbed.run()
    broken = GeneratorTrainer(whole, backbone, material, tmp_path / "b")
    step = broken.experts_step

    def fail_at_three(section: PhaseSection, index: int) -> object:
        if index == 3:
            raise InterruptedRunError
        return step(section, index)

    monkeypatch.setitem(broken.steps, "experts", fail_at_three)
    with pytest.raises(InterruptedRunError):
        broken.run()
    resumed = GeneratorTrainer(whole, backbone, material, tmp_path / "b")
    resumed.run()
    for name, tensor in undisturbed.generator.state_dict().items():
        assert torch.equal(tensor, resumed.generator.state_dict()[name]), name
    assert resumed.curve == undisturbed.curve


def test_material_survives_saving(material: Material, tmp_path: Path) -> None:
    material.data.save(tmp_path)
    loaded = TrainingData.load(tmp_path, material.data.source)
    assert loaded.cases == material.data.cases
    assert loaded.pairs == material.data.pairs
    assert list(loaded.inputs) == material.data.inputs
