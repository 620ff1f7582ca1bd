"""The lines that `train_generator.py --dry-run` prints under a recipe."""

from pathlib import Path

from liveedit_core.builtin.backbone import EDIT_LAYER, PYRAMID, builtin_checkpoint
from liveedit_core.errors import ConfigError
from pipelines.training.cases import training_cases
from pipelines.training.estimate import estimate
from pipelines.training.estimate_settings import generator_shape, settings_of
from pipelines.training.model_sizes import read_backbone
from pipelines.training.recipe import TrainRecipe


def estimate_recipe(
    recipe: TrainRecipe,
    *,
    config_file: Path | None = None,
    edit_layer: int | None = None,
    num_cases: int | None = None,
) -> list[str]:
    """Memory of each card, disk and time.

    Args:
        recipe: resolved.
        config_file: of a backbone; None: that of the recipe. The built-in one is assembled at first
            use, of another one the folder is read, but nothing is fetched.
        edit_layer: None: the recipe's, the built-in backbone's, or two thirds of the depth.
        num_cases: training cases; None: those of the recipe are counted.

    Raises:
        ConfigError: the file describes no backbone, or the recipe does not fit it.
    """
    visual_size = 0
    if edit_layer is None and recipe.backbone.edit_layer >= 0:
        edit_layer = recipe.backbone.edit_layer
    if config_file is None and recipe.backbone.name != "builtin":
        config_file = Path(recipe.backbone.name).expanduser() / "config.json"
        if not config_file.is_file():
            raise ConfigError(
                f"backbone.name: {recipe.backbone.name!r} is no folder with a config.json; name "
                "the file with --backbone-config"
            )
    if config_file is None:
        config_file = builtin_checkpoint() / "config.json"
        visual_size = sum(level.size for level in PYRAMID)
        edit_layer = EDIT_LAYER if edit_layer is None else edit_layer
    by_entity: dict[str, int] = {}
    if num_cases is None:
        for case in training_cases(recipe):
            by_entity[case.entity] = by_entity.get(case.entity, 0) + 1
        num_cases = sum(min(n, recipe.data.cases_per_entity) for n in by_entity.values())
    backbone = read_backbone(config_file, edit_layer)
    generator = generator_shape(
        recipe, backbone, visual_size=visual_size, num_entities=len(by_entity) or num_cases
    )
    settings = settings_of(recipe, num_cases=num_cases)
    head = (
        f"{backbone.family}, {backbone.total:,} parameters, edited after layer "
        f"{backbone.edit_layer} of {backbone.num_layers}; {settings.shards} shards, ZeRO "
        f"{settings.zero_stage}; phase {settings.phase}"
    )
    return [head, *estimate(backbone, generator, settings).lines()]
