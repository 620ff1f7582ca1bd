"""The main job as if on one machine: requests -> experts -> rows -> bank versions -> results.

    request numbers -> generator -> embedder -> window -> commit -> evaluation of pinned versions
                      (bounded work in flight)         (a thread)   (beside the next windows)

Only the driver commits. Everything before a commit may be repeated without effect, and after a
restart the remaining work is read from the store: requests minus bank minus rejects.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from infra.tracking.results import ResultsTable
from liveedit_core.inputs.rejects import Rejected
from pipelines.editing.evaluation_schedule import EvaluationSchedule, settings_of
from pipelines.editing.intake import Intake, Source, log_requests
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.windows import Progress, Timings, WindowRunner, take_over
from pipelines.evaluation.bank_evaluation import BankEvaluation, lifelong_curves
from pipelines.job.stages import Embedder, Evaluator, Generator, Subjects


class Records(Protocol):
    """Where a run is tracked; see `RunRecords`."""

    def evaluated(self, bank: ExpertBank, evaluation: BankEvaluation) -> None: ...
    def curve(self, points: Sequence[BankEvaluation]) -> None: ...
    def followed(self, bank: ExpertBank, lag_s: float) -> None: ...
    def register_newest(self, bank: ExpertBank) -> None: ...


@dataclass(kw_only=True)
class Outcome:
    """What a run did."""

    intake: Intake
    num_edits_before: int
    num_edits: int
    rejected: list[Rejected] = field(default_factory=list)
    """Requests that got no expert in this run."""
    evaluations: list[BankEvaluation] = field(default_factory=list)
    curve: list[BankEvaluation] = field(default_factory=list)
    """One point for each group size in `evaluation.curve_at`, over its groups."""
    timings: Timings
    was_stopped: bool = False

    @property
    def num_replaced(self) -> int:
        """Edits, old or new, that edits of this run took the place of."""
        num_written = self.timings.num_processed - len(self.rejected)
        return max(0, num_written - (self.num_edits - self.num_edits_before))


def run(
    config: LifelongEditRecipe,
    *,
    source: Source,
    generator: Generator,
    embedder: Embedder,
    evaluator: Evaluator,
    bank: ExpertBank,
    request_log: RequestLog,
    results: ResultsTable,
    records: Records,
    progress: Progress,
    subjects: Subjects | None = None,
    on_window: Callable[[], None] = lambda: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Edit with all requests that the log holds and the bank lacks; evaluate the bank on the way.

    The requests of `source` are logged first. `on_window` is called after each window, and once
    all are done. `should_stop` is called after each window; True ends the run cleanly.
    """
    intake = log_requests(source, request_log, limit=config.requests.limit, should_stop=should_stop)
    epoch = take_over(bank, config)
    num_edits_before = bank.num_edits()
    schedule = EvaluationSchedule(
        config,
        cases=intake.cases,
        bank=bank,
        generator_config=generator.describe().config,
        results=results,
        evaluator=evaluator,
        on_finished=lambda evaluation: records.evaluated(bank, evaluation),
    )

    def window_done(version: int | None, last_sequence: int) -> None:
        schedule.window_done(version, last_sequence)
        on_window()

    runner = WindowRunner(
        config=config,
        bank=bank,
        request_log=request_log,
        epoch=epoch,
        generator=generator,
        embedder=embedder,
        progress=progress,
        subjects=subjects,
        on_window=window_done,
        on_batch=schedule.poll,
        timings=Timings(intake_s=intake.duration_s),
    )
    _run_pending(runner, schedule, should_stop)
    on_window()
    generator.close()
    embedder.close()
    schedule.finish(progress.evaluations, should_stop)
    curve = _curve(config, intake, evaluator, bank, results, progress, should_stop)
    if curve:
        records.curve(curve)
    intake.cases.delete_stored()
    return Outcome(
        intake=intake,
        num_edits_before=num_edits_before,
        num_edits=bank.num_edits(),
        rejected=runner.rejected,
        evaluations=schedule.finished,
        curve=curve,
        timings=runner.timings,
        was_stopped=should_stop(),
    )


def _run_pending(
    runner: WindowRunner, schedule: EvaluationSchedule, should_stop: Callable[[], bool]
) -> None:
    """Run all pending requests, and start the evaluations that become due."""
    log = runner.request_log
    sequences = runner.bank.pending_sequences(log)
    schedule.start_due(sequences[0] - 1 if sequences else len(log))
    # A stop before all inputs are logged: windows end where those of a whole run do.
    if sequences and not should_stop():
        runner.run(sequences, should_stop)
    if not sequences or not should_stop():
        schedule.start_due(len(log), is_end=True)


def _curve(
    config: LifelongEditRecipe,
    intake: Intake,
    evaluator: Evaluator,
    bank: ExpertBank,
    results: ResultsTable,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> list[BankEvaluation]:
    """The newest version on groups of each size in `evaluation.curve_at`."""
    if not config.evaluation.curve_at or should_stop():
        return []

    def show(num_done: int, num_units: int) -> None:
        if num_done < num_units:
            progress.evaluations(num_units - num_done)

    return lifelong_curves(
        results=results,
        bank=bank,
        version=bank.version,
        cases=intake.cases.of(intake.cases.edit_ids),
        load=intake.cases.stored,
        settings=settings_of(config),
        pool=evaluator,
        sizes=config.evaluation.curve_at,
        on_progress=show,
        should_stop=should_stop,
    )
