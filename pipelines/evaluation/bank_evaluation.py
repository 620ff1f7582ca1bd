"""The evaluation of one pinned bank version: planned, scored by a pool, stored as it comes.

    cases --plan--> units --evaluator--> results --append--> results/<run> --read--> BankEvaluation
                      ^ those whose results the table holds already are left out

What the table holds decides what is left to do, so the same call after any death ends with the
numbers of an undisturbed one. `evaluate_bank_version` waits for the end; the editing job drives
several `EvaluationTask`s beside its own work.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from infra.bank.expert_bank import ExpertBank
from infra.bank.matrix_place import MatrixPlace
from infra.storage.object_store import ObjectStore
from infra.tracking.results import EvaluationKey, ResultKey, ResultsTable, result_key
from liveedit_core.errors import RepositoryMismatchError
from liveedit_core.evaluation.probes import FREE_GENERATION, PROTOCOLS, ProbeResult
from liveedit_core.evaluation.summaries import HopSummary, Summary, summarize, summarize_hops
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.schema import Case
from pipelines.job.stages import Evaluator
from workers.failures import retried
from workers.messages import EvaluationUnit, GeneratorFacts, ScoredUnit

UNIT_CASES = 8
"""Cases of one piece of work: about a second or two of a core for the built-in backbone."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How much of the cases is asked, and how."""

    protocols: tuple[str, ...] = PROTOCOLS
    max_cases: int = 0
    """So many cases at most, drawn by the seed; 0 takes all."""
    free_generation_cases: int = 100
    """Free generation is slow: so many of them at most; 0 takes all."""
    seed: int = 0
    """Of what is drawn, and of the bootstrap intervals."""
    matrices: MatrixPlace = "auto"
    """Where an actor keeps the matrices of the experts; changes memory, no result."""


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """All that an evaluation asks."""

    cases: tuple[Case, ...]
    units: tuple[EvaluationUnit, ...]

    @property
    def wanted(self) -> list[ResultKey]:
        """Keys of all results, in order."""
        return [key for unit in self.units for key in wanted_by(unit)]

    def units_for(self, missing: Collection[ResultKey]) -> list[EvaluationUnit]:
        """The pieces of work that some of the missing results come from, whole."""
        return [unit for unit in self.units if any(key in missing for key in wanted_by(unit))]


def plan_evaluation(
    cases: Sequence[Case], settings: EvaluationSettings, *, group_size: int = 0
) -> EvaluationPlan:
    """Choose cases and cut them into pieces.

    Args:
        cases: In a fixed order; what is drawn depends on their edits and the seed alone.
        settings: How much is asked.
        group_size: 0 asks each case against the whole bank version. Otherwise the cases are taken
            in groups of so many, the last one as large as it is, and each is asked against the
            edits of its group alone.
    """
    drawn = _Drawn(cases, settings.max_cases, settings.seed)
    chosen = [case for case in cases if case in drawn]
    free = _Drawn(chosen, settings.free_generation_cases, settings.seed)
    groups = _groups(chosen, group_size) if group_size else []
    units = []
    for start in range(0, len(chosen), UNIT_CASES):
        part = tuple(chosen[start : start + UNIT_CASES])
        free_ids = tuple(case.case_id for case in part if case in free)
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
                )
            )
    return EvaluationPlan(cases=tuple(chosen), units=tuple(units))


def wanted_by(unit: EvaluationUnit) -> list[ResultKey]:
    """Keys of the results that a piece of work gives."""
    return [
        (case.case_id, index, protocol)
        for case in unit.cases
        for protocol in unit.protocols
        if protocol != FREE_GENERATION or case.case_id in unit.free_case_ids
        for index in range(len(case.all_probes()))
    ]


def _groups(cases: Sequence[Case], size: int) -> list[tuple[str, ...]]:
    """Of each case, the edits of its group."""
    groups = []
    for start in range(0, len(cases), size):
        part = cases[start : start + size]
        groups += [tuple(case.edit.edit_id for case in part)] * len(part)
    return groups


class _Drawn:
    """A random choice of cases that is the same whenever it is made."""

    def __init__(self, cases: Sequence[Case], count: int, seed: int) -> None:
        def rank(case: Case) -> bytes:
            return hashlib.sha256(f"{seed}:{case.edit.edit_id}".encode()).digest()

        drawn = sorted(cases, key=rank)[: count or len(cases)]
        self._case_ids = {case.case_id for case in drawn}

    def __contains__(self, case: Case) -> bool:
        return case.case_id in self._case_ids


__all__ = [
    "BankEvaluation",
    "EvaluationSettings",
    "EvaluationTask",
    "check_models",
    "evaluate_bank_version",
]


@dataclass(frozen=True, kw_only=True)
class BankEvaluation:
    """What a bank version reached on some cases."""

    bank: str
    bank_version: int
    num_edits: int
    """Experts that a probe was asked against."""
    run: str
    """Of the results table."""
    num_cases: int
    results: tuple[ProbeResult, ...]
    """In the order of the cases; those of two versions are paired by case, probe and protocol."""
    summary: Summary
    is_complete: bool
    """Whether every probe that was asked for has its result."""
    num_new_results: int
    """Rows that were not in the store before."""
    seconds: float
    """Time that workers spent on them."""
    by_hop: HopSummary = field(default_factory=dict)
    """Portability by number of hops, where cases tell it."""


