"""Who scores at night: a pool of actors with the models that a bank version was made with."""

import contextlib
from pathlib import Path
from typing import Protocol, Self

from infra.bank.manifest import BankManifest
from pipelines.job.ray_session import StopRequest, open_session
from pipelines.job.registered_models import registered_models
from pipelines.job.stages import Evaluator
from pipelines.job.start_workers import start_evaluator
from pipelines.job.state_cache import cache_names
from pipelines.operations.recipe import NightlyRecipe
from workers.evaluation_pool import EvaluationPool
from workers.models import ModelNames


class Evaluators(Protocol):
    """Gives the evaluator that fits a bank version."""

    def of(self, manifest: BankManifest, generator: Path) -> Evaluator:
        """An evaluator with the backbone of the manifest and the generator of the folder."""


class RayEvaluators:
    """Pools in a Ray session that starts with the first one; one pool at a time."""

    def __init__(self, recipe: NightlyRecipe, stop: StopRequest) -> None:
        """Start nothing yet.

        Args:
            recipe: How large a pool is.
            stop: Listens to signals from the start of the session on, as Ray sets its own.
        """
        self._recipe = recipe
        self._stop = stop
        self._stack = contextlib.ExitStack()
        self._is_open = False
        self._models: ModelNames | None = None
        self._pool: EvaluationPool | None = None

    def __enter__(self) -> Self:
        """Nothing is started yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End pool and session."""
        self._close_pool()
        self._stack.close()

    def of(self, manifest: BankManifest, generator: Path) -> Evaluator:
        """The pool for a bank version; the last one stays when the models are the same."""
        device = self._recipe.evaluation.device
        models = registered_models(manifest, generator=str(generator), device=device)
        if self._pool is None or models != self._models:
            self._close_pool()
            self._open_session()
            self._models, self._pool = models, self._start_pool(models)
        return self._pool

    def _open_session(self) -> None:
        if not self._is_open:
            section = self._recipe.evaluation
            needed_cpus = section.num_cpus * section.num_workers
            self._stack.enter_context(open_session(self._recipe.ray, needed_cpus=needed_cpus))
            self._stack.enter_context(self._stop.installed())
            self._is_open = True

    def _start_pool(self, models: ModelNames) -> EvaluationPool:
        recipe, section = self._recipe, self._recipe.evaluation
        return start_evaluator(
            models,
            section,
            max_new_tokens=section.max_new_tokens,
            max_in_flight=recipe.ray.max_in_flight,
            cache=cache_names(recipe.states, recipe.run_root),
            answers_uri=recipe.store_uri if recipe.states.is_cached else "",
        )

    def _close_pool(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None
