"""Compaction between the windows of a job, and a job that goes on after a clean-up."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from infra.bank.compaction import Compaction
from infra.bank.policy import GrowthPolicy
from infra.storage.object_store import ObjectStore
from tests.random_states import assert_same_experts
from tests.unit.tiny_editing import Driver
from tests.unit.tiny_inputs import case
from tests.unit.tiny_models import CONFIG


def num_fragments(driver: Driver) -> int:
    return len(driver.bank.dataset(driver.bank.version).get_fragments())


def test_a_job_tends_its_bank_and_request_log(tmp_path: Path) -> None:
    cases = [case(n) for n in range(12)]
    tended, untended = Driver(tmp_path / "tended"), Driver(tmp_path / "untended")
    first = tended.run(cases, "growth.every_windows=2")
    second = untended.run(cases, "growth.every_windows=0")
    assert num_fragments(tended) < num_fragments(untended)
    one, other = (driver.bank.load_repository(CONFIG) for driver in (tended, untended))
    assert_same_experts(one, other)
    assert [item.num_edits for item in first.evaluations] == [
        item.num_edits for item in second.evaluations
    ]


def test_a_version_that_was_cleaned_up_is_not_evaluated_any_more(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    cases = [case(n) for n in range(12)]
    driver.run(cases, "evaluation.at=[]")
    windows = driver.bank.history()
    policy = GrowthPolicy(keep_versions=1, keep_days=0.0)
    later = datetime.now(UTC) + timedelta(hours=1)
    Compaction(ObjectStore(tmp_path), driver.bank.name, policy).run(now=later)
    assert not driver.bank.has_version(windows[0].version)
    again = driver.run(cases, "evaluation.at=[4, 8]")
    assert [item.num_edits for item in again.evaluations] == [12]
    assert driver.bank.history() == windows
