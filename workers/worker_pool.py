"""A pool of worker actors with the interface of one plain worker: `describe`, `stream`, `close`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from workers.actor_pool import ActorPool, Call

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")
_Facts = TypeVar("_Facts")


class WorkerPool(Generic[_Item, _Answer, _Facts]):
    """Interchangeable actors that turn items into answers."""

    def __init__(
        self,
        name: str,
        actors: Sequence[Any],
        call: Callable[..., Any],
        *,
        max_in_flight: int,
    ) -> None:
        """Take over at least one new actor; they are still loading their models.

        Args:
            name: For messages.
            actors: Handles; each has a method `describe`.
            call: Starts the work on one item: `call(actor, item, *context of stream)`.
            max_in_flight: Most items in progress at one time.
        """
        self._pool = ActorPool(name, actors, max_in_flight=max_in_flight)
        self._call = call

    def describe(self, *context: Any) -> _Facts:
        """What runs in the actors; waits until the first has started."""
        facts: _Facts = self._pool.call_first(lambda actor: actor.describe.remote(*context))
        return facts

    def stream(self, items: Iterable[_Item], /, *context: Any) -> Iterator[_Answer]:
        """One answer an item, in order; items are taken only as there is room in flight.

        Raises:
            LiveEditError: An item failed for good.
        """

        def call_for(item: _Item) -> Call:
            return lambda actor: self._call(actor, item, *context)

        return self._pool.stream(call_for(item) for item in items)

    def close(self) -> None:
        """End the actors."""
        self._pool.close()
