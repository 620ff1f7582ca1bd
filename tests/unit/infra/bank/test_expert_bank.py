"""The bank: exactly once in effect, superseding, fencing, determinism, identity."""

import dataclasses
import json
import pickle
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.bank.expert_bank import ExpertBank
from infra.bank.fragments import StaleRowsError
from infra.bank.integrity import verify_version
from infra.bank.schema import ExpertRow
from infra.storage.checksums import TableChecksums
from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table
from infra.storage.writer_fence import WriterFencedError
from liveedit_core.errors import (
    IntegrityError,
    NumericsError,
    RepositoryMismatchError,
    ShapeError,
    StorageUnavailableError,
)
from tests.small_rows import SMALL_CONFIG, SMALL_IDENTITY, small_row


def ids(rows: Sequence[ExpertRow]) -> list[str]:
    return [row.expert.edit_id for row in rows]


def commit(bank: ExpertBank, rows: Sequence[ExpertRow], epoch: int | None = None) -> int:
    epoch = bank.acquire_writer() if epoch is None else epoch
    return bank.commit(bank.fragment_writer().write(rows), epoch=epoch)


def test_fragments_are_invisible_until_committed_and_then_exact(bank: ExpertBank) -> None:
    rows = [small_row(2), small_row(1)]
    empty = bank.version
    epoch = bank.acquire_writer()
    writer = pickle.loads(pickle.dumps(bank.fragment_writer()))
    fragments = [*writer.write(rows[:1]), *writer.write(rows[1:])]
    assert bank.version == empty
    assert bank.edit_ids() == []

    version = bank.commit(fragments, epoch=epoch, message="window 1")

    repository = bank.load_repository(SMALL_CONFIG, version)
    assert list(repository.edit_ids) == ids([rows[1], rows[0]])
    for index, row in enumerate([rows[1], rows[0]]):
        expert = row.expert
        assert torch.equal(
            repository.visual_features_NK[index], expert.visual_feature_QM.reshape(-1)
        )
        assert torch.equal(
            repository.prompt_features_NK[index], expert.prompt_feature_QM.reshape(-1)
        )
        down, up = repository.matrices(torch.tensor([index]))
        assert torch.equal(down, expert.down_RD)
        assert torch.equal(up, expert.up_RD)
    stored = bank.load_rows(["clip_embedding", "provenance"], version).to_pylist()
    assert stored[0]["clip_embedding"] == rows[1].clip_embedding.tolist()
    assert json.loads(stored[0]["provenance"]) == {"worker": "test"}


def test_rows_that_clean_up_may_have_deleted_are_not_committed(bank: ExpertBank) -> None:
    epoch = bank.acquire_writer()
    fragments = bank.fragment_writer().write([small_row(1)])
    old = [dataclasses.replace(item, written_s=time.time() - 25 * 3600) for item in fragments]
    with pytest.raises(StaleRowsError, match="written 25 hours ago"):
        bank.commit(old, epoch=epoch)
    assert bank.edit_ids() == []
    assert bank.commit(fragments, epoch=epoch) == bank.version


def test_replaying_a_window_changes_nothing(bank: ExpertBank) -> None:
    rows = [small_row(1), small_row(2)]
    epoch = bank.acquire_writer()
    fragments = bank.fragment_writer().write(rows)
    version = bank.commit(fragments, epoch=epoch)
    assert bank.commit(fragments, epoch=epoch) == version
    assert commit(bank, rows, epoch) == version
    assert bank.commit([], epoch=epoch) == version


def test_of_a_mixed_fragment_only_the_new_rows_appear(bank: ExpertBank) -> None:
    first, second, third = small_row(1), small_row(2), small_row(3)
    epoch = bank.acquire_writer()
    commit(bank, [first], epoch)
    writer = bank.fragment_writer()
    fragments = [*writer.write([second, first, second]), *writer.write([third, second])]
    bank.commit(fragments, epoch=epoch)
    assert bank.edit_ids() == ids([first, second, third])
    stored = bank.load_rows(["edit_id", "clip_embedding"]).to_pylist()
    assert [row["clip_embedding"] for row in stored] == [
        row.clip_embedding.tolist() for row in (first, second, third)
    ]


def test_small_files_of_a_window_are_committed_as_one(bank: ExpertBank, store: ObjectStore) -> None:
    writer, rows = bank.fragment_writer(), [small_row(n) for n in range(1, 5)]
    fragments = [fragment for row in rows for fragment in writer.write([row])]
    bank.commit(fragments, epoch=bank.acquire_writer())
    (key,) = bank.file_keys(bank.version)
    assert store.list("banks/main/data/") == [key]
    checksum = bank.checksums.read(key.removeprefix("banks/main/"))
    assert store.list("seals/main/") == [f"seals/{key.removeprefix('banks/')}.json"]
    assert checksum is not None
    assert {row.edit_id for row in checksum.rows} == set(ids(rows))
    assert verify_version(bank).is_whole
    assert bank.edit_ids() == ids(rows)


