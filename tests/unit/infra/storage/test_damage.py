"""Any file of a store may be missing, cut or garbage: what reads it raises errors of ours."""

import random
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.bank.compaction import Compaction
from infra.bank.expert_bank import ExpertBank
from infra.bank.integrity import verify_version
from infra.bank.policy import GrowthPolicy
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.tracking.results import EvaluationKey, ResultsTable
from liveedit_core.errors import IntegrityError, LiveEditError
from tests.small_rows import SMALL_CONFIG, SMALL_IDENTITY, refusal, request_of, row_of
from tests.unit.tiny_results import probe_result


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a row in every kind of table."""
    root = tmp_path_factory.mktemp("whole") / "store"
    store = ObjectStore(root)
    log = RequestLog(store)
    log.append([request_of(n) for n in range(6)])
    log.reject_lines([refusal(4)], source="file")
    bank = ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
    epoch = bank.acquire_writer()
    rows = [row_of(n + 1, request_of(n)) for n in range(5)]
    bank.commit(bank.fragment_writer().write(rows), epoch=epoch)
    bank.remove([request_of(3).edit_id], author="anna", reason="", epoch=epoch)
    key = EvaluationKey(bank="main", bank_version=1, num_edits=5)
    ResultsTable(store, "run").append([probe_result("case")], key)
    return root


def read_all(root: Path) -> None:
    store = ObjectStore(root)
    log = RequestLog(store)
    list(log.read())
    log.headers()
    log.rejects.read()
    log.changes.read()
    bank = ExpertBank.open(store, "main")
    bank.load_rows(["edit_id"])
    bank.pending_sequences(log)
    bank.history()
    bank.load_repository(SMALL_CONFIG)
    ResultsTable(store, "run").read()
    verify_version(bank, request_log=log)


def test_damage_of_any_file_is_an_error_of_ours(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    read_all(root)
    draw = random.Random(7)
    noticed = set()
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        data = file.read_bytes()
        for damaged in (draw.randbytes(len(data)), data[: len(data) // 2], None):
            if damaged is None:
                file.unlink()
            else:
                file.write_bytes(damaged)
            try:
                read_all(root)
            except LiveEditError as error:
                noticed.add((file.relative_to(root).parts[0], type(error)))
            finally:
                file.write_bytes(data)
    names = {"requests", "rejects", "changes", "banks", "results"}
    assert {(name, IntegrityError) for name in names} <= noticed


def test_a_reader_of_the_log_outlives_the_version_that_it_opened(store: ObjectStore) -> None:
    log = RequestLog(store)
    for number in range(40):
        log.append([request_of(number)])
    reading = log.read()
    read = [next(reading)]
    ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
    for number in range(40, 45):
        log.append([request_of(number)])
    Compaction(store, "main", GrowthPolicy(keep_versions=1, keep_days=1)).run(
        now=datetime.now(UTC) + timedelta(days=8)
    )
    read += reading
    assert [item.request for item in read] == [request_of(number) for number in range(40)]
