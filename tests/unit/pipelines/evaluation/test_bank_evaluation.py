"""A bank version has one set of numbers, whatever the batch size, the order and crashes."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest

from infra.bank.expert_bank import ExpertBank
from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table
from infra.tracking.results import EvaluationKey, ResultsTable
from liveedit_core.errors import RepositoryMismatchError, StorageUnavailableError
from liveedit_core.evaluation.probes import FREE_GENERATION, PROTOCOLS, TEACHER_FORCED, ProbeResult
from liveedit_core.evaluation.scoring import CaseScorer
from liveedit_core.method.config import DEFAULT_BUDGET
from liveedit_core.method.editor import Editor
from liveedit_core.schema import Case, ProbeKind
from pipelines.evaluation import bank_evaluation
from pipelines.evaluation.bank_evaluation import (
    BankEvaluation,
    EvaluationSettings,
    EvaluationTask,
    evaluate_bank_version,
    lifelong_curves,
    plan_evaluation,
    wanted_by,
)
from pipelines.evaluation.case_groups import max_groups
from pipelines.job.stages import Evaluator
from tests.inline_evaluator import InlineEvaluator
from tests.tiny_backbone import case
from tests.tiny_bank import SmallModels, bank_with_edits
from tests.unit.tiny_inputs import case as text_case
from tests.unit.tiny_models import TinyModels
from workers.evaluation_worker import EvaluationWorker
from workers.messages import EvaluationUnit, ScoredUnit, StoredVersion

CASES = [case(seed) for seed in range(19)]
SETTINGS = EvaluationSettings(free_generation_cases=5)
NUM_RESULTS = (19 + 5) * 8
MODELS = SmallModels()


@dataclass
class Bench:
    """A bank and evaluations of it."""

    store: ObjectStore
    bank: ExpertBank

    def evaluate(self, evaluator: Evaluator, run: str, *, num_cases: int = 19) -> BankEvaluation:
        return evaluate_bank_version(
            store=self.store,
            bank=self.bank,
            version=self.bank.version,
            cases=CASES[:num_cases],
            settings=SETTINGS,
            pool=evaluator,
            run=run,
        )


UNIT_CASES = 8


@pytest.fixture(scope="module", autouse=True)
def small_units() -> Iterator[None]:
    """Few cases make several units."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bank_evaluation, "UNIT_CASES", UNIT_CASES)
        yield


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    store = ObjectStore(tmp_path_factory.mktemp("store"))
    return Bench(store, bank_with_edits(store, MODELS, CASES))


def inline(batch_size: int = 16) -> InlineEvaluator:
    return InlineEvaluator(EvaluationWorker(MODELS, batch_size=batch_size, max_new_tokens=4))


@pytest.fixture(scope="module")
def undisturbed(bench: Bench) -> BankEvaluation:
    return bench.evaluate(inline(), "undisturbed")


def without_weights(results: Sequence[ProbeResult]) -> list[ProbeResult]:
    """With another batch size weights differ in their last bits; nothing else may."""
    return [replace(result, weights=(), own_weight=0.0) for result in results]


def test_every_probe_has_its_result(undisturbed: BankEvaluation) -> None:
    assert undisturbed.is_complete
    assert len(undisturbed.results) == undisturbed.num_new_results == NUM_RESULTS
    assert (undisturbed.num_edits, undisturbed.num_cases) == (19, 19)
    assert len({result.score for result in undisturbed.results}) > 2
    for kind in (probe.kind for probe in CASES[0].all_probes()):
        for protocol, num_samples in zip(PROTOCOLS, (19, 5), strict=True):
            metric = undisturbed.summary[kind, protocol]
            assert metric.num_samples == num_samples
            assert metric.interval.low <= metric.mean <= metric.interval.high
    certain = undisturbed.summary[ProbeKind.TEXT_LOCALITY, TEACHER_FORCED]
    assert (certain.mean, certain.empty_fraction) == (1.0, 1.0)


def test_the_budget_is_that_of_the_version_if_the_filter_follows_one(
    bench: Bench, undisturbed: BankEvaluation
) -> None:
    assert undisturbed.budget is None
    config = MODELS.load_generator().config.with_changes(
        visual_filter="runner_up", visual_rank=8, visual_gate=0.0, nearest_sentinels=1
    )
    results = ResultsTable(bench.store, "budget")
    task = EvaluationTask(bench.bank, results, CASES, SETTINGS, version=2, num_edits=19)
    task.start(inline(), config)
    assert task.evaluation().budget == DEFAULT_BUDGET


