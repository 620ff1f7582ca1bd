"""The recipes of all jobs, by the name that a recipe file gives in its key `job`."""

from collections.abc import Sequence
from pathlib import Path

from liveedit_core.errors import ConfigError
from pipelines.config import LifelongEditRecipe
from pipelines.nightly_config import NightlyRecipe
from pipelines.promotion_config import PromotionRecipe
from pipelines.rebuild_config import RebuildRecipe
from pipelines.recipe_loader import JOB_KEY, load_recipe, read_toml
from pipelines.train_config import TrainRecipe

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
