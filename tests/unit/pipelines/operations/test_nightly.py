"""A nightly run is done once, however often it is killed; its metrics belong to the versions."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from infra.bank.manifest import BankManifest
from infra.storage.lease import Lease
from infra.tracking.evaluation_log import EvaluationLog
from infra.tracking.model_registry import BANK_MODEL
from infra.tracking.results import ResultsTable
from liveedit_core.errors import ConfigError, InputError, IntegrityError, StorageUnavailableError
from liveedit_core.schema import Case, ProbeKind
from pipelines.evaluation import bank_evaluation
from pipelines.job.stages import Evaluator
from pipelines.nightly_evaluation import print_outcome
from pipelines.operations.nightly import NightlyRunBusyError
from tests.inline_evaluator import InlineEvaluator
from tests.unit.tiny_operations import LAX, InlineEvaluators, Operations, some_cases
from workers.messages import EvaluationUnit, ScoredUnit, StoredVersion

CASES = some_cases(1, 9)
"""Two evaluation units."""


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_evaluation, "UNIT_CASES", 8)


@dataclass
class CountingEvaluators(InlineEvaluators):
    """Counts evaluation units, and fails after some."""

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


@dataclass
class WatchedEvaluators(InlineEvaluators):
    """Notes the cases that are sent and those that are scored, as another process gets them."""

    sent: list[Case] = field(default_factory=list)
    scored: list[Case] = field(default_factory=list)

    def of(self, manifest: BankManifest, generator: Path) -> Evaluator:
        evaluator = super().of(manifest, generator)
        submit = evaluator.submit

        def noted(version: StoredVersion, units: Sequence[EvaluationUnit]) -> None:
            units = [pickle.loads(pickle.dumps(unit)) for unit in units]
            self.sent += [case for unit in units for case in unit.cases]
            self.scored += [case for unit in units for case in unit.loaded().cases]
            submit(version, units)

        evaluator.submit = noted  # type: ignore[method-assign]
        return evaluator


def test_images_are_neither_kept_nor_sent(operations: Operations) -> None:
    operations.teach(CASES)
    evaluators = WatchedEvaluators()
    night = replace(operations.make_nightly("2026-11-24"), evaluator_of=evaluators.of)
    result = night.run(lambda: iter(CASES))
    assert result.outcome is not None
    assert not any(
        item.image_bytes for case in evaluators.sent for item in [*case.all_probes(), *case.probes]
    )
    assert evaluators.scored == list(CASES)
    assert operations.operations_store.list("cases/") == []
    page = (night.recipe.run_folder / "2026-11-24" / "newest.html").read_text()
    assert "data:image" in page


def test_nothing_registered_is_an_error_that_says_what_to_do(operations: Operations) -> None:
    with pytest.raises(InputError, match=r"lifelong_edit\.py registers them"):
        operations.nightly("2026-11-24", CASES)


def test_a_killed_run_resumes_and_ends_with_the_numbers_of_an_uninterrupted_one(
    operations: Operations,
) -> None:
    operations.teach(CASES[:4])
    operations.nightly("uninterrupted", CASES)
    dying = CountingEvaluators(dies_after=1)
    with pytest.raises(StorageUnavailableError, match="killed"):
        replace(operations.make_nightly("killed"), evaluator_of=dying.of).run(lambda: CASES)
    operations.teach(CASES[4:])  # registered meanwhile: the run keeps its plan
    rest = CountingEvaluators()
    result = replace(operations.make_nightly("killed"), evaluator_of=rest.of).run(lambda: CASES)
    assert result.outcome is not None
    assert result.outcome.newest == 1
    assert (dying.num_scored, rest.num_scored) == (1, 1)
    assert results_of(operations, "nightly-killed-v1") == results_of(
        operations, "nightly-uninterrupted-v1"
    )


def test_a_second_call_says_done_and_does_nothing(
    operations: Operations, capsys: pytest.CaptureFixture[str]
) -> None:
    operations.teach(CASES[:4])
    first = operations.nightly("2026-11-24", CASES)
    idle = CountingEvaluators(dies_after=0)
    second = replace(operations.make_nightly("2026-11-24"), evaluator_of=idle.of).run(lambda: CASES)
    assert (first.was_done, second.was_done) == (False, True)
    assert second.outcome == first.outcome
    assert print_outcome(second, "2026-11-24", operations.root) == 0
    assert capsys.readouterr().out.startswith("done: the nightly run 2026-11-24 was finished at")


def test_a_run_that_another_process_works_on_is_refused(operations: Operations) -> None:
    operations.teach(CASES[:4])
    lease = Lease(operations.operations_store, "nights/nightly/2026-11-24", term_s=60.0)
    lease.acquire()
    with pytest.raises(
        NightlyRunBusyError, match=r"process \d+ on .* works on the nightly run 2026-11-24"
    ):
        operations.nightly("2026-11-24", CASES)
    lease.release()
    assert operations.nightly("2026-11-24", CASES).outcome is not None


def test_a_run_waits_for_the_lease_as_long_as_the_recipe_allows(operations: Operations) -> None:
    operations.teach(CASES[:4])
    lease = Lease(operations.operations_store, "nights/nightly/n", term_s=60.0)
    lease.acquire()
    slept: list[float] = []
    nightly = replace(operations.make_nightly("n", "lease.wait_s=20"), sleep=slept.append)
    with pytest.raises(NightlyRunBusyError):
        nightly.run(lambda: CASES)
    assert sum(slept) == 20.0
    turn = replace(nightly, sleep=lambda _: lease.release())
    assert turn.run(lambda: CASES).outcome is not None


def test_a_run_cannot_be_resumed_with_other_cases(operations: Operations) -> None:
    operations.teach(CASES[:4])
    nightly = replace(
        operations.make_nightly("n"), evaluator_of=CountingEvaluators(dies_after=1).of
    )
    with pytest.raises(StorageUnavailableError):
        nightly.run(lambda: CASES)
    for cases, overrides in ((CASES[1:], ()), (CASES, ("seed=3",))):
        with pytest.raises(ConfigError, match="began with other cases or evaluation settings"):
            operations.nightly("n", cases, *overrides)


def test_a_stopped_run_is_not_done(operations: Operations) -> None:
    operations.teach(CASES[:4])
    result = replace(operations.make_nightly("n"), should_stop=lambda: True).run(lambda: CASES)
    assert result.outcome is None
    assert EvaluationLog(operations.operations_store, BANK_MODEL).newest_of(1) is None
    assert operations.nightly("n", CASES).outcome is not None


def test_a_damaged_version_is_not_evaluated(operations: Operations) -> None:
    operations.teach(CASES[:4])
    shard = next(Path(operations.store.table_uri("banks/main")).glob("data/*"))
    shard.unlink()
    with pytest.raises(
        IntegrityError, match=f"liveedit-bank 1 is damaged.*{shard.name} is missing"
    ):
        operations.nightly("2026-11-24", CASES)


def test_metrics_are_tied_to_the_versions_and_pages_are_written(operations: Operations) -> None:
    first = operations.teach(CASES[:4])
    operations.make_champion(first.version)
    second = operations.teach(CASES[4:])
    result = operations.nightly("2026-11-24", CASES)
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


class StrictEvaluators(InlineEvaluators):
    """Say that their visual filter follows a budget, although it is the paper's."""

    def of(self, manifest: BankManifest, generator: Path) -> Evaluator:
        evaluator = super().of(manifest, generator)
        facts = evaluator.describe()
        config = facts.config.with_changes(
            visual_source="tower_pyramid", visual_size=8, visual_rank=8, visual_filter="runner_up"
        )
        strict = replace(facts, config=config)
        evaluator.describe = lambda: strict  # type: ignore[method-assign]
        return evaluator


