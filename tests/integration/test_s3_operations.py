"""Leases, audit log and shard digests on a real S3 server."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from infra.audit_log import AuditLog
from infra.bank_manifest import BankManifest, content_problems
from infra.bank_schema import BankIdentity, ExpertRow
from infra.expert_bank import ExpertBank
from infra.lease import Lease
from infra.object_store import ObjectStore
from tests.unit.infra.conftest import identity, make_row  # noqa: F401
from tests.unit.infra.test_audit_log import FIRST


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
    rivals = [replace(FIRST, who=f"person {i}", token=f"token {i}") for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(log.append, rivals))
    assert [log.records()] == [[rivals[won.index(True)]]]
    assert won.count(True) == 1


def test_an_altered_and_a_missing_shard_are_named(
    s3_root: str,
    identity: BankIdentity,  # noqa: F811
    make_row: Callable[..., ExpertRow],  # noqa: F811
) -> None:
    store = ObjectStore(s3_root)
    bank = ExpertBank.open_or_create(store, "main", identity)
    epoch = bank.acquire_writer()
    for sequence in (1, 2):
        bank.commit(bank.fragment_writer().write([make_row(sequence)]), epoch=epoch)
    manifest = BankManifest.of(bank, bank.version, backbone="builtin")
    assert content_problems(bank, manifest) == []
    first, second = sorted(manifest.content.files)
    store.put(first, store.get(first)[:-1] + b"?")
    store.delete(second)
    assert content_problems(bank, manifest) == [
        f"{first} is altered, its sha256 is another",
        f"{second} is missing",
    ]
