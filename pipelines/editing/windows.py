"""Runs logged requests through the stages and commits them window by window.

Windows end at fixed numbers of the request log: at every multiple of `window_edits` and at the
points of evaluation, which need a bank version. An interrupted run therefore commits the same
windows as an undisturbed one. After a failure the caller runs what is still pending.

    numbers -> generator -> embedder -> window        this thread: numbers and fragment records
                                          | refusals, subjects, commit; compaction: another thread
"""

import bisect
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, Self

from infra.bank.compaction import Compaction, CompactionReport
from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from liveedit_core.inputs.rejects import Rejected
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.job.stages import Asked, Embedder, Generator, Subjects
from workers.failures import retried
from workers.messages import WrittenBatch
from workers.subject_assigner import SubjectAssigner


class Progress(Protocol):
    """Shows how far the job is."""

    def say(self, text: str) -> None:
        """Show one line."""

    def edits(self, num_done: int, num_total: int) -> None:
        """Requests of this run that are done."""

    def evaluations(self, num_waiting: int) -> None:
        """Pieces of evaluation that are not done."""


@dataclass(kw_only=True)
class Timings:
    """Where the time went; the stages run in parallel, so these do not add up."""

    intake_s: float = 0.0
    generate_s: float = 0.0
    refine_s: float = 0.0
    """The part of `generate_s` that verified and refined."""
    embed_s: float = 0.0
    commit_s: float = 0.0
    edit_s: float = 0.0
    """From the first micro-batch to the last commit."""
    num_processed: int = 0
    """Requests that went through the generator."""
    num_windows: int = 0


