"""The state-encoding pool: what the driver sees of all state encoders."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from infra.cache.state_rows import StateWriter, WrittenStates
from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.method.config import StateDtype
from liveedit_core.state_identity import StateIdentity
from workers.actor_pool import ActorPool, Call, actor_options
from workers.state_encoder import StateEncoderActor


class StateEncodingPool:
    """Encodes and writes states in other processes."""

    def __init__(
        self,
        load_backbone: Callable[[], Backbone],
        *,
        num_workers: int = 1,
        max_in_flight: int = 4,
        num_threads: int = 1,
        num_cpus: float = 1.0,
        node_resource: str = "",
    ) -> None:
        """Start the actors; they load their model meanwhile.

        Args:
            load_backbone: Picklable; called once in each actor.
            num_workers: How many actors.
            max_in_flight: Most chunks on their way.
            num_threads: Threads of torch in each actor.
            num_cpus: CPUs that Ray sets aside for each actor.
            node_resource: Custom resource of the nodes to run on; "" for any.
        """
        options = actor_options(num_cpus=num_cpus, node_resource=node_resource)
        actors = [
            StateEncoderActor.options(**options).remote(load_backbone, num_threads=num_threads)
            for _ in range(num_workers)
        ]
        self._pool = ActorPool("state-encoding pool", actors, max_in_flight=max_in_flight)

    def identity(self, dtype: StateDtype) -> StateIdentity:
        """What the states of the pool have in common; waits until it has started."""
        found: StateIdentity = self._pool.ask_first(lambda actor: actor.identity.remote(dtype))
        return found

    def stream(
        self, chunks: Iterable[Sequence[BackboneInput]], writer: StateWriter
    ) -> Iterator[WrittenStates]:
        """Encode and write chunk after chunk.

        Args:
            chunks: Taken only as there is room in flight.
            writer: Handle of the cache.

        Yields:
            One answer a chunk, in order.

        Raises:
            LiveEditError: A chunk failed for good.
        """
        return self._pool.stream(_call(chunk, writer) for chunk in chunks)

    def close(self) -> None:
        """End the actors."""
        self._pool.close()


def _call(chunk: Sequence[BackboneInput], writer: StateWriter) -> Call:
    def make(actor: Any) -> Any:
        return actor.write.remote(chunk, writer)

    return make
