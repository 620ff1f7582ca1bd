"""Wires the editing job: session, groups and pools, store, records; then runs it and reports."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from infra.bank.expert_bank import BankIdentity, ExpertBank
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.storage.writer_fence import WriterFence
from infra.tracking.model_registry import ModelRegistry
from infra.tracking.results import ResultsTable
from infra.tracking.tracker import Tracker
from pipelines.editing.follow import Follower
from pipelines.editing.inbox import Inbox
from pipelines.editing.intake import Source, open_source
from pipelines.editing.mlflow_records import RunRecords
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.report import ReportSources, refused_requests, report_data
from pipelines.editing.run import Outcome, run
from pipelines.job.progress import ProgressView
from pipelines.job.ray_session import StopRequest, open_session
from pipelines.job.run_folder import run_facts
from pipelines.job.state_cache import cache_names
from workers.evaluation_pool import EvaluationPool
from workers.expert_embedding_pool import ExpertEmbeddingPool
from workers.failures import retried
from workers.generator_group import GeneratorGroup
from workers.messages import EmbedderFacts, GeneratorFacts
from workers.models import ModelNames


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What is left to say at the end."""

    outcome: Outcome
    protocols: tuple[str, ...]
    num_rejected: int
    """Inputs of this run that are not in the bank, lines and requests."""
    num_record_failures: int
    report: Path
    tracking_uri: str
    stop_code: int


@dataclass(frozen=True, kw_only=True)
class _Stages:
    generator: GeneratorGroup
    embedder: ExpertEmbeddingPool
    evaluator: EvaluationPool


def do_job(config: LifelongEditRecipe, console: Console, *, start_s: float) -> JobResult:
    """Do the whole job.

    Args:
        config: The resolved recipe.
        console: For people.
        start_s: `time.perf_counter` when the job began.

    Raises:
        LiveEditError: The job cannot go on; what was committed stays.
    """
    progress = ProgressView(console)
    stop = StopRequest(progress.say)
    store = ObjectStore(config.store_uri)
    source = None if config.follow.is_on else _opened_source(config, store, progress)
    source_name = source.name if source else config.follow.inbox_uri(config.store_uri)
    retried(store.check_exclusive_create)
    models = model_names(config)
    folder = models.generator_folder()
    tracker = Tracker(
        Path(config.run_root), experiment=config.tracking.experiment, run_name=config.run_name
    )
    records = RunRecords(
        tracker,
        ModelRegistry(tracker),
        state_file=config.run_folder / "recorded_evaluations.json",
    )
    facts = run_facts()
    status = "FAILED"
    try:
        with started_stages(config, models) as stages, stop.installed(), progress.shown():
            progress.say(f"teaching {source_name}; starting workers")
            records.started(config, facts)
            generator_facts = stages.generator.describe()
            records.generator(folder, generator_facts.generator_digest)
            identity = bank_identity(generator_facts, stages.embedder.describe())
            sources = ReportSources(
                config=config,
                bank=ExpertBank.open_or_create(store, config.bank.name, identity),
                request_log=RequestLog(store),
                results=ResultsTable(store, config.run_name),
            )
            if source is None:
                outcome = _follower(sources, stages, records, progress, stop).follow()
            else:
                outcome = run(
                    config,
                    source=source,
                    generator=stages.generator,
                    embedder=stages.embedder,
                    evaluator=stages.evaluator,
                    generator_config=generator_facts.config,
                    bank=sources.bank,
                    request_log=sources.request_log,
                    results=sources.results,
                    records=records,
                    progress=progress,
                    should_stop=stop,
                )
        report, figures = _write_report(sources, outcome, facts, source_name, start_s)
        seconds = {
            "generate_s": outcome.timings.generate_s,
            "embed_s": outcome.timings.embed_s,
            "commit_s": outcome.timings.commit_s,
            "teach_s": outcome.timings.teach_s,
            "total_s": time.perf_counter() - start_s,
        }
        records.finished(sources.bank, report, seconds, figures)
        status = "KILLED" if outcome.was_stopped else "FINISHED"
    finally:
        records.end(status)
    return JobResult(
        outcome=outcome,
        protocols=config.evaluation.protocols,
        num_rejected=len(outcome.intake.rejected) + len(refused_requests(sources, outcome)),
        num_record_failures=records.num_failures,
        report=report,
        tracking_uri=records.tracking_uri,
        stop_code=stop.exit_code,
    )


def model_names(config: LifelongEditRecipe) -> ModelNames:
    """Backbone and generator as a recipe names them."""
    return ModelNames(
        backbone=config.backbone.name,
        generator=config.generator.checkpoint,
        options=config.backbone.options(),
    )


