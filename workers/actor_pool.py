"""Pools of interchangeable actors, as many as there is work for, with bounded work in flight.

The driver submits calls (`lambda actor: actor.method.remote(...)`); the least busy actor gets the
next one. Ray restarts a dead actor and repeats its calls; the pool repeats calls that failed with
an infrastructure error. Both a bounded number of times, so every call must be idempotent.

A call with two results sends the first to the driver; the second stays where it is, and the driver
passes a reference to it on: to the next pool of a `Stream`, which it tells its size in bytes, or to
whoever reads it.
"""

import functools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import ray
import ray.exceptions

from liveedit_core.errors import DeadlineError
from workers.failures import MAX_ATTEMPTS, from_ray, is_retryable

Call = Callable[[Any], Any]
"""Makes one call on the actor it is given; returns the reference of its result, or two."""

CALLS_PER_ACTOR = 2
"""At least so many are in flight, so that an actor finds the next call when it ends one."""

START_TIMEOUT_S = 900.0
_STILL_WAITING_AFTER_S = 60.0
_UNAVAILABLE_S = 120.0
"""How long the actors of a lost node may take to start elsewhere."""
_AHEAD = 16
"""A stream may be this many times the calls in flight ahead of its slowest item."""
_STORE_FRACTION = 0.25
"""Of the object store, for what waits between the pools of a stream."""
WAITING_PER_ACTOR = 4
"""Another actor starts when more calls than this wait for each."""
IDLE_S = 300.0
"""After so long without work an actor is ended; loading its models takes a minute."""

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
    kept: tuple["ray.ObjectRef[Any]", ...] = ()
    """The result that stays where it is."""


