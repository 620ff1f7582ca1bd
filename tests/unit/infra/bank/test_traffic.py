"""Images of the traffic that a bank is calibrated by: part of a version, as its budget is."""

import numpy as np
import pytest

from infra.bank.expert_bank import ExpertBank
from infra.bank.integrity import verify_version
from infra.bank.manifest import BankManifest, content_problems
from infra.bank.traffic import traffic_key, write_traffic
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.storage.writer_fence import WriterFencedError
from liveedit_core.errors import IntegrityError
from tests.small_rows import SMALL_CONFIG, SMALL_IDENTITY, request_of, row_of


class CalibratedBank:
    """A bank of three edits; traffic is given by its one unit vector."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        RequestLog(store).append([request_of(number) for number in (1, 2, 3)])
        self.bank = ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
        self.epoch = self.bank.acquire_writer()
        rows = [row_of(number) for number in (1, 2, 3)]
        self.bank.commit(self.bank.fragment_writer().write(rows), epoch=self.epoch)

    def calibrate(self, share: float | None = None, *traffic: float) -> int:
        sha256 = self.write(*traffic) if traffic else None
        return self.bank.calibrate(
            share, traffic=sha256, author="anna", reason="", epoch=self.epoch
        )

    def write(self, *traffic: float) -> str:
        return write_traffic(self.store, np.array([traffic], np.float32))

    def held(self, version: int | None = None) -> tuple[float, list[list[float]] | None]:
        """Budget and traffic of a version."""
        found = self.bank.load_repository(SMALL_CONFIG, version)
        traffic = None if found.traffic_MR is None else found.traffic_MR.tolist()
        return found.false_activation, traffic


@pytest.fixture
def calibrated(store: ObjectStore) -> CalibratedBank:
    return CalibratedBank(store)


def test_it_is_part_of_each_version_from_then_on(calibrated: CalibratedBank) -> None:
    bank, before = calibrated.bank, calibrated.bank.version
    version = calibrated.calibrate(None, 1.0, 0.0)
    assert version == before + 1
    assert calibrated.calibrate(0.02, 1.0, 0.0) == calibrated.calibrate() == version
    gone = [request_of(2).edit_id]
    removed = bank.remove(gone, author="anna", reason="", epoch=calibrated.epoch)
    calibrated.calibrate(0.1)
    assert calibrated.held(before) == (0.02, None)
    assert calibrated.held(version) == calibrated.held(removed) == (0.02, [[1.0, 0.0]])
    assert calibrated.held() == (0.1, [[1.0, 0.0]])


def test_a_rollback_brings_it_back(calibrated: CalibratedBank) -> None:
    bank, without = calibrated.bank, calibrated.bank.version
    first = calibrated.calibrate(0.1, 1.0, 0.0)
    calibrated.calibrate(None, 0.0, 1.0)
    assert calibrated.held() == (0.1, [[0.0, 1.0]])
    for version, held in ((first, (0.1, [[1.0, 0.0]])), (without, (0.02, None))):
        bank.roll_back(version, author="anna", reason="", epoch=calibrated.epoch)
        assert calibrated.held() == held


@pytest.mark.parametrize("is_missing", [False, True])
def test_a_damaged_file_is_refused_reported_and_written_again(
    calibrated: CalibratedBank, is_missing: bool
) -> None:
    bank, store = calibrated.bank, calibrated.store
    version = calibrated.calibrate(None, 1.0, 0.0)
    manifest = BankManifest.of(bank, version, backbone="builtin")
    assert verify_version(bank).is_whole
    key = traffic_key(bank.versions.traffic_at(version))
    data = store.get(key)
    store.delete(key)
    if not is_missing:
        store.put(key, data[:-1] + b"!")
    with pytest.raises(IntegrityError, match=key):
        bank.load_repository(SMALL_CONFIG)
    for problems in (verify_version(bank).problems, content_problems(bank, manifest)):
        assert [key in problem for problem in problems] == [True]
    calibrated.write(1.0, 0.0)
    assert calibrated.held() == (0.02, [[1.0, 0.0]])
    assert content_problems(bank, manifest) == []


@pytest.mark.parametrize(
    "rows", [np.zeros(3, np.float32), np.zeros((1, 3)), np.array([[np.nan]], np.float32)]
)
def test_what_no_images_have_is_not_written(store: ObjectStore, rows: np.ndarray) -> None:
    with pytest.raises(IntegrityError, match="expected finite float32"):
        write_traffic(store, rows)
    assert store.list("traffic/") == []


def test_no_version_names_what_cannot_be_read(calibrated: CalibratedBank) -> None:
    bank = calibrated.bank
    with_traffic = calibrated.calibrate(None, 1.0, 0.0)
    key = traffic_key(bank.versions.traffic_at(with_traffic))
    before = bank.calibrate(traffic="", author="anna", reason="", epoch=calibrated.epoch)
    calibrated.store.delete(key)
    with pytest.raises(IntegrityError, match="traffic/0000"):
        bank.calibrate(traffic="0" * 64, author="anna", reason="", epoch=calibrated.epoch)
    with pytest.raises(IntegrityError, match=key):
        bank.roll_back(with_traffic, author="anna", reason="", epoch=calibrated.epoch)
    assert bank.version == before


def test_a_fenced_writer_cannot_set_it(calibrated: CalibratedBank) -> None:
    calibrated.bank.acquire_writer()
    with pytest.raises(WriterFencedError):
        calibrated.calibrate(None, 1.0, 0.0)
