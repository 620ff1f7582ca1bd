"""When which bank version is examined on which cases; results are stored as they come.

At each point the cases of this run whose edits the pinned version holds are scored against it,
while later edits go on. What the results table holds already is never computed again.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from infra.expert_bank import BankVersion, ExpertBank
from infra.results import ResultsTable
from liveedit_core.config import GeneratorConfig
from liveedit_core.metrics import MetricSummary, ProbeResult, summarize
from liveedit_core.schema import Case, ProbeKind
from pipelines.config import EvaluationSection
from pipelines.edit_intake import CaseBook
from pipelines.stages import Evaluator
from workers.failures import retried
from workers.messages import EvaluationUnit, ScoredUnit

_UNIT_CASES = 8
"""Cases of one piece of work: about a second or two of a core for the built-in backbone."""

Summary = Mapping[tuple[ProbeKind, str], MetricSummary]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A finished evaluation of one bank version."""

    bank_version: int
    num_edits: int
    num_cases: int
    summary: Summary
    num_new_results: int
    """Rows that were not in the store before."""
    worker_s: float
    """Time that workers spent on them."""


@dataclass
class _Running:
    window: BankVersion
    wanted: set[tuple[str, str]]
    """Cases and protocols that this evaluation is about."""
    missing: set[tuple[str, str]]
    num_units: int
    num_new_results: int = 0
    worker_s: float = 0.0


@dataclass
class EvaluationSchedule:
    """Evaluations of one run; for the driver."""

    config: EvaluationSection
    seed: int
    cases: CaseBook
    bank: ExpertBank
    generator_config: GeneratorConfig
    results: ResultsTable
    evaluator: Evaluator
    on_finished: Callable[[Evaluation], None]
    finished: list[Evaluation] = field(default_factory=list)
    """By number of edits."""
    _windows: list[BankVersion] = field(default_factory=list)
    _handled: set[int] = field(default_factory=set)
    _running: dict[int, _Running] = field(default_factory=dict)
    _unit_of: dict[tuple[str, tuple[str, ...]], EvaluationUnit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read how the bank came to be."""
        self._windows = self.bank.history()

    def add_window(self, version: int) -> None:
        """Take note of a commit; one that added nothing is known already."""
        if all(window.version != version for window in self._windows):
            self._windows.append(self.bank.window(version))

    def advance(self, done_through: int, *, is_end: bool = False) -> None:
        """Start the evaluations that have become due.

        Args:
            done_through: All requests up to this number are in the bank or refused.
            is_end: No more edits come: the newest version is due as well.
        """
        due = [self._version_at(point) for point in self.config.at if point <= done_through]
        if is_end:
            due += self._windows[-1:]
        for window in due:
            if window is not None and window.version not in self._handled:
                self._handled.add(window.version)
                self._start(window)

    def poll(self, *, wait: bool = False) -> None:
        """Store what has come; `wait` waits for one unit at least."""
        for scored in self.evaluator.collect(wait=wait):
            self._take(scored)

    @property
    def num_waiting(self) -> int:
        """Units whose results are not stored yet."""
        return self.evaluator.num_waiting

    def _version_at(self, point: int) -> BankVersion | None:
        """The version after the first `point` requests, if one was committed."""
        up_to = [window for window in self._windows if window.last_sequence <= point]
        return up_to[-1] if up_to else None

    def _start(self, window: BankVersion) -> None:
        held = set(self.bank.edit_ids(window.version))
        cases = self._sample([key for key in self.cases.edit_ids if key in held])
        if not cases:
            return
        wanted = self._wanted(cases)
        stored = self.results.read(bank_version=window.version, num_edits=window.num_edits)
        missing = wanted - {(result.case_id, result.protocol) for result in stored}
        units = self._units(cases, missing)
        running = _Running(window, wanted, missing, len(units))
        if units:
            self._running[window.version] = running
            repository = self.bank.load_repository(self.generator_config, window.version)
            self.evaluator.submit(window.version, repository, units)
        else:
            self._finish(running)

    def _sample(self, edit_ids: Sequence[str]) -> list[Case]:
        """The cases to score: all, or the same random choice whenever it is made."""
        if self.config.max_cases:
            edit_ids = sorted(edit_ids, key=self._rank)[: self.config.max_cases]
        return self.cases.of(edit_ids)

    def _rank(self, identity: str) -> bytes:
        return hashlib.sha256(f"{self.seed}:{identity}".encode()).digest()

    def _wanted(self, cases: Sequence[Case]) -> set[tuple[str, str]]:
        case_ids = [case.case_id for case in cases]
        wanted = set()
        for protocol in self.config.protocols:
            chosen = case_ids
            if protocol == "free_generation" and self.config.free_generation_cases:
                chosen = sorted(case_ids, key=self._rank)[: self.config.free_generation_cases]
            wanted |= {(case_id, protocol) for case_id in chosen}
        return wanted

    def _units(self, cases: Sequence[Case], missing: set[tuple[str, str]]) -> list[EvaluationUnit]:
        """Pieces of work that cover what is missing; those of earlier points are used again."""
        units: dict[tuple[object, ...], EvaluationUnit] = {}
        new: dict[tuple[str, ...], list[Case]] = {}
        for case in cases:
            protocols = tuple(
                name for name in self.config.protocols if (case.case_id, name) in missing
            )
            known = self._unit_of.get((case.case_id, protocols))
            if known is not None:
                units[known.key] = known
            elif protocols:
                new.setdefault(protocols, []).append(case)
        for protocols, group in new.items():
            for start in range(0, len(group), _UNIT_CASES):
                part = tuple(group[start : start + _UNIT_CASES])
                unit = EvaluationUnit(cases=part, protocols=protocols)
                units[unit.key] = unit
                self._unit_of |= {(case_id, protocols): unit for case_id in unit.case_ids}
        return list(units.values())

    def _take(self, scored: ScoredUnit) -> None:
        running = self._running[scored.bank_version]
        window = running.window
        new = _only(scored.results, running.missing)
        running.num_new_results += retried(
            lambda: self.results.append(
                new, bank_version=window.version, num_edits=window.num_edits
            )
        )
        running.worker_s += scored.duration_s
        running.num_units -= 1
        if running.num_units == 0:
            del self._running[scored.bank_version]
            self._finish(running)

    def _finish(self, running: _Running) -> None:
        window = running.window
        stored = self.results.read(bank_version=window.version, num_edits=window.num_edits)
        evaluation = Evaluation(
            bank_version=window.version,
            num_edits=window.num_edits,
            num_cases=len({case_id for case_id, _ in running.wanted}),
            summary=summarize(_only(stored, running.wanted)),
            num_new_results=running.num_new_results,
            worker_s=running.worker_s,
        )
        self.finished.append(evaluation)
        self.finished.sort(key=lambda item: (item.num_edits, item.bank_version))
        self.on_finished(evaluation)


def _only(results: Iterable[ProbeResult], keys: set[tuple[str, str]]) -> list[ProbeResult]:
    return [result for result in results if (result.case_id, result.protocol) in keys]
