"""The expert-embedding pool: what the driver sees of all expert-embedding workers."""

import functools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from infra.bank.expert_bank import FragmentWriter
from workers.actor_pool import ActorPool, Call, actor_options
from workers.expert_embedding_worker import ExpertEmbeddingActor
from workers.messages import EmbedderFacts, GeneratedBatch, WrittenBatch

if TYPE_CHECKING:
    from workers.clip_embedder import ClipEmbedder


class ExpertEmbeddingPool:
    """Embeds and writes experts in other processes."""

    def __init__(
        self,
        *,
        model: str,
        pretrained: str,
        num_workers: int = 1,
        batch_size: int = 32,
        max_in_flight: int = 4,
        num_threads: int = 1,
        num_cpus: float = 0.5,
        node_resource: str = "",
    ) -> None:
        """Start the actors; they load their model meanwhile.

        Args:
            model: "builtin" or the name of an open_clip model.
            pretrained: Its weights.
            num_workers: How many actors.
            batch_size: Images in one forward pass.
            max_in_flight: Most micro-batches on their way.
            num_threads: Threads of torch in each actor.
            num_cpus: CPUs that Ray sets aside for each actor.
            node_resource: Custom resource of the nodes to run on; "" for any.
        """
        options = actor_options(num_cpus=num_cpus, node_resource=node_resource)
        load = functools.partial(_load, model, pretrained)
        actors = [
            ExpertEmbeddingActor.options(**options).remote(
                load, batch_size=batch_size, num_threads=num_threads
            )
            for _ in range(num_workers)
        ]
        self._pool = ActorPool("embedding pool", actors, max_in_flight=max_in_flight)

    def describe(self) -> EmbedderFacts:
        """Which embedding the pool computes; waits until it has started."""
        facts: EmbedderFacts = self._pool.ask_first(lambda actor: actor.describe.remote())
        return facts

    def stream(
        self, batches: Iterable[GeneratedBatch], writer: FragmentWriter
    ) -> Iterator[WrittenBatch]:
        """Embed and write batch after batch.

        Args:
            batches: Taken only as there is room in flight.
            writer: Handle of the bank.

        Yields:
            One answer a batch, in order.

        Raises:
            LiveEditError: A batch failed for good.
        """
        return self._pool.stream(_call(batch, writer) for batch in batches)

    def close(self) -> None:
        """End the actors."""
        self._pool.close()


def _load(model: str, pretrained: str) -> "ClipEmbedder":
    from workers.clip_embedder import load_clip_embedder

    return load_clip_embedder(model, pretrained)


def _call(batch: GeneratedBatch, writer: FragmentWriter) -> Call:
    def make(actor: Any) -> Any:
        return actor.write.remote(batch, writer)

    return make