def test_files_of_rows_are_read_and_deleted_in_another_process_only(
    bank: ExpertBank, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [small_row(n) for n in range(1, 5)]
    fragments = [part for row in rows for part in bank.fragment_writer().write([row])]
    read_fragment, delete_file = Table.read_fragment, TableChecksums.delete_file

    def refused(*arguments: object) -> None:
        raise AssertionError("this process handles rows")

    def run(action: Callable[[], Any]) -> Any:
        sent = pickle.dumps(action)
        assert len(sent) < 2000 * len(rows)
        with monkeypatch.context() as patch:
            patch.setattr(Table, "read_fragment", read_fragment)
            patch.setattr(TableChecksums, "delete_file", delete_file)
            return pickle.loads(pickle.dumps(pickle.loads(sent)()))

    monkeypatch.setattr(Table, "read_fragment", refused)
    monkeypatch.setattr(TableChecksums, "delete_file", refused)
    bank.commit(fragments, epoch=bank.acquire_writer(), run=run)
    assert store.list("banks/main/data/") == bank.file_keys(bank.version)
    assert bank.edit_ids() == ids(rows)


def test_large_files_are_committed_as_they_were_written(
    bank: ExpertBank, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.bank.fragments.LARGE_FILE_BYTES", 1)
    writer = bank.fragment_writer()
    fragments = [*writer.write([small_row(1)]), *writer.write([small_row(2)])]
    written = set(store.list("banks/main/data/"))
    bank.commit(fragments, epoch=bank.acquire_writer())
    assert set(bank.file_keys(bank.version)) == written == set(store.list("banks/main/data/"))


def test_a_file_that_is_altered_before_its_commit_is_not_merged(
    bank: ExpertBank, store: ObjectStore
) -> None:
    writer, row = bank.fragment_writer(), small_row(1)
    fragments = [*writer.write([row]), *writer.write([small_row(2)])]
    number = row.clip_embedding[0].tobytes()
    (key,) = [key for key in store.list("banks/main/data/") if number in store.get(key)]
    store.put(key, store.get(key).replace(number, number[::-1]))
    with pytest.raises(IntegrityError, match=row.expert.edit_id):
        bank.commit(fragments, epoch=bank.acquire_writer())
    assert bank.edit_ids() == []


def test_a_window_that_is_committed_although_files_cannot_be_deleted_is_whole(
    bank: ExpertBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, rows = bank.fragment_writer(), [small_row(1), small_row(2)]
    fragments = [fragment for row in rows for fragment in writer.write([row])]

    def fail(*arguments: object) -> None:
        raise StorageUnavailableError("no")

    epoch = bank.acquire_writer()
    monkeypatch.setattr(ObjectStore, "delete", fail)
    version = bank.commit(fragments, epoch=epoch)
    assert bank.edit_ids(version) == ids(rows)
    assert verify_version(bank).is_whole


def test_a_new_target_supersedes_in_one_version(bank: ExpertBank) -> None:
    old, other = small_row(1, "flag", "red"), small_row(2)
    new = small_row(3, "flag", "blue")
    epoch = bank.acquire_writer()
    before = commit(bank, [old, other], epoch)
    after = commit(bank, [new], epoch)
    assert after == before + 1
    assert bank.edit_ids(before) == ids([old, other])
    assert bank.edit_ids(after) == ids([other, new])
    assert bank.subject_sequences(after) == {other.subject_id: 2, new.subject_id: 3}
    window = bank.versions.record(after)
    assert (window.num_added, window.num_superseded, window.num_edits) == (1, 1, 2)


def test_an_older_edit_that_comes_late_stays_out(bank: ExpertBank) -> None:
    old, new = small_row(1, "flag", "red"), small_row(3, "flag", "blue")
    epoch = bank.acquire_writer()
    version = commit(bank, [new], epoch)
    assert commit(bank, [old], epoch) == version
    assert bank.edit_ids() == ids([new])


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_equal_sets_of_edits_give_equal_tensors_whatever_the_windows(
    store: ObjectStore, data: st.DataObject
) -> None:
    # Six edits of four subjects, each handed in at least once, in any order and any windows.
    all_rows = [
        small_row(sequence, image, f"target {sequence}")
        for sequence, image in enumerate(["a", "b", "a", "c", "b", "d"], start=1)
    ]
    order = data.draw(st.permutations(range(6)))
    repeats = data.draw(st.lists(st.integers(0, 5), max_size=4))
    handed_in = [all_rows[index] for index in [*order, *repeats]]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(handed_in) - 1))))
    name = f"bank-{len(store.list('writers/'))}"
    bank = ExpertBank.open_or_create(store, name, SMALL_IDENTITY)
    epoch = bank.acquire_writer()
    for start, end in zip([0, *cuts], [*cuts, len(handed_in)], strict=True):
        window = handed_in[start:end]
        writer = bank.fragment_writer()
        bank.commit([*writer.write(window[:2]), *writer.write(window[2:])], epoch=epoch)
    repository = bank.load_repository(SMALL_CONFIG)
    expected = [all_rows[index] for index in (2, 3, 4, 5)]
    assert list(repository.edit_ids) == ids(expected)
    assert torch.equal(repository.down_LD, torch.cat([row.expert.down_RD for row in expected]))
    assert torch.equal(repository.up_LD, torch.cat([row.expert.up_RD for row in expected]))


