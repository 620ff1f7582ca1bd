"""Two writers, a compactor, a cleaner and readers on one store, interleaved by a seed.

Each actor is a thread, of which one runs at a time. Before every call to the store and to Lance it
hands over to whom the seed draws, or dies there: an exception that nothing but the scheduler
catches ends it, as a killed process would end, between any two calls. What it had begun is taken up
by its next life. The same seed gives the same story, which
`python -m tests.faults.interleaving SEED` tells.
"""

import contextlib
import random
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lance

from infra.bank.compaction import Compaction
from infra.bank.expert_bank import ExpertBank
from infra.bank.integrity import verify_version
from infra.bank.policy import GrowthPolicy
from infra.requests.request_log import RequestLog
from infra.storage.disk import DiskBackend
from infra.storage.object_store import ObjectStore
from infra.storage.tables import ConcurrentCommitError, MissingFileError, Table
from infra.storage.writer_fence import WriterFencedError
from tests.small_rows import SMALL_IDENTITY, small_request, small_row

NUM_REQUESTS = 6
DEATH_SHARE = 0.02
"""Of the calls."""
MAX_DEATHS = 4
"""Of an actor; then it is left in peace, so that the story ends."""
_STORE_CALLS = ("put", "put_if_absent", "get", "exists", "entries", "delete")
_TABLE_CALLS = ("latest", "at", "write_rows", "commit", "read_fragment")
_AFTER = frozenset({"put", "put_if_absent", "commit", "delete"})
"""Calls after which an actor may die too, before it learns that they were done."""


class _Death(BaseException):
    """Nothing may catch it but the scheduler."""


@dataclass
class Story:
    """What happened under one seed."""

    seed: int
    calls: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    num_lost: int = 0
    num_doubled: int = 0
    problems: list[str] = field(default_factory=list)


class Scheduler:
    """Lets one of its actors run at a time, as the seed draws."""

    def __init__(self, seed: int) -> None:
        self.story = Story(seed)
        self._draw = random.Random(seed)
        self._turn = threading.Condition()
        self._ready: list[str] = []
        self._current = ""
        self._deaths: Counter[str] = Counter()
        self._errors: list[BaseException] = []
        self._local = threading.local()

    def run(self, actors: dict[str, Callable[[], None]]) -> None:
        """Until all have ended; the first error of one that is none of the expected is raised."""
        self._ready = sorted(actors)
        threads = [
            threading.Thread(target=self._live, args=(name, work), name=name)
            for name, work in sorted(actors.items())
        ]
        self._current = self._draw.choice(self._ready)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _live(self, name: str, work: Callable[[], None]) -> None:
        self._local.name = name
        with self._turn:
            self._turn.wait_for(lambda: self._current == name)
        try:
            while True:
                try:
                    work()
                    break
                except _Death:
                    self.story.calls.append(f"{name} lives again")
        except BaseException as error:
            self._errors.append(error)
        finally:
            self._local.name = ""
            with self._turn:
                self._ready.remove(name)
                self._current = self._draw.choice(self._ready) if self._ready else ""
                self._turn.notify_all()

    def point(self, call: str) -> None:
        """Between two calls: others may run first, or this actor dies here."""
        name = getattr(self._local, "name", "")
        if not name:
            return
        with self._turn:
            self.story.calls.append(f"{name} {call}")
            if self._deaths[name] < MAX_DEATHS and self._draw.random() < DEATH_SHARE:
                self._deaths[name] += 1
                self.story.faults[f"killed at {call}"] += 1
                self.story.calls.append(f"{name} dies")
                raise _Death
            self._current = self._draw.choice(self._ready)
            self._turn.notify_all()
            self._turn.wait_for(lambda: self._current == name)

    @contextlib.contextmanager
    def points(self) -> Iterator[None]:
        """Every call to the store and to a table is a point."""
        with contextlib.ExitStack() as stack:
            for owner, names in ((DiskBackend, _STORE_CALLS), (Table, _TABLE_CALLS)):
                for name in names:
                    stack.enter_context(patch.object(owner, name, self._watched(owner, name)))
            yield

    def _watched(self, owner: type[Any], name: str) -> Callable[..., Any]:
        original = getattr(owner, name)
        scheduler = self

        def call(*arguments: Any, **options: Any) -> Any:
            scheduler.point(name)
            result = original(*arguments, **options)
            if name in _AFTER:
                scheduler.point(f"after {name}")
            return result

        return call


