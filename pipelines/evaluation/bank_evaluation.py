"""The evaluation of one pinned bank version: planned, scored by a pool, stored as it comes.

    cases --plan--> units --evaluator--> results --append--> results/<run> --read--> BankEvaluation
                      ^ without those whose results the table already holds

The table decides what is left to do, and units are cut from all cases of the evaluation, so that
repeating the call after a crash gives the numbers of an undisturbed run.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from infra.bank.expert_bank import ExpertBank
from infra.bank.policy import MatrixPlace
from infra.reports.data import EvaluatedVersion
from infra.storage.object_store import ObjectStore
from infra.tracking.results import EvaluationKey, ResultsTable
from liveedit_core.backbones.load_options import PromptProtocol
from liveedit_core.errors import RepositoryMismatchError
from liveedit_core.evaluation.comparable import ComparableGroup, cases_identity
from liveedit_core.evaluation.probes import FREE_GENERATION, PROTOCOLS, ProbeResult, ResultKey
from liveedit_core.evaluation.retention import Retention, retention
from liveedit_core.evaluation.scope import ScopeSummary, scope_classes
from liveedit_core.evaluation.summaries import (
    LabelSummary,
    Summary,
    summarize,
    summarize_all_tags,
    summarize_variants,
)
from liveedit_core.inputs.limits import MAX_TARGET_TOKENS
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.schema import Case, entity_of
from pipelines.evaluation.case_groups import draw_groups, drawn_case_ids, groups_of, last_of_groups
from pipelines.job.stages import Evaluator
from workers.failures import retried
from workers.messages import CaseLoader, EvaluationUnit, GeneratorFacts, ScoredUnit, StoredVersion

UNIT_CASES = 50
"""Cases of a unit: about 35 seconds of a core for the built-in backbone. With fewer there are few
rows in each step of a free answer, which then takes as long for a quarter of the answers."""
_COMMIT_EVERY_S = 5.0
"""Results of so many seconds are computed again after a crash."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How many cases are evaluated, and how."""

    protocols: tuple[str, ...] = PROTOCOLS
    max_cases: int = 0
    """Upper bound; drawn by the seed. 0: all."""
    free_generation_cases: int = 0
    """Upper bound for free generation. 0: all."""
    seed: int = 0
    """Of the draws and of the bootstrap intervals."""
    matrices: MatrixPlace = "auto"
    """Where an actor keeps the matrices of the experts; changes memory, not results."""
    benchmark: str = "cases"
    """What the cases are called in a comparable group."""
    prompts: PromptProtocol = "chat"
    """By which prompt protocol the evaluator's backbone was loaded."""
    max_new_tokens: int = MAX_TARGET_TOKENS
    """Longest free answer of the evaluator, in tokens."""


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """All units of an evaluation."""

    cases: tuple[Case, ...]
    units: tuple[EvaluationUnit, ...]

    @property
    def wanted(self) -> list[ResultKey]:
        """Keys of all results, in order."""
        return [key for unit in self.units for key in wanted_by(unit)]

    def units_for(self, missing: Collection[ResultKey]) -> list[EvaluationUnit]:
        """The whole units that give any of the missing results."""
        return [unit for unit in self.units if any(key in missing for key in wanted_by(unit))]


@dataclass(frozen=True, kw_only=True)
class BankEvaluation(EvaluatedVersion):
    """A bank version evaluated on some cases, with its results in the order of the cases."""

    run: str
    num_cases: int
    summary: Summary
    num_new_results: int
    """Rows that this process added."""
    seconds: float
    """Time that workers spent on them."""
    by_variant: LabelSummary = field(default_factory=dict)
    """Metrics by variant of the probes, for those that state it."""
    by_tag: Mapping[str, LabelSummary] = field(default_factory=dict)
    """Metrics by value of each of `TABLE_TAGS` that cases have."""
    scope: ScopeSummary = field(default_factory=dict)
    refused: Sequence[Rejected] = ()
    """Probes that the backbone cannot take; they have no results."""
    num_groups: int = 1
    """More than 1 on a lifelong curve, whose groups hold `num_edits`; the last may be smaller."""
    retention: Mapping[str, Retention] = field(default_factory=dict)
    """By protocol, at the points of a lifelong curve beyond one edit."""


