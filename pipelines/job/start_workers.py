"""Starts the workers of a job from the sections of its recipe, in an open Ray session."""

import functools
from collections.abc import Sequence
from typing import Any

from liveedit_core.inputs.limits import MAX_TARGET_TOKENS, InputLimits
from liveedit_core.method.config import RefineSection, WeakEdits
from pipelines.job.sections import ActorSection, EmbeddingSection, GeneratorSection, WorkerSection
from workers.actor_pool import WorkerPool, actor_options
from workers.evaluation_pool import EvaluationPool
from workers.evaluation_worker import EvaluationActor
from workers.expert_embedding_worker import ExpertEmbeddingActor, load_embedder
from workers.generator_gang import GeneratorGangActor
from workers.generator_worker import GeneratorActor
from workers.messages import (
    EmbedderFacts,
    GeneratedBatch,
    GeneratorFacts,
    NumberedRequest,
    WrittenBatch,
)
from workers.models import CacheNames, ModelSource
from workers.sharding_config import ShardingSection

GeneratorPool = WorkerPool[Sequence[NumberedRequest], GeneratedBatch, GeneratorFacts]
EmbedderPool = WorkerPool[GeneratedBatch, WrittenBatch, EmbedderFacts]


def start_generator(
    models: ModelSource,
    limits: InputLimits,
    section: GeneratorSection,
    *,
    refine: RefineSection | None = None,
    weak: WeakEdits = "refuse",
    max_in_flight: int = 4,
    cache: CacheNames | None = None,
) -> GeneratorPool:
    """Generator workers: `gangs` interchangeable copies of the models. With one shard a copy is one
    actor with plain torch. With more, it is a gang of actors that share the models (DeepSpeed
    ZeRO-3) behind an actor that speaks for them; a gang computes all states itself and uses no
    `cache`."""
    actors: list[Any]
    options: dict[str, Any] = {"refine": refine, "weak": weak}
    if section.shards > 1:
        sharding = ShardingSection(
            shards=section.shards,
            cpus_per_shard=section.num_cpus,
            threads_per_shard=section.num_threads,
        )
        gang = GeneratorGangActor.options(**actor_options(num_cpus=0))
        actors = [
            gang.remote(models, limits, sharding, **options, node_resource=section.node_resource)
            for _ in range(section.gangs)
        ]
    else:
        worker = GeneratorActor.options(**_options(section))
        actors = [
            worker.remote(models, limits, **options, num_threads=section.num_threads, cache=cache)
            for _ in range(section.gangs)
        ]
    return WorkerPool(
        "generator pool",
        actors,
        lambda actor, batch: actor.generate.remote(batch),
        max_in_flight=max_in_flight,
    )


def start_embedder(section: EmbeddingSection, *, max_in_flight: int = 4) -> EmbedderPool:
    """Workers that embed images and write experts to the store."""
    worker = ExpertEmbeddingActor.options(**_options(section))
    load = functools.partial(load_embedder, section.open_clip_model, section.open_clip_pretrained)
    return WorkerPool(
        "embedding pool",
        [
            worker.remote(load, batch_size=section.batch_size, num_threads=section.num_threads)
            for _ in range(section.num_workers)
        ],
        lambda actor, batch, writer: actor.write.remote(batch, writer),
        max_in_flight=max_in_flight,
    )


def start_evaluator(
    models: ModelSource,
    section: WorkerSection,
    *,
    max_new_tokens: int = MAX_TARGET_TOKENS,
    max_in_flight: int = 4,
    cache: CacheNames | None = None,
    answers_uri: str = "",
) -> EvaluationPool:
    """Evaluation workers; the second and later ones start when there is enough work for them.
    States and unedited answers come from `cache` and the store at `answers_uri`, or are computed
    once for this pool."""
    worker = EvaluationActor.options(**_options(section))
    start_actor = functools.partial(
        worker.remote,
        models,
        batch_size=section.batch_size,
        max_new_tokens=max_new_tokens,
        num_threads=section.num_threads,
        cache=cache,
        answers_uri=answers_uri,
    )
    return EvaluationPool(
        start_actor,
        num_workers=section.num_workers,
        max_in_flight=max_in_flight,
        # What is in a cache need not be kept in the object store as well.
        keeps_prepared=cache is None or not answers_uri,
    )


def _options(section: ActorSection) -> dict[str, Any]:
    return actor_options(num_cpus=section.num_cpus, node_resource=section.node_resource)