def test_the_same_call_again_computes_nothing(bench: Bench, undisturbed: BankEvaluation) -> None:
    again = bench.evaluate(inline(), "undisturbed")
    assert again == replace(undisturbed, num_new_results=0, seconds=0.0)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_batch_size_changes_no_score(
    bench: Bench, undisturbed: BankEvaluation, batch_size: int
) -> None:
    other = bench.evaluate(inline(batch_size), f"batches of {batch_size}")
    assert without_weights(other.results) == without_weights(undisturbed.results)


class Disturbed(InlineEvaluator):
    """Scores units in another order, and crashes after some of them."""

    def __init__(self, num_units: int, seed: int) -> None:
        super().__init__(EvaluationWorker(MODELS, max_new_tokens=4))
        self._num_units = num_units
        self._draw = random.Random(seed)

    def submit(self, version: StoredVersion, units: Sequence[EvaluationUnit]) -> None:
        super().submit(version, self._draw.sample(units, len(units)))

    def collect(self, *, wait: bool) -> list[ScoredUnit]:
        if self._num_units == 0:
            raise StorageUnavailableError("killed")
        self._num_units -= 1
        return super().collect(wait=wait)


def test_results_are_committed_every_few_seconds_not_for_each_unit(bench: Bench) -> None:
    num_units: list[int] = []
    done = evaluate_bank_version(
        store=bench.store,
        bank=bench.bank,
        version=2,
        cases=CASES,
        settings=SETTINGS,
        pool=inline(),
        run="few commits",
        on_progress=lambda num_done, total: num_units.append(total),
    )
    table = Table(bench.store, "results/few commits")
    assert done.is_complete
    assert num_units[-1] == 3
    assert table.latest().version == 3, "created, the first unit, the rest"


@pytest.mark.parametrize("seed", range(2))
def test_after_a_crash_the_numbers_are_those_of_an_undisturbed_run(
    bench: Bench, undisturbed: BankEvaluation, seed: int
) -> None:
    run = f"killed {seed}"
    for _ in range(2):
        with pytest.raises(StorageUnavailableError):
            bench.evaluate(Disturbed(1, seed), run)
    last = bench.evaluate(Disturbed(-1, seed), run)
    assert 0 < last.num_new_results < NUM_RESULTS
    assert last.results == undisturbed.results, "including the weights"
    assert last.summary == undisturbed.summary


def test_a_unit_that_is_stored_in_part_is_completed(
    bench: Bench, undisturbed: BankEvaluation
) -> None:
    key = EvaluationKey(bank="main", bank_version=bench.bank.version, num_edits=19)
    ResultsTable(bench.store, "in part").append(undisturbed.results[-3:], key)
    done = bench.evaluate(inline(), "in part")
    assert done.num_new_results == NUM_RESULTS - 3
    assert done.results == undisturbed.results


def test_a_stop_leaves_an_incomplete_evaluation_that_says_so(bench: Bench) -> None:
    stopped = evaluate_bank_version(
        store=bench.store,
        bank=bench.bank,
        version=bench.bank.version,
        cases=CASES,
        settings=SETTINGS,
        pool=inline(),
        run="stopped",
        should_stop=lambda: bool(ResultsTable(bench.store, "stopped").read()),
    )
    assert not stopped.is_complete
    assert 0 < len(stopped.results) < NUM_RESULTS


def test_other_models_than_the_banks_are_refused(bench: Bench) -> None:
    with pytest.raises(RepositoryMismatchError, match="backbone_digest tiny"):
        bench.evaluate(InlineEvaluator(EvaluationWorker(TinyModels())), "other models")


