"""Starts the workers of a job from the sections of its recipe, in an open Ray session."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from infra.bank.fragments import FragmentWriter
from infra.storage.object_store import ObjectStore
from liveedit_core.inputs.limits import MAX_TARGET_TOKENS, InputLimits
from liveedit_core.method.config import RefineSection, WeakEdits
from pipelines.job.gpus import device_of, gpus_of_each, placed
from pipelines.job.sections import ActorSection, EmbeddingSection, GeneratorSection, WorkerSection
from pipelines.job.stages import Asked, Generated
from workers.actor_pool import WorkerPool, actor_options
from workers.evaluation_pool import EvaluationPool
from workers.evaluation_worker import EvaluationActor
from workers.expert_embedding_worker import (
    WRITING,
    Embedder,
    ExpertEmbeddingActor,
    WritingGeneratorActor,
    load_embedder,
)
from workers.generator_gang import GeneratorGangActor
from workers.generator_worker import GeneratorActor
from workers.messages import (
    EmbedderFacts,
    GeneratorFacts,
    WrittenBatch,
)
from workers.models import CacheNames, ModelSource
from workers.sharding_config import ShardingSection
from workers.subject_assigner import SubjectActor

GeneratorPool = WorkerPool[Sequence[int], Generated, GeneratorFacts]
EmbedderPool = WorkerPool[Generated, tuple[WrittenBatch, Asked], EmbedderFacts]


def start_generator(
    models: ModelSource,
    limits: InputLimits,
    section: GeneratorSection,
    *,
    refine: RefineSection | None = None,
    weak: WeakEdits = "refuse",
    max_in_flight: int = 4,
    cache: CacheNames | None = None,
    beside: Sequence[ActorSection] = (),
    embedding: EmbeddingSection | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> GeneratorPool:
    """Generator workers: `gangs` interchangeable copies of the models. With one shard a copy is one
    actor with plain torch. With more, it is a gang of actors that share the models (DeepSpeed
    ZeRO-3) behind an actor that speaks for them; a gang computes all states itself and uses no
    `cache`. `beside` are the stages that share the GPUs. With `embedding` the one actor of a copy
    also embeds and writes: see `embedder_in`; with `evaluation` too, what `evaluation_options`
    gives, it evaluates: see `evaluator_in`."""
    num_gpus = gpus_of_each(section, beside)
    models = placed(models, section, num_gpus)
    start_actor: Callable[[], Any]
    options: dict[str, Any] = {"refine": refine, "weak": weak}
    if section.shards > 1:
        sharding = ShardingSection(
            shards=section.shards,
            gpus_per_shard=int(num_gpus),
            cpus_per_shard=section.num_cpus,
            threads_per_shard=section.num_threads,
        )
        gang = GeneratorGangActor.options(**actor_options(num_cpus=0))
        options["node_resource"] = section.node_resource
        start_actor = functools.partial(gang.remote, models, limits, sharding, **options)
    else:
        actor_class = GeneratorActor
        if embedding is not None:
            actor_class = WritingGeneratorActor
            options["load_embedder"] = _embedder_loader(embedding, num_gpus)
            options |= {"images_at_once": embedding.batch_size, "evaluation": evaluation}
        options |= {"num_threads": section.num_threads, "cache": cache}
        worker = actor_class.options(**_options(section, num_gpus))
        start_actor = functools.partial(worker.remote, models, limits, **options)
    return WorkerPool(
        "generator pool",
        [start_actor() for _ in range(section.gangs)],
        lambda actor, *batch: actor.generate_logged.options(num_returns=2).remote(*batch),
        max_in_flight=max_in_flight,
        start_actor=None if embedding else start_actor,  # `embedder_in` has the same actors
        max_actors=section.gangs,
    )


def start_embedder(section: EmbeddingSection, *, max_in_flight: int = 4) -> EmbedderPool:
    """Workers that embed images and write experts to the store."""
    num_gpus = gpus_of_each(section)
    worker = ExpertEmbeddingActor.options(**_options(section, num_gpus))
    start_actor = functools.partial(
        worker.remote,
        _embedder_loader(section, num_gpus),
        batch_size=section.batch_size,
        num_threads=section.num_threads,
    )
    return embedding_pool(
        [start_actor() for _ in range(section.num_workers)],
        max_in_flight=max_in_flight,
        start_actor=start_actor,
        max_actors=section.num_workers,
    )


def _embedder_loader(section: EmbeddingSection, num_gpus: float) -> Callable[[], Embedder]:
    return functools.partial(
        load_embedder,
        section.open_clip_model,
        section.open_clip_pretrained,
        device_of(section, num_gpus),
        section.compute_dtype,
    )


def embedder_in(generator: GeneratorPool, *, max_in_flight: int = 4) -> EmbedderPool:
    """The same actors, started with `embedding`, as a pool that embeds and writes."""

    def write(actor: Any, generated: tuple[int, Any], writer: FragmentWriter) -> Any:
        _, batch = generated
        options = {"num_returns": 2, "concurrency_group": WRITING}
        return actor.write.options(**options).remote(batch, writer)

    pool: EmbedderPool = WorkerPool(
        "embedding pool",
        generator.actors,
        write,
        max_in_flight=max_in_flight,
        describe="describe_embedder",
    )
    pool.owns_actors = False
    return pool


def embedding_pool(actors: Sequence[Any], **limits: Any) -> EmbedderPool:
    """These `ExpertEmbeddingActor`s as a pool; `limits` are those of `ActorPool`."""

    def write(actor: Any, generated: tuple[int, Any], writer: FragmentWriter) -> Any:
        _, batch = generated
        return actor.write.options(num_returns=2).remote(batch, writer)

    return WorkerPool("embedding pool", actors, write, **limits)


class SubjectPool(WorkerPool[Sequence[Asked], dict[str, str], None]):
    """A `SubjectAssigner` in an actor."""

    def run(self, action: Callable[[], Any]) -> Any:
        runner = WorkerPool[Callable[[], Any], Any, None](
            "window merger",
            self.actors,
            lambda actor, item: actor.run.remote(item),
            max_in_flight=1,
        )
        return next(iter(runner.stream([action])))


def start_subjects(store: ObjectStore, bank: str, facts: GeneratorFacts) -> SubjectPool:
    """The process that compares the edits of each window with those that a bank holds, and merges
    their files."""
    actor = SubjectActor.options(**actor_options(num_cpus=0)).remote(store, bank, facts)
    return SubjectPool(
        "subject assigner",
        [actor],
        lambda actor, window: actor.assign.remote(*window),
        max_in_flight=1,
    )


def start_evaluator(
    models: ModelSource,
    section: WorkerSection,
    *,
    max_new_tokens: int = MAX_TARGET_TOKENS,
    max_in_flight: int = 4,
    cache: CacheNames | None = None,
    answers_uri: str = "",
    beside: Sequence[ActorSection] = (),
) -> EvaluationPool:
    """Evaluation workers; the second and later ones start when there is enough work for them.
    States and unedited answers come from `cache` and the store at `answers_uri`, or are computed
    once for this pool. `beside` are the stages that share the GPUs."""
    num_gpus = gpus_of_each(section, beside)
    models = placed(models, section, num_gpus)
    worker = EvaluationActor.options(**_options(section, num_gpus))
    options = evaluation_options(section, max_new_tokens, cache, answers_uri)
    start_actor = functools.partial(worker.remote, models, **options)
    return EvaluationPool(
        [start_actor()],
        start_actor=start_actor,
        max_actors=section.num_workers,
        max_in_flight=max_in_flight,
    )


def evaluation_options(
    section: WorkerSection, max_new_tokens: int, cache: CacheNames | None, answers_uri: str
) -> dict[str, Any]:
    """Of an `EvaluationWorker`, apart from its models."""
    return {
        "batch_size": section.batch_size,
        "max_new_tokens": max_new_tokens,
        "num_threads": section.num_threads,
        "cache": cache,
        "answers_uri": answers_uri,
    }


def evaluator_in(generator: GeneratorPool, *, max_in_flight: int = 4) -> EvaluationPool:
    """The actors of a generator pool, started with `evaluation`, as a pool that evaluates; it owns
    them from now on, so that they outlive the edits."""
    generator.owns_actors = False
    return EvaluationPool(generator.actors, max_in_flight=max_in_flight)


def _options(section: ActorSection, num_gpus: float) -> dict[str, Any]:
    return actor_options(
        num_cpus=section.num_cpus, num_gpus=num_gpus, node_resource=section.node_resource
    )
