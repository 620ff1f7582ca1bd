"""Training on a tiny backbone: every phase learns, and a resumed run equals an undisturbed one."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from liveedit_core.backbones.huggingface import HuggingFaceBackbone
from liveedit_core.method.config import VisualKeyRecipe
from liveedit_core.training.data import TrainingData
from liveedit_core.training.recipe import PhaseSection
from liveedit_core.training.training_module import phases_of
from pipelines.training.data import Drawings, Material
from pipelines.training.loop import GeneratorTrainer
from pipelines.training.recipe import CheckpointSection, ModelSection, TrainRecipe
from tests.encoded_data import encode_training_data
from tests.tiny_backbone import case, tiny_backbone

MODEL = ModelSection(
    module_dim=16, num_queries=2, num_attention_heads=2, rank=4, visual_rank=6, num_sentinels=8
)

KEY = VisualKeyRecipe(num_components=8)


@pytest.fixture(scope="module")
def backbone() -> HuggingFaceBackbone:
    return tiny_backbone()


@pytest.fixture(scope="module")
def material(backbone: HuggingFaceBackbone) -> Material:
    cases = [replace(case(i), entity=f"entity {i // 2}") for i in range(8)]
    data = encode_training_data(
        backbone,
        cases,
        num_pairs=4,
        has_image_locality=True,
        random_target=lambda rng: rng.choice(("kettle", "harbor")),
        rng=random.Random(0),
    )
    rows = torch.randn(16, backbone.visual_size)
    by_entity = tuple((2 * i, 2 * i + 1) for i in range(8))
    return Material(data=data, drawings=Drawings(rows=rows.half(), by_entity=by_entity))


def recipe(**phases: PhaseSection) -> TrainRecipe:
    base = TrainRecipe(
        seed=5, model=MODEL, visual_key=KEY, checkpoint=CheckpointSection(every_steps=2)
    )
    return replace(base, **phases)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("phase", "figure"),
    [
        ("prompt", "soft_absolute"),
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
    assert all("prompt" in phases_of(name) for name in moved)


class InterruptedRunError(Exception):
    """Raised in the middle of a run."""


def test_resumed_run_is_bit_identical(
    backbone: HuggingFaceBackbone,
    material: Material,
    tmp_path: Path,
) -> None:
    section = PhaseSection(steps=5, batch_size=4)
    whole = recipe(prompt=section, experts=section)
    undisturbed = GeneratorTrainer(whole, backbone, material, tmp_path / "a")
    undisturbed.run()

    def fail(phase: str, step: int, figures: dict[str, float]) -> None:
        if (phase, step) == ("experts", 3):
            raise InterruptedRunError

    broken = GeneratorTrainer(whole, backbone, material, tmp_path / "b", on_step=fail)
    with pytest.raises(InterruptedRunError):
        broken.run()
    resumed = GeneratorTrainer(whole, backbone, material, tmp_path / "b")
    resumed.run()
    for name, tensor in undisturbed.generator.state_dict().items():
        assert torch.equal(tensor, resumed.generator.state_dict()[name]), name
    assert resumed.curve == undisturbed.curve


def test_hooks_see_every_step_and_checkpoint(
    backbone: HuggingFaceBackbone, material: Material, tmp_path: Path
) -> None:
    steps: list[tuple[str, int]] = []
    checkpoints: list[tuple[str, int]] = []
    rates: list[float] = []
    section = PhaseSection(steps=3, batch_size=4)

    def on_step(phase: str, step: int, figures: dict[str, float]) -> None:
        steps.append((phase, step))
        rates.append(figures["learning_rate"])
        losses = figures["soft_absolute"] + figures["soft_relative"] if phase == "prompt" else 0
        if losses:
            assert figures["total"] == pytest.approx(losses)

    def on_checkpoint(trainer: GeneratorTrainer, phase: str, step: int) -> None:
        checkpoints.append((phase, step))
        for name, value in trainer.generator.state_dict().items():
            assert torch.equal(value, trainer.snapshot.model[name])

    trainer = GeneratorTrainer(
        recipe(prompt=section, experts=section),
        backbone,
        material,
        tmp_path,
        on_step=on_step,
        on_checkpoint=on_checkpoint,
    )
    trainer.run()
    assert steps == [(phase, step) for phase in ("prompt", "experts") for step in range(3)]
    assert checkpoints == [("prompt", 2), ("prompt", 3), ("experts", 2), ("experts", 3)]
    assert rates == [section.rate(step) for step in range(3)] * 2


def test_material_survives_saving(material: Material, tmp_path: Path) -> None:
    material.data.save(tmp_path)
    loaded = TrainingData.load(tmp_path, material.data.source)
    assert loaded.cases == material.data.cases
    assert loaded.pairs == material.data.pairs
    assert list(loaded.inputs) == material.data.inputs
