"""Runs logged requests through the stages and commits them window by window.

Windows end at fixed numbers of the request log: at every multiple of `window_edits` and at the
points of evaluation, which need a bank version. An interrupted run therefore commits the same
windows as an undisturbed one. After a failure the caller runs what is still pending.
"""

import bisect
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from infra.bank.compaction import Compaction
from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import LoggedRequest, RequestLog
from liveedit_core.inputs.rejects import Rejected
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.subjects import SubjectAssigner
from pipelines.job.stages import Embedder, Generator
from workers.failures import retried
from workers.messages import NumberedRequest, WrittenBatch


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

    def micro_batches(
        self, requests: Iterable[LoggedRequest], batch_size: int
    ) -> Iterator[tuple[NumberedRequest, ...]]:
        """Cut requests, read only as needed, into batches that never cross a window's end."""
        batch: list[NumberedRequest] = []
        for logged in requests:
            is_new_window = batch and self.end_of(logged.sequence) != self.end_of(batch[0].sequence)
            if is_new_window or len(batch) == batch_size:
                yield tuple(batch)
                batch = []
            batch.append(NumberedRequest(sequence=logged.sequence, request=logged.request))
        if batch:
            yield tuple(batch)


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
    on_window: Callable[[int | None, int], None] = lambda version, last_sequence: None
    """Called with the new version, None if all requests were refused, and their largest number."""
    on_batch: Callable[[], None] = lambda: None
    """Called after each micro-batch."""
    timings: Timings = field(default_factory=Timings)
    rejected: list[Rejected] = field(default_factory=list)
    """Requests that got no expert."""
    _compaction: Compaction = field(init=False)
    _subjects: SubjectAssigner = field(init=False)

    def __post_init__(self) -> None:
        facts = self.generator.describe()
        self._subjects = SubjectAssigner(self.bank, self.request_log, facts)
        self._compaction = Compaction(self.bank.store, self.bank.name, self.config.growth)

    def run(
        self, sequences: Sequence[int], should_stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Write and commit the experts of some requests of the log; their numbers are rising.

        `should_stop` is called after each window; True leaves the rest undone.
        """
        # The continuous mode evaluates nothing: it needs no versions at points of evaluation.
        points = () if self.config.follow.is_on else self.config.evaluation.at
        plan = WindowPlan(window_edits=self.config.bank.window_edits, points=points)
        start_s = time.perf_counter()
        batches = plan.micro_batches(
            self.request_log.read(sequences), self.config.generator.batch_size
        )
        window: list[WrittenBatch] = []
        num_done = 0
        written = self.embedder.stream(self.generator.stream(batches), self.bank.fragment_writer())
        for batch in written:
            end = plan.end_of(batch.last_sequence)
            if window and plan.end_of(window[-1].last_sequence) != end:
                self._commit(window)
                window = []
            window.append(batch)
            self._record(batch)
            num_done += batch.num_experts + len(batch.rejected)
            self.progress.edits(num_done, len(sequences))
            if batch.last_sequence == end:
                self._commit(window)
                window = []
                if should_stop():
                    break
            self.on_batch()
        if window:
            self._commit(window)
        self.timings.edit_s += time.perf_counter() - start_s

    def _record(self, batch: WrittenBatch) -> None:
        """Add up times; store refusals."""
        self.timings.generate_s += batch.generate_s
        self.timings.refine_s += batch.refine_s
        self.timings.embed_s += batch.embed_s
        self.timings.num_processed += batch.num_experts + len(batch.rejected)
        if batch.rejected:
            retried(lambda: self.request_log.reject_requests(batch.rejected, bank=self.bank.name))
            self.rejected += batch.rejected

    def _commit(self, window: Sequence[WrittenBatch]) -> None:
        """Make a window visible."""
        start_s = time.perf_counter()
        version = None
        last_sequence = window[-1].last_sequence
        fragments = [fragment for batch in window for fragment in batch.fragments]
        if fragments:
            message = f"requests up to {last_sequence}"
            asked = [item for batch in window for item in batch.asked]
            subjects = retried(lambda: self._subjects.assign(asked))
            version = retried(
                lambda: self.bank.commit(
                    fragments, epoch=self.epoch, subjects=subjects, message=message
                )
            )
            self.timings.num_windows += 1
            num_edits = retried(lambda: self.bank.num_edits(version))
            self.progress.say(f"committed bank version {version}: {num_edits} edits")
            compacted = self._compaction.after_window()
            if compacted is not None:
                self.progress.say(f"compaction: {compacted.sentence()}")
        self.timings.commit_s += time.perf_counter() - start_s
        self.on_window(version, last_sequence)