def plan_evaluation(
    cases: Sequence[Case],
    settings: EvaluationSettings,
    *,
    group_size: int = 0,
    load: CaseLoader | None = None,
) -> EvaluationPlan:
    """Choose cases by their edits and the seed, and cut them into units. `group_size` 0 evaluates
    each case against the whole bank version. Otherwise the cases are taken in groups of this size,
    of which the seed draws `max_groups`, and each is evaluated against the edits of its group
    alone. Below 0, groups have minus this size, and the edits alone are asked, each against its
    group up to and including it."""
    drawn = drawn_case_ids(cases, settings.max_cases, settings.seed)
    chosen = [case for case in cases if case.case_id in drawn]
    groups: list[tuple[str, ...]] = []
    if group_size:
        chosen = draw_groups(chosen, abs(group_size), settings.seed)
        groups = groups_of(chosen, group_size)
    if group_size < 0:
        chosen = [replace(case, probes=()) for case in chosen]
    free = drawn_case_ids(chosen, settings.free_generation_cases, settings.seed)
    units = []
    for start in range(0, len(chosen), UNIT_CASES):
        part = tuple(chosen[start : start + UNIT_CASES])
        free_ids = tuple(case.case_id for case in part if case.case_id in free)
        protocols = tuple(
            name for name in settings.protocols if name != FREE_GENERATION or free_ids
        )
        if protocols:
            units.append(
                EvaluationUnit(
                    cases=part,
                    protocols=protocols,
                    free_case_ids=free_ids,
                    groups=tuple(groups[start : start + UNIT_CASES]),
                    load=load,
                )
            )
    return EvaluationPlan(cases=tuple(chosen), units=tuple(units))


def wanted_by(unit: EvaluationUnit) -> list[ResultKey]:
    """Keys of the results that a unit gives."""
    return [
        (case.case_id, index, protocol)
        for case in unit.cases
        for protocol in unit.protocols
        if protocol != FREE_GENERATION or case.case_id in unit.free_case_ids
        for index in range(len(case.all_probes()))
    ]


