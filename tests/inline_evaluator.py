"""An evaluator of one plain worker, so that jobs run in tests without Ray."""

from collections import deque
from collections.abc import Sequence

from liveedit_core.method.repository import ExpertRepository
from workers.evaluation_worker import EvaluationWorker, Preparation
from workers.messages import EvaluationUnit, GeneratorFacts, ScoredUnit, SharedRepository


class InlineEvaluator:
    """The interface of `EvaluationPool` in this process; all work is done by `collect`."""

    def __init__(self, worker: EvaluationWorker) -> None:
        self._worker = worker
        self._queue: deque[tuple[int, SharedRepository, EvaluationUnit]] = deque()
        self._prepared: dict[tuple[tuple[str, ...], tuple[str, ...]], Preparation] = {}

    def describe(self) -> GeneratorFacts:
        return self._worker.describe()

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    def submit(
        self, bank_version: int, repository: ExpertRepository, units: Sequence[EvaluationUnit]
    ) -> None:
        shared = SharedRepository.of(repository)
        self._queue += [(bank_version, shared, unit) for unit in units]

    def drop(self) -> None:
        self._queue.clear()

    def collect(self, *, wait: bool) -> list[ScoredUnit]:
        """Score the next unit, whether or not the caller wants to wait."""
        if not self._queue:
            return []
        bank_version, shared, unit = self._queue.popleft()
        if unit.key not in self._prepared:
            self._prepared[unit.key] = self._worker.prepare(unit)
        return [self._worker.score(bank_version, self._prepared[unit.key], shared, unit)]
