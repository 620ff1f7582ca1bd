"""The trained editors by name: the part that is trained, and the editor that uses it."""

from collections.abc import Mapping
from typing import Any

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.protocol import ComparedEditor
from liveedit_core.baselines.trained.lte import Lte, LteEditor
from liveedit_core.baselines.trained.mend import Mend, MendEditor
from liveedit_core.baselines.trained.recipe import Recipe, RecipeEditor
from liveedit_core.baselines.trained.rival import Rival
from liveedit_core.baselines.trained.serac import Serac, SeracEditor
from liveedit_core.baselines.trained.settings import (
    LteTraining,
    MendTraining,
    RecipeTraining,
    RivalName,
    SeracTraining,
)
from liveedit_core.settings import Settings

_TRAINING: Mapping[str, type[Settings]] = {
    "mend": MendTraining,
    "serac": SeracTraining,
    "recipe": RecipeTraining,
    "lte": LteTraining,
}
_RIVALS: Mapping[str, Any] = {"mend": Mend, "serac": Serac, "recipe": Recipe, "lte": Lte}
_EDITORS: Mapping[str, Any] = {
    "mend": MendEditor,
    "serac": SeracEditor,
    "recipe": RecipeEditor,
    "lte": LteEditor,
}


def training_settings(name: RivalName, values: Mapping[str, Any]) -> Settings:
    """The settings of a trained part from plain values."""
    return _TRAINING[name](**values)


def make_rival(name: RivalName, settings: Settings, backbone: VisionLanguageBackbone) -> Rival:
    """An untrained part."""
    rival: Rival = _RIVALS[name](settings, backbone)
    return rival


def make_editor(
    name: RivalName,
    rival: Rival,
    config: Settings,
    backbone: VisionLanguageBackbone,
    *,
    batch_size: int,
) -> ComparedEditor:
    """The editor that uses a trained part."""
    editor: ComparedEditor = _EDITORS[name](backbone, rival, config, batch_size=batch_size)
    return editor
