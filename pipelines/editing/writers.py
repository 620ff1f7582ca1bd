"""Starts the stages that write experts, as an editing recipe configures them."""

from collections.abc import Sequence

from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.job.sections import ActorSection
from pipelines.job.stages import ExpertWriters
from pipelines.job.start_workers import start_embedder, start_generator
from pipelines.job.state_cache import cache_names
from workers.models import ModelNames, ModelSource


def model_names(config: LifelongEditRecipe) -> ModelNames:
    """Backbone and generator as a recipe names them."""
    return ModelNames(
        backbone=config.backbone.name,
        generator=config.generator.checkpoint,
        options=config.backbone.options(config.benchmark.protocol),
    )


def writer_cpus(config: LifelongEditRecipe) -> float:
    """CPUs that the actors of `start_writers` ask for together."""
    generator, embedding = config.generator, config.embedding
    return (
        generator.num_cpus * generator.gangs * generator.shards
        + embedding.num_cpus * embedding.num_workers
    )


def start_writers(
    config: LifelongEditRecipe, models: ModelSource, beside: Sequence[ActorSection] = ()
) -> ExpertWriters:
    """The stages that write experts; `beside` are those that share the GPUs with them."""
    return ExpertWriters(
        generator=start_generator(
            models,
            config.limits,
            config.generator,
            refine=config.refine,
            weak=config.edits.weak,
            max_in_flight=config.ray.max_in_flight,
            cache=cache_names(config.states, config.run_root),
            beside=(config.embedding, *beside),
        ),
        embedder=start_embedder(config.embedding, max_in_flight=config.ray.max_in_flight),
    )