class EvaluationTask:
    """One evaluation in progress; used by the driver."""

    def __init__(
        self,
        bank: ExpertBank,
        results: ResultsTable,
        cases: Sequence[Case],
        settings: EvaluationSettings,
        *,
        version: int,
        num_edits: int,
        group_size: int = 0,
        load: CaseLoader | None = None,
    ) -> None:
        """Plan the evaluation (see `plan_evaluation`) and look up what is left to do. `load` gives
        cases their images, if they have none."""
        self.key = EvaluationKey(
            bank=bank.name, bank_version=version, num_edits=num_edits, group_size=group_size
        )
        self._bank = bank
        self._results = results
        self._settings = settings
        self._plan = plan_evaluation(cases, settings, group_size=group_size, load=load)
        self.comparable_group = ComparableGroup(
            benchmark=settings.benchmark,
            cases=cases_identity(self._plan.cases),
            prompts=settings.prompts,
            backbone=bank.identity.backbone_digest,
            edits=_edits_asked(group_size),
            max_new_tokens=settings.max_new_tokens,
        )
        self._wanted = dict.fromkeys(self._plan.wanted)
        stored = {result.key for result in results.read(self.key)}
        self._missing: set[ResultKey] = set(self._wanted) - stored
        self._budget: float | None = None
        self._num_new = 0
        self._refused: dict[tuple[str, int], Rejected] = {}
        self._unstored: list[ProbeResult] = []
        self._stored_at_s = -math.inf
        self._seconds = 0.0
        self.num_units = len(self._plan.units_for(self._missing))
        """Units that were left to do at the start."""
        self.num_units_done = 0

    @property
    def is_over(self) -> bool:
        """Whether all units have come back."""
        return self.num_units_done == self.num_units

    def start(self, evaluator: Evaluator, config: GeneratorConfig) -> None:
        """Submit what is left to do; `config` is that of the evaluator's generator."""
        if config.visual_filter == "runner_up":
            self._budget = self._bank.versions.false_activation_at(self.key.bank_version)
        units = self._plan.units_for(self._missing)
        if units:
            retried(lambda: self._results.set_comparable_group(self.key, self.comparable_group))
            version = StoredVersion(
                store=self._bank.store,
                bank=self._bank.name,
                version=self.key.bank_version,
                matrices=self._settings.matrices,
            )
            evaluator.submit(version, units)

    def run(
        self,
        pool: Evaluator,
        *,
        on_progress: Callable[[int, int], None],
        should_stop: Callable[[], bool],
    ) -> BankEvaluation:
        """Run to the end; the pool does nothing else meanwhile."""
        facts = pool.describe()
        check_models(self._bank, facts)
        self.start(pool, facts.config)
        try:
            on_progress(self.num_units_done, self.num_units)
            while not self.is_over and not should_stop():
                self.store(pool.collect(wait=True))
                on_progress(self.num_units_done, self.num_units)
        finally:
            pool.drop()
            self.flush()
        return self.evaluation()

    def store(self, scored: Sequence[ScoredUnit]) -> None:
        """Take the results of scored units; they are committed every few seconds."""
        new = [result for unit in scored for result in unit.results if result.key in self._missing]
        self._unstored += new
        self._missing -= {result.key for result in new}
        for unit in scored:
            for probe in unit.refused:
                self._refused[probe.case_id, probe.probe_index] = probe.reason
        if any(unit.refused for unit in scored):  # not every time: there may be many keys
            self._missing = {key for key in self._missing if key[:2] not in self._refused}
        self._seconds += sum(unit.prepare_s + unit.score_s for unit in scored)
        self.num_units_done += len(scored)
        if self.is_over or time.monotonic() - self._stored_at_s >= _COMMIT_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Commit the results that are not stored yet."""
        if self._unstored:
            self._num_new += retried(lambda: self._results.append(self._unstored, self.key))
            self._unstored = []
        self._stored_at_s = time.monotonic()

    def evaluation(self) -> BankEvaluation:
        """The results that the store holds of this evaluation."""
        stored = {result.key: result for result in self._results.read(self.key)}
        results = tuple(stored[key] for key in self._wanted if key in stored)
        cases, seed = self._plan.cases, self._settings.seed
        entities = entity_of(cases)
        return BankEvaluation(
            bank=self.key.bank,
            bank_version=self.key.bank_version,
            num_edits=self.key.num_edits,
            run=self._results.run,
            num_cases=len(cases),
            num_groups=-(-len(cases) // abs(self.key.group_size)) if self.key.group_size else 1,
            results=results,
            summary=summarize(results, entities, seed=seed),
            by_variant=summarize_variants(results, cases, seed=seed),
            by_tag=summarize_all_tags(results, cases, seed=seed),
            scope=scope_classes(results, entities, seed=seed),
            is_complete=not self._missing,
            comparable_group=self.comparable_group,
            budget=self._budget,
            refused=tuple(self._refused.values()),
            num_new_results=self._num_new,
            seconds=self._seconds,
        )


def evaluate_bank_version(
    *,
    store: ObjectStore,
    bank: ExpertBank,
    version: int,
    cases: Sequence[Case],
    settings: EvaluationSettings,
    pool: Evaluator,
    run: str,
    load: CaseLoader | None = None,
    on_progress: Callable[[int, int], None] = lambda num_done, num_units: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> BankEvaluation:
    """Evaluate a pinned bank version, or resume where an earlier call ended. `cases` have a fixed
    order, also when resumed; those whose edits the version does not hold are evaluated too; `load`
    gives them their images, if they have none. Once `should_stop` is true, the evaluation returned
    is incomplete."""
    results, num_edits = ResultsTable(store, run), bank.num_edits(version)
    task = EvaluationTask(
        bank, results, cases, settings, version=version, num_edits=num_edits, load=load
    )
    return task.run(pool, on_progress=on_progress, should_stop=should_stop)


def lifelong_curves(
    *,
    results: ResultsTable,
    bank: ExpertBank,
    version: int,
    cases: Sequence[Case],
    settings: EvaluationSettings,
    pool: Evaluator,
    sizes: Sequence[int],
    load: CaseLoader | None = None,
    on_progress: Callable[[int, int], None] = lambda num_done, num_units: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[BankEvaluation]:
    """Evaluate the cases that the version holds after each number of edits N, or resume: in groups
    of N, each case against the edits of its group, as an expert depends on its own request alone. A
    number beyond the cases evaluated stands for all of them. Of groups of up to 100 edits there are
    at most `max_groups`. Beyond one edit, each edit is also asked as the last one taught."""
    edit_ids = set(bank.edit_ids(version))
    held = [
        # Earlier edits that were refused, replaced or removed belong to no group.
        replace(case, earlier=tuple(one for one in case.earlier if one.edit_id in edit_ids))
        for case in cases
        if case.edit.edit_id in edit_ids
    ]
    # Groups are cut from the evaluated cases, so no group can hold more edits than those.
    num_evaluated = min(len(held), settings.max_cases or len(held))

    def evaluate(size: int, group_size: int) -> BankEvaluation:
        task = EvaluationTask(
            bank,
            results,
            held,
            settings,
            version=version,
            num_edits=size,
            group_size=group_size,
            load=load,
        )
        return task.run(pool, on_progress=on_progress, should_stop=should_stop)

    curve: list[BankEvaluation] = []
    for size in sorted({min(size, num_evaluated) for size in sizes} - {0}):
        point = evaluate(size, size)
        if size > 1 and not should_stop():
            right_after = evaluate(size, -size).results
            drawn = plan_evaluation(held, settings, group_size=size).cases
            kept = retention(
                right_after,
                point.results,
                entity_of(held),
                seed=settings.seed,
                last=last_of_groups(drawn, size),
            )
            point = replace(point, retention=kept)
        curve.append(point)
        if should_stop():
            break
    return curve


def check_models(bank: ExpertBank, facts: GeneratorFacts) -> None:
    """Refuse to evaluate a bank with other models than it was made with."""
    for name in ("backbone_digest", "generator_digest"):
        wanted, found = getattr(bank.identity, name), getattr(facts, name)
        if wanted != found:
            raise RepositoryMismatchError(
                f"bank {bank.name!r} was made with {name} {wanted}, the evaluation has {found}; "
                "name the backbone and generator of the bank in the recipe, and the prompts that "
                "its edits were taught with (benchmark.protocol)"
            )


def _edits_asked(group_size: int) -> str:
    """Against which edits probes are asked, for people."""
    if group_size == 0:
        return "whole bank"
    noun = "edit" if abs(group_size) == 1 else "edits"
    groups = f"groups of {abs(group_size)} {noun}"
    return groups if group_size > 0 else f"{groups}, right after each"
