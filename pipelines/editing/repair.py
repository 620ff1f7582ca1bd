"""Repair of a bank: damaged files leave, unharmed rows stay, lost experts are written again.

A generator is frozen, so an expert that is written again from the log is the one that was lost. A
repair that is killed in between is finished by the next one, or by the next editing job: what is
lost is pending in the store, and nowhere else.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from infra.bank.expert_bank import ExpertBank
from infra.bank.integrity import IntegrityReport, verify_version
from infra.requests.request_log import RequestLog
from liveedit_core.errors import IntegrityError
from liveedit_core.inputs.rejects import Rejected
from pipelines.editing.bank_rescue import drop_damaged, lost_sequences
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.window_plan import OpenWindow, WindowPlan
from pipelines.job.stages import ExpertWriters
from workers.failures import retried

OpenWorkers = Callable[[], AbstractContextManager[ExpertWriters]]


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What was done."""

    before: IntegrityReport
    after: IntegrityReport
    num_rescued: int
    """Rows of damaged files that were unharmed."""
    num_rewritten: int
    """Experts that were written again."""
    rejected: tuple[Rejected, ...] = ()
    """Edits that the generator refuses now."""


def repair_bank(
    bank: ExpertBank,
    request_log: RequestLog,
    open_workers: OpenWorkers,
    config: LifelongEditRecipe,
    *,
    author: str,
    reason: str,
) -> Repair:
    """Make the newest version whole again; older versions stay as they are.

    Args:
        bank: The bank.
        request_log: Of the same store.
        open_workers: Starts workers; only called when an expert has to be written.
        config: Sizes of windows and micro-batches.
        author: Who repairs.
        reason: Why.

    Raises:
        RepositoryMismatchError: The workers run other models than those that wrote the bank.
        IntegrityError: Something is wrong that a repair cannot mend, such as rows without requests.
        WriterFencedError: A newer writer has taken over.
    """
    epoch = retried(bank.acquire_writer)
    before = verify_version(bank, request_log=request_log)
    _check_mendable(before, request_log)
    drop_damaged(bank, before, author=author, reason=reason, epoch=epoch)
    bank.apply_changes(epoch=epoch)
    lost = lost_sequences(bank, request_log)
    rejected: list[Rejected] = []
    if lost:
        with open_workers() as workers:
            workers.bank_identity().check_same(bank.identity, bank.name)
            rejected = _write_again(
                bank, request_log, workers, config, lost, epoch, author=author, reason=reason
            )
    return Repair(
        before=before,
        after=verify_version(bank, request_log=request_log),
        num_rescued=sum(len(item.undamaged_rows) for item in before.damaged),
        num_rewritten=len(lost) - len(rejected),
        rejected=tuple(rejected),
    )


def _check_mendable(report: IntegrityReport, request_log: RequestLog) -> None:
    """Refuse to drop what the log cannot give back."""
    damaged = report.damaged_edits
    known = len(request_log.sequences_of(damaged))
    if known < len(damaged):
        raise IntegrityError(
            f"bank {report.bank!r}: {len(damaged) - known} damaged edits have no request in the "
            f"log, so their experts cannot be written again: {'; '.join(report.lines()[:5])}"
        )


def _write_again(
    bank: ExpertBank,
    request_log: RequestLog,
    workers: ExpertWriters,
    config: LifelongEditRecipe,
    sequences: list[int],
    epoch: int,
    *,
    author: str,
    reason: str,
) -> list[Rejected]:
    plan = WindowPlan(window_edits=config.bank.window_edits)
    batches = plan.micro_batches(request_log.read(sequences), config.generator.batch_size)
    rejected: list[Rejected] = []
    window = OpenWindow()

    def commit(window: OpenWindow) -> OpenWindow:
        if window.fragments:
            fragments = window.fragments
            retried(
                lambda: bank.commit(
                    fragments, epoch=epoch, message=reason, kind="repair", author=author
                )
            )
        return OpenWindow()

    stream = workers.embedder.stream(workers.generator.stream(batches), bank.fragment_writer())
    for batch in stream:
        if window.batches and plan.end_of(window.last_sequence) != plan.end_of(batch.last_sequence):
            window = commit(window)
        window.batches.append(batch)
        rejected += batch.rejected
    commit(window)
    retried(lambda: request_log.reject_requests(rejected, bank=bank.name))
    return rejected


def ray_workers(config: LifelongEditRecipe) -> OpenWorkers:
    """Workers in a Ray session, as the editing job runs them."""

    @contextmanager
    def opened() -> Iterator[ExpertWriters]:
        from pipelines.job.ray_session import open_session, prepare_environment

        prepare_environment(config.ray)
        from pipelines.job.start_workers import model_names, start_writers, writer_cpus

        with open_session(config.ray, needed_cpus=writer_cpus(config)):
            yield start_writers(config, model_names(config))

    return opened
