"""Parameter counts of a backbone, read from its config.json, and the shape of its generator.

transformers builds the model on torch's meta device, where tensors have shapes but no storage, so
every family is counted exactly and nothing is downloaded.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from liveedit_core.backbones.families import (
    check_layer,
    decoder_path,
    family_of,
    tokens_per_image,
)
from liveedit_core.backbones.image_tower import ImageTower
from liveedit_core.backbones.prompt_encoder import EMBEDDING_SIZE
from liveedit_core.backbones.prompts import REFERENCE_SIDE
from liveedit_core.backbones.protocol import Backbone
from liveedit_core.errors import ConfigError, InputError
from liveedit_core.inputs.given_files import read_given_text
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.generator import LiveEditGenerator
from pipelines.training import questions
from pipelines.training.recipe import ModelSection

_MAX_CONFIG_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class BackboneSizes:
    """Parameter counts and dimensions of a backbone."""

    family: str
    num_layers: int
    edit_layer: int
    hidden_size: int
    intermediate_size: int
    num_key_value_features: int
    """Width of keys (and of values) of all key-value heads."""
    vocabulary_size: int
    num_image_tokens: int
    visual_size: int = 0
    """Width of an image pyramid; 0 where the backbone has none."""
    prompt_size: int = EMBEDDING_SIZE
    total: int
    image_tower: int
    """Image tower and projector."""
    prefix: int
    """Layers 0 to l_e."""
    suffix: int
    """Layers after l_e, final norm and head: the only part of the backbone that training runs."""


def generator_config(
    model: ModelSection,
    backbone: Backbone | BackboneSizes,
    *,
    num_entities: int,
) -> GeneratorConfig:
    """The generator that a recipe trains on a backbone, which may be counted only.

    `num_entities` (of training, and further sentinels) bounds the number of visual sentinels.
    """
    fields: dict[str, Any] = {
        name: value for name, value in model if name in GeneratorConfig.model_fields
    }
    if model.visual_source == "tower_pyramid":
        if not backbone.visual_size:
            raise ConfigError(
                "model.visual_source: this backbone has no tower_pyramid; use "
                "model.visual_source=edit_layer"
            )
        fields["visual_size"] = backbone.visual_size
        fields["num_sentinels"] = min(model.num_sentinels, num_entities)
        fields["nearest_sentinels"] = min(model.nearest_sentinels, fields["num_sentinels"])
        tower = getattr(backbone, "image_tower", None)
        if model.visual_filter == "runner_up" and isinstance(tower, ImageTower) and tower.turned:
            fields["turned_levels"] = tuple((level.width, level.grid) for level in tower.levels)
    else:
        for name in ("visual_rank", "num_sentinels", "nearest_sentinels", "visual_gate"):
            del fields[name]
    if model.prompt_source == "sentences":
        fields["prompt_size"] = backbone.prompt_size
        fields["prompt_anchors"] = len(questions.question_families())
    else:
        del fields["prompt_rank"]
    return GeneratorConfig(
        hidden_size=backbone.hidden_size,
        num_image_tokens=backbone.num_image_tokens,
        edit_layer=backbone.edit_layer,
        **fields,
    )


def read_backbone(config_file: Path, edit_layer: int | None = None) -> BackboneSizes:
    """Count the parameters of the model that a transformers config.json describes.

    Without an edit layer, l_e is at two thirds of the depth.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        values: dict[str, Any] = json.loads(read_given_text(config_file, _MAX_CONFIG_BYTES))
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
        family = family_of(config)
        decoder: Any = model.get_submodule(decoder_path(model, family.decoder))
        head: Any = model.get_output_embeddings()
        layers: Sequence[nn.Module] = list(decoder.layers)
        text = config.get_text_config(decoder=True)
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        num_image_tokens = count_image_tokens(config)
    except (
        *(OSError, InputError, ValueError, KeyError, AttributeError, TypeError, ImportError),
    ) as error:
        raise ConfigError(
            f"{config_file}: no configuration of a decoder-only image-text model: {error}"
        ) from error
    if edit_layer is None:
        edit_layer = 2 * len(layers) // 3
    check_layer(config, edit_layer, len(layers))
    norm = decoder.norm if hasattr(decoder, "norm") else decoder.final_layer_norm  # of OPT
    return BackboneSizes(
        family=str(config.model_type),
        num_layers=len(layers),
        edit_layer=edit_layer,
        hidden_size=int(text.hidden_size),
        intermediate_size=int(getattr(text, "intermediate_size", 0) or text.ffn_dim),
        num_key_value_features=int(heads * head_size),
        vocabulary_size=int(text.vocab_size),
        num_image_tokens=num_image_tokens,
        total=count([model]),
        image_tower=count([model]) - count([decoder, head]),
        prefix=count(layers[: edit_layer + 1]),
        suffix=count([*layers[edit_layer + 1 :], norm, head]),
    )


def count_image_tokens(config: Any) -> int:
    """Of a square image (`REFERENCE_SIDE`): as configured, or a grid of merged patches."""
    if number := tokens_per_image(config):
        return number
    vision = config.vision_config
    return (REFERENCE_SIDE // (int(vision.patch_size) * int(vision.spatial_merge_size))) ** 2


def count(modules: Sequence[nn.Module]) -> int:
    """Parameters of some modules; shared ones count once."""
    return sum(parameter.numel() for parameter in nn.ModuleList(modules).parameters())


def count_generator(config: GeneratorConfig) -> int:
    """Parameters of a generator, trained or not."""
    with torch.device("meta"):
        return count([LiveEditGenerator(config)])
