"""Per-probe results come back exactly, and a replayed evaluation doubles nothing."""

import dataclasses

import pytest

from infra.object_store import ObjectStore
from infra.results import ResultsTable
from liveedit_core.metrics import ProbeResult
from liveedit_core.schema import ProbeKind


def result(case: str, probe_index: int = 0, protocol: str = "teacher_forced") -> ProbeResult:
    return ProbeResult(
        case_id=case,
        edit_id=f"edit of {case}",
        probe_index=probe_index,
        kind=ProbeKind.MODAL_LOCALITY,
        protocol=protocol,
        score=1 / 3,
        target="Zürich",
        answer_before="Bern",
        answer_after="Zürich",
        kept=("a", "b"),
        weights=(0.1, 0.9),
        own_expert_kept=True,
    )


@pytest.fixture
def results(store: ObjectStore) -> ResultsTable:
    return ResultsTable(store, "run-1")


def test_read_returns_what_was_appended(results: ResultsTable) -> None:
    rows = [result("x"), dataclasses.replace(result("y"), kept=(), weights=())]
    assert results.append(rows, bank_version=3, num_edits=10) == 2
    assert results.read() == rows
    assert results.read()[0].kind is ProbeKind.MODAL_LOCALITY


def test_a_result_is_one_per_version_number_case_probe_and_protocol(results: ResultsTable) -> None:
    rows = [result("x"), result("x", 1), result("x", 0, "free_generation"), result("x")]
    assert results.append(rows, bank_version=3, num_edits=10) == 3
    assert results.append(rows, bank_version=3, num_edits=10) == 0
    assert results.append([*rows, result("y")], bank_version=3, num_edits=10) == 1
    assert results.append(rows, bank_version=4, num_edits=10) == 3
    assert results.append(rows, bank_version=4, num_edits=20) == 3
    assert results.checkpoints() == [(3, 10), (4, 10), (4, 20)]
    assert len(results.read(bank_version=4)) == 6
    assert len(results.read(num_edits=10)) == 7
    assert results.read(bank_version=3, num_edits=20) == []


def test_runs_are_separate_and_arrow_has_every_column(
    results: ResultsTable, store: ObjectStore
) -> None:
    results.append([result("x")], bank_version=3, num_edits=10)
    assert ResultsTable(store, "run-2").read() == []
    (row,) = ResultsTable(store, "run-1").to_arrow().to_pylist()
    expected = {**dataclasses.asdict(result("x")), "bank_version": 3, "num_edits": 10}
    assert row == {**expected, "kept": ["a", "b"], "weights": [0.1, 0.9]}
