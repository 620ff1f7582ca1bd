"""The main job as if on one machine: requests -> experts -> rows -> bank versions -> results.

    request log -> generator -> embedder -> window -> commit -> evaluation of pinned versions
                  (bounded work in flight)           (driver)   (beside the next windows)

The driver alone commits. Everything before a commit may be repeated without effect, and after a
restart the rest to do is read from the store: requests minus bank minus rejects.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from infra.bank_growth import BankGrowth
from infra.expert_bank import ExpertBank
from infra.object_store import ObjectStore
from infra.request_log import RequestLog
from infra.results import ResultsTable
from liveedit_core.config import GeneratorConfig
from liveedit_core.rejects import Rejected
from pipelines.bank_evaluation import BankEvaluation
from pipelines.config import LifelongEditRecipe
from pipelines.edit_intake import Intake, Source, take_in
from pipelines.evaluation_schedule import EvaluationSchedule, settings_of
from pipelines.lifelong_curves import lifelong_curves
from pipelines.stages import Embedder, Evaluator, Generator
from pipelines.window_plan import OpenWindow, WindowPlan
from workers.failures import retried
from workers.messages import WrittenBatch


class Records(Protocol):
    """Takes note of what is worth tracking."""

    def evaluated(self, bank: ExpertBank, evaluation: BankEvaluation) -> None:
        """An evaluation is complete."""

    def curve(self, points: Sequence[BankEvaluation]) -> None:
        """The lifelong curve is complete."""


class Progress(Protocol):
    """Shows how far the job is."""

    def say(self, text: str) -> None:
        """One line for people."""

    def edits(self, num_done: int, num_total: int) -> None:
        """Requests of this run that are through."""

    def evaluations(self, num_waiting: int) -> None:
        """Pieces of evaluation that are not done."""


@dataclass(kw_only=True)
class Timings:
    """Where the time went; the stages run beside each other, so these do not add up."""

    intake_s: float = 0.0
    generate_s: float = 0.0
    embed_s: float = 0.0
    commit_s: float = 0.0
    teach_s: float = 0.0
    """From the first micro-batch to the last commit."""
    num_taught: int = 0
    """Requests that went through the generator."""
    num_windows: int = 0


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
        embedder: Embeds pictures and writes rows.
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
    growth = BankGrowth(ObjectStore(bank.store_uri), bank.name, config.growth)
    _Teacher(config, bank, request_log, epoch, schedule, progress, outcome, growth).teach(
        generator, embedder, should_stop
    )
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


@dataclass
class _Teacher:
    """Drives requests through the stages and commits their windows."""

    config: LifelongEditRecipe
    bank: ExpertBank
    request_log: RequestLog
    epoch: int
    schedule: EvaluationSchedule
    progress: Progress
    outcome: Outcome
    growth: BankGrowth

    def teach(
        self, generator: Generator, embedder: Embedder, should_stop: Callable[[], bool]
    ) -> None:
        """Do everything that is pending."""
        sequences = self.request_log.pending_sequences(self.bank)
        num_requests = len(self.request_log)
        self.schedule.advance(min(sequences) - 1 if sequences else num_requests)
        if not sequences:
            self.schedule.advance(num_requests, is_end=True)
            return
        plan = WindowPlan(
            window_edits=self.config.bank.window_edits, points=self.config.evaluation.at
        )
        start_s = time.perf_counter()
        batches = plan.micro_batches(
            self.request_log.read(sequences), self.config.generator.batch_size
        )
        window = OpenWindow()
        num_through = 0
        for batch in embedder.stream(generator.stream(batches), self.bank.fragment_writer()):
            end = plan.end_of(batch.last_sequence)
            if window.batches and plan.end_of(window.last_sequence) != end:
                window = self._commit(window)
            window.batches.append(batch)
            num_through += batch.num_experts + self._note(batch)
            self.progress.edits(num_through, len(sequences))
            if batch.last_sequence == end:
                window = self._commit(window)
                if should_stop():
                    break
            self.schedule.poll()
        self._commit(window)
        self.outcome.timings.teach_s = time.perf_counter() - start_s
        if not should_stop():
            self.schedule.advance(num_requests, is_end=True)

    def _note(self, batch: WrittenBatch) -> int:
        """Take down times and refusals of a batch; returns how many were refused in it."""
        timings = self.outcome.timings
        timings.generate_s += batch.generate_s
        timings.embed_s += batch.embed_s
        num_refused = sum(1 for item in batch.rejected)
        timings.num_taught += batch.num_experts + num_refused
        if num_refused:
            retried(lambda: self.request_log.reject_requests(batch.rejected, bank=self.bank.name))
            self.outcome.rejected += batch.rejected
        return num_refused

    def _commit(self, window: OpenWindow) -> OpenWindow:
        """Make a window visible and start the evaluations that are due; returns an empty window."""
        if not window.batches:
            return window
        start_s = time.perf_counter()
        if window.fragments:
            version = retried(
                lambda: self.bank.commit(
                    window.fragments,
                    epoch=self.epoch,
                    message=f"requests up to {window.last_sequence}",
                )
            )
            self.schedule.add_window(version)
            self.outcome.timings.num_windows += 1
            self.progress.say(
                f"committed bank version {version}: {self.bank.num_edits(version)} edits"
            )
            upkeep = self.growth.after_window()
            if upkeep is not None:
                self.progress.say(f"upkeep: {upkeep.sentence()}")
        self.outcome.timings.commit_s += time.perf_counter() - start_s
        self.schedule.advance(window.last_sequence)
        return OpenWindow()
