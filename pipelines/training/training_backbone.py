"""The backbone of a training run: loaded here, or named for other processes."""

from collections.abc import Callable
from dataclasses import replace

from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.backbones.protocol import TrainableBackbone
from pipelines.training.recipe import TrainRecipe
from workers.models import BUILTIN, ModelNames

_BATCH_SIZE = 32
"""Sequences of the built-in backbone in one forward."""


def training_models(recipe: TrainRecipe) -> ModelNames:
    """The backbone by name, for processes that encode."""
    return ModelNames(backbone=recipe.backbone.name, options=recipe.backbone.options())


def suffix_models(recipe: TrainRecipe) -> ModelNames:
    """The backbone by name, for processes that train.

    They load it on the CPU, keep the layers after l_e, and put those where they compute.
    """
    models = training_models(recipe)
    return replace(models, options=replace(models.options, device=LoadOptions.device))


def load_training_backbone(recipe: TrainRecipe) -> TrainableBackbone:
    """The backbone in this process, where it encodes and validates.

    Raises:
        ConfigError: It cannot be loaded; the message says why.
        StorageUnavailableError: The hub, or a part of the built-in one, cannot be reached.
    """
    if recipe.backbone.name == BUILTIN:
        from liveedit_core.builtin.backbone import load_builtin_backbone

        if recipe.backbone.edit_layer < 0:
            return load_builtin_backbone(batch_size=_BATCH_SIZE)
        return load_builtin_backbone(edit_layer=recipe.backbone.edit_layer, batch_size=_BATCH_SIZE)
    from liveedit_core.backbones.loading import load_backbone

    return load_backbone(recipe.backbone.name, recipe.backbone.options())


def layer_loader(recipe: TrainRecipe) -> tuple[Callable[[int], TrainableBackbone], int]:
    """Something that gives the backbone cut at a layer, and how many layers it has."""
    if recipe.backbone.name == BUILTIN:
        from liveedit_core.builtin.backbone import load_builtin_backbone

        depth = len(load_builtin_backbone().decoder.layers)
        return lambda layer: load_builtin_backbone(edit_layer=layer, batch_size=_BATCH_SIZE), depth
    from liveedit_core.backbones.loading import load_backbone

    whole = load_backbone(recipe.backbone.name, recipe.backbone.options())
    return whole.at_layer, len(whole.decoder.layers)
