"""Every kind of write, and a fault in the middle of it that leaves open whether it was done."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

from infra.bank import compaction
from infra.bank.expert_bank import ExpertBank
from infra.bank.integrity import verify_version
from infra.bank.policy import GrowthPolicy
from infra.requests.request_log import RequestLog
from infra.storage import upkeep
from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table
from infra.tracking.audit_log import AuditLog, AuditRecord
from infra.tracking.results import EvaluationKey, ResultsTable
from tests.integration.faults.faulty_proxy import FaultyProxy, Shares
from tests.small_rows import SMALL_CONFIG, SMALL_IDENTITY, request_of, row_of
from tests.unit.tiny_results import probe_result
from workers.failures import retried

FAULTS = ("done_but_error", "late_answer", "stall", "cut_answer", "cut_request")
COMMITS = -1
"""Stands for the request that makes a write visible."""
TIMEOUT_S = 2.0
NUM_EDITS = 6
_VISIBLE = ("/_versions/", "/_refs/tags/", "/audit/")
_RESULT = EvaluationKey(bank="main", bank_version=1, num_edits=NUM_EDITS)
_AUDIT = AuditRecord(
    sequence=1,
    action="promotion",
    version=1,
    champion_before=0,
    previous_champion=0,
    who="anna",
    why="",
    decided_at="2026-11-29T06:00:00+00:00",
    token="a",
)


class OneFault(FaultyProxy):
    """Does one thing to one writing request of each operation."""

    def __init__(self, upstream: str, fault: str, place: int) -> None:
        super().__init__(upstream, Shares())
        self._fault = fault
        self._place = place
        self._num_left = -1

    def arm(self) -> None:
        self._num_left = max(self._place, 0)

    def fault_of(self, method: str, path: str) -> str:
        with self._lock:
            is_write = method in ("PUT", "POST", "DELETE") and self._num_left >= 0
            if self._place == COMMITS:
                is_write = is_write and any(part in path for part in _VISIBLE)
            if not is_write:
                return ""
            self._num_left -= 1
            name = self._fault if self._num_left < 0 else ""
            self.injected[name] += 1
            return name


@dataclass
class Writes:
    """A store as one process sees it through the proxy."""

    store: ObjectStore

    def __post_init__(self) -> None:
        self.log = RequestLog(self.store)
        self.bank = ExpertBank.open_or_create(self.store, "main", SMALL_IDENTITY)
        self.epoch = self.bank.acquire_writer()
        self.results = ResultsTable(self.store, "run")
        self.audit = AuditLog(self.store, "liveedit-bank")

    def append(self) -> None:
        self.log.append([request_of(number) for number in range(NUM_EDITS)])

    def commit(self) -> None:
        numbers = self.bank.pending_sequences(self.log)
        rows = [row_of(number, request_of(number - 1)) for number in numbers]
        for row in rows:
            self.bank.commit(self.bank.fragment_writer().write([row]), epoch=self.epoch)

    def remove(self) -> None:
        edits = [request_of(1).edit_id]
        self.bank.remove(edits, author="anna", reason="wrong", epoch=self.epoch)

    def tag(self) -> None:
        self.bank.versions.tag("good", 3)

    def compact(self) -> None:
        self._compact(GrowthPolicy(keep_versions=0))

    def clean_up(self) -> None:
        self._compact(GrowthPolicy(keep_versions=1, keep_days=0.0))

    def index(self) -> None:
        with patch.object(upkeep, "_FEW_ROWS", 1):
            upkeep.renew_indices(Table(self.store, "banks/main"), ["edit_id"])

    def result(self) -> None:
        self.results.append([probe_result("case 1"), probe_result("case 2")], _RESULT)

    def audited(self) -> None:
        assert self.audit.append(_AUDIT)
        self.audit.mark_done(_AUDIT)

    def _compact(self, policy: GrowthPolicy) -> None:
        now = datetime.now(UTC) + timedelta(minutes=11)
        compaction.Compaction(self.store, "main", policy).run(now=now)

    def operations(self) -> list[Callable[[], None]]:
        """In an order in which each has something to do."""
        return [
            *(self.append, self.commit, self.remove, self.tag),
            *(self.index, self.compact, self.clean_up, self.result, self.audited),
        ]


def write_through_faults(endpoint: str, root: str, fault: str, place: int) -> int:
    """Do all writes, each with one fault and repeated as a job repeats it; how many faults."""
    proxy = OneFault(endpoint, fault, place)
    try:
        writes = Writes(ObjectStore(root, proxy.endpoint, TIMEOUT_S))
        for operation in writes.operations():
            proxy.arm()
            retried(operation)
    finally:
        proxy.close()
    return proxy.num_faults


def check_all(root: str) -> None:
    """Nothing is lost, doubled or damaged, as a process sees that meets no faults."""
    store = ObjectStore(root)
    log, bank = RequestLog(store), ExpertBank.open(store, "main")
    requests = [request_of(number) for number in range(NUM_EDITS)]
    assert [item.request for item in log.read()] == requests
    assert [item.sequence for item in log.read()] == list(range(1, NUM_EDITS + 1))
    kept = [item.edit_id for number, item in enumerate(requests) if number != 1]
    assert bank.edit_ids() == kept
    assert list(bank.load_repository(SMALL_CONFIG).edit_ids) == kept
    assert verify_version(bank, request_log=log).lines() == []
    assert len(log.changes.read()) == 1
    assert bank.versions.tags() == {"good": 3}
    assert len(bank.edit_ids(3)) == 2
    assert [result.case_id for result in ResultsTable(store, "run").read()] == ["case 1", "case 2"]
    assert AuditLog(store, "liveedit-bank").records() == [_AUDIT]
