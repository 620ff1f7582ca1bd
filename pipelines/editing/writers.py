"""Starts the stages that write experts, as an editing recipe configures them."""

from collections.abc import Sequence

from infra.bank.expert_bank import ExpertBank
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.job.ray_session import address_of
from pipelines.job.sections import ActorSection
from pipelines.job.stages import ExpertWriters, Generator, Subjects
from pipelines.job.start_workers import (
    embedder_in,
    evaluation_options,
    evaluator_in,
    start_embedder,
    start_evaluator,
    start_generator,
    start_subjects,
)
from pipelines.job.state_cache import cache_names
from workers.actor_pool import WorkerPool
from workers.evaluation_pool import EvaluationPool
from workers.messages import GeneratorFacts
from workers.models import ModelNames, ModelSource
from workers.subject_assigner import SubjectAssigner


def model_names(config: LifelongEditRecipe) -> ModelNames:
    """Backbone and generator as a recipe names them."""
    return ModelNames(
        backbone=config.backbone.name,
        generator=config.generator.checkpoint,
        options=config.backbone.options(config.benchmark.protocol),
    )


def start_writers(
    config: LifelongEditRecipe, models: ModelSource, beside: Sequence[ActorSection] = ()
) -> ExpertWriters:
    """The stages that write experts; `beside` are those that share the GPUs with them."""
    embedding, max_in_flight = config.embedding_stage, config.ray.max_in_flight
    is_shared = not embedding.num_workers
    # States are written for evaluations, which a continuous job has none of.
    cache = None if config.follow.is_on else cache_names(config.states, config.run_root)
    generator = start_generator(
        models,
        config.limits,
        config.generator,
        refine=config.refine,
        weak=config.edits.weak,
        max_in_flight=max_in_flight,
        cache=cache,
        beside=(embedding, *beside),
        embedding=embedding if is_shared else None,
        evaluation=evaluation_options(
            config.evaluation, config.evaluation.max_new_tokens, cache, config.store_uri
        ),
    )
    if is_shared:
        embedder = embedder_in(generator, max_in_flight=max_in_flight)
    else:
        embedder = start_embedder(embedding, max_in_flight=max_in_flight)
    return ExpertWriters(generator=generator, embedder=embedder)


def evaluator_of(
    config: LifelongEditRecipe, models: ModelSource, generator: Generator
) -> EvaluationPool:
    """Evaluation workers: actors of their own, or those of the generator."""
    section = config.evaluation_stage
    if not section.num_workers:
        assert isinstance(generator, WorkerPool)
        return evaluator_in(generator, max_in_flight=config.ray.max_in_flight)
    return start_evaluator(
        models,
        section,
        max_new_tokens=section.max_new_tokens,
        max_in_flight=config.ray.max_in_flight,
        cache=cache_names(config.states, config.run_root),
        answers_uri=config.store_uri,
        beside=(config.generator, config.embedding),
    )


def subjects_of(config: LifelongEditRecipe, bank: ExpertBank, facts: GeneratorFacts) -> Subjects:
    """Who compares edits: on a cluster an actor, else this process."""
    start = start_subjects if address_of(config.ray) else SubjectAssigner
    return start(bank.store, bank.name, facts)
