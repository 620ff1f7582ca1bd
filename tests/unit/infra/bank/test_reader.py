"""A version as tensors: where its matrices are changes memory, not one number."""

import pickle

import numpy as np
import pytest
import torch

from infra.bank.expert_bank import ExpertBank
from infra.bank.policy import MatrixPlace
from infra.bank.reader import StoredColumn
from infra.storage.object_store import ObjectStore
from liveedit_core.errors import IntegrityError
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
    for position, n in enumerate(index.tolist()):
        assert torch.equal(down[position], kept[n].expert.down_RD)
        assert torch.equal(up[position], kept[n].expert.up_RD)
    assert isinstance(repository.down, StoredColumn) == (place == "on_demand")


def test_what_is_read_on_demand_is_of_the_pinned_version(bank: ExpertBank) -> None:
    repository = bank.load_repository(SMALL_CONFIG, matrices="on_demand")
    down = pickle.loads(pickle.dumps(repository.down))
    newer = bank.fragment_writer().write([small_row(20, "flag 1", "no"), small_row(21)])
    bank.commit(newer, epoch=bank.acquire_writer())
    resident = bank.load_repository(SMALL_CONFIG, bank.version - 1, matrices="resident")
    assert torch.equal(down[torch.arange(9)], resident.down_NRD)
    assert down[torch.tensor([], dtype=torch.int64)].shape == (0, 3, 6)


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
    assert repository.down_NRD.shape == (0, 3, 6)


def test_what_is_read_on_demand_is_not_sent_to_other_processes(bank: ExpertBank) -> None:
    on_demand = bank.load_repository(SMALL_CONFIG, matrices="on_demand")
    sent = pickle.loads(pickle.dumps(SharedRepository.of(on_demand))).repository()
    assert isinstance(sent.down, StoredColumn)
    resident = bank.load_repository(SMALL_CONFIG, matrices="resident")
    assert torch.equal(sent.visual_features_NK, resident.visual_features_NK)
    assert torch.equal(sent.up_NRD, resident.up_NRD)
