"""Training on a tiny backbone: every phase learns, and hooks see each step."""

from pathlib import Path

import pytest
import torch

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.training.data import TrainingData
from liveedit_core.training.recipe import PhaseSection
from liveedit_core.training.snapshot import Snapshot
from liveedit_core.training.step import phases_of
from pipelines.training.data import Material
from pipelines.training.loop import Curve, GeneratorTrainer
from pipelines.training.recipe import CheckpointSection, TrainRecipe
from tests.tiny_backbone import tiny_backbone
from tests.tiny_training import TINY_KEY, TINY_MODEL, tiny_material


@pytest.fixture(scope="module")
def backbone() -> VisionLanguageBackbone:
    return tiny_backbone()


@pytest.fixture(scope="module")
def material(backbone: VisionLanguageBackbone) -> Material:
    return tiny_material()


def recipe(**phases: PhaseSection) -> TrainRecipe:
    return TrainRecipe(
        seed=5,
        model=TINY_MODEL,
        visual_key=TINY_KEY,
        checkpoint=CheckpointSection(every_steps=2),
        **phases,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("phase", "figure"), [("prompt", "soft_absolute"), ("experts", "nll"), ("joint", "reliability")]
)
def test_each_phase_descends(
    phase: str, figure: str, backbone: VisionLanguageBackbone, material: Material
) -> None:
    section = PhaseSection(steps=40, batch_size=6, learning_rate=5e-3)
    trainer = GeneratorTrainer(recipe(**{phase: section}), backbone, material)
    trainer.run()
    figures = [float(row[figure]) for row in trainer.curve if row["phase"] == phase]
    assert figures[-1] < 0.9 * figures[0]


def test_a_phase_moves_only_its_own_parameters(
    backbone: VisionLanguageBackbone, material: Material
) -> None:
    section = PhaseSection(steps=2, batch_size=4)
    trainer = GeneratorTrainer(recipe(prompt=section), backbone, material)
    trainer.fit_visual_key()
    before = {k: v.clone() for k, v in trainer.generator.state_dict().items()}
    trainer.run()
    moved = {k for k, v in trainer.generator.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert all("prompt" in phases_of(name) for name in moved)


def test_the_visual_key_gets_what_the_tower_knows_of_turned_images(
    backbone: VisionLanguageBackbone, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = backbone.image_tower
    assert tower is not None
    maps = [torch.randn(3, level.width + 1, level.width) for level in tower.levels]
    monkeypatch.setattr(tower, "turned", tuple(maps))
    model = TINY_MODEL.with_changes(visual_filter="runner_up", visual_gate=0.0)
    trainer = GeneratorTrainer(recipe().with_changes(model=model), backbone, material)
    trainer.fit_visual_key()
    key = trainer.generator.visual_key
    assert key.levels == tuple((level.width, level.grid) for level in tower.levels)
    for number, maps_VCC in enumerate(maps):
        assert torch.equal(key.get_buffer(f"turned_{number}"), maps_VCC)
    # Others begin alike, whatever the tower knows.
    monkeypatch.setattr(tower, "turned", ())
    other = GeneratorTrainer(recipe().with_changes(model=model), backbone, material)
    other.fit_visual_key()
    with_maps, without = (one.generator.state_dict() for one in (trainer, other))
    assert all(torch.equal(with_maps[name], tensor) for name, tensor in without.items())


def test_hooks_see_every_step_and_checkpoint(
    backbone: VisionLanguageBackbone, material: Material
) -> None:
    steps: list[tuple[str, int]] = []
    checkpoints: list[tuple[str, int]] = []
    rates: list[float] = []
    durations: list[float] = []
    fits: list[float] = []
    section = PhaseSection(steps=3, batch_size=4)

    def on_step(phase: str, step: int, figures: dict[str, float]) -> None:
        steps.append((phase, step))
        rates.append(figures["learning_rate"])
        durations.append(figures["duration_s"])
        losses = figures["soft_absolute"] + figures["soft_relative"] if phase == "prompt" else 0
        if losses:
            assert figures["total"] == pytest.approx(losses)

    def on_checkpoint(generator: LiveEditGenerator, snapshot: Snapshot, curve: Curve) -> None:
        checkpoints.append((snapshot.phase, snapshot.step))
        fits.append(snapshot.seconds - sum(durations))
        for name, value in generator.state_dict().items():
            assert torch.equal(value, snapshot.model[name])

    trainer = GeneratorTrainer(
        recipe(prompt=section, experts=section),
        backbone,
        material,
        on_step=on_step,
        on_checkpoint=on_checkpoint,
    )
    trainer.run()
    assert steps == [(phase, step) for phase in ("prompt", "experts") for step in range(3)]
    assert checkpoints == [("prompt", 2), ("prompt", 3), ("experts", 2), ("experts", 3)]
    assert rates == [section.rate(step) for step in range(3)] * 2
    assert fits == pytest.approx([fits[0]] * 4)
    assert fits[0] > 0


def test_material_survives_saving(material: Material, tmp_path: Path) -> None:
    data = material.data
    data.save(tmp_path / "cases.json")
    loaded = TrainingData.load(tmp_path / "cases.json", data.inputs, data.source)
    assert loaded.cases == material.data.cases
    assert loaded.pairs == material.data.pairs