class ActorPool:
    """Actors of one kind, seen from the driver."""

    def __init__(
        self,
        name: str,
        actors: Sequence[Any],
        *,
        max_in_flight: int,
        start_actor: Callable[[], Any] | None = None,
        max_actors: int = 0,
    ) -> None:
        """Take over at least one new actor; `max_in_flight` is raised to two calls per actor. With
        `start_actor` there are from one to `max_actors`: see `adapt`."""
        self.name = name
        self.actors = list(actors)
        self.owns_actors = True  # and ends them
        self.largest_bytes = 0  # of what an answer has left in the object store
        self._max_in_flight = max_in_flight
        self._start_actor, self._max_actors = start_actor, max_actors
        self._used_s = time.monotonic()  # when the last actor had work
        self._pending: dict[ray.ObjectRef[Any], _PendingCall] = {}

    @property
    def max_in_flight(self) -> int:
        return max(self._max_in_flight, CALLS_PER_ACTOR * len(self.actors))

    @property
    def has_room(self) -> bool:
        """Whether another call may be made now."""
        return len(self._pending) < self.max_in_flight

    @property
    def in_flight(self) -> list["ray.ObjectRef[Any]"]:
        """Results that are awaited."""
        return list(self._pending)

    def adapt(self, num_waiting: float = 0) -> None:
        """Start an actor for calls that wait, or end the last one, which has long had no work."""
        count, now_s = len(self.actors), time.monotonic()
        if self._start_actor is None:
            return
        if count < self._max_actors and num_waiting > WAITING_PER_ACTOR * count:
            self.actors.append(self._start_actor())
        elif all(pending.actor_index < count - 1 for pending in self._pending.values()):
            if count == 1 or now_s - self._used_s < IDLE_S:
                return
            ray.kill(self.actors.pop())
        self._used_s = now_s

    def submit(self, key: int, call: Call, preferred: int | None = None) -> int:
        """Make a call on the preferred actor if it has room, else on the least busy one; returns
        its index. The answer comes back under `key`."""
        load = [0] * len(self.actors)
        for pending in self._pending.values():
            load[pending.actor_index] += 1
        index = load.index(min(load))
        if preferred is not None and (load[preferred:] or [CALLS_PER_ACTOR])[0] < CALLS_PER_ACTOR:
            index = preferred
        self._send(_PendingCall(key, call, index))
        return index

    def _send(self, pending: _PendingCall) -> None:
        refs = pending.call(self.actors[pending.actor_index])
        first, *kept = refs if isinstance(refs, list) else [refs]
        pending.kept = tuple(kept)
        self._pending[first] = pending

    def forget(self) -> None:
        """Ignore the calls in flight."""
        self._pending.clear()

    def finished(self, *, wait: bool) -> dict[int, Any]:
        """Answers that have arrived, by key; with `wait`, at least one if any call is in flight.

        Of a call with two results, the answer is the first with a reference to the second.
        """
        answers: dict[int, Any] = {}
        while self._pending and not answers:
            refs = list(self._pending)
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
            if not ready and wait:
                ready, _ = ray.wait(refs, num_returns=1, timeout=1.0)
            answers = self.answers_of(ready)
            if not wait:
                break
        return answers

    def answers_of(self, ready: Iterable["ray.ObjectRef[Any]"]) -> dict[int, Any]:
        """Of calls that have ended, the answers of this pool's; those that failed are repeated."""
        answers: dict[int, Any] = {}
        for ref in ready:
            pending = self._pending.pop(ref, None)
            if pending is None:
                continue
            try:
                result = ray.get(ref)
                answers[pending.key] = (result, *pending.kept) if pending.kept else result
            except ray.exceptions.ActorUnavailableError as error:
                self._retry_when_reachable(pending, from_ray(error, self.name))
            except ray.exceptions.RayActorError as error:
                # Ray has retried it already, as often as `actor_options` says.
                raise from_ray(error, self.name) from error
            except Exception as error:
                self._retry(pending, from_ray(error, self.name))
        return answers

    def _retry(self, pending: _PendingCall, error: Exception) -> None:
        if not is_retryable(error) or pending.num_attempts >= MAX_ATTEMPTS:
            raise error
        _logger.warning("%s; attempt %d of %d", error, pending.num_attempts + 1, MAX_ATTEMPTS)
        time.sleep(min(0.5 * 2**pending.num_attempts, 10.0))
        pending.num_attempts += 1
        pending.actor_index = (pending.actor_index + 1) % len(self.actors)
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
        count = len(self.actors)
        for index in ((after + step) % count for step in range(1, count + 1)):
            ready, _ = ray.wait([self.actors[index].__ray_ready__.remote()], timeout=2.0)
            try:
                ray.get(ready)
            except ray.exceptions.RayActorError:
                continue
            return index
        return None

    def call_first(self, call: Call) -> Any:
        """Wait for the first actor to start, and call it."""
        ref = call(self.actors[0])
        for timeout_s in (_STILL_WAITING_AFTER_S, START_TIMEOUT_S - _STILL_WAITING_AFTER_S):
            try:
                return ray.get(ref, timeout=timeout_s)
            except ray.exceptions.GetTimeoutError:
                free = ray.available_resources()
            except Exception as error:
                raise from_ray(error, self.name) from error
            amounts = free.get("CPU", 0), free.get("GPU", 0)
            _logger.warning("%s: still starting; free CPUs: %s, GPUs: %s", self.name, *amounts)
        raise DeadlineError(
            f"{self.name}: no worker started within {START_TIMEOUT_S:.0f} s. Either the cluster "
            "has no room (compare `ray status` with num_cpus and num_gpus of the recipe), or "
            "loading is stuck (see the logs of the worker)"
        )

    def close(self) -> None:
        """End the actors that it owns at once; calls in flight are dropped."""
        self._pending.clear()
        for actor in self.actors if self.owns_actors else ():
            ray.kill(actor)


class WorkerPool(ActorPool, Generic[_Item, _Answer, _Facts]):
    """A pool with the interface of one plain worker: `describe`, `stream`, `close`.

    `call(actor, item, *context)` starts the work on one item; `describe` names a method.
    """

    def __init__(
        self,
        name: str,
        actors: Sequence[Any],
        call: Callable[..., Any],
        *,
        describe: str = "describe",
        **limits: Any,
    ) -> None:
        """`limits` are those of `ActorPool`."""
        super().__init__(name, actors, **limits)
        self._call = call
        self._describe = describe

    def describe(self, *context: Any) -> _Facts:
        """What runs in the actors; waits until the first has started."""
        name = self._describe
        facts: _Facts = self.call_first(lambda actor: getattr(actor, name).remote(*context))
        return facts

    def stream(self, items: Iterable[_Item], /, *context: Any) -> "Stream[_Answer]":
        """One answer an item, in order; items are taken only as there is room in flight.

        Of the stream of another pool, this one takes each answer as soon as it is there.
        """

        sent = [ray.put(value) for value in context]

        def call_for(item: _Item) -> Call:
            return lambda actor: self._call(actor, item, *sent)

        stages, source = (items.stages, items.items) if isinstance(items, Stream) else ((), items)
        return Stream([*stages, (self, call_for)], source)


