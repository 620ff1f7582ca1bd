"""The evaluation workers as the driver sees them. Data parallel over cases."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from liveedit_core.method.repository import ExpertRepository
from workers.actor_pool import ActorPool, Call
from workers.messages import EvaluationUnit, GeneratorFacts, ScoredUnit, SharedRepository

_UNITS_PER_WORKER = 4
"""Another worker starts when more units than this wait for each worker."""

_UnitKey = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class _Job:
    bank_version: int
    repository: Any
    unit: EvaluationUnit


class EvaluationPool:
    """Scores units in other processes while the driver continues."""

    def __init__(
        self,
        start_actor: Callable[[], Any],
        *,
        num_workers: int,
        max_in_flight: int,
        keeps_prepared: bool,
    ) -> None:
        """Start the first `EvaluationActor`; others start when there is enough work for them.

        `keeps_prepared` keeps encoded cases in the object store for the next bank version.
        """
        self._start_actor = start_actor
        self._num_workers = num_workers
        self._pool = ActorPool("evaluation pool", [start_actor()], max_in_flight=max_in_flight)
        self._queue: deque[tuple[int, _Job]] = deque()
        self._jobs: dict[int, _Job] = {}
        self._next_key = 0
        self._prepared: dict[_UnitKey, ray.ObjectRef[Any]] = {}
        self._charged: set[_UnitKey] = set()
        self._keeps_prepared = keeps_prepared

    def describe(self) -> GeneratorFacts:
        """Waits until the first worker has started."""
        facts: GeneratorFacts = self._pool.call_first(lambda actor: actor.describe.remote())
        return facts

    @property
    def num_waiting(self) -> int:
        """Units submitted and not yet collected."""
        return len(self._queue) + len(self._jobs)

    def submit(
        self, bank_version: int, repository: ExpertRepository, units: Sequence[EvaluationUnit]
    ) -> None:
        """Queue the evaluation of one bank version with its experts.

        A unit that was scored before is not encoded again.
        """
        shared = ray.put(SharedRepository.of(repository))
        for unit in units:
            self._queue.append((self._next_key, _Job(bank_version, shared, unit)))
            self._next_key += 1
        self._fill()

    def collect(self, *, wait: bool) -> list[ScoredUnit]:
        """Units that are done; with `wait`, at least one if any was submitted."""
        answers: dict[int, ScoredUnit] = {}
        while not answers and self.num_waiting:
            found = self._pool.finished(wait=wait)
            answers = {key: scored for key, scored in found.items() if key in self._jobs}
            self._fill()
            if not wait:
                break
        return [self._charged_once(self._jobs.pop(key).unit.key, answers[key]) for key in answers]

    def drop(self) -> None:
        """Forget all units; the results of those in progress are ignored."""
        self._queue.clear()
        self._jobs.clear()

    def close(self) -> None:
        """End the actors; waiting units are dropped."""
        self._queue.clear()
        self._pool.close()

    def _fill(self) -> None:
        """Keep the workers busy; start another one if the queue is long."""
        num_actors = self._pool.num_actors
        if num_actors < self._num_workers and len(self._queue) > _UNITS_PER_WORKER * num_actors:
            self._pool.add(self._start_actor())
        while self._queue and self._pool.has_room:
            key, job = self._queue.popleft()
            self._jobs[key] = job
            self._pool.submit(key, self._call(job))

    def _call(self, job: _Job) -> Call:
        is_retry = False

        def make(actor: Any) -> Any:
            nonlocal is_retry
            if is_retry or job.unit.key not in self._prepared:
                # The preparation may be what was lost: repeat it.
                self._prepared[job.unit.key] = actor.prepare.remote(job.unit)
            is_retry = True
            prepared = self._prepared[job.unit.key]
            return actor.score.remote(job.bank_version, prepared, job.repository, job.unit)

        return make

    def _charged_once(self, key: _UnitKey, scored: ScoredUnit) -> ScoredUnit:
        """Count the time of a preparation with its first result only."""
        if not self._keeps_prepared:
            self._prepared.pop(key, None)
            return scored
        if key in self._charged:
            return replace(scored, prepare_s=0.0)
        self._charged.add(key)
        return scored
