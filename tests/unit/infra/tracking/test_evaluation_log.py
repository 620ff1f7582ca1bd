"""The newest record of a version is the one that counts."""

from dataclasses import replace

import pytest

from infra.storage.object_store import ObjectStore
from infra.tracking.evaluation_log import EvaluatedBank, EvaluationLog, EvaluationRecord
from liveedit_core.errors import IntegrityError

NEWEST = EvaluatedBank(
    version=7,
    bank="main",
    bank_version=12,
    num_edits=200,
    backbone_digest="b",
    generator_digest="g",
    run="nightly-2026-11-25-v7",
    num_results=1600,
    held=("case-1", "case-2"),
)
RECORD = EvaluationRecord(
    evaluated_at="2026-11-25T02:00:00+00:00",
    mlflow_run_id="run",
    newest=NEWEST,
    champion=replace(NEWEST, version=5, bank_version=8),
    compared=("case-1",),
)


def test_the_newest_evaluation_counts(store: ObjectStore) -> None:
    log = EvaluationLog(store, "liveedit-bank")
    later = replace(RECORD, evaluated_at="2026-11-26T01:00:00+00:00", champion=None)
    for record in (later, RECORD):
        log.add(record)
    assert log.newest_of(7) == later
    assert log.newest_of(5) is None


def test_a_damaged_record_is_noticed(store: ObjectStore) -> None:
    log = EvaluationLog(store, "liveedit-bank")
    log.add(RECORD)
    (key,) = store.list("evaluations/")
    store.put(key, b'{"newest": {}}')
    with pytest.raises(IntegrityError, match="is not an evaluation record"):
        log.newest_of(7)
