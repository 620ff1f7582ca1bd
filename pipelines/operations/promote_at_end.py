"""`lifelong_edit.py --promote`: evaluate the newest version beside the champion and promote it.

The same two steps as `nightly_evaluation.py` and `promotion.py`, with their recipes, on the cases
of the run; their store is that of the recipes, else the `--store` of the run, else the run root.
"""

import json
from pathlib import Path

from rich.console import Console

from infra.bank.expert_bank import ExpertBank
from infra.storage.object_store import ObjectStore
from infra.tracking.model_registry import BANK_MODEL, ModelVersions
from infra.tracking.tracker import default_tracking_uri
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.job.entry import current_user
from pipelines.job.recipe_loader import load_recipe
from pipelines.job.registered_models import version_of
from pipelines.operations.audited import AuditedVersions
from pipelines.operations.nightly_run import run_nightly
from pipelines.operations.promoter import Promoter, print_decision
from pipelines.operations.recipe import DEFAULT_RECIPE, NightlyRecipe, PromotionRecipe

REFUSED = 3
"""Exit code of the editing job when its newest version was not promoted."""


def promote_at_end(config: LifelongEditRecipe, console: Console) -> int:
    """Evaluate the newest version of the run's bank and promote it if it passes every gate. Returns
    0 when it is the champion, `REFUSED` when a gate failed, or the code of a signal."""
    versions = ModelVersions(default_tracking_uri(Path(config.run_root)))
    bank = ExpertBank.open(ObjectStore(config.store_uri), config.bank.name)
    newest = version_of(versions, bank, bank.history()[-1].version)
    recipe = promotion_recipe(config)
    champion = AuditedVersions(versions, ObjectStore(recipe.store_uri)).champion()
    if champion is not None and champion.version == newest.version:
        console.print(f"version {newest.version} is the champion already, nothing to do")
        return 0
    label = f"v{newest.version}-against-v{champion.version if champion else 0}"
    result, stop_code = run_nightly(nightly_recipe(config), label, console, version=newest.version)
    if result.outcome is None:
        return stop_code
    promoter = Promoter(
        recipe=recipe,
        versions=versions,
        who=current_user(),
        why=f"end of the run {config.run_name!r}",
        say=console.print,
    )
    uri = f"models:/{BANK_MODEL}/{newest.version}"
    return REFUSED if print_decision(promoter.promote(uri)) else 0


def nightly_recipe(config: LifelongEditRecipe) -> NightlyRecipe:
    """Recipe of the evaluation: the cases of the run, otherwise the nightly recipe."""
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
        overrides += [
            f"benchmark.{name}={json.dumps(value)}"
            for name, value in vars(config.benchmark).items()
        ]
    recipe = load_recipe(NightlyRecipe, Path(path) if path else None, overrides)
    return recipe.with_changes(store=recipe.store or config.store)


def promotion_recipe(config: LifelongEditRecipe) -> PromotionRecipe:
    path = Path(config.promotion.recipe) if config.promotion.recipe else DEFAULT_RECIPE
    recipe = load_recipe(PromotionRecipe, path, [f"run_root={config.run_root}"])
    return recipe.with_changes(store=recipe.store or config.store)
