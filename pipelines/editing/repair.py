"""Repair of a bank: damaged files leave, unharmed rows stay, lost experts are written again.

A generator is frozen, so an expert that is written again from the log is the one that was lost. A
repair that is killed in between is finished by the next one, or by the next editing job: what is
lost is pending in the store, and nowhere else.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from infra.bank.expert_bank import ExpertBank
from infra.bank.integrity import verify_version
from infra.bank.integrity_report import IntegrityReport
from infra.bank.schema import BankIdentity
from infra.requests.request_log import RequestLog
from liveedit_core.errors import IntegrityError
from liveedit_core.inputs.rejects import Rejected
from pipelines.editing.bank_rescue import drop_damaged, lost_sequences
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.window_plan import OpenWindow, WindowPlan
from pipelines.job.stages import Embedder, Generator
from workers.failures import retried


@dataclass(frozen=True, kw_only=True)
class RepairWorkers:
    """Those who write experts again."""

    identity: BankIdentity
    """Of the experts that they write."""
    generator: Generator
    embedder: Embedder


OpenWorkers = Callable[[], AbstractContextManager[RepairWorkers]]


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
            workers.identity.check_same(bank.identity, bank.name)
            rejected = _write_again(
                bank, request_log, workers, config, lost, epoch, author=author, reason=reason
            )
    return Repair(
        before=before,
        after=verify_version(bank, request_log=request_log),
        num_rescued=sum(len(item.unharmed_rows) for item in before.damaged),
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
    workers: RepairWorkers,
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
                lambda: bank.commit_repair(fragments, epoch=epoch, author=author, reason=reason)
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
    """Workers in a Ray session, as the editing job runs them.

    Args:
        config: Names models, numbers of actors and the cluster.
    """

    @contextmanager
    def opened() -> Iterator[RepairWorkers]:
        from pipelines.job.ray_session import open_session, prepare_environment

        prepare_environment(config.ray)
        from pipelines.editing.job import bank_identity
        from pipelines.job.state_cache import cache_names
        from workers.expert_embedding_pool import ExpertEmbeddingPool
        from workers.generator_group import GeneratorGroup
        from workers.models import ModelNames

        generator, embedding = config.generator, config.embedding
        needed_cpus = (
            generator.num_cpus * generator.gangs * generator.shards
            + embedding.num_cpus * embedding.num_workers
        )
        with open_session(config.ray, needed_cpus=needed_cpus):
            group = GeneratorGroup(
                ModelNames(
                    backbone=config.backbone.name,
                    generator=generator.checkpoint,
                    options=config.backbone.options(),
                ),
                config.limits,
                shards=generator.shards,
                gangs=generator.gangs,
                max_in_flight=config.ray.max_in_flight,
                num_threads=generator.num_threads,
                num_cpus=generator.num_cpus,
                node_resource=generator.node_resource,
                cache=cache_names(config.states, config.run_root),
            )
            pool = ExpertEmbeddingPool(
                model=embedding.open_clip_model,
                pretrained=embedding.open_clip_pretrained,
                num_workers=embedding.num_workers,
                batch_size=embedding.batch_size,
                max_in_flight=config.ray.max_in_flight,
                num_threads=embedding.num_threads,
                num_cpus=embedding.num_cpus,
                node_resource=embedding.node_resource,
            )
            identity = bank_identity(group.describe(), pool.describe())
            yield RepairWorkers(identity=identity, generator=group, embedder=pool)

    return opened
