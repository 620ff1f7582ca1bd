"""A new bank from the request log with another generator, beside the old one.

Of the old bank only the list of its edits and its budget are read. The remaining work is read from
the store every time (requests minus new bank, refusals and removals), so the same call after any
failure ends with the bank of an undisturbed one, with any number of workers.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.tracking.model_registry import BANK_MODEL, ModelRegistry
from infra.tracking.tracker import Tracker
from liveedit_core.errors import InputError, TrackingError
from pipelines.editing.recipe import (
    FilterSection,
    LifelongEditRecipe,
    RebuildRecipe,
    RebuildSourceSection,
)
from pipelines.editing.windows import Progress, WindowRunner, take_over
from pipelines.editing.writers import model_names, start_writers, subjects_of
from pipelines.job.progress import ProgressView
from pipelines.job.ray_session import StopRequest, open_session
from pipelines.job.registered_models import recorded_backbone
from pipelines.job.stages import Embedder, Generator, Subjects

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RebuildResult:
    """What was done to the new bank."""

    num_edits: int
    """Experts that it holds now."""
    num_new: int
    num_refused: int
    """Requests that got no expert, now or in an earlier start."""
    was_stopped: bool
    registered: str = ""
    """Name and version in MLflow, to be shown; "" if it was not registered."""
    version: int = 0
    """Newest window."""
    stop_code: int = 0


def do_rebuild(recipe: RebuildRecipe, console: Console) -> RebuildResult:
    """Write the new bank and register it."""
    progress = ProgressView(console)
    stop = StopRequest(progress.say)
    config = recipe.editing()
    store = ObjectStore(config.store_uri)
    wanted = source_sequences(store, recipe.source)
    models = model_names(config)
    folder = models.generator_folder()
    cpus = config.writer_cpus
    with open_session(config.ray, needed_cpus=cpus), stop.installed(), progress.shown():
        writers = start_writers(config, models)
        progress.say(f"rebuilding into bank {recipe.bank.name!r}; starting workers")
        if note := lost_forms(store, recipe):
            progress.say(note)
        bank = ExpertBank.open_or_create(store, recipe.bank.name, writers.bank_identity())
        result = rebuild(
            with_budget_of_source(config, recipe.source, bank),
            wanted=wanted,
            generator=writers.generator,
            embedder=writers.embedder,
            bank=bank,
            request_log=RequestLog(store),
            progress=progress,
            subjects=subjects_of(config, bank, writers.generator.describe()),
            should_stop=stop,
        )
    windows = bank.history()
    version = windows[-1].version if windows else bank.version
    is_done = bool(windows) and not result.was_stopped
    registered = _register(recipe, bank, version, folder) if is_done else ""
    return replace(result, version=version, registered=registered, stop_code=stop.exit_code)


def lost_forms(store: ObjectStore, recipe: RebuildRecipe) -> str:
    """What experts of the source answer that those of the new bank will not; "" if nothing."""
    if recipe.refine.derived or not recipe.source.bank:
        return ""
    bank, version = _opened(store, recipe.source)
    if not bank.has_forms(version):
        return ""
    return (
        f"edits of bank {bank.name!r} also answer what follows from their facts, those of the new "
        "bank will not: refine.derived=true keeps it"
    )


def source_sequences(store: ObjectStore, source: RebuildSourceSection) -> set[int] | None:
    """Numbers of the requests whose edits the source holds; None when it is the whole log."""
    if not source.bank:
        return None
    bank, version = _opened(store, source)
    return set(bank.load_rows(["sequence"], version).column("sequence").to_pylist())


def with_budget_of_source(
    config: LifelongEditRecipe, source: RebuildSourceSection, new: ExpertBank
) -> LifelongEditRecipe:
    """A config that gives a bank without edits the budget of its source, if it names none.

    Images of the traffic are not taken over: another generator sees them differently.
    """
    if not source.bank or config.filter.false_activation or new.num_edits():
        return config
    bank, version = _opened(new.store, source)
    budget = bank.versions.false_activation_at(version)
    return config.with_changes(filter=FilterSection(false_activation=budget))


def _opened(store: ObjectStore, source: RebuildSourceSection) -> tuple[ExpertBank, int]:
    """The bank that a source names, and its version."""
    bank = ExpertBank.open(store, source.bank)
    tags = bank.versions.tags()
    if source.version and not source.version.isdigit() and source.version not in tags:
        known = ", ".join(sorted(tags)) or "none"
        raise InputError(f"bank {source.bank!r} has no tag {source.version!r}; tags: {known}")
    return bank, tags.get(source.version) or int(source.version or bank.version)


def rebuild(
    config: LifelongEditRecipe,
    *,
    wanted: Collection[int] | None,
    generator: Generator,
    embedder: Embedder,
    bank: ExpertBank,
    request_log: RequestLog,
    progress: Progress,
    subjects: Subjects | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> RebuildResult:
    """Write the experts of the `wanted` requests (None: all) that the new bank lacks.

    `should_stop` is called after each window; True ends the rebuild cleanly.
    """
    epoch = take_over(bank, config)
    num_before = bank.num_edits()
    pending = bank.pending_sequences(request_log)
    sequences = [number for number in pending if wanted is None or number in wanted]
    runner = WindowRunner(
        config=config,
        bank=bank,
        request_log=request_log,
        epoch=epoch,
        generator=generator,
        embedder=embedder,
        progress=progress,
        subjects=subjects,
    )
    if sequences:
        runner.run(sequences, should_stop)
    refused = request_log.rejects.sequences(bank.name)
    num_edits = bank.num_edits()
    return RebuildResult(
        num_edits=num_edits,
        num_new=num_edits - num_before,
        num_refused=len(refused if wanted is None else refused.intersection(wanted)),
        was_stopped=should_stop(),
    )


def _register(recipe: RebuildRecipe, bank: ExpertBank, version: int, folder: Path) -> str:
    """Register generator and bank in MLflow; an outage only warns, as the bank is complete."""
    tracker = Tracker(
        Path(recipe.run_root), experiment=recipe.tracking.experiment, run_name=recipe.run_name
    )
    registry = ModelRegistry(tracker)
    try:
        registry.register_generator(folder, digest=bank.identity.generator_digest)
        registered = registry.register_bank_version(
            bank, version, **recorded_backbone(recipe.backbone)
        )
        if recipe.alias:
            registry.versions().set_alias(BANK_MODEL, recipe.alias, registered.version)
    except TrackingError as error:
        _logger.warning("%s; the same command registers it later", error)
        return ""
    finally:
        tracker.end("FINISHED")
    alias = f", alias {recipe.alias!r}" if recipe.alias else ""
    return f"registered as {registered.name} {registered.version}{alias}"
