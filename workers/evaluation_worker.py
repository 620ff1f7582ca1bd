"""The evaluation worker: cases and a bank version in, one result for each probe out.

Owns: one frozen backbone and one trained generator, loaded when it starts; no other state.
    With a state cache it reads the hidden states of known probes and adds those of new ones; with
    an answer table it does the same for the answers of the unedited backbone.
Receives: units to score against the experts of one pinned bank version. Their probes are encoded up
    to layer l_e (METHOD.md 6) where they are scored; without a cache, the worker keeps those that
    fit into `KEPT_BYTES`, for other versions. The experts are loaded by one worker, and are in
    Ray's object store for the others.
Returns: results, and refusals of probes that the backbone cannot take.
When it dies: nothing is lost. The pool restarts the process and sends the unfinished units again.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import ray

from liveedit_core.devices import CPU
from liveedit_core.evaluation.probes import (
    FREE_GENERATION,
    PreparedCases,
    PreparedProbe,
    ProbeResult,
    probe_input,
)
from liveedit_core.evaluation.scoring import CaseProbe, CaseScorer, probes_of
from liveedit_core.inputs.datasets import known_good
from liveedit_core.inputs.limits import MAX_TARGET_TOKENS
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.method.editor import Editor
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import Case
from workers.failures import converted_failures, outcomes
from workers.messages import (
    EvaluationUnit,
    GeneratorFacts,
    RefusedProbe,
    ScoredUnit,
    SharedRepository,
    StoredVersion,
    UnitKey,
    tensor_bytes,
)
from workers.models import CacheNames, ModelSource, limit_threads, open_answers, open_states

KEPT_BYTES = 256 * 1024 * 1024
"""Of prepared units that a worker keeps."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Cases ready to be scored."""

    cases: PreparedCases
    prepare_s: float
    refused: tuple[RefusedProbe, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Of the tensors."""
        return sum(tensor_bytes(probe.states) for probe in self.cases.probes)


class EvaluationWorker:
    """Scores cases with a backbone and a generator held in memory."""

    @converted_failures
    def __init__(
        self,
        models: ModelSource,
        *,
        batch_size: int = 16,
        max_new_tokens: int = MAX_TARGET_TOKENS,
        num_threads: int = 1,
        cache: CacheNames | None = None,
        answers_uri: str = "",
    ) -> None:
        """Load the models; see `open_states` and `open_answers` for `cache` and `answers_uri`."""
        # What is in a cache need not be kept in memory as well.
        self._room_bytes = KEPT_BYTES if cache is None or not answers_uri else 0
        self._kept: dict[UnitKey, Preparation] = {}
        limit_threads(num_threads)
        backbone = models.load_backbone()
        self._device = backbone.device
        generator = models.load_generator()
        editor = Editor(backbone, generator, ExpertRepository.empty(generator.config), index="off")
        self._experts = editor.repository
        self._version = -1
        self._states = open_states(editor.backbone, cache, has_large_calls=True)
        self._answers = open_answers(editor.backbone, cache, answers_uri)
        self._scorer = CaseScorer(editor, batch_size=batch_size)
        self._max_new_tokens = max_new_tokens

    def describe(self) -> GeneratorFacts:
        """The models of this worker."""
        return GeneratorFacts.of(self._scorer.editor.backbone, self._scorer.editor.generator)

    @converted_failures
    def load(self, version: StoredVersion) -> SharedRepository:
        """The experts of a bank version, for all workers."""
        return SharedRepository.of(version.load(self._scorer.editor.generator.config))

    @converted_failures
    def evaluate(
        self, bank_version: int, shared: SharedRepository, unit: EvaluationUnit
    ) -> ScoredUnit:
        """Prepare a unit, unless that was done here before, and score it."""
        preparation = self._kept.get(unit.key) or self.prepare(unit.loaded())
        if unit.key not in self._kept and preparation.num_bytes <= self._room_bytes:
            self._room_bytes -= preparation.num_bytes
            self._kept[unit.key] = replace(preparation, prepare_s=0.0)
        return self.score(bank_version, preparation, shared, unit)

    @converted_failures
    def prepare(self, unit: EvaluationUnit) -> Preparation:
        """Encode the probes of a unit, independently of the bank."""
        start_s = time.perf_counter()
        has_free = FREE_GENERATION in unit.protocols
        wanted = probes_of(unit.cases, unit.free_case_ids if has_free else ())
        checked = outcomes(wanted, self._checked, self._check)
        good = [item for item in checked if not isinstance(item, Exception)]
        prepared = iter(outcomes(good, self._prepared, self._check))
        done = [item if isinstance(item, Exception) else next(prepared) for item in checked]
        return Preparation(
            cases=PreparedCases(
                probes=tuple(one for one in done if isinstance(one, PreparedProbe))
            ),
            refused=tuple(
                _refusal(item, one)
                for item, one in zip(wanted, done, strict=True)
                if isinstance(one, Exception)
            ),
            prepare_s=time.perf_counter() - start_s,
        )

    def _checked(self, wanted: Sequence[CaseProbe]) -> list[CaseProbe | Exception]:
        for item in wanted:
            self._scorer.backbone.check_input(probe_input(item.probe))
        return list(wanted)

    def _prepared(self, wanted: Sequence[CaseProbe]) -> list[PreparedProbe | Exception]:
        done = self._scorer.prepare_probes(
            wanted,
            max_new_tokens=self._max_new_tokens,
            source=self._states,
            answer_cache=self._answers,
        )
        return list(done.probes)

    def _check(self) -> None:
        """Raise what is wrong with models and program."""
        good = known_good()
        own = Case(case_id=good.edit_id, edit=good)
        self._scorer.prepare([own], has_free_answers=True, max_new_tokens=1)

    @converted_failures
    def score(
        self,
        bank_version: int,
        preparation: Preparation,
        shared: SharedRepository,
        unit: EvaluationUnit,
    ) -> ScoredUnit:
        """Score a prepared unit with the experts of one bank version."""
        start_s = time.perf_counter()
        results: list[ProbeResult] = []
        repository = self._on_device(bank_version, shared)
        for part, experts in _parts(preparation.cases, repository, unit):
            results += self._scorer.score(
                part, experts, protocols=unit.protocols, max_new_tokens=self._max_new_tokens
            )
        return ScoredUnit(
            bank_version=bank_version,
            results=tuple(results),
            prepare_s=preparation.prepare_s,
            score_s=time.perf_counter() - start_s,
            refused=preparation.refused,
        )

    def _on_device(self, bank_version: int, shared: SharedRepository) -> ExpertRepository:
        """The experts where the backbone is; on a GPU those of the last version stay there."""
        experts = shared.repository()
        if self._device == CPU:
            return experts
        if self._version != bank_version or self._experts.edit_ids != experts.edit_ids:
            self._experts, self._version = experts.to(self._device), bank_version
        return self._experts


def _refusal(item: CaseProbe, error: Exception) -> RefusedProbe:
    reason = Rejected.from_error(error, edit_id=item.case.edit.edit_id)
    where = f"case {item.case.case_id[:12]}, probe {item.probe_index} ({item.probe.kind})"
    return RefusedProbe(
        case_id=item.case.case_id,
        probe_index=item.probe_index,
        reason=replace(reason, message=f"{where}: {reason.message}"),
    )


def _parts(
    prepared: PreparedCases, repository: ExpertRepository, unit: EvaluationUnit
) -> list[tuple[PreparedCases, ExpertRepository]]:
    """Groups of probes that are scored against the same experts, with these experts."""
    if not unit.groups:
        return [(prepared, repository)]
    group_of = {case.case_id: group for case, group in zip(unit.cases, unit.groups, strict=True)}
    index_of = {edit_id: n for n, edit_id in enumerate(repository.edit_ids)}
    by_group: dict[tuple[str, ...], list[PreparedProbe]] = {}
    for probe in prepared.probes:
        by_group.setdefault(group_of[probe.case_id], []).append(probe)
    return [
        (PreparedCases(probes=tuple(probes)), repository.take([index_of[key] for key in group]))
        for group, probes in by_group.items()
    ]


EvaluationActor = ray.remote(EvaluationWorker)