def _opened_source(
    config: LifelongEditRecipe, store: ObjectStore, progress: ProgressView
) -> Source:
    """The source of a recipe, with what people should know of it said."""
    if config.benchmark.is_on:
        progress.say("checking every record and image of the benchmark")
    source = open_source(config, store)
    for note in source.notes:
        progress.say(note)
    return source


def _follower(
    sources: ReportSources,
    stages: _Stages,
    records: RunRecords,
    progress: ProgressView,
    should_stop: StopRequest,
) -> Follower:
    """The continuous mode with the workers of this job."""
    config, section = sources.config, sources.config.follow
    store = ObjectStore(config.store_uri)
    return Follower(
        config=config,
        inbox=Inbox(
            section.inbox_uri(config.store_uri),
            limits=config.limits,
            settle_s=section.settle_s,
            max_file_bytes=section.max_file_bytes,
            say=progress.say,
        ),
        bank=sources.bank,
        request_log=sources.request_log,
        fence=WriterFence(store, config.bank.name),
        generator=stages.generator,
        embedder=stages.embedder,
        records=records,
        progress=progress,
        status_file=config.run_folder / "follow.json",
        should_stop=should_stop,
    )


def bank_identity(generator: GeneratorFacts, embedder: EmbedderFacts) -> BankIdentity:
    """What the experts of these workers have in common."""
    return BankIdentity(
        backbone_digest=generator.backbone_digest,
        generator_digest=generator.generator_digest,
        edit_layer=generator.config.edit_layer,
        hidden_size=generator.config.hidden_size,
        module_dim=generator.config.module_dim,
        num_queries=generator.config.num_queries,
        rank=generator.config.rank,
        embedding_model=embedder.model,
        embedding_size=embedder.size,
    )


@contextmanager
def started_stages(config: LifelongEditRecipe, models: ModelNames) -> Iterator[_Stages]:
    """A session with all actors starting up."""
    generator, embedding, evaluation = config.generator, config.embedding, config.evaluation
    needed_cpus = (
        generator.num_cpus * generator.gangs * generator.shards
        + embedding.num_cpus * embedding.num_workers
        + evaluation.num_cpus * evaluation.num_workers
    )
    max_in_flight = config.ray.max_in_flight
    cache = cache_names(config.states, config.run_root)
    with open_session(config.ray, needed_cpus=needed_cpus):
        yield _Stages(
            generator=GeneratorGroup(
                models,
                config.limits,
                shards=generator.shards,
                gangs=generator.gangs,
                max_in_flight=max_in_flight,
                num_threads=generator.num_threads,
                num_cpus=generator.num_cpus,
                node_resource=generator.node_resource,
                cache=cache,
            ),
            embedder=ExpertEmbeddingPool(
                model=embedding.open_clip_model,
                pretrained=embedding.open_clip_pretrained,
                num_workers=embedding.num_workers,
                batch_size=embedding.batch_size,
                max_in_flight=max_in_flight,
                num_threads=embedding.num_threads,
                num_cpus=embedding.num_cpus,
                node_resource=embedding.node_resource,
            ),
            evaluator=EvaluationPool(
                models,
                num_workers=evaluation.num_workers,
                batch_size=evaluation.batch_size,
                max_new_tokens=evaluation.max_new_tokens,
                max_in_flight=max_in_flight,
                num_threads=evaluation.num_threads,
                num_cpus=evaluation.num_cpus,
                node_resource=evaluation.node_resource,
                cache=cache,
                answers_uri=config.store_uri,
            ),
        )


def _write_report(
    sources: ReportSources, outcome: Outcome, facts: dict[str, str], source: str, start_s: float
) -> tuple[Path, list[Path]]:
    """The page, and its curves as images."""
    from infra.reports.editing import write_report
    from infra.reports.metrics import draw_curve_plots, draw_metric_plots

    bank = sources.bank
    path = sources.config.run_folder / "report.html"
    shown = {
        **facts,
        "input": source,
        "store": bank.store_uri,
        "bank": f"{bank.name}, version {bank.version}",
        "backbone digest": bank.identity.backbone_digest,
        "generator digest": bank.identity.generator_digest,
        "image embedding": bank.identity.embedding_model,
        "evaluated versions": ", ".join(
            f"{item.bank_version} ({item.num_edits} edits)" for item in outcome.evaluations
        ),
    }
    duration_s = time.perf_counter() - start_s
    data = report_data(sources, outcome, facts=shown, duration_s=duration_s)
    write_report(path, data)
    figures = path.with_name("figures")
    return path, [
        *draw_metric_plots(figures, data.metrics),
        *draw_curve_plots(figures, data.curve),
    ]
