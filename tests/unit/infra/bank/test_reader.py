"""A version as tensors: where its matrices are changes memory, not one number."""

import pickle
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from infra.bank.expert_bank import ExpertBank
from infra.bank.integrity import verify_version
from infra.bank.policy import MatrixPlace
from infra.bank.reader import StoredColumn
from infra.bank.schema import ExpertRow, prompt_features
from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table
from liveedit_core.errors import IntegrityError, ShapeError
from tests.random_states import random_expert
from tests.small_rows import SMALL_CONFIG, SMALL_IDENTITY, small_row
from workers.messages import SharedRepository


@pytest.fixture
def bank(store: ObjectStore) -> ExpertBank:
    """Rows in several fragments, out of order, and some that are gone."""
    bank = ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
    epoch = bank.acquire_writer()
    writer = bank.fragment_writer()
    for numbers in ((5, 3, 9), (1, 2, 8), (7,), (4, 6)):
        bank.commit(writer.write([small_row(n, f"flag {n}") for n in numbers]), epoch=epoch)
    newer = [small_row(10 + n, f"flag {n}", "no") for n in (3, 6)]
    bank.commit(writer.write(newer), epoch=epoch)
    return bank


@pytest.mark.parametrize("place", ["auto", "resident", "on_demand"])
def test_every_row_is_that_of_its_edit(bank: ExpertBank, place: MatrixPlace) -> None:
    repository = bank.load_repository(SMALL_CONFIG, matrices=place)
    kept = [small_row(n, f"flag {n}") for n in (1, 2, 4, 5, 7, 8, 9)]
    kept += [small_row(10 + n, f"flag {n}", "no") for n in (3, 6)]
    assert list(repository.edit_ids) == [row.expert.edit_id for row in kept]
    for n, row in enumerate(kept):
        vectors = row.vectors()
        assert np.array_equal(repository.visual_features_NK[n], vectors["visual_feature"])
        assert np.array_equal(repository.prompt_features_NK[n], vectors["prompt_feature"])
    index = torch.tensor([8, 0, 3, 0])
    down, up = repository.matrices(index)
    experts = [kept[n].expert for n in index.tolist()]
    assert len({expert.rank for expert in experts}) > 1
    assert torch.equal(down, torch.cat([expert.down_RD for expert in experts]))
    assert torch.equal(up, torch.cat([expert.up_RD for expert in experts]))
    assert repository.ranks_N.tolist() == [row.expert.rank for row in kept]
    assert isinstance(repository.down, StoredColumn) == (place == "on_demand")


def test_what_is_read_on_demand_is_of_the_pinned_version(bank: ExpertBank) -> None:
    repository = bank.load_repository(SMALL_CONFIG, matrices="on_demand")
    down = pickle.loads(pickle.dumps(repository.down))
    newer = bank.fragment_writer().write([small_row(20, "flag 1", "no"), small_row(21)])
    bank.commit(newer, epoch=bank.acquire_writer())
    resident = bank.load_repository(SMALL_CONFIG, bank.version - 1, matrices="resident")
    assert torch.equal(down[torch.arange(9)], resident.down_LD)
    assert down[torch.tensor([], dtype=torch.int64)].shape == (0, 6)


def test_a_file_that_is_gone_is_an_integrity_error(bank: ExpertBank, store: ObjectStore) -> None:
    repository = bank.load_repository(SMALL_CONFIG, matrices="on_demand")
    for key in bank.file_keys(bank.version):
        store.delete(key)
    with pytest.raises(IntegrityError):
        repository.matrices(torch.tensor([0, 8]))


def test_an_empty_version_has_no_matrices(store: ObjectStore) -> None:
    bank = ExpertBank.open_or_create(store, "empty", SMALL_IDENTITY)
    repository = bank.load_repository(SMALL_CONFIG, matrices="on_demand")
    assert len(repository) == 0
    assert repository.down_LD.shape == (0, 6)


def test_what_is_read_on_demand_is_not_sent_to_other_processes(bank: ExpertBank) -> None:
    on_demand = bank.load_repository(SMALL_CONFIG, matrices="on_demand")
    sent = pickle.loads(pickle.dumps(SharedRepository.of(on_demand))).repository()
    assert isinstance(sent.down, StoredColumn)
    resident = bank.load_repository(SMALL_CONFIG, matrices="resident")
    assert torch.equal(sent.visual_features_NK, resident.visual_features_NK)
    assert torch.equal(sent.up_LD, resident.up_LD)


