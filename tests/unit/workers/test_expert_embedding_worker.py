"""Experts become rows that a commit shows, with their image embeddings."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from infra.bank.expert_bank import ExpertBank
from infra.storage.object_store import ObjectStore
from liveedit_core.inputs.limits import InputLimits
from tests.unit.tiny_inputs import HashEmbedder, image, request
from tests.unit.tiny_models import IDENTITY, TinyModels
from workers.expert_embedding_worker import ExpertEmbeddingWorker
from workers.generator_worker import GeneratorWorker
from workers.messages import GeneratedBatch, NumberedRequest


class BlindEmbedder(HashEmbedder):
    """Cannot embed the first image."""

    def embed(self, images: list[bytes]) -> npt.NDArray[np.float32]:
        matrix = super().embed(images)
        matrix[[data == image(0) for data in images]] = np.nan
        return matrix


@pytest.fixture
def bank(tmp_path: Path) -> ExpertBank:
    return ExpertBank.open_or_create(ObjectStore(tmp_path), "test", IDENTITY)


@pytest.fixture(scope="module")
def batch() -> GeneratedBatch:
    worker = GeneratorWorker(TinyModels(), InputLimits())
    requests = [NumberedRequest(sequence=n + 1, request=request(n)) for n in range(5)]
    return worker.generate(requests)


def test_rows_appear_with_the_commit(bank: ExpertBank, batch: GeneratedBatch) -> None:
    worker = ExpertEmbeddingWorker(HashEmbedder, batch_size=2)
    written, asked = worker.write(batch, bank.fragment_writer())
    assert [item.edit_id for item in asked] == [item.expert.edit_id for item in batch.experts]
    assert written.num_experts == 5
    assert written.last_sequence == 5
    assert bank.num_edits() == 0
    bank.commit(written.fragments, epoch=bank.acquire_writer())
    rows = bank.load_rows(["edit_id", "clip_embedding"])
    assert rows.column("edit_id").to_pylist() == [item.expert.edit_id for item in batch.experts]
    stored = np.array(rows.column("clip_embedding").to_pylist())
    expected = HashEmbedder().embed([image(number) for number in range(5)])
    np.testing.assert_allclose(stored, expected, rtol=1e-6)


def test_an_embedding_with_nan_is_refused_alone(bank: ExpertBank, batch: GeneratedBatch) -> None:
    written, _ = ExpertEmbeddingWorker(BlindEmbedder).write(batch, bank.fragment_writer())
    (refusal,) = written.rejected
    assert refusal.edit_id == request(0).edit_id
    assert refusal.error_type == "NumericsError"
    assert written.num_experts == 4


def test_nothing_to_write_is_an_answer_too(bank: ExpertBank) -> None:
    empty = GeneratedBatch(experts=(), rejected=(), last_sequence=7, duration_s=0.0)
    written, _ = ExpertEmbeddingWorker(HashEmbedder).write(empty, bank.fragment_writer())
    assert (written.fragments, written.last_sequence) == ((), 7)
