"""Editors with settings under which a tiny random model learns a target of one token."""

from collections.abc import Callable
from typing import Any

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.edited_layers import LayerEditor
from liveedit_core.baselines.fine_tuning import FineTuning
from liveedit_core.baselines.grace import Grace
from liveedit_core.baselines.lora import Lora
from liveedit_core.baselines.projector_tuning import ProjectorTuning
from liveedit_core.baselines.settings import (
    FineTuningConfig,
    GraceConfig,
    LoraConfig,
    TensorExpertConfig,
    WiseConfig,
)
from liveedit_core.baselines.tensor_experts import TensorExperts
from liveedit_core.baselines.wise import Wise
from tests.tiny_backbone import question

WISE = WiseConfig(alpha=0.5, beta=2.0, gamma=1.0, max_steps=100, learning_rate=1.0)
TENSORS = TensorExpertConfig(max_steps=200)
UNRELATED = [question(50), BackboneInput(prompt="The opposite of hot is")]

LAYER_EDITORS: dict[str, Callable[[VisionLanguageBackbone], LayerEditor[Any]]] = {
    "FT-L": lambda b: FineTuning(b, FineTuningConfig(max_steps=80, learning_rate=3e-2)),
    "LoRA": lambda b: Lora(b, LoraConfig(max_steps=150, learning_rate=3e-2)),
    "GRACE": lambda b: Grace(b, GraceConfig(max_steps=200, learning_rate=0.3)),
    "WISE": lambda b: Wise(b, WISE, unrelated=UNRELATED),
    "TIME-like": lambda b: TensorExperts(b, TENSORS, unrelated=UNRELATED),
}


def tuned_projector(backbone: VisionLanguageBackbone) -> ProjectorTuning:
    """FT-M."""
    return ProjectorTuning(
        backbone, FineTuningConfig(max_steps=25, learning_rate=3e-2, stop_loss=0.3)
    )
