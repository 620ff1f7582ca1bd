"""The continuous mode: log what arrives, edit window by window, wait out outages, drain.

    inbox --look every poll_s--> request log --n edits or t seconds--> windows --> bank versions

All state is in the store: files stay in the inbox until they are logged, and the remaining work is
requests minus bank minus rejects. It is read again after an outage or a restart.
"""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from infra.storage.writer_fence import WriterFence
from liveedit_core.errors import LiveEditError
from pipelines.editing.inbox import Inbox, InboxFileError
from pipelines.editing.intake import CaseIndex, Intake
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.run import Outcome, Records
from pipelines.editing.windows import Progress, WindowRunner, take_over
from pipelines.job.stages import Embedder, Generator, Subjects
from workers.actor_pool import ActorPool
from workers.failures import retried

_FIRST_WAIT_S = 1.0
_STOP_CHECK_S = 0.2
_MAX_REJECTS_KEPT = 1000
"""For the report at the end; all of them are in the table `rejects`."""


@dataclass(kw_only=True)
class Follower:
    """The driver that follows an inbox until it is told to stop."""

    config: LifelongEditRecipe
    bank: ExpertBank
    request_log: RequestLog
    generator: Generator
    embedder: Embedder
    records: Records
    progress: Progress
    should_stop: Callable[[], bool]
    subjects: Subjects | None = None
    pause: Callable[[float], None] = time.sleep
    _inbox: Inbox = field(init=False)
    _fence: WriterFence = field(init=False)
    _runner: WindowRunner = field(init=False)
    _status_file: Path = field(init=False)
    """JSON with the state of the job, for health checks."""
    _intake: Intake = field(init=False)
    """Of this process."""
    _num_edits_before: int = 0
    _num_edits: int = 0
    _waiting: list[int] = field(default_factory=list)
    """Numbers of the requests that are in the log, not in the bank."""
    _num_files: int = 0
    """In the inbox."""
    _oldest_at: datetime | None = None
    """Arrival of the oldest file or request that waits."""
    _known_through: int | None = None
    """Requests up to this number are done or in `_waiting`; None: unknown, read the store."""
    _wait_s: float = _FIRST_WAIT_S
    _reported_at_s: float = field(default_factory=time.monotonic)
    _registered_at_s: float = field(default_factory=time.monotonic)
    _active_at_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        section = self.config.follow
        self._inbox = Inbox(
            section.inbox_uri(self.config.store_uri),
            limits=self.config.limits,
            settle_s=section.settle_s,
            max_file_bytes=section.max_file_bytes,
            store_uri=self.config.store_uri,
            say=self.progress.say,
        )
        self._fence = WriterFence(self.bank.store, self.bank.name)
        self._status_file = self.config.run_folder / "follow.json"

    def follow(self) -> Outcome:
        """Process what arrives until `should_stop`, then drain; returns what this process did."""
        self._start()
        while True:
            is_draining = self.should_stop()
            try:
                self._poll(is_draining)
            except LiveEditError as error:
                self._known_through = None  # what was in progress may or may not be done
                if not error.retryable:
                    raise
                if is_draining:
                    raise type(error)(
                        f"stopped while the store was unavailable ({error.message}); nothing is "
                        "lost, the same command resumes from the request log and the inbox"
                    ) from error
                self._back_off(error)
                continue
            self._wait_s = _FIRST_WAIT_S
            for stage in (self.generator, self.embedder):
                if isinstance(stage, ActorPool):
                    stage.adapt()  # ends actors that have long been idle
            if is_draining or self._is_idle_too_long():
                break
            self._sleep(self.config.follow.poll_s)
        return self._end()

    def _start(self) -> None:
        """Take over the bank: every earlier driver is fenced from now on."""
        self._num_edits = self._num_edits_before = retried(self.bank.num_edits)
        self._runner = WindowRunner(
            config=self.config,
            bank=self.bank,
            request_log=self.request_log,
            epoch=take_over(self.bank, self.config),
            generator=self.generator,
            embedder=self.embedder,
            progress=self.progress,
            subjects=self.subjects,
            on_window=self._window_done,
            on_batch=lambda: self._write_status("teaching"),  # a long window must not look dead
        )
        self._intake = Intake(cases=CaseIndex(self.request_log))
        self.progress.say(f"following {self._inbox.uri}")

    def _poll(self, is_draining: bool) -> None:
        """Look into the inbox once; process what is due."""
        epoch = self._runner.epoch
        self._fence.check(epoch)
        if self.bank.has_waiting_changes():
            self.bank.apply_changes(epoch=epoch)
            self._known_through = None  # a restored edit may be pending, a removed one is not
        if not is_draining:
            self._log_files()
        self._update_waiting()
        is_full = len(self._waiting) >= self.config.bank.window_edits
        is_overdue = self._lag_s() >= self.config.follow.window_s
        if self._waiting and (is_full or is_overdue or is_draining):
            self._process_waiting(is_draining)
        self._report(is_draining)

    def _log_files(self) -> None:
        """Log files of the inbox until a window is full."""
        files = self._inbox.waiting()
        self._num_files = len(files)
        num_waiting, num_logged = len(self._waiting), len(self.request_log)
        for entry in files:
            self._note_arrival(entry.modified_at)
            try:
                intake = self._inbox.take(entry, self.request_log)
            except InboxFileError as error:
                self.progress.say(error.message)
                return  # the order of files decides which of two answers is the newer one
            self._active_at_s = time.monotonic()
            self._num_files -= 1
            if intake is not None:
                num_waiting += intake.num_new
                num_logged += intake.num_new
                if len(self.request_log) < num_logged:
                    self._known_through = None  # a lost request has its old number again
                self._count(entry.key, intake)
            if self.should_stop() or num_waiting >= self.config.bank.window_edits:
                return

    def _count(self, name: str, intake: Intake) -> None:
        rejected = f", {len(intake.rejected)} lines rejected" if intake.rejected else ""
        self.progress.say(f"read {name}: {intake.num_new} new requests{rejected}")
        total = self._intake
        total.num_accepted += intake.num_accepted
        total.num_new += intake.num_new
        total.num_duplicates += intake.num_duplicates
        total.duration_s += intake.duration_s
        total.rejected = [*total.rejected, *intake.rejected][-_MAX_REJECTS_KEPT:]

    def _update_waiting(self) -> None:
        """Read what waits from the store once; afterwards only new numbers of the log are added."""
        num_logged = len(self.request_log)
        if self._known_through is None:
            self._waiting = self.bank.pending_sequences(self.request_log)
        else:
            self._waiting += range(self._known_through + 1, num_logged + 1)
        self._known_through = num_logged
        if not self._waiting and not self._num_files:
            self._oldest_at = None
        elif self._waiting and self._oldest_at is None:
            oldest = next(self.request_log.read(self._waiting[:1]))
            self._note_arrival(oldest.submitted_at)

    def _note_arrival(self, arrived_at: datetime) -> None:
        self._oldest_at = min(self._oldest_at or arrived_at, arrived_at)

    def _process_waiting(self, is_draining: bool) -> None:
        end_s = time.monotonic() + self.config.follow.drain_s

        def should_stop() -> bool:
            return time.monotonic() >= end_s if is_draining else self.should_stop()

        self._runner.run(list(self._waiting), should_stop)
        del self._runner.rejected[:-_MAX_REJECTS_KEPT]
        lag_s = self._lag_s()
        self._oldest_at = None
        self._active_at_s = self._reported_at_s = time.monotonic()
        self.progress.say(
            f"{self._num_edits} edits in the bank; lag {lag_s:.1f} s; waiting: "
            f"{len(self._waiting)} requests, {self._num_files} files"
        )
        self.records.followed(self.bank, lag_s)
        if time.monotonic() - self._registered_at_s >= self.config.follow.register_s:
            self._registered_at_s = time.monotonic()
            self.records.register_newest(self.bank)

    def _window_done(self, version: int | None, last_sequence: int) -> None:
        self._waiting = [number for number in self._waiting if number > last_sequence]
        if version is not None:
            self._num_edits = retried(lambda: self.bank.num_edits(version))

    def _report(self, is_draining: bool) -> None:
        self._write_status("draining" if is_draining else "following")
        if time.monotonic() - self._reported_at_s >= self.config.follow.report_s:
            self._reported_at_s = time.monotonic()
            self.progress.say(
                f"following {self._inbox.uri}; {self._num_edits} edits in the bank; "
                f"lag {self._lag_s():.1f} s"
            )

    def _is_idle_too_long(self) -> bool:
        limit_s = self.config.follow.stop_when_idle_s
        is_idle = not self._waiting and not self._num_files
        return bool(limit_s) and is_idle and time.monotonic() - self._active_at_s >= limit_s

    def _back_off(self, error: LiveEditError) -> None:
        """Log the outage and wait, twice as long each time."""
        reason = error.message.splitlines()[0][:300]
        self.progress.say(
            f"waiting {self._wait_s:.0f} s after an outage: {reason} "
            f"(lag {self._lag_s():.1f} s; {len(self._waiting)} requests wait; nothing is lost)"
        )
        self._write_status("waiting for the store", reason)
        self._sleep(self._wait_s)
        self._wait_s = min(2 * self._wait_s, self.config.follow.wait_s)

    def _lag_s(self) -> float:
        """How long the oldest request has waited; 0 when nothing waits."""
        if self._oldest_at is None:
            return 0.0
        return max(0.0, (datetime.now(UTC) - self._oldest_at).total_seconds())

    def _sleep(self, duration_s: float) -> None:
        """Pause; a request to stop ends it."""
        end_s = time.monotonic() + duration_s
        while not self.should_stop() and (rest_s := end_s - time.monotonic()) > 0:
            self.pause(min(rest_s, _STOP_CHECK_S))

    def _write_status(self, state: str, reason: str = "") -> None:
        status = {
            "state": state,
            "reason": reason,
            "updated_at": datetime.now(UTC).isoformat(),
            "inbox": self._inbox.uri,
            "num_edits": self._num_edits,
            "num_waiting_files": self._num_files,
            "num_waiting_requests": len(self._waiting),
            "lag_s": round(self._lag_s(), 3),
        }
        temporary = self._status_file.with_suffix(".tmp")
        with contextlib.suppress(OSError):  # a full disk under the run folder stops nothing
            temporary.write_text(json.dumps(status, indent=2))
            temporary.replace(self._status_file)

    def _end(self) -> Outcome:
        self._write_status("ended")
        if self._waiting:
            self.progress.say(
                f"{len(self._waiting)} logged requests are left for the next start "
                "(follow.drain_s has passed)"
            )
        self.generator.close()
        self.embedder.close()
        return Outcome(
            intake=self._intake,
            num_edits_before=self._num_edits_before,
            num_edits=self._num_edits,
            rejected=self._runner.rejected,
            timings=self._runner.timings,
        )