def test_a_curve_counts_every_case_at_each_number_of_edits(bench: Bench) -> None:
    forced = EvaluationSettings(protocols=(TEACHER_FORCED,))
    curve = lifelong_curves(
        results=ResultsTable(bench.store, "curve"),
        bank=bench.bank,
        version=bench.bank.version,
        cases=[*CASES, case(99)],
        settings=forced,
        pool=inline(),
        sizes=(1, 5, 1000),
    )
    assert [point.num_edits for point in curve] == [1, 5, 19]
    whole = bench.bank.load_repository(MODELS.load_generator().config)
    editor = Editor(MODELS.load_backbone(), MODELS.load_generator(), whole)
    scorer = CaseScorer(editor)
    for point in curve:
        expected = []
        for start in range(0, 19, point.num_edits):
            part = range(start, min(start + point.num_edits, 19))
            prepared = scorer.prepare([CASES[i] for i in part])
            expected += scorer.score(prepared, whole.take(part))
        assert without_weights(point.results) == without_weights(expected)
    assert all(len(result.kept) <= 1 for result in curve[0].results)


def test_each_edit_is_asked_when_it_was_the_last_one_taught(bench: Bench) -> None:
    forced = EvaluationSettings(protocols=(TEACHER_FORCED,))
    results = ResultsTable(bench.store, "retention")
    points = lifelong_curves(
        results=results,
        bank=bench.bank,
        version=bench.bank.version,
        cases=CASES,
        settings=forced,
        pool=inline(),
        sizes=(1, 5),
    )
    whole = bench.bank.load_repository(MODELS.load_generator().config)
    editor = Editor(MODELS.load_backbone(), MODELS.load_generator(), whole)
    scorer = CaseScorer(editor)
    expected = []
    for number in range(19):
        first = number - number % 5
        prepared = scorer.prepare([replace(CASES[number], probes=())])
        expected += scorer.score(prepared, whole.take(range(first, number + 1)))
    key = EvaluationKey(bank="main", bank_version=bench.bank.version, num_edits=5, group_size=-5)
    assert without_weights(results.read(key)) == without_weights(expected)
    assert points[0].retention == {}
    item = points[1].retention[TEACHER_FORCED]
    followed = [n for n in range(19) if n not in (4, 9, 14, 18)]  # not the last of a group
    assert item.right_after == pytest.approx(sum(expected[n].score for n in followed) / 15)
    last = [r for r in points[1].results if r.kind is ProbeKind.RELIABILITY]
    assert item.after_all == pytest.approx(sum(last[n].score for n in followed) / 15)
    assert item.difference.num_samples == 15


def test_an_evaluation_says_how_it_is_measured(bench: Bench, undisturbed: BankEvaluation) -> None:
    key = EvaluationKey(bank="main", bank_version=bench.bank.version, num_edits=19)
    stored = ResultsTable(bench.store, "undisturbed").comparable_group(key)
    assert stored == undisturbed.comparable_group
    assert stored is not None
    assert (stored.edits, stored.prompts) == ("whole bank", "chat")
    assert stored.backbone == bench.bank.identity.backbone_digest
    assert ResultsTable(bench.store, "never run").comparable_group(key) is None
    other = bench.evaluate(inline(), "fewer", num_cases=9).comparable_group
    assert other is not None
    assert other.cases != stored.cases


def test_a_curve_of_some_cases_says_how_many_edits_its_groups_really_hold(bench: Bench) -> None:
    curve = lifelong_curves(
        results=ResultsTable(bench.store, "curve of some"),
        bank=bench.bank,
        version=bench.bank.version,
        cases=CASES,
        settings=EvaluationSettings(protocols=(TEACHER_FORCED,), max_cases=4),
        pool=inline(),
        sizes=(1, 10, 1000),
    )
    assert [(point.num_edits, point.num_cases) for point in curve] == [(1, 4), (4, 4)]


def test_earlier_edits_that_the_bank_lost_belong_to_no_group(bench: Bench) -> None:
    lost, kept = replace(CASES[0].edit, target="replaced"), CASES[0].edit
    corrected = [CASES[0], replace(CASES[1], earlier=(lost, kept))]

    def scored(cases: Sequence[Case], run: str) -> list[ProbeResult]:
        (point,) = lifelong_curves(
            results=ResultsTable(bench.store, run),
            bank=bench.bank,
            version=bench.bank.version,
            cases=cases,
            settings=EvaluationSettings(protocols=(TEACHER_FORCED,)),
            pool=inline(),
            sizes=(2,),
        )
        return list(point.results)

    assert scored(corrected, "corrected") == scored(CASES[:2], "plain")


PLANNED = [text_case(number) for number in range(21)]
PROBES_PLANNED = 4


