"""Drives logged requests through the stages and commits their windows, in whatever mode.

Everything before a commit may be repeated without effect. So whatever fails on the way, the caller
may ask for the rest once more.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from infra.bank.compaction import Compaction
from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from liveedit_core.inputs.rejects import Rejected
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.window_plan import OpenWindow, WindowPlan
from pipelines.job.stages import Embedder, Generator
from workers.failures import retried
from workers.messages import WrittenBatch


class Progress(Protocol):
    """Shows how far the job is."""

    def say(self, text: str) -> None:
        """One line for people."""

    def edits(self, num_done: int, num_total: int) -> None:
        """Requests of this run that are through."""

    def evaluations(self, num_waiting: int) -> None:
        """Pieces of evaluation that are not done."""


class WindowObserver(Protocol):
    """Is told how far teaching is."""

    def window_done(self, version: int | None, last_sequence: int) -> None:
        """All requests up to a number are through, in a new version unless all were refused."""

    def batch_done(self) -> None:
        """A micro-batch is through."""


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
class Teacher:
    """The one committer of a bank, and the stages that work for it."""

    config: LifelongEditRecipe
    bank: ExpertBank
    request_log: RequestLog
    epoch: int
    """From `bank.acquire_writer`."""
    generator: Generator
    embedder: Embedder
    observer: WindowObserver
    progress: Progress
    timings: Timings
    """Counted up."""
    rejected: list[Rejected] = field(default_factory=list)
    """Requests that got no expert."""
    _growth: Compaction = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is read or written yet."""
        store = self.bank.store
        self._growth = Compaction(store, self.bank.name, self.config.growth)

    def teach(
        self, sequences: Sequence[int], should_stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Teach some requests of the log.

        Args:
            sequences: Their numbers, rising.
            should_stop: Asked after each window; True leaves the rest undone.

        Raises:
            LiveEditError: Infrastructure failed, or a newer writer took over.
        """
        # The continuous mode evaluates nothing: it needs no versions at points of evaluation.
        points = () if self.config.follow.is_on else self.config.evaluation.at
        plan = WindowPlan(window_edits=self.config.bank.window_edits, points=points)
        start_s = time.perf_counter()
        batches = plan.micro_batches(
            self.request_log.read(sequences), self.config.generator.batch_size
        )
        window = OpenWindow()
        num_through = 0
        written = self.embedder.stream(self.generator.stream(batches), self.bank.fragment_writer())
        for batch in written:
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
            self.observer.batch_done()
        self._commit(window)
        self.timings.teach_s += time.perf_counter() - start_s

    def _note(self, batch: WrittenBatch) -> int:
        """Take down times and refusals of a batch; returns how many were refused in it."""
        self.timings.generate_s += batch.generate_s
        self.timings.embed_s += batch.embed_s
        num_refused = sum(1 for item in batch.rejected)
        self.timings.num_taught += batch.num_experts + num_refused
        if num_refused:
            retried(lambda: self.request_log.reject_requests(batch.rejected, bank=self.bank.name))
            self.rejected += batch.rejected
        return num_refused

    def _commit(self, window: OpenWindow) -> OpenWindow:
        """Make a window visible and tell of it; returns an empty window."""
        if not window.batches:
            return window
        start_s = time.perf_counter()
        version = None
        if window.fragments:
            version = retried(
                lambda: self.bank.commit(
                    window.fragments,
                    epoch=self.epoch,
                    message=f"requests up to {window.last_sequence}",
                )
            )
            self.timings.num_windows += 1
            num_edits = retried(lambda: self.bank.num_edits(version))
            self.progress.say(f"committed bank version {version}: {num_edits} edits")
            upkeep = self._growth.after_window()
            if upkeep is not None:
                self.progress.say(f"upkeep: {upkeep.sentence()}")
        self.timings.commit_s += time.perf_counter() - start_s
        self.observer.window_done(version, window.last_sequence)
        return OpenWindow()