def row_with_prompt(sequence: int, prompt: Sequence[float]) -> ExpertRow:
    """The row of a sequence number, whose prompt feature is these numbers and zeros."""
    row = small_row(sequence)
    feature_QM = torch.zeros_like(row.expert.prompt_feature_QM)
    feature_QM.view(-1)[: len(prompt)] = torch.tensor(prompt)
    return replace(row, expert=replace(row.expert, prompt_feature_QM=feature_QM))


def test_prompt_features_are_stored_without_the_zeros_at_their_end(store: ObjectStore) -> None:
    """And are read with them, bit for bit: also a negative zero, and one between other numbers."""
    bank = ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
    rows = [
        row_with_prompt(1, [1.0, 2.0]),
        row_with_prompt(2, []),
        row_with_prompt(3, [0.0, 3.0, -0.0]),
        row_with_prompt(4, range(1, 9)),
        row_with_prompt(5, [5.0]),
    ]
    writer, epoch = bank.fragment_writer(), bank.acquire_writer()
    for part in (rows[:1], rows[1:3], rows[3:]):
        bank.commit(writer.write(part), epoch=epoch)
    lengths = bank.load_rows(["prompt_feature"]).column(0).combine_chunks().value_lengths()
    assert lengths.to_pylist() == [2, 0, 3, 8, 1]
    repository = bank.load_repository(SMALL_CONFIG)
    expected = torch.stack([row.expert.prompt_feature_QM.flatten() for row in rows])
    stored = prompt_features(bank.load_rows(["prompt_feature"]), bank.identity)
    for found in (
        repository.prompt_features_NK,
        repository.prompt[torch.arange(5)],
        repository.take(range(5)).prompt_features_NK,
        torch.from_numpy(np.stack(stored)),
    ):
        assert torch.equal(found.view(torch.int32), expected.view(torch.int32))
    assert verify_version(bank).is_whole


def bank_from_before(store: ObjectStore) -> ExpertBank:
    """A bank whose experts all have the rank of its identity, in lists of one length."""
    old = replace(SMALL_IDENTITY, has_own_ranks=False, has_cut_prompts=False)
    table = Table.open_or_create(store, "banks/old", old.schema())
    assert "rank" not in table.schema.names
    return ExpertBank.open_or_create(store, "old", SMALL_IDENTITY)


def row_of_rank(sequence: int, rank: int) -> ExpertRow:
    row = small_row(sequence)
    expert = replace(random_expert(sequence, SMALL_CONFIG, rank), edit_id=row.expert.edit_id)
    return replace(row, expert=expert)


@pytest.mark.parametrize("place", ["resident", "on_demand"])
def test_a_bank_from_before_grows_in_its_own_columns(
    store: ObjectStore, place: MatrixPlace
) -> None:
    bank = bank_from_before(store)
    rows = [row_of_rank(n, SMALL_CONFIG.rank) for n in (2, 1, 3)]
    bank.commit(bank.fragment_writer().write(rows), epoch=bank.acquire_writer())
    assert bank.dataset().schema.field("expert_up").type.list_size == 3 * 6
    assert bank.dataset().schema.field("prompt_feature").type.list_size == 8
    repository = bank.load_repository(SMALL_CONFIG, matrices=place)
    assert repository.ranks_N.tolist() == [3, 3, 3]
    expected = torch.cat([rows[n].expert.up_RD for n in (1, 0, 2)])
    assert torch.equal(repository.up_LD, expected)
    assert verify_version(bank).is_whole
    with pytest.raises(ShapeError, match=r"rank 2, .* all have rank 3"):
        bank.fragment_writer().write([row_of_rank(4, 2)])


def test_an_expert_costs_its_own_rank_on_disk(store: ObjectStore) -> None:
    sizes = {}
    for rank in (1, 300):
        bank = ExpertBank.open_or_create(store, f"rank-{rank}", SMALL_IDENTITY)
        rows = [row_of_rank(n, 1) for n in range(1, 50)] + [row_of_rank(50, rank)]
        bank.commit(bank.fragment_writer().write(rows), epoch=bank.acquire_writer())
        sizes[rank] = sum(len(store.get(key)) for key in bank.file_keys(bank.version))
    numbers = 2 * 4 * 299 * SMALL_CONFIG.hidden_size
    assert numbers <= sizes[300] - sizes[1] < 1.5 * numbers
