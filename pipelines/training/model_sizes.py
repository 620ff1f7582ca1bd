"""Sizes of a backbone, from its config.json alone: nothing is downloaded, no weight takes memory.

transformers builds the model on torch's meta device, where tensors have shapes but no storage, so
every family that it knows is counted exactly.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from liveedit_core.errors import ConfigError
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.generator import LiveEditGenerator


@dataclass(frozen=True, kw_only=True)
class BackboneSizes:
    """What of a backbone matters here; parameters are counts."""

    family: str
    num_layers: int
    edit_layer: int
    hidden_size: int
    intermediate_size: int
    num_key_value_features: int
    """Width of keys (and of values) of all key-value heads."""
    vocabulary_size: int
    num_image_tokens: int
    total: int
    image_tower: int
    """Image tower and projector."""
    prefix: int
    """Layers 0 to l_e."""
    suffix: int
    """Layers after l_e, final norm and head: all of the backbone that training runs."""


def read_backbone(config_file: Path, edit_layer: int | None = None) -> BackboneSizes:
    """Count the parameters of the model that a transformers config.json describes.

    Args:
        config_file: of an image-text-to-text model.
        edit_layer: l_e; None: two thirds of the depth.

    Raises:
        ConfigError: no such file, no model that transformers knows, or no such layer.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        values: dict[str, Any] = json.loads(config_file.read_text())
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
        decoder, head = model.model.language_model, model.lm_head
        layers: Sequence[nn.Module] = list(decoder.layers)
        text = config.text_config
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        num_image_tokens = int(config.image_seq_length)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ImportError) as error:
        raise ConfigError(
            f"{config_file}: no configuration of a decoder-only image-text model: {error}"
        ) from error
    if edit_layer is None:
        edit_layer = 2 * len(layers) // 3
    if not 0 <= edit_layer <= len(layers) - 2:
        raise ConfigError(f"edit layer {edit_layer}: expected 0 to {len(layers) - 2}")
    suffix = count([*layers[edit_layer + 1 :], decoder.norm, head])
    return BackboneSizes(
        family=str(config.model_type),
        num_layers=len(layers),
        edit_layer=edit_layer,
        hidden_size=int(text.hidden_size),
        intermediate_size=int(text.intermediate_size),
        num_key_value_features=int(heads * head_size),
        vocabulary_size=int(text.vocab_size),
        num_image_tokens=num_image_tokens,
        total=count([model]),
        image_tower=count([model]) - count([decoder, head]),
        prefix=count(layers[: edit_layer + 1]),
        suffix=suffix,
    )


def count(modules: Sequence[nn.Module]) -> int:
    """Parameters of some modules, shared ones once."""
    return sum(parameter.numel() for parameter in nn.ModuleList(modules).parameters())


def count_generator(config: GeneratorConfig) -> int:
    """Parameters of a generator, trained or not."""
    with torch.device("meta"):
        return count([LiveEditGenerator(config)])