@pytest.mark.parametrize(("budget", "code"), [(0.01, 3), (0.5, 0)])
def test_false_activations_stand_beside_the_budget_of_the_version(
    operations: Operations, capsys: pytest.CaptureFixture[str], budget: float, code: int
) -> None:
    operations.bank.calibrate(budget, author="anna", reason="", epoch=operations.epoch)
    operations.teach(CASES)
    nightly = replace(operations.make_nightly("2026-11-24"), evaluator_of=StrictEvaluators().of)
    result = nightly.run(lambda: CASES)
    assert result.outcome is not None
    assert print_outcome(result, "2026-11-24", operations.root) == code
    record = EvaluationLog(operations.operations_store, BANK_MODEL).newest_of(1)
    assert record is not None
    assert record.newest.budget == budget
    swapped = [
        item
        for item in ResultsTable(operations.operations_store, record.newest.run).read()
        if item.kind is ProbeKind.IMAGE_SWAP_LOCALITY
    ]
    share = sum(bool(item.kept) for item in swapped) / len(swapped)
    kept = f"budget {100 * budget:g} %, measured {100 * share:.1f} % (n = 9)"
    assert (kept in capsys.readouterr().err) == (code == 3)
    run = MlflowClient(operations.versions.tracking_uri).get_run(result.outcome.mlflow_run_id)
    assert run.data.metrics["false_activations.budget"] == budget
    assert run.data.metrics["false_activations.measured"] == pytest.approx(share)
    page = (operations.root / "nightly" / "2026-11-24" / "newest.html").read_text()
    assert kept in page
    decision = operations.promoter(*LAX).promote()
    assert decision.refusals == () if code == 0 else kept in decision.refusals[0]


def test_accuracy_is_compared_where_the_champion_holds_the_edit(operations: Operations) -> None:
    first = operations.teach(CASES[:4])
    operations.make_champion(first.version)
    operations.teach(CASES[4:6])
    operations.nightly("2026-11-24", CASES)
    record = EvaluationLog(operations.operations_store, BANK_MODEL).newest_of(2)
    assert record is not None
    assert record.champion is not None
    assert set(record.compared) == {case.case_id for case in CASES[:4]}
    assert set(record.newest.held) == {case.case_id for case in CASES[:6]}
    assert record.newest.num_results == sum(len(case.all_probes()) for case in CASES)
