"""The evaluation workers as the driver sees them. Data parallel over cases."""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import ray

from workers.actor_pool import ActorPool, Call
from workers.messages import EvaluationUnit, GeneratorFacts, ScoredUnit, StoredVersion, UnitKey

_Job = tuple[StoredVersion, EvaluationUnit]


class EvaluationPool:
    """Scores units in other processes while the driver continues."""

    def __init__(self, actors: Sequence[Any], **limits: Any) -> None:
        """Take over actors that evaluate; `limits` are those of `ActorPool`."""
        self._pool = ActorPool("evaluation pool", actors, **limits)
        self._queue: deque[tuple[int, _Job]] = deque()
        self._jobs: dict[int, _Job] = {}
        self._next_key = 0
        self._experts: dict[tuple[str, int], ray.ObjectRef[Any]] = {}
        """Of each version in progress, as one worker has loaded them."""
        self._num_waiting: Counter[tuple[str, int]] = Counter()
        """Units of each version."""
        self._actor_of: dict[UnitKey, int] = {}
        """Who scored a unit last, and may have kept what it prepared."""

    def describe(self) -> GeneratorFacts:
        """Waits until the first worker has started."""
        facts: GeneratorFacts = self._pool.call_first(lambda actor: actor.describe.remote())
        return facts

    @property
    def num_waiting(self) -> int:
        """Units submitted and not yet collected."""
        return len(self._queue) + len(self._jobs)

    def submit(self, version: StoredVersion, units: Sequence[EvaluationUnit]) -> None:
        """Queue the evaluation of one bank version, whose experts a worker will load."""
        for unit in units:
            self._queue.append((self._next_key, (version, unit)))
            self._next_key += 1
        self._num_waiting[version.key] += len(units)
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
        for key in answers:
            version = self._jobs.pop(key)[0].key
            self._num_waiting[version] -= 1
            if not self._num_waiting[version]:
                self._experts.pop(version, None)  # leaves the object store
        return list(answers.values())

    def drop(self) -> None:
        """Forget all units; the results of those in progress are ignored."""
        self._queue.clear()
        self._jobs.clear()
        self._experts.clear()
        self._num_waiting.clear()

    def close(self) -> None:
        """End the actors; waiting units are dropped."""
        self.drop()
        self._pool.close()

    def _fill(self) -> None:
        """Keep the workers busy."""
        self._pool.adapt(len(self._queue))
        while self._queue and self._pool.has_room:
            key, job = self._queue.popleft()
            self._jobs[key] = job
            one = job[1].key
            self._actor_of[one] = self._pool.submit(key, self._call(*job), self._actor_of.get(one))

    def _call(self, version: StoredVersion, unit: EvaluationUnit) -> Call:
        is_retry = False

        def make(actor: Any) -> Any:
            nonlocal is_retry
            if is_retry or version.key not in self._experts:
                # The experts may be what was lost: load them again.
                self._experts[version.key] = actor.load.remote(version)
            is_retry = True
            return actor.evaluate.remote(version.version, self._experts[version.key], unit)

        return make
