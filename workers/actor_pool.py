"""Pools of interchangeable actors with bounded work in flight.

The driver submits calls (`lambda actor: actor.method.remote(...)`); the least busy actor gets the
next one. Ray restarts a dead actor and repeats its calls; the pool repeats calls that failed with
an infrastructure error. Both a bounded number of times, so every call must be idempotent.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
import ray.exceptions

from liveedit_core.errors import DeadlineError
from workers.failures import MAX_ATTEMPTS, from_ray, is_retryable

Call = Callable[[Any], "ray.ObjectRef[Any]"]
"""Makes one call on the actor it is given."""

START_TIMEOUT_S = 900.0
_STILL_WAITING_AFTER_S = 60.0
_UNAVAILABLE_S = 120.0
"""How long the actors of a lost node may take to start elsewhere."""

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")
_Facts = TypeVar("_Facts")

_logger = logging.getLogger(__name__)


@dataclass
class _PendingCall:
    key: int
    call: Call
    actor_index: int
    num_attempts: int = 1


class ActorPool:
    """Actors of one kind, seen from the driver."""

    def __init__(self, name: str, actors: Sequence[Any], *, max_in_flight: int) -> None:
        """Take over at least one new actor; `max_in_flight` is raised to one call per actor."""
        self.name = name
        self._actors = list(actors)
        self._max_in_flight = max(max_in_flight, len(self._actors))
        self._pending: dict[ray.ObjectRef[Any], _PendingCall] = {}

    @property
    def has_room(self) -> bool:
        """Whether another call may be made now."""
        return len(self._pending) < self._max_in_flight

    @property
    def num_actors(self) -> int:
        return len(self._actors)

    def add(self, actor: Any) -> None:
        """Take over one more actor."""
        self._actors.append(actor)
        self._max_in_flight = max(self._max_in_flight, len(self._actors))

    def submit(self, key: int, call: Call) -> None:
        """Make a call on the least busy actor; its answer comes back under `key`."""
        load = [0] * len(self._actors)
        for pending in self._pending.values():
            load[pending.actor_index] += 1
        self._send(_PendingCall(key, call, load.index(min(load))))

    def _send(self, pending: _PendingCall) -> None:
        self._pending[pending.call(self._actors[pending.actor_index])] = pending

    def finished(self, *, wait: bool) -> dict[int, Any]:
        """Answers that have arrived, by key; with `wait`, at least one if any call is in flight."""
        answers: dict[int, Any] = {}
        while self._pending:
            ready, _ = ray.wait(
                list(self._pending), num_returns=len(self._pending), timeout=0, fetch_local=False
            )
            if not ready and wait and not answers:
                ready, _ = ray.wait(list(self._pending), num_returns=1, timeout=1.0)
                if not ready:
                    continue
            for ref in ready:
                pending = self._pending.pop(ref)
                try:
                    answers[pending.key] = ray.get(ref)
                except ray.exceptions.ActorUnavailableError as error:
                    self._retry_when_reachable(pending, from_ray(error, self.name))
                except ray.exceptions.RayActorError as error:
                    # Ray has retried it already, as often as `actor_options` says.
                    raise from_ray(error, self.name) from error
                except Exception as error:
                    self._retry(pending, from_ray(error, self.name))
            if not wait or answers:
                break
        return answers

    def _retry(self, pending: _PendingCall, error: Exception) -> None:
        if not is_retryable(error) or pending.num_attempts >= MAX_ATTEMPTS:
            raise error
        _logger.warning("%s; attempt %d of %d", error, pending.num_attempts + 1, MAX_ATTEMPTS)
        time.sleep(min(0.5 * 2**pending.num_attempts, 10.0))
        pending.num_attempts += 1
        pending.actor_index = (pending.actor_index + 1) % len(self._actors)
        self._send(pending)

    def _retry_when_reachable(self, pending: _PendingCall, error: Exception) -> None:
        """Retry a call once an actor is reachable.

        For some seconds after a node was lost, its actors do not answer and are not yet known to
        be dead: Ray uses up its own attempts in that time. Then the actors start elsewhere. A call
        that kills every actor looks the same but finds an actor each time, so attempts are bounded.
        """
        if pending.num_attempts >= MAX_ATTEMPTS:
            raise error
        pending.num_attempts += 1
        _logger.warning("%s; retrying within %.0f s", error, _UNAVAILABLE_S)
        end_s = time.monotonic() + _UNAVAILABLE_S
        while (index := self._reachable_actor(pending.actor_index)) is None:
            if time.monotonic() > end_s:
                raise error
            time.sleep(1.0)
        pending.actor_index = index
        self._send(pending)

    def _reachable_actor(self, after: int) -> int | None:
        """Index of the next actor that accepts calls; a busy one does."""
        count = len(self._actors)
        for index in ((after + step) % count for step in range(1, count + 1)):
            ready, _ = ray.wait([self._actors[index].__ray_ready__.remote()], timeout=2.0)
            try:
                ray.get(ready)
            except ray.exceptions.RayActorError:
                continue
            return index
        return None

    def in_order(self, calls: Iterable[Call]) -> Iterator[Any]:
        """Answers in the order of the calls; the next call is taken only when there is room.

        An answer is yielded as soon as it and its predecessors have arrived, at the latest after
        one more call was taken from `calls`.
        """
        self._pending.clear()  # what an earlier, failed stream left in flight
        source = iter(calls)
        is_exhausted = False
        answers: dict[int, Any] = {}
        next_in = next_out = 0
        while True:
            if next_out in answers:
                yield answers.pop(next_out)
                next_out += 1
                continue
            may_take = not is_exhausted and next_in - next_out < self._max_in_flight
            if may_take:
                call = next(source, None)
                if call is None:
                    is_exhausted = True
                else:
                    self.submit(next_in, call)
                    next_in += 1
            elif next_in == next_out:
                return
            answers.update(self.finished(wait=not may_take))

    def call_first(self, call: Call) -> Any:
        """Wait for the first actor to start, and call it."""
        ref = call(self._actors[0])
        for timeout_s in (_STILL_WAITING_AFTER_S, START_TIMEOUT_S - _STILL_WAITING_AFTER_S):
            ready, _ = ray.wait([ref], timeout=timeout_s)
            if ready:
                try:
                    return ray.get(ref)
                except Exception as error:
                    raise from_ray(error, self.name) from error
            free = ray.available_resources()
            _logger.warning("%s: still starting; free CPUs: %s", self.name, free.get("CPU", 0))
        raise DeadlineError(
            f"{self.name}: no worker started within {START_TIMEOUT_S:.0f} s. Either the cluster "
            "has no room (compare `ray status` with num_cpus of the recipe) or loading is stuck "
            "(see the logs of the worker)"
        )

    def close(self) -> None:
        """End the actors at once; calls in flight are dropped."""
        self._pending.clear()
        for actor in self._actors:
            ray.kill(actor)


class WorkerPool(ActorPool, Generic[_Item, _Answer, _Facts]):
    """A pool with the interface of one plain worker: `describe`, `stream`, `close`.

    `call(actor, item, *context)` starts the work on one item.
    """

    def __init__(
        self, name: str, actors: Sequence[Any], call: Callable[..., Any], *, max_in_flight: int
    ) -> None:
        super().__init__(name, actors, max_in_flight=max_in_flight)
        self._call = call

    def describe(self, *context: Any) -> _Facts:
        """What runs in the actors; waits until the first has started."""
        facts: _Facts = self.call_first(lambda actor: actor.describe.remote(*context))
        return facts

    def stream(self, items: Iterable[_Item], /, *context: Any) -> Iterator[_Answer]:
        """One answer an item, in order; items are taken only as there is room in flight."""

        def call_for(item: _Item) -> Call:
            return lambda actor: self._call(actor, item, *context)

        return self.in_order(call_for(item) for item in items)


def actor_options(*, num_cpus: float, node_resource: str = "") -> dict[str, Any]:
    """Ray options of every actor; `node_resource` marks the nodes it may run on ("" for any)."""
    return {
        "num_cpus": num_cpus,
        "resources": {node_resource: 0.001} if node_resource else None,
        # An actor may restart any number of times, a call is retried a bounded number of times.
        "max_restarts": -1,
        "max_task_retries": MAX_ATTEMPTS - 1,
    }
