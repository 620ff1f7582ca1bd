"""Validation of a training job: in this process, or in an actor that may have a GPU of its own."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from liveedit_core.backbones.protocol import Backbone
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.schema import Case
from liveedit_core.training.validation import ValidationReport
from pipelines.job.gpus import gpus_of_each, placed
from pipelines.job.sections import WorkerSection
from pipelines.job.state_cache import cache_names
from pipelines.training.cases import training_models
from pipelines.training.recipe import TrainRecipe
from workers.actor_pool import WorkerPool, actor_options
from workers.validation_worker import ValidationActor, ValidationWorker


class Validation:
    """Validates generators on the held-out cases of a recipe.

    Nothing is loaded before the first call. In an actor where other actors encode or train;
    then a Ray session must be open, and the models are those that the recipe names, unless
    `load_backbone` loads others. Else here, with `backbone`.
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        backbone: Backbone,
        held_out: Sequence[Case],
        load_backbone: Callable[[], Backbone] | None = None,
    ) -> None:
        self._recipe = recipe
        self._backbone = backbone
        self._load_backbone = load_backbone
        self._options: dict[str, Any] = {
            "num_cases": recipe.validation.num_cases,
            "limits": recipe.diagnostics,
            "batch_size": recipe.validation.batch_size,
            "cache": cache_names(recipe.states, recipe.run_root),
        }
        self._held_out = held_out
        self.first_norm = 0.0
        """`expert_norm_median` of the first validation; a resumed run sets it."""
        self._pool: WorkerPool[tuple[Any, ...], ValidationReport, None] | None = None

    def close(self) -> None:
        """Ends the actor, if there is one."""
        if self._pool is not None:
            self._pool.close()

    def __call__(self, generator: LiveEditGenerator) -> ValidationReport:
        report = self._validate(generator)
        self.first_norm = self.first_norm or report.figures["routing.expert_norm_median"]
        return report

    @functools.cached_property
    def _validate(self) -> Callable[[LiveEditGenerator], ValidationReport]:
        if self._recipe.has_actors:
            self._pool = pool = self._started()
            return lambda generator: next(iter(pool.stream([self._sent(generator)])))
        here = ValidationWorker(lambda: self._backbone, self._held_out, **self._options)
        return lambda generator: here.validate(*self._sent(generator))

    def _sent(self, generator: LiveEditGenerator) -> tuple[Any, ...]:
        weights = {name: tensor.cpu() for name, tensor in generator.state_dict().items()}
        return generator.config, weights, self.first_norm

    def _started(self) -> WorkerPool[tuple[Any, ...], ValidationReport, None]:
        section, sharding = self._recipe.validation, self._recipe.sharding
        gang = WorkerSection(num_workers=sharding.shards, num_gpus=float(sharding.gpus_per_shard))
        num_gpus = gpus_of_each(section, [gang])
        models = placed(training_models(self._recipe), section, num_gpus)
        options = actor_options(
            num_cpus=section.num_cpus, num_gpus=num_gpus, node_resource=section.node_resource
        )
        actor = ValidationActor.options(**options).remote(
            self._load_backbone or models.load_backbone,
            self._held_out,
            num_threads=section.num_threads,
            **self._options,
        )
        return WorkerPool(
            "validation",
            [actor],
            lambda actor, sent: actor.validate.remote(*sent),
            max_in_flight=1,
        )
