"""A night with all its parts: Ray, MLflow, the fixed cases, progress and log."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from infra.storage.object_store import ObjectStore
from infra.tracking.model_registry import ModelVersions
from infra.tracking.tracker import default_tracking_uri
from liveedit_core.builtin.benchmark import load_builtin_cases
from liveedit_core.errors import InputError
from liveedit_core.inputs.datasets import load_cases
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.schema import Case
from pipelines.job.cases import load_evaluation_cases
from pipelines.job.progress import ProgressView
from pipelines.job.ray_session import StopRequest
from pipelines.job.run_folder import log_to_file
from pipelines.operations.night_evaluators import RayEvaluators
from pipelines.operations.nightly import Night, NightResult
from pipelines.operations.nightly_records import NightlyRecords
from pipelines.operations.recipe import NightlyRecipe


def run_night(
    recipe: NightlyRecipe, label: str, console: Console, *, version: int = 0
) -> tuple[NightResult, int]:
    """Do what is left of a night.

    Args:
        recipe: The resolved recipe.
        label: The date.
        console: For people.
        version: Examine this version of liveedit-bank; 0 for the newest one.

    Returns:
        How it ended, and the exit code of a signal if one stopped it.

    Raises:
        LiveEditError: See `Night.examine`.
    """
    folder = recipe.run_folder / label
    folder.mkdir(parents=True, exist_ok=True)
    log_to_file(folder)
    progress = ProgressView(console)
    stop = StopRequest(progress.say)
    with RayEvaluators(recipe, stop) as evaluators, progress.shown():
        night = Night(
            recipe=recipe,
            label=label,
            versions=ModelVersions(default_tracking_uri(Path(recipe.run_root))),
            evaluators=evaluators,
            records=NightlyRecords(recipe, label),
            version=version,
            say=progress.say,
            on_progress=lambda num_done, num_units: progress.evaluations(num_units - num_done),
            should_stop=stop,
        )
        return night.examine(lambda: read_cases(recipe, progress.say)), stop.exit_code


def read_cases(recipe: NightlyRecipe, say: Callable[[str], None] = print) -> Sequence[Case]:
    """The fixed cases; every one of them must be readable.

    Args:
        recipe: Names them.
        say: Is told what a published benchmark leaves out.

    Raises:
        InputError: The file is missing, or a line of it is no case; a benchmark is not whole.
    """
    limit = recipe.cases.limit or None
    if recipe.benchmark.is_on:
        return load_evaluation_cases(recipe.benchmark, limits=recipe.limits, limit=limit, say=say)
    if not recipe.cases.path:
        return load_builtin_cases("evaluation")[:limit]
    store = ObjectStore(recipe.store_uri)
    cases: list[Case] = []
    for item in load_cases(
        recipe.cases.path,
        limits=recipe.limits,
        fetch=lambda uri: store.fetch(uri, recipe.limits.max_image_bytes),
    ):
        if isinstance(item, Rejected):
            raise InputError(
                f"{recipe.cases.path}, line {item.line_number}: {item.message}. Fixed cases are "
                "compared from night to night, so none may be left out: correct or remove the line"
            )
        cases.append(item)
        if len(cases) == limit:
            break
    if not cases:
        raise InputError(f"{recipe.cases.path} holds no case")
    return cases