@dataclass(frozen=True, kw_only=True)
class WindowPlan:
    """Where windows end."""

    window_edits: int
    points: Sequence[int] = ()
    """Additional ends, rising."""

    def end_of(self, sequence: int) -> int:
        """The last request number of the window that a request belongs to."""
        regular = -(-sequence // self.window_edits) * self.window_edits
        position = bisect.bisect_left(self.points, sequence)
        return min([regular, *self.points[position : position + 1]])

    def micro_batches(self, sequences: Iterable[int], batch_size: int) -> Iterator[tuple[int, ...]]:
        """Cut rising numbers of requests into batches that never cross a window's end."""
        for _, window in itertools.groupby(sequences, self.end_of):
            while batch := tuple(itertools.islice(window, batch_size)):
                yield batch

    def last_of_windows(self, sequences: Iterable[int]) -> set[int]:
        """The last of these rising numbers in each window."""
        return set({self.end_of(number): number for number in sequences}.values())


def take_over(bank: ExpertBank, config: LifelongEditRecipe) -> int:
    """Become the one writer of a bank, which fences earlier ones, and commit what comes before the
    first window: waiting changes and the recipe's budget. Returns the epoch."""
    epoch = retried(bank.acquire_writer)
    retried(lambda: bank.apply_changes(epoch=epoch))
    if budget := config.filter.false_activation:
        why = {"author": "", "reason": "filter.false_activation of the recipe"}
        retried(lambda: bank.calibrate(budget, epoch=epoch, **why))
    return epoch


@dataclass(kw_only=True)
class WindowRunner:
    """The one writer of a bank, with the stages that work for it."""

    config: LifelongEditRecipe
    bank: ExpertBank
    request_log: RequestLog
    epoch: int
    """From `take_over`."""
    generator: Generator
    embedder: Embedder
    progress: Progress
    subjects: Subjects | None = None
    """None: this process."""
    on_window: Callable[[int | None, int], None] = lambda version, last_sequence: None
    """Called with the new version, None if all requests were refused, and their largest number."""
    on_batch: Callable[[], None] = lambda: None
    """Called after each micro-batch."""
    timings: Timings = field(default_factory=Timings)
    rejected: list[Rejected] = field(default_factory=list)
    """Requests that got no expert, as far as that is stored."""
    _compaction: Compaction = field(init=False)
    _subjects: Subjects = field(init=False)

    def __post_init__(self) -> None:
        store, name = self.bank.store, self.bank.name
        self._subjects = self.subjects or SubjectAssigner(store, name, self.generator.describe())
        self._compaction = Compaction(self.bank.store, self.bank.name, self.config.growth)

    def run(
        self, sequences: Sequence[int], should_stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Write and commit the experts of some requests of the log; their numbers are rising.

        `should_stop` is called after each window; True leaves the rest undone.
        """
        # The continuous mode evaluates nothing: it needs no versions at points of evaluation.
        follow = self.config.follow
        points = () if follow.is_on else self.config.evaluation.at
        plan = WindowPlan(window_edits=self.config.bank.window_edits, points=points)
        ends = plan.last_of_windows(sequences)
        longest_s = follow.window_s if follow.is_on else math.inf
        start_s = time.perf_counter()
        window: list[tuple[WrittenBatch, Asked]] = []
        num_done = 0
        with _Committer(self, should_stop) as committer:
            for batch, asked in self._written(plan.micro_batches(sequences, self._batch_size)):
                if not window:
                    opened_s = time.monotonic()
                window.append((batch, asked))
                self._count(batch)
                num_done += batch.num_experts + len(batch.rejected)
                self.progress.edits(num_done, len(sequences))
                is_overdue = time.monotonic() - opened_s >= longest_s
                if batch.last_sequence in ends or is_overdue:
                    committer.add(window)
                    window = []
                else:
                    committer.poll()
                if committer.is_stopped:
                    break
                self.on_batch()
        self.timings.edit_s += time.perf_counter() - start_s

    @property
    def _batch_size(self) -> int:
        return self.config.generator.batch_size

    def _written(self, batches: Iterable[Sequence[int]]) -> Iterable[tuple[WrittenBatch, Asked]]:
        """Fragments of all batches, in order."""
        generated = self.generator.stream(batches, self.request_log.reader())
        return self.embedder.stream(generated, self.bank.fragment_writer())

    def _count(self, batch: WrittenBatch) -> None:
        self.timings.generate_s += batch.generate_s
        self.timings.refine_s += batch.refine_s
        self.timings.embed_s += batch.embed_s
        self.timings.num_processed += batch.num_experts + len(batch.rejected)

    def commit(self, window: Sequence[tuple[WrittenBatch, Asked]]) -> int | None:
        """Store the refusals of a window and make its experts visible; returns the new version,
        None if all requests were refused."""
        start_s = time.perf_counter()
        version = None
        refused = [item for batch, _ in window for item in batch.rejected]
        if refused:
            retried(lambda: self.request_log.reject_requests(refused, bank=self.bank.name))
            self.rejected += refused
        fragments = [fragment for batch, _ in window for fragment in batch.fragments]
        if fragments:
            message = f"requests up to {window[-1][0].last_sequence}"
            asked = [asked for _, asked in window]
            (subjects,) = retried(lambda: list(self._subjects.stream([asked])))
            version = retried(
                lambda: self.bank.commit(
                    fragments,
                    epoch=self.epoch,
                    subjects=subjects,
                    message=message,
                    run=self._subjects.run,
                )
            )
            self.timings.num_windows += 1
            num_edits = retried(lambda: self.bank.num_edits(version))
            self.progress.say(f"committed bank version {version}: {num_edits} edits")
        self.timings.commit_s += time.perf_counter() - start_s
        return version

    def compact(self) -> CompactionReport | None:
        return self._compaction.after_window()


class _Committer:
    """Commits windows in order, one at a time, in a thread of its own, while the next is written.

    Callbacks are called in the thread of the caller.
    """

    def __init__(self, runner: WindowRunner, should_stop: Callable[[], bool]) -> None:
        self._runner = runner
        self._should_stop = should_stop
        self._thread = ThreadPoolExecutor(1, "commits")
        self._commit: Future[int | None] | None = None
        self._compaction: Future[CompactionReport | None] | None = None
        self._last_sequence = 0
        self.is_stopped = False
        """Whether `should_stop` was true after a window."""

    def __enter__(self) -> Self:
        return self

    def add(self, window: Sequence[tuple[WrittenBatch, Asked]]) -> None:
        """Commit a window after the one before, unless the run is stopped there."""
        self._finish()
        if self.is_stopped:
            return
        self._last_sequence = window[-1][0].last_sequence
        self._commit = self._thread.submit(self._runner.commit, window)
        if self._should_stop():
            self._finish()

    def poll(self) -> None:
        """Report a commit that is done."""
        if self._commit is not None and self._commit.done():
            self._finish()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._thread.shutdown()
        if kind is None:
            self._report_compaction()

    def _finish(self) -> None:
        """Wait for the commit in progress."""
        if self._commit is None:
            return
        version, self._commit = self._commit.result(), None
        runner = self._runner
        self._report_compaction()
        if version is not None:
            self._compaction = self._thread.submit(runner.compact)
        runner.on_window(version, self._last_sequence)
        self.is_stopped = self.is_stopped or self._should_stop()

    def _report_compaction(self) -> None:
        """Report the last compaction; it precedes any later commit."""
        if self._compaction is None:
            return
        compacted, self._compaction = self._compaction.result(), None
        if compacted is not None:
            self._runner.progress.say(f"compaction: {compacted.sentence()}")
