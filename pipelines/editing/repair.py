"""Repair of a bank: drop damaged files, keep their intact rows, write lost experts again.

The generator is frozen, so an expert that is written again from the request log equals the lost
one. The next repair or editing job completes a repair that was killed.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from infra.bank.expert_bank import ExpertBank
from infra.bank.fragments import WrittenFragment
from infra.bank.integrity import IntegrityReport, verify_version
from infra.requests.request_log import RequestLog
from liveedit_core.errors import ConfigError, IntegrityError
from liveedit_core.inputs.rejects import Rejected
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.windows import WindowPlan
from pipelines.job.stages import ExpertWriters
from workers.failures import retried

OpenWorkers = Callable[[], AbstractContextManager[ExpertWriters]]


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What was done."""

    before: IntegrityReport
    after: IntegrityReport
    num_rescued: int
    """Intact rows of damaged files."""
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
    """Repair the newest version; older versions stay as they are.

    `open_workers` is called only if an expert has to be written again.
    """
    epoch = retried(bank.acquire_writer)
    before = verify_version(bank, request_log=request_log)
    _check_repairable(before, request_log)
    bank.drop_damaged(before, author=author, reason=reason, epoch=epoch)
    bank.apply_changes(epoch=epoch)
    lost = bank.lost_sequences(request_log)
    rejected: list[Rejected] = []
    if lost:
        _check_forms(bank, config)

        def commit(fragments: list[WrittenFragment]) -> None:
            edit_ids = [key.edit_id for fragment in fragments for key in fragment.keys]
            bank.commit(
                fragments,
                epoch=epoch,
                subjects=request_log.subjects_of(edit_ids),
                message=reason,
                kind="repair",
                author=author,
            )

        with open_workers() as workers:
            workers.bank_identity().check_same(bank.identity, bank.name)
            rejected = _write_again(bank, request_log, workers, config, lost, commit)
    return Repair(
        before=before,
        after=verify_version(bank, request_log=request_log),
        num_rescued=sum(len(rows) for rows in before.damaged.values()),
        num_rewritten=len(lost) - len(rejected),
        rejected=tuple(rejected),
    )


def _check_repairable(report: IntegrityReport, request_log: RequestLog) -> None:
    """Drop nothing that the request log cannot restore."""
    damaged = report.damaged_edits
    known = len(request_log.sequences_of(damaged))
    if known < len(damaged):
        raise IntegrityError(
            f"bank {report.bank!r}: {len(damaged) - known} damaged edits have no request in the "
            f"log, so their experts cannot be written again: {'; '.join(report.lines()[:5])}"
        )


def _check_forms(bank: ExpertBank, config: LifelongEditRecipe) -> None:
    """Write no expert again without the forms that it may have had."""
    if not config.refine.derived and bank.has_forms():
        raise ConfigError(
            f"experts of bank {bank.name!r} answer what follows from their facts (refine.derived), "
            "and those that are written again would not: name the recipe that it was made by "
            "(--recipe FILE.toml), or refine.derived=true"
        )


def _write_again(
    bank: ExpertBank,
    request_log: RequestLog,
    workers: ExpertWriters,
    config: LifelongEditRecipe,
    sequences: list[int],
    commit: Callable[[list[WrittenFragment]], None],
) -> list[Rejected]:
    """Write lost experts, committed window by window; returns the refused requests."""
    plan = WindowPlan(window_edits=config.bank.window_edits)
    batches = plan.micro_batches(sequences, config.generator.batch_size)
    rejected: list[Rejected] = []
    generated = workers.generator.stream(batches, request_log.reader())
    written = (batch for batch, _ in workers.embedder.stream(generated, bank.fragment_writer()))
    for _, group in itertools.groupby(written, lambda batch: plan.end_of(batch.last_sequence)):
        window = list(group)
        rejected += [refusal for batch in window for refusal in batch.rejected]
        if fragments := [item for batch in window for item in batch.fragments]:
            retried(functools.partial(commit, fragments))
    retried(lambda: request_log.reject_requests(rejected, bank=bank.name))
    return rejected


def ray_workers(config: LifelongEditRecipe) -> OpenWorkers:
    """Workers in a Ray session, as the editing job runs them."""

    @contextmanager
    def opened() -> Iterator[ExpertWriters]:
        from pipelines.job.ray_session import open_session, prepare_environment

        prepare_environment(config.ray)
        from pipelines.editing.writers import model_names, start_writers

        with open_session(config.ray, needed_cpus=config.writer_cpus):
            yield start_writers(config, model_names(config))

    return opened