def tell(seed: int, folder: Path) -> Story:
    """Run the story of a seed in an empty folder and check what is left."""
    store = ObjectStore(folder)
    bank = ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
    requests = [small_request(f"image {n % 4}", f"target {n}") for n in range(NUM_REQUESTS)]
    RequestLog(store).append(requests[:2])
    scheduler = Scheduler(seed)
    seen: dict[int, list[str]] = {}
    with scheduler.points():
        scheduler.run(
            {
                "writer 1": lambda: _write(store),
                "writer 2": lambda: _write(store),
                "submitter": lambda: _submit(store, requests),
                "compactor": lambda: _compact(store),
                "reader": lambda: _read(store, seen),
            }
        )
    _write(store)  # the next job finishes what the dead ones left
    return _checked(scheduler.story, store, bank, requests, seen)


def _write(store: ObjectStore) -> None:
    """As a job does: become the writer, write what is pending, commit; another may take over."""
    log = RequestLog(store)
    bank = ExpertBank.open(store, "main")
    with contextlib.suppress(WriterFencedError, ConcurrentCommitError):
        epoch = bank.acquire_writer()
        for logged in log.read(bank.pending_sequences(log)):
            image, target = logged.request.image_uri.rpartition("/")[2], logged.request.target
            row = small_row(logged.sequence, image, target)
            bank.commit(bank.fragment_writer().write([row]), epoch=epoch)


def _submit(store: ObjectStore, requests: list[Any]) -> None:
    """Requests come twice, and somebody removes one of them."""
    log = RequestLog(store)
    for request in requests:
        log.append([request])
    bank = ExpertBank.open(store, "main")
    bank.remove([requests[1].edit_id], author="anna", reason="wrong", epoch=None)


def _compact(store: ObjectStore) -> None:
    policy = GrowthPolicy(keep_versions=2, keep_days=0.0, fragment_bytes=1 << 20)
    for _ in range(2):
        with contextlib.suppress(ConcurrentCommitError):
            Compaction(store, "main", policy).run(now=datetime.now(UTC) + timedelta(minutes=11))


def _read(store: ObjectStore, seen: dict[int, list[str]]) -> None:
    """Every version is always the same; one that was deleted is said to be missing."""
    for _ in range(3):
        bank = ExpertBank.open(store, "main")
        version = bank.version
        with contextlib.suppress(MissingFileError):
            found = bank.edit_ids(version)
            assert seen.setdefault(version, found) == found
        list(RequestLog(store).read())


def _checked(
    story: Story,
    store: ObjectStore,
    bank: ExpertBank,
    requests: list[Any],
    seen: dict[int, list[str]],
) -> Story:
    log = RequestLog(store)
    bank = ExpertBank.open(store, "main")
    sequences = [item.sequence for item in log.read()]
    held = bank.edit_ids()
    newest: dict[str, str] = {}
    for request in requests:
        if request.edit_id != requests[1].edit_id:
            newest[request.subject_id] = request.edit_id
    story.num_lost = len(set(newest.values()) - set(held)) + NUM_REQUESTS - len(sequences)
    story.num_doubled = len(held) - len(set(held)) + len(set(held) - set(newest.values()))
    if sequences != list(range(1, NUM_REQUESTS + 1)):
        story.problems.append(f"the log's numbers are {sequences}")
    story.problems += verify_version(bank, request_log=log).lines()
    for version, edit_ids in seen.items():
        if bank.has_version(version) and bank.edit_ids(version) != edit_ids:
            story.problems.append(f"version {version} changed")
    if bank.pending_sequences(log):
        story.problems.append(f"pending: {bank.pending_sequences(log)}")
    return story


def main(seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        story = tell(seed, Path(folder))
    print("\n".join(story.calls))
    print(story.faults, story.num_lost, story.num_doubled, story.problems, lance.__version__)


if __name__ == "__main__":
    main(int(sys.argv[1]))
