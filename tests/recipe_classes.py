"""The recipes of all jobs, found by the key `job` of a recipe file."""

from pathlib import Path

from pipelines.baselines.recipe import CompareRecipe
from pipelines.editing.recipe import LifelongEditRecipe, RebuildRecipe
from pipelines.evaluation.recipe import VersionComparisonRecipe
from pipelines.final.recipe import FinalNumbersRecipe
from pipelines.job.recipe_loader import JOB_KEY, Recipe, load_recipe, read_toml
from pipelines.operations.recipe import NightlyRecipe, PromotionRecipe
from pipelines.training.editor_recipe import TrainEditorRecipe
from pipelines.training.recipe import TrainRecipe

RECIPE_CLASSES: dict[str, type[Recipe]] = {
    recipe.job: recipe
    for recipe in (
        CompareRecipe,
        FinalNumbersRecipe,
        LifelongEditRecipe,
        NightlyRecipe,
        PromotionRecipe,
        RebuildRecipe,
        TrainEditorRecipe,
        TrainRecipe,
        VersionComparisonRecipe,
    )
}


def load_by_job(path: Path) -> Recipe:
    """Load a recipe file as the recipe of the job that it names."""
    return load_recipe(RECIPE_CLASSES[read_toml(path)[JOB_KEY]], path)
