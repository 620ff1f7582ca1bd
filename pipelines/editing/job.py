"""The editing job around `run`: input, Ray session, workers, store, MLflow and report."""

import contextlib
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from infra.bank.expert_bank import ExpertBank
from infra.reports.outcomes import OutcomeRow, outcome_metrics
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.tracking.model_registry import ModelRegistry
from infra.tracking.results import ResultsTable
from infra.tracking.tracker import Tracker
from pipelines.editing.follow import Follower
from pipelines.editing.intake import Source, open_source
from pipelines.editing.mlflow_records import RunRecords
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.report import (
    ReportSources,
    all_refused,
    write_report,
    written_outcomes,
)
from pipelines.editing.run import Outcome, run
from pipelines.editing.writers import evaluator_of, model_names, start_writers, subjects_of
from pipelines.job.cases import protocol_note
from pipelines.job.progress import ProgressView
from pipelines.job.ray_session import StopRequest
from pipelines.job.run_folder import run_facts
from pipelines.job.stages import ExpertWriters
from workers.failures import retried


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What the command reports at the end."""

    outcome: Outcome
    outcomes: Sequence[OutcomeRow]
    """How the edits were written."""
    protocols: tuple[str, ...]
    num_rejected: int
    """Input lines, requests and probes of this run that were rejected."""
    num_record_failures: int
    report: Path | None
    """None: there was no room for it."""
    tracking_uri: str
    stop_code: int


def do_job(
    config: LifelongEditRecipe,
    console: Console,
    *,
    session: contextlib.ExitStack,
    start_s: float,
    source: Source | None = None,
) -> JobResult:
    """Edit, write the report, and record both in MLflow; `start_s` is of `time.perf_counter`.
    `session` holds an open Ray session with room for `config.needed_cpus`, and is closed before the
    report. `source` replaces the one that the recipe names, for cases that are loaded already."""
    progress = ProgressView(console)
    stop = StopRequest(progress.say)
    session.enter_context(stop.installed())
    store, models = ObjectStore(config.store_uri), model_names(config)
    models.generator_folder()  # fail early if it is missing
    # First, as their start takes longest.
    beside = () if config.follow.is_on else (config.evaluation_stage,)
    writers = start_writers(config, models, beside=beside)
    if source is None and not config.follow.is_on:
        source = open_source(config, store, progress.say)
    retried(store.check_exclusive_create)
    tracker = Tracker(
        Path(config.run_root), experiment=config.tracking.experiment, run_name=config.run_name
    )
    tracker.hold()  # until the first edits are in the bank
    records = RunRecords(
        tracker,
        ModelRegistry(tracker),
        state_file=config.run_folder / "recorded_evaluations.json",
    )
    facts = run_facts()
    status = "FAILED"
    try:
        with session, progress.shown():
            sources, outcome = _edit(config, source, writers, facts, records, progress, stop)
        facts["input"] = source.name if source else config.follow.inbox_uri(config.store_uri)
        files, figures = write_report(sources, outcome, facts, start_s, progress.say)
        seconds = {
            "generate_s": outcome.timings.generate_s,
            "refine_s": outcome.timings.refine_s,
            "embed_s": outcome.timings.embed_s,
            "commit_s": outcome.timings.commit_s,
            "teach_s": outcome.timings.edit_s,
            "total_s": time.perf_counter() - start_s,
        }
        outcomes = written_outcomes(sources, outcome)
        metrics = seconds | outcome_metrics(outcomes)
        records.finished(sources.bank, files, metrics, figures)
        status = "KILLED" if outcome.was_stopped else "FINISHED"
    finally:
        records.end(status)
    return JobResult(
        outcome=outcome,
        outcomes=outcomes,
        protocols=config.evaluation.protocols,
        num_rejected=len(all_refused(sources, outcome)),
        num_record_failures=records.num_failures,
        report=files[0] if files else None,
        tracking_uri=records.tracking_uri,
        stop_code=stop.exit_code,
    )


def _edit(
    config: LifelongEditRecipe,
    source: Source | None,
    writers: ExpertWriters,
    facts: dict[str, str],
    records: RunRecords,
    progress: ProgressView,
    stop: StopRequest,
) -> tuple[ReportSources, Outcome]:
    """Edit with the workers: once through `source`, or following the inbox."""
    store = ObjectStore(config.store_uri)
    models = model_names(config)
    progress.say(f"input: {source.name if source else 'the inbox'}; starting workers")
    records.started(config, facts)
    generator = writers.generator.describe()
    progress.say(f"generator on {generator.place}")
    if note := protocol_note(generator.config.prompt_protocol, config.benchmark.protocol):
        progress.say(note)
    sources = ReportSources(
        config=config,
        bank=ExpertBank.open_or_create(store, config.bank.name, writers.bank_identity()),
        request_log=RequestLog(store),
        results=ResultsTable(store, config.run_name),
    )
    subjects = subjects_of(config, sources.bank, generator)
    folder, digest = models.generator_folder(), generator.generator_digest
    register = functools.cache(lambda: records.generator(folder, digest))
    if source is None:
        register()
        follower = Follower(
            config=config,
            subjects=subjects,
            bank=sources.bank,
            request_log=sources.request_log,
            generator=writers.generator,
            embedder=writers.embedder,
            records=records,
            progress=progress,
            should_stop=stop,
        )
        return sources, follower.follow()
    # Only now, so that it does not slow down the start of what writes the first edit.
    evaluator = evaluator_of(config, models, writers.generator)
    outcome = run(
        config,
        source=source,
        subjects=subjects,
        generator=writers.generator,
        embedder=writers.embedder,
        evaluator=evaluator,
        bank=sources.bank,
        request_log=sources.request_log,
        results=sources.results,
        records=records,
        progress=progress,
        on_window=register,
        should_stop=stop,
    )
    return sources, outcome
