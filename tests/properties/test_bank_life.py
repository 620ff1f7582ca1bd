"""The bank against a plain-dict model: random edits, changes, restarts and compactions."""

import tempfile
from collections.abc import Callable

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from infra.bank.compaction import Compaction
from infra.bank.expert_bank import ExpertBank
from infra.bank.integrity import verify_version
from infra.bank.policy import GrowthPolicy
from infra.bank.schema import ExpertRow, column_vectors
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from liveedit_core.schema import EditRequest
from tests.small_rows import SMALL_IDENTITY, small_request, small_row

IMAGES = ("flag", "lamp", "tree")
TARGETS = ("red", "green", "blue")
some = st.integers(0, 10**6)


class Model:
    """The specification: of each image, the newest committed edit that is not removed answers."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.taught: set[int] = set()
        self.removed: set[int] = set()

    def held(self) -> dict[str, int]:
        """Of each image, the number of the edit that answers."""
        answering: dict[str, int] = {}
        for number, (image, _) in enumerate(self.requests, start=1):
            if number in self.taught and number not in self.removed:
                answering[image] = number
        return answering

    def pending(self) -> list[int]:
        """Numbers of the requests that a job would commit."""
        held = self.held()
        return [
            number
            for number, (image, _) in enumerate(self.requests, start=1)
            if number not in self.removed and number > held.get(image, 0)
        ]

    def teach(self, numbers: set[int]) -> None:
        """Of each image the newest row appears, unless a newer one is held or it is removed."""
        held = self.held()
        newest: dict[str, int] = {}
        for number in sorted(numbers - self.removed):
            newest[self.requests[number - 1][0]] = number
        self.taught |= {n for image, n in newest.items() if n > held.get(image, 0)}

    def roll_back(self, old: dict[str, int]) -> None:
        """Remove and restore edits until the old state is back."""
        now = self.held()
        for number, (image, _) in enumerate(self.requests, start=1):
            first, last = old.get(image, 0), now.get(image, 0)
            if first != last and first < number <= last:
                self.removed.add(number)
            if first != last and number == first:
                self.removed.discard(number)


class BankLife(RuleBasedStateMachine):
    """Random sequences of steps over so few facts that all steps interact."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = ObjectStore(self.folder.name)
        self.model = Model()
        self.snapshots: dict[int, dict[str, int]] = {}
        self.tags: dict[str, int] = {}
        self.is_behind = False

    def teardown(self) -> None:
        report = verify_version(self.bank, request_log=self.log)
        assert report.lines() == []
        for version, held in self.snapshots.items():
            assert self.read(version) == self.expected(held)
        self.folder.cleanup()

    @initialize()
    def reopen(self) -> None:
        """Another process takes over and applies the changes that a dead one left."""
        self.bank = ExpertBank.open_or_create(self.store, "main", SMALL_IDENTITY)
        self.log = RequestLog(self.store)
        self.epoch = self.bank.acquire_writer()
        self.seen(self.bank.apply_changes(epoch=self.epoch))

    def request(self, number: int) -> EditRequest:
        return small_request(*self.model.requests[number - 1])

    def edit_id(self, number: int) -> str:
        return self.request(number).edit_id

    def seen(self, version: int) -> None:
        """A version is the newest; it shows what the model holds."""
        self.is_behind = False
        self.snapshots.setdefault(version, self.model.held())
        assert version == self.bank.version

    def read(self, version: int) -> dict[str, list[float]]:
        rows = self.bank.load_rows(["edit_id", "expert_down"], version)
        vectors = column_vectors(rows, "expert_down")
        ids = rows.column("edit_id").to_pylist()
        return {one: vector.tolist() for one, vector in zip(ids, vectors, strict=True)}

    def expected(self, held: dict[str, int]) -> dict[str, list[float]]:
        return {
            self.edit_id(n): np.ravel(self.row(n).expert.down_RD.numpy()).tolist()
            for n in held.values()
        }

    def row(self, number: int) -> ExpertRow:
        return small_row(number, *self.model.requests[number - 1])

    @rule(fact=st.tuples(st.sampled_from(IMAGES), st.sampled_from(TARGETS)))
    def submit(self, fact: tuple[str, str]) -> None:
        """A request enters the log; a second time it is a duplicate, removed or not."""
        (admission,) = self.log.append([small_request(*fact)])
        assert admission.is_duplicate == (fact in self.model.requests)
        if not admission.is_duplicate:
            self.model.requests.append(fact)

    @rule(data=st.data())
    def teach(self, data: st.DataObject) -> None:
        """A window of pending requests; other rows are sent again, or were removed meanwhile."""
        numbers = range(1, len(self.model.requests) + 1)
        pending = self.model.pending()
        chosen = data.draw(st.sets(st.sampled_from(pending))) if pending else set()
        again = data.draw(st.sets(st.sampled_from(numbers), max_size=2)) if numbers else set()
        rows = [self.row(number) for number in sorted(chosen | again)]
        self.model.teach(chosen | again)
        fragments = self.bank.fragment_writer().write(rows)
        self.seen(self.bank.commit(fragments, epoch=self.epoch))

    @precondition(lambda self: self.model.requests)
    @rule(picks=st.lists(some, min_size=1, max_size=3))
    def remove(self, picks: list[int]) -> None:
        numbers = self.numbers(picks)
        self.model.removed |= numbers
        self.seen(self.change(self.bank.remove, numbers))

    @precondition(lambda self: self.model.removed)
    @rule(picks=st.lists(some, min_size=1, max_size=3))
    def restore(self, picks: list[int]) -> None:
        numbers = self.numbers(picks)
        self.model.removed -= numbers
        self.seen(self.change(self.bank.restore, numbers))

    @precondition(lambda self: self.model.requests)
    @rule(picks=st.lists(some, min_size=1, max_size=2))
    def remove_and_die(self, picks: list[int]) -> None:
        """The log knows, the bank does not yet."""
        numbers = self.numbers(picks)
        self.log.changes.append(
            "remove",
            removed=[self.edit_id(number) for number in numbers],
            bank="main",
            author="anna",
            reason="",
        )
        self.is_behind = self.is_behind or bool(numbers - self.model.removed)
        self.model.removed |= numbers

    def numbers(self, picks: list[int]) -> set[int]:
        return {pick % len(self.model.requests) + 1 for pick in picks}

    def change(self, function: Callable[..., int], numbers: set[int]) -> int:
        edit_ids = [self.edit_id(number) for number in numbers]
        return function(edit_ids, author="anna", reason="test", epoch=self.epoch)

    @precondition(lambda self: self.snapshots)
    @rule(pick=some)
    def roll_back(self, pick: int) -> None:
        version = sorted(self.snapshots)[pick % len(self.snapshots)]
        self.seen(self.bank.apply_changes(epoch=self.epoch))
        self.model.roll_back(self.snapshots[version])
        assert self.model.held() == self.snapshots[version]
        self.seen(self.bank.roll_back(version, author="anna", reason="", epoch=self.epoch))

    @precondition(lambda self: self.snapshots)
    @rule(pick=some, name=st.sampled_from(["good", "first"]))
    def tag(self, pick: int, name: str) -> None:
        version = sorted(self.snapshots)[pick % len(self.snapshots)]
        if name in self.tags:
            self.bank.versions.untag(name)
        self.bank.versions.tag(name, version)
        self.tags[name] = version

    @rule()
    def compact(self) -> None:
        """Compaction merges files and fills indices; no version is deleted, as all are young."""
        Compaction(self.store, "main", GrowthPolicy()).run()
        self.seen(self.bank.apply_changes(epoch=self.epoch))

    @precondition(lambda self: len(self.snapshots) > 1)
    @rule(first=some, second=some)
    def compare(self, first: int, second: int) -> None:
        versions = sorted(self.snapshots)
        old, new = versions[first % len(versions)], versions[second % len(versions)]
        before, after = self.snapshots[old], self.snapshots[new]
        diff = self.bank.versions.diff(old, new)
        came = {self.edit_id(n) for p, n in after.items() if p not in before}
        went = {self.edit_id(n) for p, n in before.items() if p not in after}
        changed = {
            (self.edit_id(n), self.edit_id(after[p]))
            for p, n in before.items()
            if p in after and after[p] != n
        }
        assert (set(diff.added), set(diff.removed)) == (came, went)
        assert set(diff.superseded) == changed

    @invariant()
    def newest_version_is_the_model(self) -> None:
        if self.is_behind or not hasattr(self, "bank"):
            return
        held = self.model.held()
        assert self.read(self.bank.version) == self.expected(held)
        assert self.bank.pending_sequences(self.log) == self.model.pending()
        assert self.bank.versions.tags() == self.tags
        records = self.bank.history()
        assert not records or records[-1].num_edits == len(held)

    @precondition(lambda self: self.model.requests)
    @rule(pick=some)
    def history_ends_in_what_is_held(self, pick: int) -> None:
        number = pick % len(self.model.requests) + 1
        events = self.bank.versions.events(self.edit_id(number), self.bank.version)
        assert all(event.record.version <= self.bank.version for event in events)
        for version, held in self.snapshots.items():
            # A change that a dead process left has a version of its own, which nobody has seen.
            past = [event for event in events if event.record.version <= version]
            is_held = bool(past) and past[-1].event == "added"
            assert is_held == (number in held.values())


BankLife.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestBankLife = BankLife.TestCase
