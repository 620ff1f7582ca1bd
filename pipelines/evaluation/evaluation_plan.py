"""What an evaluation asks: which cases, under which protocols, in which pieces of work.

The pieces are cut from all cases of the evaluation, never from what is left to do, so a piece is
the same batch of probes whoever scores it, in whatever order, before a restart or after it.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from infra.bank.matrix_place import MatrixPlace
from infra.tracking.results import ResultKey
from liveedit_core.evaluation.probe_results import FREE_GENERATION, PROTOCOLS
from liveedit_core.schema import Case
from workers.messages import EvaluationUnit

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
