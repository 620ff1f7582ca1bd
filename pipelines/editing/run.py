"""The main job as if on one machine: requests -> experts -> rows -> bank versions -> results.

    request log -> generator -> embedder -> window -> commit -> evaluation of pinned versions
                  (bounded work in flight)           (driver)   (beside the next windows)

The driver alone commits. Everything before a commit may be repeated without effect, and after a
restart the rest to do is read from the store: requests minus bank minus rejects.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from infra.tracking.results import ResultsTable
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.method.config import GeneratorConfig
from pipelines.editing.evaluation_schedule import EvaluationSchedule, settings_of
from pipelines.editing.intake import Intake, Source, take_in
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.windows import Progress, Teacher, Timings
from pipelines.evaluation.bank_evaluation import BankEvaluation
from pipelines.evaluation.curves import lifelong_curves
from pipelines.job.stages import Embedder, Evaluator, Generator
from workers.failures import retried


class Records(Protocol):
    """Takes note of what is worth tracking."""

    def evaluated(self, bank: ExpertBank, evaluation: BankEvaluation) -> None:
        """An evaluation is complete."""

    def curve(self, points: Sequence[BankEvaluation]) -> None:
        """The lifelong curve is complete."""


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
    """The cases after so many edits each, over all groups, where the recipe asks for it."""
    timings: Timings
    was_stopped: bool = False


def run(
    config: LifelongEditRecipe,
    *,
    source: Source,
    generator: Generator,
    embedder: Embedder,
    evaluator: Evaluator,
    generator_config: GeneratorConfig,
    bank: ExpertBank,
    request_log: RequestLog,
    results: ResultsTable,
    records: Records,
    progress: Progress,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Teach all that the log holds and the bank lacks, and examine the bank on the way.

    Args:
        config: The recipe.
        source: New requests.
        generator: Writes experts.
        embedder: Embeds images and writes rows.
        evaluator: Scores cases.
        generator_config: Of the generator that the workers hold.
        bank: Where the experts go.
        request_log: Where requests and refusals are written down.
        results: Where scores go.
        records: Is told of each evaluation.
        progress: Shows the way.
        should_stop: Asked after each window; True ends the run cleanly.

    Raises:
        LiveEditError: Infrastructure failed for good, or a newer writer took over.
    """
    timings = Timings()
    intake = take_in(source, request_log, limit=config.requests.limit, should_stop=should_stop)
    timings.intake_s = intake.duration_s
    epoch = retried(bank.acquire_writer)
    retried(lambda: bank.apply_changes(epoch=epoch))
    outcome = Outcome(
        intake=intake,
        num_edits_before=bank.num_edits(),
        num_edits=bank.num_edits(),
        timings=timings,
    )
    schedule = EvaluationSchedule(
        config.evaluation,
        config.seed,
        cases=intake.cases,
        bank=bank,
        generator_config=generator_config,
        results=results,
        evaluator=evaluator,
        on_finished=lambda evaluation: records.evaluated(bank, evaluation),
    )
    teacher = Teacher(
        config=config,
        bank=bank,
        request_log=request_log,
        epoch=epoch,
        generator=generator,
        embedder=embedder,
        observer=_Examiner(schedule),
        progress=progress,
        timings=timings,
        rejected=outcome.rejected,
    )
    _teach(teacher, schedule, should_stop)
    generator.close()
    embedder.close()
    while schedule.num_waiting and not should_stop():
        progress.evaluations(schedule.num_waiting)
        schedule.poll(wait=True)
    if config.evaluation.curve_at and not should_stop():
        outcome.curve = _curve(config, intake, bank, results, evaluator, progress, should_stop)
        records.curve(outcome.curve)
    outcome.was_stopped = should_stop()
    outcome.evaluations = schedule.finished
    outcome.num_edits = bank.num_edits()
    return outcome


def _curve(
    config: LifelongEditRecipe,
    intake: Intake,
    bank: ExpertBank,
    results: ResultsTable,
    evaluator: Evaluator,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> list[BankEvaluation]:
    """Examine the newest version in groups of edits."""

    def show(num_done: int, num_units: int) -> None:
        if num_done < num_units:
            progress.evaluations(num_units - num_done)

    return lifelong_curves(
        results=results,
        bank=bank,
        version=bank.version,
        cases=intake.cases.of(intake.cases.edit_ids),
        settings=settings_of(config.evaluation, config.seed),
        pool=evaluator,
        sizes=config.evaluation.curve_at,
        on_progress=show,
        should_stop=should_stop,
    )


@dataclass(frozen=True)
class _Examiner:
    """Starts the evaluations that windows make due."""

    schedule: EvaluationSchedule

    def window_done(self, version: int | None, last_sequence: int) -> None:
        if version is not None:
            self.schedule.add_window(version)
        self.schedule.advance(last_sequence)

    def batch_done(self) -> None:
        self.schedule.poll()


def _teach(teacher: Teacher, schedule: EvaluationSchedule, should_stop: Callable[[], bool]) -> None:
    """Do everything that is pending."""
    log = teacher.request_log
    sequences = teacher.bank.pending_sequences(log)
    num_requests = len(log)
    schedule.advance(min(sequences) - 1 if sequences else num_requests)
    if sequences:
        teacher.teach(sequences, should_stop)
    if not sequences or not should_stop():
        schedule.advance(num_requests, is_end=True)