@dataclass(frozen=True)
class Stream(Generic[_Answer]):
    """Items on their way through one pool or several, each by itself.

    A slow item holds back only the delivery of later ones, which is in order, not their work.
    """

    stages: Sequence[tuple[ActorPool, Callable[[Any], Call]]]
    items: Iterable[Any]
    held: dict[int, int] = field(default_factory=dict)
    """Bytes in the object store by position, until the last pool has answered."""

    @functools.cached_property
    def _most_bytes(self) -> float:
        return _STORE_FRACTION * float(ray.cluster_resources().get("object_store_memory", math.inf))

    def __iter__(self) -> Iterator[_Answer]:
        """An answer of the last pool for each item, as soon as its predecessors have arrived."""
        pools = [pool for pool, _ in self.stages]
        for pool in pools:
            pool.forget()  # what an earlier, failed stream left in flight
        queues: list[dict[int, Any]] = [{} for _ in pools]
        """By position, what each pool has answered and the next has not taken."""
        source = enumerate(self.items)
        num_given = 0
        while True:
            self._feed(source, queues)
            if num_given in queues[-1]:
                yield queues[-1].pop(num_given)
                num_given += 1
                continue
            waiting = [ref for pool in pools for ref in pool.in_flight]
            if not waiting:
                return
            ready, _ = ray.wait(waiting, num_returns=1, timeout=1.0, fetch_local=False)
            for pool, queue in zip(pools, queues, strict=True):
                for position, answer in pool.answers_of(ready).items():
                    queue[position] = answer
                    self.held.pop(position, None)
                    if queue is not queues[-1] and isinstance(answer, tuple):
                        self.held[position] = answer[0]
                        pool.largest_bytes = max(pool.largest_bytes, answer[0])

    def _feed(self, source: Iterator[tuple[int, Any]], queues: list[dict[int, Any]]) -> None:
        """Submit what there is room for; later pools first, which makes room for earlier ones."""
        for place, (pool, call_for) in reversed(list(enumerate(self.stages))):
            while pool.has_room and self._may_go_ahead(place, queues):
                if place:
                    earlier = queues[place - 1]
                    if not earlier:
                        break
                    position = min(earlier)
                    item = earlier.pop(position)
                else:
                    position, item = next(source, (-1, None))
                    if position < 0:
                        break
                pool.submit(position, call_for(item))
            has_waiting = not place or bool(queues[place - 1])
            pool.adapt(math.inf if has_waiting and not pool.has_room else 0)

    def _may_go_ahead(self, place: int, queues: Sequence[Mapping[int, Any]]) -> bool:
        """Whether what follows a pool, and the object store, have room for more of its answers."""
        pool, _ = self.stages[place]
        if place == 0 and sum(map(len, queues)) >= _AHEAD * pool.max_in_flight:
            return False
        if place == 0 and pool.largest_bytes and (self.held or pool.in_flight):
            expected = sum(self.held.values()) + (len(pool.in_flight) + 1) * pool.largest_bytes
            if expected > self._most_bytes:
                return False
        is_last = place + 1 == len(self.stages)
        return is_last or len(queues[place]) < self.stages[place + 1][0].max_in_flight


def actor_options(
    *, num_cpus: float, num_gpus: float = 0.0, node_resource: str = ""
) -> dict[str, Any]:
    """Ray options of every actor; `node_resource` marks the nodes it may run on ("" for any)."""
    return {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "resources": {node_resource: 0.001} if node_resource else None,
        # An actor may restart any number of times, a call is retried a bounded number of times.
        "max_restarts": -1,
        "max_task_retries": MAX_ATTEMPTS - 1,
    }
