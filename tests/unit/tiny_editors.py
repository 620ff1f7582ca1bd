"""Trained parts of editors for the tiny backbone: a few steps on its own cases, or none."""

import random
from pathlib import Path

import torch

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.protocol import ComparedEditor
from liveedit_core.baselines.trained.checkpoint import TrainedFacts, save_rival
from liveedit_core.baselines.trained.makers import make_editor, make_rival
from liveedit_core.baselines.trained.rival import Rival, draw
from liveedit_core.baselines.trained.settings import (
    RIVALS,
    LteConfig,
    LteTraining,
    MendConfig,
    MendTraining,
    RecipeConfig,
    RecipeTraining,
    RivalName,
    SeracConfig,
    SeracTraining,
)
from liveedit_core.settings import Settings
from liveedit_core.training.data import TrainingData
from pipelines.training.editors import LOCALITIES
from tests.encoded_data import encode_training_data
from tests.tiny_backbone import case

TRAINING: dict[RivalName, Settings] = {
    "mend": MendTraining(num_layers=1, rank=4, initial_rate=3e-3),
    "serac": SeracTraining(embedding_size=8, rank=2),
    "recipe": RecipeTraining(representation_size=16),
    "lte": LteTraining(rank=2),
}
EDITING: dict[RivalName, Settings] = {
    "mend": MendConfig(update_scale=1e4),
    "serac": SeracConfig(least_scope=0.0),
    "recipe": RecipeConfig(sentinel_margin=-100.0),
    "lte": LteConfig(),
}
"""Every question is in the scope of some edit."""


def tiny_training_data(backbone: VisionLanguageBackbone) -> TrainingData:
    """Eight cases and four pairs, encoded."""
    return encode_training_data(
        backbone,
        [case(seed) for seed in range(8)],
        num_pairs=4,
        localities=LOCALITIES,
        random_target=lambda rng: rng.choice(["silver", "golden raven"]),
        rng=random.Random(0),
    )


def untrained(name: RivalName, backbone: VisionLanguageBackbone) -> Rival:
    """A trained part as it begins, from seed 0."""
    torch.manual_seed(0)
    return make_rival(name, TRAINING[name], backbone)


def trained(
    name: RivalName, backbone: VisionLanguageBackbone, data: TrainingData, steps: int
) -> Rival:
    """A part after some steps at a high rate."""
    rival = untrained(name, backbone)
    rival.observe(draw(data, 5, 0, 0))
    adam = torch.optim.Adam(rival.parameters(), lr=3e-3)
    for step in range(steps):
        total, _ = rival.loss(draw(data, 5, 0, step))
        adam.zero_grad()
        total.backward()
        adam.step()
    return rival.requires_grad_(False)


def tiny_editor(name: RivalName, backbone: VisionLanguageBackbone) -> ComparedEditor:
    """An editor whose trained part was never trained, so that all of it can act."""
    rival = untrained(name, backbone)
    for parameter in rival.parameters():
        if not parameter.any():  # changes begin at zero
            torch.nn.init.normal_(parameter, std=0.3)
    rival.requires_grad_(False)
    return make_editor(name, rival, EDITING[name], backbone, batch_size=16)


def save_tiny_parts(folder: Path, backbone: VisionLanguageBackbone) -> dict[str, Settings]:
    """Untrained parts in folders, and the sections that name them."""
    sections: dict[str, Settings] = {}
    for name in RIVALS:
        facts = TrainedFacts(
            editor=name,
            settings=TRAINING[name].model_dump(mode="json"),
            backbone=backbone.digest,
            edit_layer=backbone.edit_layer,
            trained_on="tiny cases",
            seed=0,
            steps=0,
            batch_size=5,
            seconds=1.5,
            num_parameters=7,
        )
        save_rival(untrained(name, backbone), facts, folder / name)
        sections[name] = EDITING[name].with_changes(checkpoint=str(folder / name))
    return sections
