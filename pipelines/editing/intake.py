"""From input to request log: read lazily, number, store refusals."""

import contextlib
import functools
import hashlib
import itertools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.storage.tables import batches_of
from liveedit_core.errors import StorageUnavailableError
from liveedit_core.inputs.datasets import load_cases, load_requests
from liveedit_core.inputs.rejects import Rejected, RejectType
from liveedit_core.schema import Case, EditRequest
from pipelines.editing.case_file import (
    NO_CASE,
    CaseFile,
    EditFile,
    NamedEdit,
    StoredCases,
    with_images,
    without_images,
)
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.job.cases import checked_protocol, fetcher, load_builtin, open_published
from workers.failures import retried

_CHUNK_ITEMS = 128
"""Inputs that are logged in one commit."""

Item = Case | EditRequest | Rejected


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the requests of a run come from."""

    name: str
    """Shown to the user."""
    digest: str
    """sha256 of what was read; "" for the built-in cases."""
    items: Iterable[Item]
    moment: str = ""
    """When it was submitted, if the same content submitted again is to count again."""

    @property
    def occasion(self) -> str:
        """Identity of this submission: reading it again changes nothing."""
        return f"{self.digest or self.name} {self.moment}".strip()


def open_source(
    config: LifelongEditRecipe, store: ObjectStore, say: Callable[[str], None]
) -> Source:
    """The source that a recipe names, not read yet; `say` shows the notes of a benchmark."""
    if config.benchmark.is_published:
        say("checking every record and image of the benchmark")
        benchmark = open_published(config.benchmark, "evaluation", limits=config.limits)
        for note in benchmark.notes():
            say(note)
        items: Iterable[Item] = itertools.chain(benchmark.refused, benchmark)
        return Source(name=benchmark.title, digest=benchmark.digest, items=items)
    fetch = fetcher(store, config.limits.max_image_bytes)
    path = config.requests.path or config.requests.cases
    if not path:
        reader = f"{config.job} {config.run_name}"
        cases = load_builtin(config.benchmark, reader, say, limit=config.requests.limit or None)
        return Source(name=f"built-in cases ({config.benchmark.title})", digest="", items=cases)
    load = load_requests if config.requests.path else load_cases
    found = load(path, limits=config.limits, fetch=fetch, store_uri=store.root_uri)
    items = _of_protocol(config, found)
    with Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Source(name=path, digest=digest, items=items)


def _of_protocol(config: LifelongEditRecipe, items: Iterable[Item]) -> Iterator[Item]:
    """The items; a case for the other prompt protocol ends the run."""
    for item in items:
        if isinstance(item, Case):
            checked_protocol(item, config.benchmark.protocol)
        yield item


class CaseIndex:
    """The cases of a run by edit: on disk, and those of plain requests in the log; none is kept in
    memory."""

    def __init__(self, request_log: RequestLog) -> None:
        self._log = request_log
        self._file = CaseFile()
        self._edits = EditFile()

    def add(self, item: Case | EditRequest) -> None:
        """Add a case, or a plain request, whose only probe is the edit itself."""
        if isinstance(item, Case):
            self._edits.add(item.edit.edit_id, self._file.add(item))
        else:
            self._edits.add(item.edit_id, NO_CASE)

    @property
    def edit_ids(self) -> list[str]:
        """Edits with a case, in the order of the input."""
        return list(self._edits.places())

    def among(self, edit_ids: Collection[str]) -> list[str]:
        """Those of these edits with a case, in the order of the input."""
        return list(self._edits.places(edit_ids))

    def of(self, edit_ids: Collection[str]) -> list[Case]:
        """The cases of some edits without their images, in the order of the input."""
        places = self._edits.places(edit_ids)
        chosen: dict[str, Case | None] = {
            key: None if place == NO_CASE else without_images(self._file.read(place), place)
            for key, place in places.items()
        }
        for part in batches_of([key for key, case in chosen.items() if case is None]):
            for header in self._log.headers(edit_ids=part):
                if header.prompt:  # else it is lost
                    edit = NamedEdit.of(header)
                    chosen[header.edit_id] = Case(case_id=header.edit_id, edit=edit)
        return [case for case in chosen.values() if case is not None]

    def with_images(self, cases: Sequence[Case]) -> list[Case]:
        """Cases that `of` gave, perhaps with fewer probes or earlier edits."""
        return with_images(cases, self._file.read, self._log.find)

    @functools.cached_property
    def stored(self) -> StoredCases:
        """The same for other processes: they read the images themselves. No case may be added
        later."""
        return retried(lambda: self._file.copy_to(self._log.store))

    def delete_stored(self) -> None:
        """Delete what is `stored`, if anything is; a later run deletes what is left."""
        if "stored" in vars(self):
            with contextlib.suppress(StorageUnavailableError):
                self.stored.delete()


@dataclass(kw_only=True)
class Intake:
    """What became of the inputs of a source."""

    cases: CaseIndex
    num_accepted: int = 0
    """Valid requests, including those that the log held already."""
    num_new: int = 0
    """Of these, new to the log."""
    num_duplicates: int = 0
    """Lines that repeat an earlier line."""
    rejected: list[Rejected] = field(default_factory=list)
    """Lines that were refused."""
    superseded_by: dict[str, str] = field(default_factory=dict)
    """Of each edit of this source that replaces an older one: older edit_id -> its own."""
    duration_s: float = 0.0


def log_requests(
    source: Source,
    request_log: RequestLog,
    *,
    limit: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
) -> Intake:
    """Add the inputs of a source to the request log; those it holds already are recognized.

    At most `limit` valid inputs are read (0: all); `should_stop` is called after each chunk.
    """
    start_s = time.perf_counter()
    intake = Intake(cases=CaseIndex(request_log))
    items = _limited(source.items, limit)
    while chunk := list(itertools.islice(items, _CHUNK_ITEMS)):
        _log_chunk(intake, chunk, source, request_log)
        if should_stop():
            break
    intake.duration_s = time.perf_counter() - start_s
    return intake


def _limited(items: Iterable[Item], limit: int) -> Iterator[Item]:
    num_valid = 0
    for item in items:
        yield item
        num_valid += not isinstance(item, Rejected)
        if limit and num_valid >= limit:
            return


def _log_chunk(intake: Intake, chunk: list[Item], source: Source, request_log: RequestLog) -> None:
    refused = [item for item in chunk if isinstance(item, Rejected)]
    valid = [item for item in chunk if not isinstance(item, Rejected)]
    if refused:
        retried(lambda: request_log.reject_lines(refused, source=source.digest))
    faults = [item for item in refused if item.error_type != RejectType.DUPLICATE]
    intake.rejected += faults
    intake.num_duplicates += len(refused) - len(faults)
    for item in valid:
        intake.cases.add(item)
    requests = [request for item in valid for request in _requests_of(item)]
    if not requests:
        return
    first_place = intake.num_accepted + 1
    admissions = retried(
        lambda: request_log.append(requests, source=source.occasion, first_place=first_place)
    )
    for admission in admissions:
        intake.num_accepted += 1
        intake.num_new += not admission.is_duplicate
        if admission.supersedes:
            intake.superseded_by[admission.supersedes] = admission.edit_id


def _requests_of(item: Case | EditRequest) -> tuple[EditRequest, ...]:
    return item.requests if isinstance(item, Case) else (item,)
