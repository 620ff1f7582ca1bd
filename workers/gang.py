"""A gang: several actors, the ranks, that compute together and act as one.

Every call goes to all ranks. When one dies, the others cannot continue: the whole gang is
restarted, and its owner repeats what was lost.
"""

import logging
import re
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import ray
import ray.exceptions
import ray.util
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from liveedit_core.errors import DeadlineError, LiveEditError, WorkerLostError
from workers.actor_pool import Call
from workers.failures import from_ray, is_retryable
from workers.sharding_config import ShardingSection

_PEER_FAILURE = re.compile(
    r"closed by peer|connection reset|broken pipe|timed out|timeout|socket|gloo|nccl", re.IGNORECASE
)
"""Torch's collectives have no exception class for a lost peer, only these messages."""
_GRACE_S = 5.0
"""How long to wait for the failure that caused a lost peer."""

_T = TypeVar("_T")

_logger = logging.getLogger(__name__)


class Rendezvous(NamedTuple):
    """Address at which rank 0 waits for its peers."""

    host: str
    port: int


def own_rendezvous() -> Rendezvous:
    """A free port of this node; joining must be retried, as another process may take it first."""
    host = ray.util.get_node_ip_address()
    with socket.socket() as probe:
        probe.bind((host, 0))
        return Rendezvous(host=host, port=probe.getsockname()[1])


class Gang:
    """Actors with `rendezvous()` and `join(rendezvous)`.

    `create` starts the actor of a rank, from Ray's options and the rank. `node_resource` is a
    custom resource of the nodes to run on; "" for any.
    """

    def __init__(
        self,
        name: str,
        create: Callable[[dict[str, Any], int], Any],
        sharding: ShardingSection,
        *,
        node_resource: str = "",
    ) -> None:
        self.name = name
        self._create = create
        self._sharding = sharding
        self._node_resource = node_resource
        self.actors: list[Any] = []
        """Handles by rank; none while the gang is down."""
        self._group: PlacementGroup | None = None

    def retrying(self, action: Callable[[bool], _T]) -> _T:
        """Run an idempotent action on a started gang, again after the gang was lost.

        The action is told whether the ranks have just been started and hold no state. At most
        `sharding.max_rebuilds` retries; any failure closes the gang.
        """
        most = self._sharding.max_rebuilds
        for attempt in range(most + 1):
            try:
                is_new = not self.actors
                if is_new:
                    self._start()
                return action(is_new)
            except Exception as error:
                self.close()
                if not is_retryable(error) or attempt == most:
                    raise
                _logger.warning("%s; restarting the gang, %d of %d", error, attempt + 1, most)
        raise AssertionError("unreachable")

    def _start(self) -> None:
        self.close()
        start_s = time.perf_counter()
        sharding = self._sharding
        group = self._reserve()
        options = {
            "num_cpus": sharding.cpus_per_shard,
            "num_gpus": sharding.gpus_per_shard,
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        for rank in range(sharding.shards):
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
            self.actors.append(self._create(options | {"scheduling_strategy": place}, rank))
        timeout_s = sharding.start_timeout_s
        # Calling all of them waits until every rank has loaded.
        meeting = self.ask(lambda actor: actor.rendezvous.remote(), timeout_s=timeout_s)[0]
        if sharding.shards > 1:
            self.ask(lambda actor: actor.join.remote(meeting), timeout_s=timeout_s)
        _logger.info("%s: up in %.1f s", self.name, time.perf_counter() - start_s)

    def _reserve(self) -> PlacementGroup:
        """Reserve resources for all ranks at once, so that two gangs cannot deadlock."""
        sharding = self._sharding
        wanted = {"CPU": sharding.cpus_per_shard, "GPU": float(sharding.gpus_per_shard)}
        wanted |= {self._node_resource: 0.001} if self._node_resource else {}
        bundle = {name: amount for name, amount in wanted.items() if amount}
        self._group = placement_group([bundle] * sharding.shards, strategy="PACK")
        if not self._group.wait(sharding.start_timeout_s):
            self.close()
            raise DeadlineError(
                f"{self.name}: the cluster gave no room for {sharding.shards} times {bundle} "
                f"within {sharding.start_timeout_s:.0f} s; compare `ray status`"
            )
        return self._group

    def ask(self, call: Call, *, timeout_s: float | None = None) -> list[Any]:
        """Make a call on all ranks; the answers by rank. After any failure the gang is down.

        Without `timeout_s` the ranks must time out on each other.
        """
        calls = [call(actor) for actor in self.actors]
        waiting, errors = list(calls), list[Exception]()
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1, timeout=timeout_s)
            if not ready and not errors:
                errors.append(DeadlineError(f"{self.name}: no answer within {timeout_s} s"))
            for ref in ready:
                try:
                    ray.get(ref)
                except Exception as error:
                    errors.append(from_ray(error, self.name))
            if errors and (not ready or not _is_peer_failure(errors[-1])):
                break
            timeout_s = _GRACE_S if errors else timeout_s
        if errors:
            self.close()
            lost = WorkerLostError(f"{self.name}: ranks lost each other: {errors[0]}")
            # the failure that caused the others
            raise next((error for error in errors if not _is_peer_failure(error)), lost)
        return [ray.get(ref) for ref in calls]

    def close(self) -> None:
        """End all ranks at once."""
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None


def _is_peer_failure(error: Exception) -> bool:
    """Whether a rank failed only because another one is gone."""
    if isinstance(error, LiveEditError):
        return False
    return isinstance(getattr(error, "cause", error), RuntimeError) and bool(
        _PEER_FAILURE.search(str(error))
    )
