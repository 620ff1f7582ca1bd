"""The recipes of all jobs, by the name that a recipe file gives in its key `job`."""

from collections.abc import Sequence
from pathlib import Path

from liveedit_core.errors import ConfigError
from pipelines.editing.rebuild_recipe import RebuildRecipe
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.job.recipe_loader import JOB_KEY, load_recipe, read_toml
from pipelines.operations.nightly_recipe import NightlyRecipe
from pipelines.operations.promotion_recipe import PromotionRecipe
from pipelines.training.recipe import TrainRecipe

AnyRecipe = LifelongEditRecipe | NightlyRecipe | PromotionRecipe | RebuildRecipe | TrainRecipe

JOBS: dict[str, type[AnyRecipe]] = {
    recipe.job: recipe
    for recipe in (LifelongEditRecipe, NightlyRecipe, PromotionRecipe, RebuildRecipe, TrainRecipe)
}
"""The recipe of each job."""


def load_recipe_file(path: Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Load a recipe of the job that its top-level key `job` names; raises ConfigError."""
    job = read_toml(path).get(JOB_KEY)
    if not isinstance(job, str) or job not in JOBS:
        known = ", ".join(f'"{name}"' for name in JOBS)
        raise ConfigError(f"{path}: job must be one of {known}, got {job!r}")
    return load_recipe(JOBS[job], path, overrides)