class EvaluationTask:
    """One evaluation in progress; for the driver."""

    def __init__(
        self,
        bank: ExpertBank,
        results: ResultsTable,
        plan: EvaluationPlan,
        *,
        key: EvaluationKey,
        seed: int,
        matrices: MatrixPlace = "auto",
    ) -> None:
        """Look up what is left to do.

        Args:
            bank: Holds the version.
            results: Holds what was scored before.
            plan: What is asked.
            key: Which evaluation this is.
            seed: Of the intervals.
            matrices: Where an actor keeps the matrices of the experts.
        """
        self._matrices = matrices
        self.key = key
        self._bank = bank
        self._results = results
        self._plan = plan
        self._seed = seed
        self._wanted = dict.fromkeys(plan.wanted)
        stored = {result_key(result) for result in results.read(key)}
        self._missing: set[ResultKey] = set(self._wanted) - stored
        self._num_new = 0
        self._seconds = 0.0
        self.num_units = len(plan.units_for(self._missing))
        """Pieces of work to do, or to go on with."""
        self.num_units_done = 0

    @property
    def is_complete(self) -> bool:
        """Whether every probe has its result."""
        return not self._missing

    @property
    def is_over(self) -> bool:
        """Whether all pieces of work have come back."""
        return self.num_units_done == self.num_units

    def start(self, evaluator: Evaluator, config: GeneratorConfig) -> None:
        """Hand over what is left to do.

        Args:
            evaluator: Does it.
            config: Of its generator.

        Raises:
            RepositoryMismatchError: The bank was written by another one.
        """
        units = self._plan.units_for(self._missing)
        if units:
            version = self.key.bank_version
            repository = self._bank.load_repository(config, version, matrices=self._matrices)
            evaluator.submit(version, repository, units)

    def take(self, scored: Sequence[ScoredUnit]) -> None:
        """Store what has come, in one commit."""
        new = [
            result
            for unit in scored
            for result in unit.results
            if result_key(result) in self._missing
        ]
        self._num_new += retried(lambda: self._results.append(new, self.key))
        self._missing -= {result_key(result) for result in new}
        self._seconds += sum(unit.duration_s for unit in scored)
        self.num_units_done += len(scored)

    def evaluation(self) -> BankEvaluation:
        """What the store holds of this evaluation."""
        stored = {result_key(result): result for result in self._results.read(self.key)}
        results = tuple(stored[key] for key in self._wanted if key in stored)
        return BankEvaluation(
            bank=self.key.bank,
            bank_version=self.key.bank_version,
            num_edits=self.key.num_edits,
            run=self._results.run,
            num_cases=len(self._plan.cases),
            results=results,
            summary=summarize(results, seed=self._seed),
            by_hop=summarize_hops(results, self._plan.cases, seed=self._seed),
            is_complete=self.is_complete,
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
    on_progress: Callable[[int, int], None] = lambda num_done, num_units: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> BankEvaluation:
    """Score cases against a pinned bank version, or go on where an earlier call was ended.

    Args:
        store: Holds `results/<run>`.
        bank: Holds the version.
        version: Which one.
        cases: In a fixed order; the same ones whenever the evaluation is resumed. Cases whose edits
            the version does not hold are asked as well.
        settings: How much of them is asked, and how.
        pool: Scores; with the models that the bank was made with.
        run: Name of the results table.
        on_progress: Is told the pieces of work done and all of them.
        should_stop: Asked as results come; True ends with an incomplete evaluation.

    Raises:
        RepositoryMismatchError: The pool holds other models than the bank was made with.
        LiveEditError: A probe cannot be scored, or infrastructure failed for good.
    """
    facts = pool.describe()
    check_models(bank, facts)
    key = EvaluationKey(bank=bank.name, bank_version=version, num_edits=bank.num_edits(version))
    plan = plan_evaluation(cases, settings)
    table = ResultsTable(store, run)
    seed, matrices = settings.seed, settings.matrices
    replay = EvaluationTask(bank, table, plan, key=key, seed=seed, matrices=matrices)
    finish(replay, pool, facts.config, on_progress=on_progress, should_stop=should_stop)
    return replay.evaluation()


def finish(
    replay: EvaluationTask,
    pool: Evaluator,
    config: GeneratorConfig,
    *,
    on_progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> None:
    """Do all that is left of one evaluation; the pool does nothing else meanwhile."""
    replay.start(pool, config)
    try:
        on_progress(replay.num_units_done, replay.num_units)
        while not replay.is_over and not should_stop():
            replay.take(pool.collect(wait=True))
            on_progress(replay.num_units_done, replay.num_units)
    finally:
        pool.drop()


def check_models(bank: ExpertBank, facts: GeneratorFacts) -> None:
    """Refuse to score a bank with other models than it was made with.

    Raises:
        RepositoryMismatchError: They differ.
    """
    for name in ("backbone_digest", "generator_digest"):
        wanted, found = getattr(bank.identity, name), getattr(facts, name)
        if wanted != found:
            raise RepositoryMismatchError(
                f"bank {bank.name!r} was made with {name} {wanted}, the evaluation has {found}; "
                "name the backbone and generator of the bank in the recipe"
            )
