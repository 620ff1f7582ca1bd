"""Starts a nightly run: Ray, evaluation workers, the fixed cases, progress and log."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from rich.console import Console

from infra.bank.manifest import BankManifest
from infra.storage.object_store import ObjectStore
from infra.tracking.model_registry import ModelVersions
from infra.tracking.tracker import default_tracking_uri
from liveedit_core.schema import Case
from pipelines.job.cases import each_evaluation_case
from pipelines.job.progress import ProgressView
from pipelines.job.ray_session import StopRequest, open_session
from pipelines.job.registered_models import registered_models
from pipelines.job.run_folder import log_to_file
from pipelines.job.stages import Evaluator
from pipelines.job.start_workers import start_evaluator
from pipelines.job.state_cache import cache_names
from pipelines.operations.nightly import NightlyResult, NightlyRun
from pipelines.operations.recipe import NightlyRecipe
from workers.evaluation_pool import EvaluationPool
from workers.models import ModelNames


def run_nightly(
    recipe: NightlyRecipe, label: str, console: Console, *, version: int = 0
) -> tuple[NightlyResult, int]:
    """Do what is left of a nightly run; returns the result, and the exit code of a signal."""
    folder = recipe.run_folder / label
    folder.mkdir(parents=True, exist_ok=True)
    log_to_file(folder)
    progress = ProgressView(console)
    stop = StopRequest(progress.say)
    with NightlyWorkers(recipe, stop) as workers, progress.shown():
        nightly = NightlyRun(
            recipe=recipe,
            label=label,
            versions=ModelVersions(default_tracking_uri(Path(recipe.run_root))),
            evaluator_of=workers.evaluator_of,
            version=version,
            say=progress.say,
            on_progress=lambda num_done, num_units: progress.evaluations(num_units - num_done),
            should_stop=stop,
        )
        return nightly.run(lambda: each_case(recipe, progress.say)), stop.exit_code


class NightlyWorkers:
    """Evaluation pools, one at a time, in a Ray session that starts with the first pool. `stop`
    handles signals from the start of the session on, as Ray installs its own handlers."""

    def __init__(self, recipe: NightlyRecipe, stop: StopRequest) -> None:
        self._recipe = recipe
        self._stop = stop
        self._session = contextlib.ExitStack()
        self._models: ModelNames | None = None
        self._pool: EvaluationPool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.close()
        self._session.close()

    def evaluator_of(self, manifest: BankManifest, generator: Path) -> Evaluator:
        """The pool for a bank version; the last pool stays when the models are the same."""
        recipe, section = self._recipe, self._recipe.evaluation
        models = registered_models(
            manifest,
            generator=str(generator),
            prompt_protocol=recipe.benchmark.protocol,
        )
        if self._pool is None:
            needed_cpus = section.num_cpus * section.num_workers
            self._session.enter_context(open_session(recipe.ray, needed_cpus=needed_cpus))
            self._session.enter_context(self._stop.installed())
        elif models != self._models:
            self._pool.close()
        else:
            return self._pool
        self._models = models
        self._pool = start_evaluator(
            models,
            section,
            max_new_tokens=section.max_new_tokens,
            max_in_flight=recipe.ray.max_in_flight,
            cache=cache_names(recipe.states, recipe.run_root),
            answers_uri=recipe.store_uri if recipe.states.is_cached else "",
        )
        return self._pool


def each_case(recipe: NightlyRecipe, say: Callable[[str], None] = print) -> Iterator[Case]:
    """The fixed cases, all of them readable; `say` gets what a published benchmark leaves out."""
    return each_evaluation_case(
        recipe.benchmark,
        recipe.cases.path,
        reader=f"{recipe.job} {recipe.run_name}",
        limits=recipe.limits,
        store=ObjectStore(recipe.store_uri) if recipe.cases.path else None,
        limit=recipe.cases.limit or None,
        say=say,
    )
