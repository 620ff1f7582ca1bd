"""The evaluation pool: what the driver sees of all evaluation workers. Data parallel over cases."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from liveedit_core.method.repository import ExpertRepository
from workers.actor_pool import ActorPool, Call
from workers.evaluation_worker import EvaluationWorker, Preparation, Scores
from workers.messages import EvaluationUnit, GeneratorFacts, ScoredUnit
from workers.shared_repository import SharedRepository

_UNITS_PER_WORKER = 4
"""So many waiting units for each worker are worth starting another one."""

_UnitKey = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class _Job:
    bank_version: int
    repository: Any
    unit: EvaluationUnit


class EvaluationPool:
    """Scores units in other processes while the driver goes on."""

    def __init__(
        self,
        start_actor: Callable[[], Any],
        *,
        num_workers: int,
        max_in_flight: int,
        keeps_prepared: bool,
    ) -> None:
        """Start the first actor; the others start when there is enough to do for them.

        Args:
            start_actor: Starts an `EvaluationActor`.
            num_workers: Most actors.
            max_in_flight: Most units in progress at one time.
            keeps_prepared: Keep encoded cases in the object store for the next bank version.
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
        """Which models the workers hold; waits until the first has started."""
        facts: GeneratorFacts = self._pool.ask_first(lambda actor: actor.describe.remote())
        return facts

    @property
    def num_waiting(self) -> int:
        """Units submitted and not yet collected."""
        return len(self._queue) + len(self._jobs)

    def submit(
        self, bank_version: int, repository: ExpertRepository, units: Sequence[EvaluationUnit]
    ) -> None:
        """Queue the evaluation of one bank version.

        Args:
            bank_version: Comes back with each result.
            repository: Its experts; put into the object store once, and read from there by all
                actors of a node without a copy.
            units: Pieces of work; one that was scored before is not encoded again.
        """
        shared = ray.put(SharedRepository.of(repository))
        for unit in units:
            self._queue.append((self._next_key, _Job(bank_version, shared, unit)))
            self._next_key += 1
        self._fill()

    def collect(self, *, wait: bool) -> list[ScoredUnit]:
        """Units that are done.

        Args:
            wait: Wait until there is one at least, if any was submitted.

        Raises:
            LiveEditError: A unit failed for good.
        """
        answers: dict[int, Scores] = {}
        while not answers and self.num_waiting:
            found = self._pool.finished(wait=wait)
            answers = {key: scores for key, scores in found.items() if key in self._jobs}
            self._fill()
            if not wait:
                break
        return [self._scored(self._jobs.pop(key), scores) for key, scores in answers.items()]

    def drop(self) -> None:
        """Forget the units that wait; those in progress end, and nobody collects them."""
        self._queue.clear()
        self._jobs.clear()

    def close(self) -> None:
        """End the actors; what waits is dropped."""
        self._queue.clear()
        self._pool.close()

    def _fill(self) -> None:
        """Keep the workers busy; one more of them where the queue is long."""
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
                # Whatever was lost may have been the preparation: make it again.
                self._prepared[job.unit.key] = actor.prepare.remote(job.unit)
            is_retry = True
            return actor.score.remote(self._prepared[job.unit.key], job.repository, job.unit)

        return make

    def _scored(self, job: _Job, scores: Scores) -> ScoredUnit:
        prepare_s = 0.0 if job.unit.key in self._charged else scores.prepare_s
        self._charged.add(job.unit.key)
        if not self._keeps_prepared:
            self._prepared.pop(job.unit.key, None)
            self._charged.discard(job.unit.key)
        return ScoredUnit(
            bank_version=job.bank_version,
            results=scores.results,
            duration_s=scores.score_s + prepare_s,
        )


class InlineEvaluator:
    """The interface of `EvaluationPool` with one plain worker, in this process."""

    def __init__(self, worker: EvaluationWorker) -> None:
        """Use a worker.

        Args:
            worker: Does all the work, at `collect`.
        """
        self._worker = worker
        self._queue: deque[_Job] = deque()
        self._prepared: dict[_UnitKey, Preparation] = {}

    def describe(self) -> GeneratorFacts:
        """Which models the worker holds."""
        return self._worker.describe()

    @property
    def num_waiting(self) -> int:
        """Units submitted and not yet collected."""
        return len(self._queue)

    def submit(
        self, bank_version: int, repository: ExpertRepository, units: Sequence[EvaluationUnit]
    ) -> None:
        """Queue the evaluation of one bank version."""
        shared = SharedRepository.of(repository)
        self._queue += [_Job(bank_version, shared, unit) for unit in units]

    def drop(self) -> None:
        """Forget the units that wait."""
        self._queue.clear()

    def collect(self, *, wait: bool) -> list[ScoredUnit]:
        """Score the next unit; nothing is in progress between calls, so `wait` changes nothing."""
        if not self._queue:
            return []
        job = self._queue.popleft()
        unit = job.unit
        if unit.key not in self._prepared:
            self._prepared[unit.key] = self._worker.prepare(unit)
        scores = self._worker.score(self._prepared[unit.key], job.repository, unit)
        return [
            ScoredUnit(
                bank_version=job.bank_version, results=scores.results, duration_s=scores.score_s
            )
        ]
