"""The generator group: what the driver sees of all generator workers.

A gang of `shards` actors acts as one worker; several gangs are interchangeable and scale out. With
one shard a gang is one actor with plain torch; more share one copy of the models (DeepSpeed ZeRO-3)
behind an actor that speaks for them.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from liveedit_core.inputs.limits import InputLimits
from workers.actor_pool import ActorPool, Call, actor_options
from workers.generator_gang import GeneratorGangActor
from workers.generator_worker import GeneratorActor
from workers.messages import GeneratedBatch, GeneratorFacts, NumberedRequest
from workers.models import ModelSource
from workers.sharding_config import ShardingSection
from workers.state_sources import CacheNames


class GeneratorGroup:
    """Writes experts in other processes."""

    def __init__(
        self,
        models: ModelSource,
        limits: InputLimits,
        *,
        shards: int = 1,
        gangs: int = 1,
        max_in_flight: int = 4,
        num_threads: int = 1,
        num_cpus: float = 1.0,
        node_resource: str = "",
        cache: CacheNames | None = None,
    ) -> None:
        """Start the actors; they load their models meanwhile.

        Args:
            models: Which backbone and generator.
            limits: Of requests.
            shards: Actors that share one copy of the models.
            gangs: Independent copies.
            max_in_flight: Most micro-batches on their way.
            num_threads: Threads of torch in each actor.
            num_cpus: CPUs that Ray sets aside for each actor.
            node_resource: Custom resource of the nodes to run on; "" for any.
            cache: Of states, for workers with a copy of their own (a gang of shards computes them
                all); None computes them all.
        """
        actors: list[Any]
        if shards > 1:
            sharding = ShardingSection(
                shards=shards, cpus_per_shard=num_cpus, threads_per_shard=num_threads
            )
            leader = GeneratorGangActor.options(**actor_options(num_cpus=0))
            actors = [
                leader.remote(models, limits, sharding, node_resource=node_resource)
                for _ in range(gangs)
            ]
        else:
            options = actor_options(num_cpus=num_cpus, node_resource=node_resource)
            actors = [
                GeneratorActor.options(**options).remote(
                    models, limits, num_threads=num_threads, cache=cache
                )
                for _ in range(gangs)
            ]
        self._pool = ActorPool("generator group", actors, max_in_flight=max_in_flight)

    def describe(self) -> GeneratorFacts:
        """What runs in the group; waits until it has started."""
        facts: GeneratorFacts = self._pool.ask_first(lambda actor: actor.describe.remote())
        return facts

    def stream(self, batches: Iterable[Sequence[NumberedRequest]]) -> Iterator[GeneratedBatch]:
        """Generate micro-batch after micro-batch.

        Args:
            batches: Taken only as there is room in flight.

        Yields:
            One answer a micro-batch, in order.

        Raises:
            LiveEditError: A micro-batch failed for good.
        """
        return self._pool.stream(_call(batch) for batch in batches)

    def close(self) -> None:
        """End the actors."""
        self._pool.close()


def _call(batch: Sequence[NumberedRequest]) -> Call:
    def make(actor: Any) -> Any:
        return actor.generate.remote(batch)

    return make
