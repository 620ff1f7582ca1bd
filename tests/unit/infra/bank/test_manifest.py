"""Every way in which a registered version can be damaged is found, and named."""

import json
from pathlib import Path

import pytest

from infra.bank.expert_bank import ExpertBank
from infra.bank.manifest import BankManifest, content_problems
from infra.bank.schema import BankIdentity
from infra.storage.object_store import ObjectStore
from liveedit_core.errors import IntegrityError, RepositoryMismatchError
from tests.small_rows import SMALL_IDENTITY, small_row


@pytest.fixture
def bank(store: ObjectStore) -> ExpertBank:
    """Three windows; the last one replaces a row of the first."""
    bank = ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
    epoch = bank.acquire_writer()
    for rows in (
        [small_row(1, image="one"), small_row(2)],
        [small_row(3)],
        [small_row(4, image="one", target="no")],
    ):
        bank.commit(bank.fragment_writer().write(rows), epoch=epoch)
    return bank


def manifest_of(bank: ExpertBank) -> BankManifest:
    return BankManifest.of(bank, bank.version, backbone="builtin")


def file_of(store: ObjectStore, key: str) -> Path:
    return Path(store.table_uri(key))


def test_an_untouched_version_has_no_problems_and_survives_json(bank: ExpertBank) -> None:
    manifest = manifest_of(bank)
    assert any("_deletions/" in key for key in manifest.content.files)
    assert BankManifest.from_json(manifest.to_json(), "it") == manifest
    assert content_problems(bank, manifest) == []
    assert manifest.verified_bank("it").edit_ids() == bank.edit_ids()


def test_later_windows_do_not_change_a_manifest(bank: ExpertBank) -> None:
    manifest = manifest_of(bank)
    bank.commit(bank.fragment_writer().write([small_row(9)]), epoch=bank.acquire_writer())
    assert content_problems(bank, manifest) == []


@pytest.mark.parametrize("folder", ["data/", "_deletions/"])
def test_one_flipped_bit_is_found_in_any_file(
    bank: ExpertBank, store: ObjectStore, folder: str
) -> None:
    manifest = manifest_of(bank)
    key = next(key for key in manifest.content.files if folder in key)
    path = file_of(store, key)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert content_problems(bank, manifest) == [f"{key} is altered, its sha256 differs"]
    with pytest.raises(IntegrityError, match=f"it is damaged and must not serve: {key}"):
        manifest.verified_bank("it")


def test_a_missing_file_is_named(bank: ExpertBank, store: ObjectStore) -> None:
    manifest = manifest_of(bank)
    key = next(iter(manifest.content.files))
    file_of(store, key).unlink()
    assert content_problems(bank, manifest) == [f"{key} is missing"]


def test_a_missing_version_is_named(bank: ExpertBank, store: ObjectStore) -> None:
    manifest = manifest_of(bank)
    for path in file_of(store, "banks/main/_versions").glob("*.manifest"):
        if int(path.stem) == 2**64 - 1 - manifest.bank_version:
            path.unlink()
    (problem,) = content_problems(ExpertBank.open(store, "main"), manifest)
    assert f"version {manifest.bank_version} of bank 'main'" in problem


def test_a_missing_or_recreated_bank_is_refused(bank: ExpertBank, tmp_path: Path) -> None:
    manifest = manifest_of(bank)
    values = {**vars(manifest), "store_uri": (tmp_path / "elsewhere").as_uri()}
    with pytest.raises(IntegrityError, match="there is no bank 'main'"):
        BankManifest(**values).verified_bank("it")
    other = BankIdentity(**{**vars(SMALL_IDENTITY), "generator_digest": "another"})
    with pytest.raises(RepositoryMismatchError, match="generator_digest"):
        BankManifest(**{**vars(manifest), "identity": other}).verified_bank("it")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bank_version", "2"),
        ("bank", ["main"]),
        ("store_uri", None),
        ("identity", []),
        ("content", {"edits_sha256": "", "files": {"a": 5}}),
    ],
)
def test_a_manifest_of_other_types_is_refused(bank: ExpertBank, name: str, value: object) -> None:
    content = json.loads(manifest_of(bank).to_json()) | {name: value}
    with pytest.raises(IntegrityError, match=rf"is damaged or .*\({name}"):
        BankManifest.from_json(json.dumps(content), "it")


@pytest.mark.parametrize("text", ["", "null", "[" * 100_000, "\ud800"])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match="the manifest of it is damaged"):
        BankManifest.from_json(text, "it")


def test_a_manifest_without_digests_is_refused() -> None:
    with pytest.raises(IntegrityError, match="manifest of it is damaged or was written by another"):
        BankManifest.from_json('{"store_uri": "file:///x", "bank": "main"}', "it")
