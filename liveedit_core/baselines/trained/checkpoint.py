"""The folder of a trained part: `editor.safetensors`, and `config.json` with how it was made."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.trained.makers import make_rival, training_settings
from liveedit_core.baselines.trained.rival import Rival
from liveedit_core.baselines.trained.settings import RivalName
from liveedit_core.errors import ConfigError, IntegrityError
from liveedit_core.whole_files import whole_file, write_whole

WEIGHTS_FILE = "editor.safetensors"
CONFIG_FILE = "config.json"
BUILTIN_FOLDER = Path(__file__).parents[2] / "builtin" / "assets" / "editors"
"""Of the built-in backbone, by editor."""


@dataclass(frozen=True, kw_only=True)
class TrainedFacts:
    """How a trained part was made."""

    editor: RivalName
    settings: dict[str, Any]
    """Of its section in the recipe of training."""
    backbone: str
    """Digest of the backbone that it belongs to."""
    edit_layer: int
    trained_on: str
    seed: int
    steps: int
    batch_size: int
    seconds: float
    """Of all steps, their states read or encoded included."""
    num_parameters: int


def count_parameters(rival: nn.Module) -> int:
    return sum(parameter.numel() for parameter in rival.parameters())


def save_rival(rival: Rival, facts: TrainedFacts, folder: Path) -> None:
    """Write weights, rounded to float16, and facts."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.half().contiguous() for name, value in rival.state_dict().items()}
    with whole_file(folder / WEIGHTS_FILE) as partial:
        save_file(tensors, partial)
    write_whole(folder / CONFIG_FILE, json.dumps(asdict(facts), indent=1) + "\n")


def folder_of(name: RivalName, checkpoint: str) -> Path:
    """Where a section's `checkpoint` lies; ConfigError if nothing is there."""
    folder = BUILTIN_FOLDER / name if checkpoint == "builtin" else Path(checkpoint)
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"{name}.checkpoint: {folder} holds no trained {name}; {_how(name)}")
    return folder


def _how(name: RivalName) -> str:
    return f"python pipelines/train_editor.py --editor {name} trains one"


def digest_of(folder: Path) -> str:
    """sha256 of weights and facts."""
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes())
    digest.update((folder / CONFIG_FILE).read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class TrainedPart:
    """A trained part, ready to edit, and where it came from."""

    rival: Rival
    facts: TrainedFacts
    digest: str


def load_rival(name: RivalName, checkpoint: str, backbone: VisionLanguageBackbone) -> TrainedPart:
    """Read the trained part of an editor; float32, frozen, on the backbone's device."""
    folder = folder_of(name, checkpoint)
    try:
        facts = TrainedFacts(**json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")))
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise IntegrityError(f"trained editor {folder}: {error}") from error
    found = (facts.editor, facts.backbone, facts.edit_layer)
    wanted = (name, backbone.digest, backbone.edit_layer)
    if found != wanted:
        raise ConfigError(
            f"{name}.checkpoint: {folder} is {facts.editor} for backbone {facts.backbone[:12]} cut "
            f"at layer {facts.edit_layer}, expected {name} for {backbone.digest[:12]} cut at layer "
            f"{backbone.edit_layer}; {_how(name)} for it"
        )
    rival = make_rival(name, training_settings(name, facts.settings), backbone)
    try:
        rival.load_state_dict({key: value.float() for key, value in tensors.items()})
    except RuntimeError as error:
        raise IntegrityError(f"trained editor {folder}: {error}") from error
    rival.to(backbone.device).eval().requires_grad_(False)
    return TrainedPart(rival=rival, facts=facts, digest=digest_of(folder))
