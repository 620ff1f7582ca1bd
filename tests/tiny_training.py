"""A whole training run of kilobytes: tiny backbone, eight cases, picklable."""

import random
from dataclasses import replace
from functools import lru_cache

import torch

from liveedit_core.backbones.protocol import Backbone
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.method.config import GeneratorConfig, VisualKeyRecipe
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.training.data import IMAGE_LOCALITY, TrainingData
from liveedit_core.training.recipe import OptimizationSection, Phase, PhaseSection, TrainingPlan
from liveedit_core.training.snapshot import MODEL, Snapshot
from pipelines.training.data import Material, Pyramids
from pipelines.training.recipe import ModelSection
from tests.encoded_data import encode_training_data
from tests.tiny_backbone import OUR_CONFIG, case, tiny_backbone
from workers.messages import TrainingSource
from workers.training_worker import TrainingWorker


@lru_cache(maxsize=1)
def tiny_data(backbone: Backbone | None = None) -> TrainingData:
    """Eight cases of four entities, and four pairs, encoded by the tiny backbone or another."""
    return encode_training_data(
        backbone or tiny_backbone(),
        [replace(case(i), entity=f"entity {i // 2}") for i in range(8)],
        num_pairs=4,
        localities=IMAGE_LOCALITY,
        random_target=lambda rng: rng.choice(("kettle", "harbor")),
        rng=random.Random(0),
    )


TINY_MODEL = ModelSection(
    module_dim=16, num_queries=2, num_attention_heads=2, rank=4, visual_rank=6, num_sentinels=8
)
"""Shape of a generator with a visual key."""
TINY_KEY = VisualKeyRecipe(num_components=8)


def tiny_material() -> Material:
    """`tiny_data`, and two random pyramids for each of eight entities."""
    seeded = torch.Generator().manual_seed(0)
    rows = torch.randn(16, tiny_backbone().visual_size, generator=seeded)
    by_entity = tuple((2 * i, 2 * i + 1) for i in range(8))
    return Material(data=tiny_data(), pyramids=Pyramids(rows=rows.half(), by_entity=by_entity))


def fresh_backbone() -> VisionLanguageBackbone:
    """A backbone of its own, as a worker may take it apart."""
    tiny_backbone.cache_clear()
    return tiny_backbone()


def tiny_source() -> TrainingSource:
    """Can be sent to other processes."""
    return TrainingSource(load_backbone=fresh_backbone, data=tiny_data())


def plan(
    steps: int = 20, *, accumulation: int = 2, optimization: OptimizationSection | None = None
) -> TrainingPlan:
    """All phases alike."""
    section = PhaseSection(steps=steps, batch_size=3, accumulation=accumulation)
    phases: dict[Phase, PhaseSection] = {"prompt": section, "experts": section, "joint": section}
    return TrainingPlan(seed=3, phases=phases, optimization=optimization or OptimizationSection())


def beginning(phase: Phase, config: GeneratorConfig = OUR_CONFIG) -> Snapshot:
    """A generator with random weights at the beginning of a phase."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        state = LiveEditGenerator(config).state_dict()
    tensors = {f"{MODEL}{name}": value for name, value in state.items()}
    return Snapshot(config=config, phase=phase, step=0, tensors=tensors)


def started_worker(training: TrainingPlan, start: Snapshot) -> TrainingWorker:
    """A worker in this process, at a snapshot."""
    backbone = tiny_backbone()
    source = TrainingSource(load_backbone=lambda: backbone, data=tiny_data())
    worker = TrainingWorker(training, source)
    worker.begin(start)
    return worker
