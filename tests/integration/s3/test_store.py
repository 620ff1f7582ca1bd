"""The store on a real S3 server: objects, tables, bank, log, outages."""

import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from infra.bank.expert_bank import ExpertBank
from infra.bank.integrity import verify_version
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.storage.writer_fence import WriterFencedError
from infra.tracking.results import ResultsTable
from liveedit_core.errors import InputError, IntegrityError, StorageUnavailableError
from tests.small_rows import SMALL_CONFIG, SMALL_IDENTITY, request_of, row_of


@pytest.fixture
def store(s3_root: str) -> ObjectStore:
    return ObjectStore(s3_root)


def test_objects_behave_as_on_disk(store: ObjectStore) -> None:
    store.put("w/1", b"one")
    store.put("w/1", b"two")
    store.put("x", b"other")
    assert store.get("w/1") == b"two"
    assert store.get("w/1", max_bytes=3) == b"two"
    assert store.exists("w/1")
    assert not store.exists("w")
    assert store.list() == ["w/1", "x"]
    assert store.list("w/") == ["w/1"]
    assert [entry.key for entry in store.entries(is_flat=True)] == ["x"]
    assert not store.put_if_absent("w/1", b"three")
    assert store.put_if_absent("w/2", b"three")
    store.delete("w/1")
    store.delete("w/1")
    assert store.list("w/") == ["w/2"]
    with pytest.raises(IntegrityError, match="'w/1' is missing in s3://"):
        store.get("w/1")
    with pytest.raises(InputError, match="larger than the limit of 2 bytes"):
        store.get("x", max_bytes=2)


@pytest.mark.slow
def test_list_goes_beyond_one_page(store: ObjectStore) -> None:
    keys = [f"many/{index:04d}" for index in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))
    assert store.list("many/") == keys


def test_creation_is_exclusive_and_the_probe_leaves_nothing(store: ObjectStore) -> None:
    store.check_exclusive_create()
    assert store.list() == []


def test_images_are_fetched_by_uri(store: ObjectStore, s3_root: str) -> None:
    store.put("my image%20.png", b"png")
    assert store.fetch(f"{s3_root}/my image%20.png", 100) == b"png"
    assert ObjectStore("/anywhere").fetch(f"{s3_root}/my image%20.png", 100) == b"png"
    with pytest.raises(InputError, match="does not exist"):
        store.fetch(f"{s3_root}/none.png", 100)
    with pytest.raises(InputError, match="larger than the limit"):
        store.fetch(f"{s3_root}/my image%20.png", 2)


def test_wrong_keys_are_a_storage_error_that_says_what_to_check(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(StorageUnavailableError, match="check the AWS_"):
        store.put("a", b"x")


def test_a_server_that_is_away_is_a_storage_error(
    s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageUnavailableError, match="no complete response"):
        ObjectStore(s3_root).get("a")


def test_log_bank_and_results_work_on_s3(store: ObjectStore) -> None:
    log = RequestLog(store)
    log.append([request_of(1), request_of(2), request_of(1), request_of(1, "no")])
    bank = ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
    epoch = bank.acquire_writer()
    todo = list(log.read(bank.pending_sequences(log)))
    assert [logged.sequence for logged in todo] == [1, 2, 3]
    rows = [row_of(logged.sequence, logged.request) for logged in todo]
    writer = bank.fragment_writer()
    first = bank.commit(writer.write(rows[:2]), epoch=epoch, message="one")
    second = bank.commit(writer.write(rows), epoch=epoch, message="two")
    assert bank.pending_sequences(log) == []
    assert bank.edit_ids(first) == [row.expert.edit_id for row in rows[:2]]
    repository = ExpertBank.open(store, "main").load_repository(SMALL_CONFIG, second)
    assert list(repository.edit_ids) == [row.expert.edit_id for row in rows[1:]]
    assert torch.equal(repository.matrices(torch.tensor([1]))[1], rows[2].expert.up_RD)
    assert [window.message for window in bank.history()] == ["one", "two"]
    newer = ExpertBank.open(store, "main").acquire_writer()
    with pytest.raises(WriterFencedError):
        bank.commit(writer.write([row_of(9)]), epoch=epoch)
    bank.commit(writer.write([row_of(9)]), epoch=newer)
    assert bank.num_edits() == 3
    assert ResultsTable(store, "run").evaluations() == []


def test_edits_live_and_damage_is_named_on_s3(store: ObjectStore) -> None:
    log = RequestLog(store)
    requests = [request_of(1), request_of(2), request_of(1, "no")]
    log.append(requests)
    bank = ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
    epoch = bank.acquire_writer()
    rows = [row_of(number, request) for number, request in enumerate(requests, start=1)]
    for row in rows:
        bank.commit(bank.fragment_writer().write([row]), epoch=epoch)
    newest = [requests[2].edit_id]
    bank.remove(newest, author="anna", reason="", epoch=epoch)
    assert bank.edit_ids() == [requests[0].edit_id, requests[1].edit_id]
    bank.restore(newest, author="anna", reason="", epoch=epoch)
    assert bank.edit_ids() == [requests[1].edit_id, requests[2].edit_id]
    bank.versions.tag("good", bank.version)
    assert verify_version(bank, request_log=log).is_whole

    key = next(key for key in bank.file_keys(bank.version) if "/data/" in key)
    data = bytearray(store.get(key))
    data[100] ^= 1
    store.put(key, bytes(data))
    report = verify_version(ExpertBank.open(store, "main"), request_log=log)
    assert [(item.key, item.problem) for item in report.files] == [
        (key, "is altered, its sha256 differs")
    ]
    store.delete(key)
    bank = ExpertBank.open(store, "main")
    report = verify_version(bank, request_log=log)
    assert "is missing" in report.lines()[0]
    bank.drop_damaged(report, author="anna", reason="", epoch=epoch)
    assert verify_version(bank, request_log=log).is_whole
    bank.commit(bank.fragment_writer().write(rows), epoch=epoch)
    assert bank.edit_ids() == [requests[1].edit_id, requests[2].edit_id]


def _append_some(root: str, first: int) -> None:
    log = RequestLog(ObjectStore(root))
    for sequence in range(first, first + 3):
        log.append([request_of(sequence), request_of(1000 + sequence // 2)])


@pytest.mark.slow
def test_processes_that_append_at_once_lose_and_double_nothing(s3_root: str) -> None:
    RequestLog(ObjectStore(s3_root))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append_some, args=(s3_root, first)) for first in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    logged = list(RequestLog(ObjectStore(s3_root)).read())
    assert [item.sequence for item in logged] == list(range(1, len(logged) + 1))
    expected = {request_of(n).edit_id for n in [*range(4), *range(1000, 1002)]}
    assert sorted(item.request.edit_id for item in logged) == sorted(expected)


@pytest.mark.usefixtures("s3_root")
def test_a_missing_bucket_is_named() -> None:
    store = ObjectStore("s3://no-such-bucket/x")
    with pytest.raises(StorageUnavailableError, match=r"no-such-bucket.*NoSuchBucket"):
        store.get("a")


def test_a_store_that_travels_takes_its_server_along_and_no_credentials(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a", b"x")
    parcel = pickle.dumps(store)
    assert b"tests-secret" not in parcel
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    arrived: ObjectStore = pickle.loads(parcel)
    assert arrived.get("a") == b"x"
    assert arrived.table_options()["aws_endpoint"] != "http://127.0.0.1:9"
