"""`lifelong_edit.py --promote`: the newest version is examined beside the champion and promoted.

The same two steps as `nightly_evaluation.py` and `promotion.py`, with their recipes, on the cases
of the run; whatever the one command decides, the two commands would have decided. Evaluation and
audit log go to the store of the recipes, else to the `--store` of the run, else to the run root.
"""

from pathlib import Path

from rich.console import Console

from infra.bank.expert_bank import ExpertBank
from infra.storage.object_store import ObjectStore
from infra.tracking.model_registry import BANK_MODEL, ModelVersions
from infra.tracking.tracker import default_tracking_uri
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.job.recipe_loader import load_recipe
from pipelines.job.registered_models import version_of
from pipelines.operations.nightly_run import run_night
from pipelines.operations.promoter import Promoter
from pipelines.operations.promotion_view import default_who, say_decision
from pipelines.operations.recipe import DEFAULT_RECIPE, NightlyRecipe, PromotionRecipe

REFUSED = 3
"""Exit code of the editing job when its newest version was not promoted."""


def promote_at_end(config: LifelongEditRecipe, console: Console) -> int:
    """Examine the newest version of the run's bank and promote it if it passes every gate.

    Args:
        config: Of the editing job that has just ended.
        console: For people.

    Returns:
        0 when it is the champion now; `REFUSED` when a gate failed; the code of a signal.

    Raises:
        InputError: An outage of MLflow left the version unregistered.
        LiveEditError: See `Night.examine` and `Promoter.promote`.
    """
    versions = ModelVersions(default_tracking_uri(Path(config.run_root)))
    bank = ExpertBank.open(ObjectStore(config.store_uri), config.bank.name)
    newest = version_of(versions, bank, bank.history()[-1].version)
    champion = versions.by_alias(BANK_MODEL, "champion")
    if champion is not None and champion.version == newest.version:
        console.print(f"version {newest.version} is the champion already, nothing to do")
        return 0
    label = f"v{newest.version}-against-v{champion.version if champion else 0}"
    result, stop_code = run_night(nightly_recipe(config), label, console, version=newest.version)
    if result.outcome is None:
        return stop_code
    promoter = Promoter(
        recipe=promotion_recipe(config),
        versions=versions,
        who=default_who(),
        why=f"end of the run {config.run_name!r}",
        say=console.print,
    )
    uri = f"models:/{BANK_MODEL}/{newest.version}"
    return REFUSED if say_decision(promoter.promote(uri)) else 0


def nightly_recipe(config: LifelongEditRecipe) -> NightlyRecipe:
    """How the editing job has its version examined: on its own cases, otherwise as at night."""
    path = config.promotion.nightly_recipe
    overrides = [
        f"seed={config.seed}",
        f"run_root={config.run_root}",
        f"run_name={config.run_name}-promotion",
        f"tracking.experiment={config.tracking.experiment}",
        f"ray.address={config.ray.address}",
        f"ray.num_cpus={config.ray.num_cpus}",
        f"ray.object_store_memory_bytes={config.ray.object_store_memory_bytes}",
    ]
    if not config.requests.path:
        overrides += [f"cases.path={config.requests.cases}", f"cases.limit={config.requests.limit}"]
        overrides += [f"benchmark.{name}={value}" for name, value in vars(config.benchmark).items()]
    recipe = load_recipe(NightlyRecipe, Path(path) if path else None, overrides)
    return recipe.with_changes(store=recipe.store or config.store)


def promotion_recipe(config: LifelongEditRecipe) -> PromotionRecipe:
    """How the editing job decides."""
    path = Path(config.promotion.recipe) if config.promotion.recipe else DEFAULT_RECIPE
    recipe = load_recipe(PromotionRecipe, path, [f"run_root={config.run_root}"])
    return recipe.with_changes(store=recipe.store or config.store)
