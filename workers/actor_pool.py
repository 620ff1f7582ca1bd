"""A pool of interchangeable actors with bounded work in flight, used by every group and pool.

The driver hands over calls (`lambda actor: actor.method.remote(...)`); the least busy actor gets
the next one. A call whose actor died is made again by Ray, which restarts the actor; a call that
failed for a reason of infrastructure is made again here. Both a bounded number of times, so every
call must be idempotent.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions

from liveedit_core.errors import DeadlineError
from workers.failures import MAX_ATTEMPTS, from_ray, is_retryable

Call = Callable[[Any], "ray.ObjectRef[Any]"]
"""Makes one call on the actor it is given."""

START_TIMEOUT_S = 900.0
_STILL_WAITING_AFTER_S = 60.0
_UNAVAILABLE_S = 120.0
"""How long actors of a node that is gone may take to start elsewhere."""

_logger = logging.getLogger(__name__)


@dataclass
class _Piece:
    key: int
    call: Call
    actor_index: int
    num_attempts: int = 1


class ActorPool:
    """Actors of one kind; for the driver."""

    def __init__(self, name: str, actors: Sequence[Any], *, max_in_flight: int) -> None:
        """Take over actors that were just created.

        Args:
            name: For messages.
            actors: Handles, at least one.
            max_in_flight: Most calls at one time; at least one an actor is always allowed.
        """
        self.name = name
        self._actors = list(actors)
        self._max_in_flight = max(max_in_flight, len(self._actors))
        self._pieces: dict[ray.ObjectRef[Any], _Piece] = {}

    @property
    def num_in_flight(self) -> int:
        """Calls made and not yet answered."""
        return len(self._pieces)

    @property
    def has_room(self) -> bool:
        """Whether another call may be made now."""
        return len(self._pieces) < self._max_in_flight

    @property
    def num_actors(self) -> int:
        """How many actors there are."""
        return len(self._actors)

    def add(self, actor: Any) -> None:
        """Take over one more actor."""
        self._actors.append(actor)
        self._max_in_flight = max(self._max_in_flight, len(self._actors))

    def submit(self, key: int, call: Call) -> None:
        """Make a call on the least busy actor.

        Args:
            key: Comes back with the answer.
            call: The call.
        """
        load = [0] * len(self._actors)
        for piece in self._pieces.values():
            load[piece.actor_index] += 1
        self._send(_Piece(key, call, load.index(min(load))))

    def _send(self, piece: _Piece) -> None:
        self._pieces[piece.call(self._actors[piece.actor_index])] = piece

    def finished(self, *, wait: bool) -> dict[int, Any]:
        """Answers that have come, by key.

        Args:
            wait: Wait until there is one at least, if any call is in flight.

        Raises:
            LiveEditError: A call failed for good.
        """
        answers: dict[int, Any] = {}
        while self._pieces:
            ready, _ = ray.wait(
                list(self._pieces), num_returns=len(self._pieces), timeout=0, fetch_local=False
            )
            if not ready and wait and not answers:
                ready, _ = ray.wait(list(self._pieces), num_returns=1, timeout=1.0)
                if not ready:
                    continue
            for ref in ready:
                piece = self._pieces.pop(ref)
                try:
                    answers[piece.key] = ray.get(ref)
                except ray.exceptions.ActorUnavailableError as error:
                    self._wait_for_actor(piece, from_ray(error, self.name))
                except ray.exceptions.RayActorError as error:
                    # Ray made the call again already, as often as `actor_options` says.
                    raise from_ray(error, self.name) from error
                except Exception as error:
                    self._try_again(piece, from_ray(error, self.name))
            if not wait or answers:
                break
        return answers

    def _try_again(self, piece: _Piece, error: Exception) -> None:
        if not is_retryable(error) or piece.num_attempts >= MAX_ATTEMPTS:
            raise error
        _logger.warning("%s; attempt %d of %d", error, piece.num_attempts + 1, MAX_ATTEMPTS)
        time.sleep(min(0.5 * 2**piece.num_attempts, 10.0))
        piece.num_attempts += 1
        piece.actor_index = (piece.actor_index + 1) % len(self._actors)
        self._send(piece)

    def _wait_for_actor(self, piece: _Piece, error: Exception) -> None:
        """Make a call again that found nobody, as soon as somebody is there.

        Of a node that was pulled out nobody says that it is dead: for some seconds its actors do
        not answer, and Ray uses up its attempts in the first of them. Then they start elsewhere. A
        call that kills whoever takes it looks the same, but finds an actor each time: it is made
        only so often.
        """
        if piece.num_attempts >= MAX_ATTEMPTS:
            raise error
        piece.num_attempts += 1
        _logger.warning("%s; trying again within %.0f s", error, _UNAVAILABLE_S)
        end_s = time.monotonic() + _UNAVAILABLE_S
        while (index := self._reachable_actor(piece.actor_index)) is None:
            if time.monotonic() > end_s:
                raise error
            time.sleep(1.0)
        piece.actor_index = index
        self._send(piece)

    def _reachable_actor(self, after: int) -> int | None:
        """Number of the next actor that does not turn a call away; a busy one does not."""
        count = len(self._actors)
        for index in ((after + step) % count for step in range(1, count + 1)):
            ready, _ = ray.wait([self._actors[index].__ray_ready__.remote()], timeout=2.0)
            try:
                ray.get(ready)
            except ray.exceptions.RayActorError:
                continue
            return index
        return None

    def stream(self, calls: Iterable[Call]) -> Iterator[Any]:
        """Answers in the order of the calls; calls are taken only as there is room.

        An answer is yielded as soon as it and its predecessors are there, at the latest after one
        more call was taken from `calls`. What an earlier stream that failed left in flight is
        dropped: its answers would be taken for those of this one.
        """
        self._pieces.clear()
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

    def ask_first(self, call: Call) -> Any:
        """Wait for the first actor to start, and ask it something.

        Raises:
            DeadlineError: The cluster gave no room for it in time.
        """
        ref = call(self._actors[0])
        for timeout_s in (_STILL_WAITING_AFTER_S, START_TIMEOUT_S - _STILL_WAITING_AFTER_S):
            ready, _ = ray.wait([ref], timeout=timeout_s)
            if ready:
                try:
                    return ray.get(ref)
                except Exception as error:
                    raise from_ray(error, self.name) from error
            free: Mapping[str, float] = ray.available_resources()
            _logger.warning("%s: still starting; free CPUs: %s", self.name, free.get("CPU", 0))
        raise DeadlineError(
            f"{self.name}: no worker started within {START_TIMEOUT_S:.0f} s. Either the cluster "
            "has no room (compare `ray status` with num_cpus of the recipe) or loading is stuck "
            "(see the logs of the worker)"
        )

    def close(self) -> None:
        """End the actors at once; what is in flight is dropped."""
        self._pieces.clear()
        for actor in self._actors:
            ray.kill(actor)


def actor_options(*, num_cpus: float, node_resource: str = "") -> dict[str, Any]:
    """Options of every actor of ours.

    Args:
        num_cpus: For Ray's placement.
        node_resource: Custom resource that marks the nodes it may run on; "" for any node.
    """
    return {
        "num_cpus": num_cpus,
        "resources": {node_resource: 0.001} if node_resource else None,
        # An actor may die any number of times in a long life, a call only so often.
        "max_restarts": -1,
        "max_task_retries": MAX_ATTEMPTS - 1,
    }
