"""An evaluator of one plain worker, so that jobs run in tests without Ray."""

from collections import deque
from collections.abc import Sequence

from workers.evaluation_worker import EvaluationWorker
from workers.messages import (
    EvaluationUnit,
    GeneratorFacts,
    ScoredUnit,
    SharedRepository,
    StoredVersion,
)


class InlineEvaluator:
    """The interface of `EvaluationPool` in this process; all work is done by `collect`."""

    def __init__(self, worker: EvaluationWorker) -> None:
        self._worker = worker
        self._queue: deque[tuple[int, SharedRepository, EvaluationUnit]] = deque()

    def describe(self) -> GeneratorFacts:
        return self._worker.describe()

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    def submit(self, version: StoredVersion, units: Sequence[EvaluationUnit]) -> None:
        shared = self._worker.load(version)
        self._queue += [(version.version, shared, unit) for unit in units]

    def drop(self) -> None:
        self._queue.clear()

    def collect(self, *, wait: bool) -> list[ScoredUnit]:
        """Score the next unit, whether or not the caller wants to wait."""
        if not self._queue:
            return []
        version, shared, unit = self._queue.popleft()
        return [self._worker.evaluate(version, shared, unit)]
