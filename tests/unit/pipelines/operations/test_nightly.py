"""A night is done once, whatever kills it on the way; what it finds is tied to the versions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from infra.bank.manifest import BankManifest
from infra.storage.lease import Lease
from infra.tracking.evaluation_log import EvaluationLog
from infra.tracking.model_registry import BANK_MODEL
from infra.tracking.results import ResultsTable
from liveedit_core.errors import ConfigError, InputError, IntegrityError, StorageUnavailableError
from pipelines.job.stages import Evaluator
from pipelines.nightly_evaluation import say_outcome
from pipelines.operations.nightly import NightBusyError
from tests.inline_evaluator import InlineEvaluator
from tests.unit.tiny_operations import InlineEvaluators, Operations, some_cases
from workers.messages import ScoredUnit

CASES = some_cases(1, 9)
"""Two pieces of work."""


@dataclass
class CountingEvaluators(InlineEvaluators):
    """Counts pieces of work, and dies after some."""

    dies_after: int = 1000
    num_scored: int = 0

    def of(self, manifest: BankManifest, generator: Path) -> Evaluator:
        evaluator = super().of(manifest, generator)
        assert isinstance(evaluator, InlineEvaluator)
        collect = evaluator.collect

        def counted(*, wait: bool) -> list[ScoredUnit]:
            if self.num_scored == self.dies_after:
                raise StorageUnavailableError("killed")
            self.num_scored += 1
            return collect(wait=wait)

        evaluator.collect = counted  # type: ignore[method-assign]
        return evaluator


def results_of(operations: Operations, run: str) -> Sequence[object]:
    return sorted(
        ResultsTable(operations.operations_store, run).read(),
        key=lambda item: (item.case_id, item.probe_index),
    )


def test_nothing_registered_is_an_error_that_says_what_to_do(operations: Operations) -> None:
    with pytest.raises(InputError, match=r"lifelong_edit\.py registers them"):
        operations.night("2026-11-24", CASES)


def test_a_killed_night_goes_on_and_ends_with_the_numbers_of_an_undisturbed_one(
    operations: Operations,
) -> None:
    operations.teach(CASES[:4])
    operations.night("undisturbed", CASES)
    dying = CountingEvaluators(dies_after=1)
    with pytest.raises(StorageUnavailableError, match="killed"):
        replace(operations.make_night("killed"), evaluators=dying).examine(lambda: CASES)
    operations.teach(CASES[4:])  # registered meanwhile: the night keeps its plan
    rest = CountingEvaluators()
    result = replace(operations.make_night("killed"), evaluators=rest).examine(lambda: CASES)
    assert result.outcome is not None
    assert result.outcome.newest == 1
    assert (dying.num_scored, rest.num_scored) == (1, 1)
    assert results_of(operations, "nightly-killed-v1") == results_of(
        operations, "nightly-undisturbed-v1"
    )


def test_a_second_call_says_done_and_does_nothing(
    operations: Operations, capsys: pytest.CaptureFixture[str]
) -> None:
    operations.teach(CASES[:4])
    first = operations.night("2026-11-24", CASES)
    idle = CountingEvaluators(dies_after=0)
    second = replace(operations.make_night("2026-11-24"), evaluators=idle).examine(lambda: CASES)
    assert (first.was_done, second.was_done) == (False, True)
    assert second.outcome == first.outcome
    assert say_outcome(second, "2026-11-24", operations.root) == 0
    assert capsys.readouterr().out.startswith("done: the night 2026-11-24 was finished at")


def test_a_night_that_another_process_is_at_is_left_to_it(operations: Operations) -> None:
    operations.teach(CASES[:4])
    lease = Lease(operations.operations_store, "nights/nightly/2026-11-24", term_s=60.0)
    lease.acquire()
    with pytest.raises(NightBusyError, match=r"process \d+ on .* is at the night 2026-11-24"):
        operations.night("2026-11-24", CASES)
    lease.release()
    assert operations.night("2026-11-24", CASES).outcome is not None


def test_a_night_waits_for_its_turn_as_long_as_it_may(operations: Operations) -> None:
    operations.teach(CASES[:4])
    lease = Lease(operations.operations_store, "nights/nightly/n", term_s=60.0)
    lease.acquire()
    slept: list[float] = []
    night = replace(operations.make_night("n", "lease.wait_s=20"), sleep=slept.append)
    with pytest.raises(NightBusyError):
        night.examine(lambda: CASES)
    assert sum(slept) == 20.0
    turn = replace(night, sleep=lambda _: lease.release())
    assert turn.examine(lambda: CASES).outcome is not None


def test_a_night_cannot_be_resumed_with_other_cases(operations: Operations) -> None:
    operations.teach(CASES[:4])
    night = replace(operations.make_night("n"), evaluators=CountingEvaluators(dies_after=1))
    with pytest.raises(StorageUnavailableError):
        night.examine(lambda: CASES)
    for cases, overrides in ((CASES[1:], ()), (CASES, ("seed=3",))):
        with pytest.raises(ConfigError, match="began with other cases or evaluation settings"):
            operations.night("n", cases, *overrides)


def test_a_stopped_night_is_not_done(operations: Operations) -> None:
    operations.teach(CASES[:4])
    result = replace(operations.make_night("n"), should_stop=lambda: True).examine(lambda: CASES)
    assert result.outcome is None
    assert EvaluationLog(operations.operations_store, BANK_MODEL).newest_of(1) is None
    assert operations.night("n", CASES).outcome is not None


def test_a_damaged_version_is_not_examined(operations: Operations) -> None:
    operations.teach(CASES[:4])
    shard = next(Path(operations.store.table_uri("banks/main")).glob("data/*"))
    shard.unlink()
    with pytest.raises(
        IntegrityError, match=f"liveedit-bank 1 is damaged.*{shard.name} is missing"
    ):
        operations.night("2026-11-24", CASES)


def test_metrics_are_tied_to_the_versions_and_pages_are_written(operations: Operations) -> None:
    first = operations.teach(CASES[:4])
    operations.versions.set_alias(BANK_MODEL, "champion", first.version)
    second = operations.teach(CASES[4:])
    result = operations.night("2026-11-24", CASES)
    assert result.outcome is not None
    assert (result.outcome.newest, result.outcome.champion) == (second.version, first.version)
    client = MlflowClient(operations.versions.tracking_uri)
    models = [client.get_logged_model(item.model_id) for item in (first, second)]
    old, new = ({item.key: item for item in model.metrics or []} for model in models)
    assert new["modal_locality.teacher_forced"].step == 9
    assert old["champion.modal_locality.teacher_forced"].step == 4
    assert "difference.modal_locality.teacher_forced" in new
    run = client.get_run(result.outcome.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert (run.data.tags["night"], run.data.tags["champion_version"]) == ("2026-11-24", "1")
    names = {item.path for item in client.list_artifacts(result.outcome.mlflow_run_id)}
    assert {"newest.html", "champion.html", "comparison.html", "figures"} <= names


def test_accuracy_is_compared_where_the_champion_holds_the_edit(operations: Operations) -> None:
    first = operations.teach(CASES[:4])
    operations.versions.set_alias(BANK_MODEL, "champion", first.version)
    operations.teach(CASES[4:6])
    operations.night("2026-11-24", CASES)
    record = EvaluationLog(operations.operations_store, BANK_MODEL).newest_of(2)
    assert record is not None
    assert record.champion is not None
    assert set(record.compared) == {case.case_id for case in CASES[:4]}
    assert set(record.newest.held) == {case.case_id for case in CASES[:6]}
    assert record.newest.num_results == sum(len(case.all_probes()) for case in CASES)
