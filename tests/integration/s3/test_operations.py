"""Nights, promotions, comparisons, leases and shard digests on a real S3 server."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from infra.bank.expert_bank import ExpertBank
from infra.bank.manifest import BankManifest, content_problems
from infra.storage.lease import Lease
from infra.storage.object_store import ObjectStore
from infra.tracking.audit_log import AuditLog
from pipelines.nightly_evaluation import print_outcome
from pipelines.operations.promoter import print_decision
from tests.small_rows import SMALL_IDENTITY, small_row
from tests.unit import tiny_versions as comparison
from tests.unit.conftest import empty_database, run_root  # noqa: F401
from tests.unit.tiny_operations import FIRST_AUDIT, Operations, some_cases


def test_of_many_claims_one_wins(s3_root: str) -> None:
    contenders = [Lease(ObjectStore(s3_root), "night", term_s=60.0) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(Lease.acquire, contenders))
    assert answers.count(None) == 1
    winner = contenders[answers.index(None)]
    winner.renew()
    winner.release()
    assert Lease(ObjectStore(s3_root), "night", term_s=60.0).acquire() is None


def test_of_many_decisions_one_is_recorded(s3_root: str) -> None:
    log = AuditLog(ObjectStore(s3_root), "liveedit-bank")
    rivals = [replace(FIRST_AUDIT, who=f"person {i}", token=f"token {i}") for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(log.append, rivals))
    assert [log.records()] == [[rivals[won.index(True)]]]
    assert won.count(True) == 1


def test_an_altered_and_a_missing_shard_are_named(s3_root: str) -> None:
    store = ObjectStore(s3_root)
    bank = ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
    epoch = bank.acquire_writer()
    for sequence in (1, 2):
        bank.commit(bank.fragment_writer().write([small_row(sequence)]), epoch=epoch)
    manifest = BankManifest.of(bank, bank.version, backbone="builtin")
    assert content_problems(bank, manifest) == []
    first, second = sorted(manifest.content.files)
    store.put(first, store.get(first)[:-1] + b"?")
    store.delete(second)
    assert content_problems(bank, manifest) == [
        f"{first} is altered, its sha256 differs",
        f"{second} is missing",
    ]


def test_a_night_a_promotion_and_a_rollback_need_no_disk_but_the_run_root(
    s3_root: str,
    run_root: Path,  # noqa: F811
) -> None:
    operations = Operations(run_root, store_uri=s3_root)
    cases = some_cases(1, 8)
    versions = []
    for number, part in enumerate((cases[:6], cases[6:]), start=1):
        versions.append(operations.teach(part))
        label = f"2026-11-2{number}"
        night = operations.nightly(label, cases)
        assert print_outcome(night, label, operations.root) == 0
        assert print_decision(operations.promoter().promote()) == 0
        assert operations.alias("champion") == versions[-1].version
    assert print_decision(operations.promoter().roll_back()) == 0
    assert operations.alias("champion") == versions[0].version
    log = AuditLog(ObjectStore(s3_root), "liveedit-bank").records()
    assert [item.action for item in log] == ["promotion", "promotion", "rollback"]
    assert not (run_root / "operations").exists()


def test_versions_are_compared_by_results_on_s3(
    s3_root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = comparison.filled(ObjectStore(s3_root))
    older, newer = comparison.versions(store)
    comparison.put(store, "run", older, 6, 1.0)
    comparison.put(store, "run", newer, comparison.NUM_CASES, 0.0)
    assert comparison.compare(store, tmp_path / "page.html", "--old", str(older)) == 3
    assert "WORSE   reliability.teacher_forced: 1.000 -> 0.000" in capsys.readouterr().out
