"""What a version names is on disk, whatever the page cache holds, when a commit returns."""

import os
from pathlib import Path

import pytest

from infra.bank.expert_bank import ExpertBank
from infra.storage.object_store import ObjectStore
from tests.small_rows import SMALL_IDENTITY, small_row


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Inodes of what was forced to disk, in order."""
    inodes: list[int] = []
    really = os.fsync

    def note(descriptor: int) -> None:
        really(descriptor)
        inodes.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", note)
    return inodes


def test_rows_are_on_disk_before_the_version_that_names_them(
    store: ObjectStore, synced: list[int]
) -> None:
    bank = ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
    epoch = bank.acquire_writer()
    for first in (1, 3):
        rows = [small_row(first), small_row(first + 1)]
        version = bank.commit(bank.fragment_writer().write(rows), epoch=epoch)
    root = Path(store.table_uri("banks/main"))
    data = [root.parent.parent / key for key in bank.file_keys(version)]
    manifests = sorted((root / "_versions").glob("*.manifest"), key=os.path.getmtime)
    assert len(data) == 2
    for path in (*data, manifests[-1], root / "data", root / "_versions"):
        assert path.stat().st_ino in synced, f"{path.name} was forced to disk"
    last_data, manifest = (synced.index(p.stat().st_ino) for p in (data[-1], manifests[-1]))
    assert last_data < manifest


def test_an_object_and_its_name_are_on_disk(store: ObjectStore, synced: list[int]) -> None:
    store.put("a/b", b"x")
    path = Path(store.table_uri("a"))
    assert synced[-2:] == [(path / "b").stat().st_ino, path.stat().st_ino]
    assert store.put_if_absent("a/c", b"x")
    assert synced[-2:] == [(path / "c").stat().st_ino, path.stat().st_ino]
