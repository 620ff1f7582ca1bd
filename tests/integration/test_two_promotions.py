"""Two processes promote different versions at one time: one wins, the other says so."""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import pytest

from infra.bank.manifest import BankManifest
from infra.storage.object_store import ObjectStore
from infra.tracking.audit_log import AuditLog
from infra.tracking.model_registry import BANK_MODEL, ModelVersions, RegisteredVersion
from infra.tracking.tracker import default_tracking_uri
from pipelines.job.recipe_loader import load_recipe
from pipelines.operations.promoter import Promoter, PromotionConflictError
from pipelines.operations.recipe import PromotionRecipe
from tests.unit.conftest import empty_database, run_root  # noqa: F401
from tests.unit.tiny_operations import (
    GATE_OVERRIDES,
    LAX,
    Operations,
    SyntheticEvaluation,
    some_cases,
)

pytestmark = pytest.mark.slow

WAIT_S = 90.0


@dataclass(frozen=True)
class Meeting:
    """Where two processes wait for each other."""

    start: Barrier
    decision: Barrier
    """Both have asked the gates."""
    has_lost: Event
    """One was refused its turn."""


class MeetingVersions(ModelVersions):
    """Waits for the rival while this process has its turn and looks at files."""

    at_gates: Callable[[], None]

    def manifest(self, version: RegisteredVersion) -> BankManifest:
        found = super().manifest(version)
        self.at_gates()
        self.at_gates = lambda: None
        return found


def promote(
    settings: list[str], version: int, who: str, meeting: Meeting, *, is_lease_lost: bool
) -> str:
    """What one process does; returns what it says."""
    recipe = load_recipe(PromotionRecipe, None, [*settings, *GATE_OVERRIDES, *LAX])
    versions = MeetingVersions(default_tracking_uri(Path(recipe.run_root)))
    promoter = Promoter(recipe=recipe, versions=versions, who=who, why="at once")

    def lose_lease_and_wait() -> None:
        store = ObjectStore(recipe.store_uri)
        for key in store.list("leases/"):
            store.delete(key)
        meeting.decision.wait(WAIT_S)

    def wait_for_loser() -> None:
        assert meeting.has_lost.wait(WAIT_S)

    versions.at_gates = lose_lease_and_wait if is_lease_lost else wait_for_loser
    meeting.start.wait(WAIT_S)
    end_s = time.monotonic() + WAIT_S
    while True:
        try:
            decision = promoter.promote(f"models:/{BANK_MODEL}/{version}")
        except PromotionConflictError as error:
            is_busy = "right now" in error.message
            if is_lease_lost and is_busy and time.monotonic() < end_s:
                time.sleep(0.05)  # the lease of the rival is not lost yet
                continue
            meeting.has_lost.set()
            return f"conflict: {error.message}"
        return f"champion: {decision.version}, refused: {decision.refusals}"


def answer(
    answers: "multiprocessing.Queue[str]",
    settings: list[str],
    version: int,
    who: str,
    meeting: Meeting,
    is_lease_lost: bool,
) -> None:
    """The whole of a process."""
    answers.put(promote(settings, version, who, meeting, is_lease_lost=is_lease_lost))


@pytest.mark.parametrize(("place", "is_lease_lost"), [("disk", True), ("s3", False)])
def test_of_two_processes_one_promotes(
    request: pytest.FixtureRequest,
    run_root: Path,  # noqa: F811
    place: str,
    is_lease_lost: bool,
) -> None:
    """With the lease one is refused its turn; without it the audit record's number decides."""
    store_uri = request.getfixturevalue("s3_root") if place == "s3" else ""
    operations = Operations(run_root, store_uri=store_uri)
    versions = [operations.teach(some_cases(number, number)) for number in (1, 2)]
    for version in versions:
        SyntheticEvaluation(operations).record(version)
    context = multiprocessing.get_context("spawn")
    meeting = Meeting(context.Barrier(2), context.Barrier(2), context.Event())
    answers: multiprocessing.Queue[str] = context.Queue()
    processes = [
        context.Process(
            target=answer,
            args=(answers, operations.settings, version.version, who, meeting, is_lease_lost),
        )
        for version, who in zip(versions, ("anna", "boris"), strict=True)
    ]
    for process in processes:
        process.start()
    said = sorted(answers.get(timeout=600) for _ in processes)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]

    won, lost = said
    (record,) = AuditLog(operations.operations_store, BANK_MODEL).records()
    assert won == f"champion: {record.version}, refused: ()"
    if is_lease_lost:
        assert lost.startswith(f"conflict: {record.who} was first: promotion of version ")
        assert "This call changed nothing" in lost
    else:
        assert f"is changing the champion of {BANK_MODEL} right now" in lost
    assert operations.alias("champion") == record.version
    assert operations.alias("previous_champion") == 0
