"""Images that are alike are found across the whole bank."""

from pathlib import Path

import numpy as np
import pytest

from infra.bank.expert_bank import ExpertBank
from infra.bank.schema import ExpertRow
from infra.storage.object_store import ObjectStore
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.method.expert import Expert
from pipelines.editing.report import similar_edits
from tests.unit.tiny_inputs import request
from tests.unit.tiny_models import IDENTITY, TinyModels
from workers.generator_worker import GeneratorWorker
from workers.messages import NumberedRequest

ANGLES = [0.0, 0.1, 1.5, 1.55, 3.0]


@pytest.fixture
def bank(tmp_path: Path) -> ExpertBank:
    """Five edits whose images point into known directions."""
    bank = ExpertBank.open_or_create(ObjectStore(tmp_path), "test", IDENTITY)
    requests = [NumberedRequest(sequence=n + 1, request=request(n)) for n in range(5)]
    batch = GeneratorWorker(TinyModels(), InputLimits()).generate(requests)
    rows = [
        row(item.expert, n, angle)
        for n, (item, angle) in enumerate(zip(batch.experts, ANGLES, strict=True))
    ]
    bank.commit(bank.fragment_writer().write(rows), epoch=bank.acquire_writer())
    return bank


def row(expert: Expert, number: int, angle: float) -> ExpertRow:
    direction = np.array([np.cos(angle), np.sin(angle), 0, 0, 0, 0], dtype=np.float32)
    return ExpertRow(
        expert=expert,
        sequence=number + 1,
        subject_id=request(number).subject_id,
        clip_embedding=direction,
    )


def test_alike_images_are_found_once_most_alike_first(bank: ExpertBank) -> None:
    pairs = similar_edits(bank, bank.edit_ids(), min_similarity=0.99)
    ids = bank.edit_ids()
    assert [(pair.first, pair.second) for pair in pairs] == [(ids[2], ids[3]), (ids[0], ids[1])]
    assert [pair.similarity for pair in pairs] == pytest.approx([np.cos(0.05), np.cos(0.1)])


def test_only_pairs_with_an_edit_of_this_run_count(bank: ExpertBank) -> None:
    ids = bank.edit_ids()
    pairs = similar_edits(bank, [ids[0]], min_similarity=0.99)
    assert [(pair.first, pair.second) for pair in pairs] == [(ids[0], ids[1])]
    assert similar_edits(bank, [], min_similarity=0.99) == []
