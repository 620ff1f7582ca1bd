"""Evaluations of bank versions while the job continues.

At each point of `evaluation.at` and at the end, the cases of this run whose edits the version holds
are scored against it. Stored results are not computed again.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from infra.bank.expert_bank import ExpertBank
from infra.bank.history import BankVersion
from infra.tracking.results import ResultsTable
from liveedit_core.errors import IntegrityError
from liveedit_core.method.config import GeneratorConfig
from pipelines.editing.intake import CaseIndex
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.evaluation.bank_evaluation import (
    BankEvaluation,
    EvaluationSettings,
    EvaluationTask,
)
from pipelines.job.stages import Evaluator
from workers.messages import ScoredUnit

_logger = logging.getLogger(__name__)


def settings_of(config: LifelongEditRecipe) -> EvaluationSettings:
    section, requests = config.evaluation, config.requests
    file = requests.cases or requests.path
    return EvaluationSettings(
        protocols=section.protocols,
        max_cases=section.max_cases,
        free_generation_cases=section.free_generation_cases,
        seed=config.seed,
        matrices=section.matrices,
        benchmark=Path(file).name if file else config.benchmark.title,
        prompts=config.benchmark.protocol,
        max_new_tokens=section.max_new_tokens,
    )


@dataclass
class EvaluationSchedule:
    """The evaluations of one run."""

    config: LifelongEditRecipe
    cases: CaseIndex
    bank: ExpertBank
    generator_config: GeneratorConfig
    results: ResultsTable
    evaluator: Evaluator
    on_finished: Callable[[BankEvaluation], None]
    finished: list[BankEvaluation] = field(default_factory=list)
    """By number of edits."""
    _newest: BankVersion | None = None
    _at: dict[int, BankVersion] = field(default_factory=dict)
    """By point of evaluation, the newest version of requests up to there."""
    _handled: set[int] = field(default_factory=set)
    _running: dict[int, EvaluationTask] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for record in self.bank.history():
            self._note(record)

    def window_done(self, version: int | None, last_sequence: int) -> None:
        """Start what a window made due; `version` is None if all its requests were refused."""
        # A window whose edits were all removed meanwhile adds no version.
        record = None if version is None else self.bank.versions.state_at(version)
        if record is not None:
            self._note(record)
        self.start_due(last_sequence)

    def _note(self, record: BankVersion) -> None:
        self._newest = replace(record, added=(), removed=())
        for point in self.config.evaluation.at:
            if record.last_sequence <= point:
                self._at[point] = self._newest

    def start_due(self, done_through: int, *, is_end: bool = False) -> None:
        """Start the evaluations that are due when requests up to `done_through` are done.

        `is_end` makes the newest version due as well.
        """
        due = [self._at.get(point) for point in self.config.evaluation.at if point <= done_through]
        if is_end:
            due.append(self._newest)
        for window in due:
            if window is not None and window.version not in self._handled:
                self._handled.add(window.version)
                self._start(window)

    def poll(self, *, wait: bool = False) -> None:
        """Store finished results; with `wait`, wait for at least one unit."""
        by_version: dict[int, list[ScoredUnit]] = {}
        for scored in self.evaluator.collect(wait=wait):
            by_version.setdefault(scored.bank_version, []).append(scored)
        for version, units in by_version.items():
            task = self._running[version]
            task.store(units)
            if task.is_over:
                self._finish(task)

    def finish(self, on_progress: Callable[[int], None], should_stop: Callable[[], bool]) -> None:
        """Wait for all units, unless the run is stopped; what has come is stored."""
        while (num_waiting := self.evaluator.num_waiting) and not should_stop():
            on_progress(num_waiting)
            self.poll(wait=True)
        for task in self._running.values():
            task.flush()

    def _start(self, window: BankVersion) -> None:
        if not self.bank.has_version(window.version):
            return  # removed before it was evaluated
        try:
            held = self.bank.edit_ids(window.version)
        except IntegrityError as error:
            if window.version == self.bank.version:
                raise
            # An older version stays damaged when the bank is repaired.
            _logger.warning("version %d is not evaluated: %s", window.version, error)
            return
        cases = self.cases.of(held)
        if not cases:
            return
        task = EvaluationTask(
            self.bank,
            self.results,
            cases,
            settings_of(self.config),
            version=window.version,
            num_edits=window.num_edits,
            load=self.cases.stored,
        )
        self._running[window.version] = task
        task.start(self.evaluator, self.generator_config)
        if task.is_over:
            self._finish(task)

    def _finish(self, task: EvaluationTask) -> None:
        evaluation = task.evaluation()
        del self._running[evaluation.bank_version]
        self.finished.append(evaluation)
        self.finished.sort(key=lambda item: (item.num_edits, item.bank_version))
        self.on_finished(evaluation)
