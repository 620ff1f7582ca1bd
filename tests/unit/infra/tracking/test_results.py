"""Per-probe results come back exactly, and a replayed evaluation doubles nothing."""

import dataclasses

import pyarrow as pa
import pytest

from infra.storage import upkeep
from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table
from infra.tracking import results as results_module
from infra.tracking.results import EvaluationKey, ResultsTable
from liveedit_core.errors import IntegrityError, LiveEditError, StorageUnavailableError
from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.schema import ProbeKind
from tests.unit.tiny_results import probe_result

KEY = EvaluationKey(bank="main", bank_version=3, num_edits=10)


def result(case: str, probe_index: int = 0, protocol: str = "teacher_forced") -> ProbeResult:
    return probe_result(
        case,
        kind=ProbeKind.MODAL_LOCALITY,
        protocol=protocol,
        probe_index=probe_index,
        score=1 / 3,
        kept=("a", f"own of {case}"),
        weights=(0.9, 0.1),
    )


@pytest.fixture
def results(store: ObjectStore) -> ResultsTable:
    return ResultsTable(store, "run-1")


def test_the_files_of_many_commits_are_merged_and_indexed(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_FEW_ROWS", 20)
    results = ResultsTable(store, "run-1")
    other = dataclasses.replace(KEY, bank_version=4)
    results.append([result("of another version")], other)
    rows = [result(f"case {number}") for number in range(130)]
    for row in rows:
        assert results.append([row], KEY) == 1
        assert results.append([row], KEY) == 0
    assert results.read(KEY) == rows, "in the order of writing"
    assert results.read(other) == [result("of another version")]
    newest = Table(store, "results/run-1").latest()
    assert len(newest.get_fragments()) < 70
    assert [index.name for index in newest.describe_indices()] == ["bank_version_index"]


@pytest.mark.parametrize("error", [StorageUnavailableError, IntegrityError])
def test_a_merge_that_fails_costs_no_result(
    results: ResultsTable, monkeypatch: pytest.MonkeyPatch, error: type[LiveEditError]
) -> None:
    def fail(*_: object) -> None:
        raise error("the disk is full")

    monkeypatch.setattr(results_module, "_MERGE_EVERY", 1)
    monkeypatch.setattr(results_module, "merge_small", fail)
    assert results.append([result("x")], KEY) == 1
    assert results.read() == [result("x")]


def test_read_returns_what_was_appended(results: ResultsTable) -> None:
    rows = [result("x"), probe_result("y"), result("z's")]
    assert results.append(rows, KEY) == 3
    assert results.read() == rows
    assert results.read()[0].kind is ProbeKind.MODAL_LOCALITY


def test_a_result_is_one_per_evaluation_case_probe_and_protocol(results: ResultsTable) -> None:
    rows = [result("x"), result("x", 1), result("x", 0, "free_generation"), result("x")]
    others = [
        dataclasses.replace(KEY, bank="it's another"),
        dataclasses.replace(KEY, bank_version=4),
        dataclasses.replace(KEY, num_edits=20),
        dataclasses.replace(KEY, group_size=10),
    ]
    assert results.append(rows, KEY) == 3
    assert results.append(rows, KEY) == 0
    assert results.append([*rows, result("y")], KEY) == 1
    assert [results.append(rows, key) for key in others] == [3, 3, 3, 3]
    assert set(results.evaluations()) == {KEY, *others}
    assert [len(results.read(key)) for key in (KEY, *others)] == [4, 3, 3, 3, 3]
    assert results.read(dataclasses.replace(KEY, num_edits=7)) == []


def test_two_writers_of_one_evaluation_double_nothing(store: ObjectStore) -> None:
    first, second = ResultsTable(store, "run"), ResultsTable(store, "run")
    assert first.append([result("x")], KEY) == 1
    assert second.append([result("x"), result("y")], KEY) == 1
    assert first.append([result("y"), result("z")], KEY) == 1
    assert [row.case_id for row in first.read(KEY)] == ["x", "y", "z"]


def test_runs_are_separate_and_the_table_has_every_column(
    results: ResultsTable, store: ObjectStore
) -> None:
    results.append([result("x")], KEY)
    assert ResultsTable(store, "run-2").read() == []
    (row,) = Table(store, "results/run-1").latest().to_table().to_pylist()
    expected = {**dataclasses.asdict(result("x")), **dataclasses.asdict(KEY)}
    assert row == {**expected, "kept": ["a", "own of x"], "weights": [0.9, 0.1]}


def test_a_table_with_other_columns_is_refused(store: ObjectStore) -> None:
    Table.open_or_create(store, "results/old", pa.schema([pa.field("case_id", pa.string())]))
    with pytest.raises(IntegrityError, match="another run name"):
        ResultsTable(store, "old")
