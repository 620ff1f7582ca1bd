"""Compaction and reading on demand on a real S3 server."""

from datetime import UTC, datetime, timedelta

import pytest
import torch

from infra.bank.compaction import Compaction
from infra.bank.expert_bank import ExpertBank
from infra.bank.integrity import verify_version
from infra.bank.policy import GrowthPolicy
from infra.storage.object_store import ObjectStore
from liveedit_core.errors import IntegrityError
from tests.small_rows import SMALL_CONFIG, SMALL_IDENTITY, row_of


def test_a_bank_on_s3_is_merged_cleaned_up_and_read_on_demand(s3_root: str) -> None:
    store = ObjectStore(s3_root)
    bank = ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
    epoch = bank.acquire_writer()
    writer = bank.fragment_writer()
    versions = []
    for start in range(1, 13, 3):
        fragments = [text for n in range(start, start + 3) for text in writer.write([row_of(n)])]
        versions.append(bank.commit(fragments, epoch=epoch))
    bank.versions.tag("first", versions[0])
    expected = bank.load_repository(SMALL_CONFIG, versions[-1])

    policy = GrowthPolicy(keep_versions=1, keep_days=0.0)
    later = datetime.now(UTC) + timedelta(hours=1)
    report = Compaction(store, bank.name, policy).run(now=later)

    assert (report.fragments_before, report.fragments_after) == (4, 1)
    assert set(versions[1:-1]) < set(report.versions_removed)
    assert bank.num_edits(versions[0]) == 3
    with pytest.raises(IntegrityError):
        bank.num_edits(versions[1])
    assert [record.version for record in bank.history()] == versions
    verified = verify_version(bank)
    assert verified.is_whole, list(verified.lines())
    assert verified.unchecked_files == []
    found = ExpertBank.open(store, "main").load_repository(SMALL_CONFIG, matrices="on_demand")
    assert found.edit_ids == expected.edit_ids
    assert torch.equal(found.visual_features_NK, expected.visual_features_NK)
    index = torch.tensor([11, 0, 5])
    for mine, theirs in zip(found.matrices(index), expected.matrices(index), strict=True):
        assert torch.equal(mine, theirs)