def test_history_lists_each_window(bank: ExpertBank) -> None:
    epoch = bank.acquire_writer()
    writer = bank.fragment_writer()
    first = bank.commit(writer.write([small_row(1), small_row(2)]), epoch=epoch, message="one")
    second = bank.commit(writer.write([small_row(7)]), epoch=epoch, message="two")
    history = bank.history()
    assert [(w.version, w.message, w.num_edits, w.num_added) for w in history] == [
        (first, "one", 2, 2),
        (second, "two", 3, 1),
    ]
    assert [(w.first_sequence, w.last_sequence, w.epoch) for w in history] == [
        (1, 2, epoch),
        (7, 7, epoch),
    ]
    assert history[0].committed_at <= history[1].committed_at
    with pytest.raises(IntegrityError, match="has no record"):
        bank.versions.record(1)


def test_a_newer_writer_fences_the_older(bank: ExpertBank, store: ObjectStore) -> None:
    old_epoch = bank.acquire_writer()
    new_epoch = ExpertBank.open(store, "main").acquire_writer()
    assert new_epoch == old_epoch + 1
    with pytest.raises(WriterFencedError, match=f"epoch {old_epoch} is fenced by a newer writer"):
        commit(bank, [small_row(1)], old_epoch)
    assert bank.edit_ids() == []
    commit(bank, [small_row(1)], new_epoch)
    assert bank.num_edits() == 1


def test_an_unclaimed_epoch_cannot_commit(bank: ExpertBank) -> None:
    with pytest.raises(WriterFencedError, match="no writer ever claimed epoch 1"):
        commit(bank, [small_row(1)], 1)


@pytest.mark.parametrize("column", ["down_RD", "up_RD", "visual_feature_QM", "prompt_feature_QM"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_never_written(
    bank: ExpertBank, column: str, bad: float
) -> None:
    row = small_row(1)
    getattr(row.expert, column)[1, 2] = bad
    with pytest.raises(NumericsError, match=f"edit {row.expert.edit_id}: {column} holds NaN"):
        bank.fragment_writer().write([small_row(2), row])


def test_an_embedding_that_is_not_finite_or_of_another_width_is_never_written(
    bank: ExpertBank,
) -> None:
    row = small_row(1)
    broken = row.clip_embedding.copy()
    broken[0] = np.nan
    with pytest.raises(NumericsError, match="clip_embedding holds NaN"):
        bank.fragment_writer().write([dataclasses.replace(row, clip_embedding=broken)])
    with pytest.raises(ShapeError, match="has 4 numbers, the bank stores 5"):
        bank.fragment_writer().write([dataclasses.replace(row, clip_embedding=broken[1:])])


def test_another_identity_is_refused_field_by_field(bank: ExpertBank, store: ObjectStore) -> None:
    other = dataclasses.replace(SMALL_IDENTITY, generator_digest="newer", edit_layer=9)
    with pytest.raises(RepositoryMismatchError) as caught:
        ExpertBank.open_or_create(store, "main", other)
    assert "generator_digest is 'generator' there, 'newer' here" in caught.value.message
    assert "edit_layer is 5 there, 9 here" in caught.value.message
    assert "backbone_digest" not in caught.value.message
    assert ExpertBank.open(store, bank.name).identity == SMALL_IDENTITY


def test_a_generator_of_other_sizes_cannot_load_it(bank: ExpertBank) -> None:
    with pytest.raises(RepositoryMismatchError, match="has rank 3, the generator has 2"):
        bank.load_repository(SMALL_CONFIG.with_changes(rank=2))


def test_open_of_a_bank_that_is_not_there(store: ObjectStore) -> None:
    with pytest.raises(IntegrityError, match="there is no bank 'none'"):
        ExpertBank.open(store, "none")