def test_a_plan_wants_every_probe_once_including_the_last_unit() -> None:
    plan = plan_evaluation(PLANNED, EvaluationSettings(free_generation_cases=0))
    assert [len(unit.cases) for unit in plan.units] == [UNIT_CASES, UNIT_CASES, 5]
    assert len(set(plan.wanted)) == len(plan.wanted) == 21 * PROBES_PLANNED * 2


def test_free_generation_is_planned_for_the_drawn_cases_only() -> None:
    plan = plan_evaluation(PLANNED, EvaluationSettings(free_generation_cases=6))
    free = {case_id for case_id, _, protocol in plan.wanted if protocol == FREE_GENERATION}
    assert len(free) == 6
    forced = [key for key in plan.wanted if key[2] == TEACHER_FORCED]
    assert len(forced) == 21 * PROBES_PLANNED
    other = plan_evaluation(PLANNED, EvaluationSettings(free_generation_cases=6, seed=1))
    assert free != {key[0] for key in other.wanted if key[2] == FREE_GENERATION}


def test_what_is_drawn_does_not_depend_on_the_order_of_cases() -> None:
    settings = EvaluationSettings(max_cases=9, free_generation_cases=4)
    shuffled = random.Random(0).sample(PLANNED, len(PLANNED))
    assert set(plan_evaluation(shuffled, settings).wanted) == set(
        plan_evaluation(PLANNED, settings).wanted
    )


def test_a_unit_with_anything_missing_is_scored_again_whole() -> None:
    plan = plan_evaluation(PLANNED, EvaluationSettings(free_generation_cases=0))
    missing = {wanted_by(plan.units[1])[3]}
    assert plan.units_for(missing) == [plan.units[1]]
    assert plan.units_for(set()) == []


def test_right_after_an_edit_only_it_and_those_before_it_count() -> None:
    plan = plan_evaluation(PLANNED, EvaluationSettings(free_generation_cases=0), group_size=-10)
    groups = [group for unit in plan.units for group in unit.groups]
    edits = [item.edit.edit_id for item in PLANNED]
    assert groups[0] == (edits[0],)
    assert groups[9] == tuple(edits[:10])
    assert groups[20] == (edits[20],)
    assert {index for _, index, _ in plan.wanted} == {0}
    whole = plan_evaluation(PLANNED, EvaluationSettings(free_generation_cases=0), group_size=10)
    assert not {unit.key for unit in plan.units} & {unit.key for unit in whole.units}


@pytest.mark.parametrize(("size", "num_groups"), [(1, 21), (10, 3), (21, 1)])
def test_groups_hold_all_cases_and_the_last_one_the_rest(size: int, num_groups: int) -> None:
    settings = EvaluationSettings(protocols=(TEACHER_FORCED,))
    plan = plan_evaluation(PLANNED, settings, group_size=size)
    groups = [group for unit in plan.units for group in unit.groups]
    assert len(set(groups)) == num_groups
    for item, group in zip(PLANNED, groups, strict=True):
        assert item.edit.edit_id in group
    assert len(plan.wanted) == 21 * PROBES_PLANNED


def test_small_numbers_of_edits_take_a_hundred_groups_and_large_ones_all() -> None:
    sizes = (1, 9, 10, 11, 50, 100, 101, 1000)
    assert [max_groups(size) for size in sizes] == [100, 100, 100, 90, 20, 10, 0, 0]


@pytest.mark.parametrize(("size", "num_groups"), [(1, 100), (10, 100), (100, 10), (300, 4)])
def test_a_curve_draws_whole_groups_of_many_cases(size: int, num_groups: int) -> None:
    cases = [text_case(number) for number in range(1105)]

    def groups(seed: int) -> list[tuple[str, ...]]:
        settings = EvaluationSettings(protocols=(TEACHER_FORCED,), seed=seed)
        plan = plan_evaluation(cases, settings, group_size=size)
        taught = [group for unit in plan.units for group in unit.groups]
        for item, group in zip(plan.cases, taught, strict=True):
            assert item.edit.edit_id in group
        return list(dict.fromkeys(taught))

    drawn = groups(0)
    assert len(drawn) == num_groups
    assert drawn == groups(0)
    if size <= 100:
        assert {len(group) for group in drawn} == {size}
        assert drawn != groups(1)
    else:
        assert sum(map(len, drawn)) == 1105
