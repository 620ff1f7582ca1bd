"""The evaluation worker: cases and a bank version in, one result for each probe out.

Owns: one frozen backbone and one trained generator, loaded when it starts; no other state.
    With a state cache it reads the hidden states of known probes and adds those of new ones; with
    an answer table it does the same for the answers of the unedited backbone.
Receives: units to prepare (their probes are encoded up to layer l_e once, METHOD.md 6), and
    prepared units to score against the experts of one pinned bank version. Both are in Ray's object
    store, so any worker can score any unit.
Returns: prepared units; results.
When it dies: nothing is lost. The pool restarts the process, and encodes and scores the unfinished
    units again.
"""

import time
from dataclasses import dataclass

import ray

from liveedit_core.evaluation.probes import (
    FREE_GENERATION,
    PreparedCases,
    PreparedProbe,
    ProbeResult,
)
from liveedit_core.evaluation.scoring import CaseScorer
from liveedit_core.inputs.limits import MAX_TARGET_TOKENS
from liveedit_core.method.editor import Editor
from liveedit_core.method.repository import ExpertRepository
from workers.failures import converted_failures
from workers.messages import EvaluationUnit, GeneratorFacts, ScoredUnit, SharedRepository
from workers.models import CacheNames, ModelSource, limit_threads, open_answers, open_states


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Cases ready to be scored."""

    cases: PreparedCases
    prepare_s: float


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
        limit_threads(num_threads)
        generator = models.load_generator()
        empty = ExpertRepository.empty(generator.config)
        editor = Editor(models.load_backbone(), generator, empty)
        self._states = open_states(editor.backbone, cache, has_large_calls=True)
        self._answers = open_answers(editor.backbone, cache, answers_uri)
        self._scorer = CaseScorer(editor, batch_size=batch_size)
        self._max_new_tokens = max_new_tokens

    def describe(self) -> GeneratorFacts:
        """The models of this worker."""
        editor = self._scorer.editor
        return GeneratorFacts(
            backbone_digest=editor.backbone.digest,
            generator_digest=editor.generator.digest,
            config=editor.generator.config,
        )

    @converted_failures
    def prepare(self, unit: EvaluationUnit) -> Preparation:
        """Encode the probes of a unit, independently of the bank."""
        start_s = time.perf_counter()
        has_free = FREE_GENERATION in unit.protocols
        prepared = self._scorer.prepare(
            unit.cases,
            free_case_ids=unit.free_case_ids if has_free else (),
            max_new_tokens=self._max_new_tokens,
            source=self._states,
            answer_cache=self._answers,
        )
        return Preparation(cases=prepared, prepare_s=time.perf_counter() - start_s)

    @converted_failures
    def score(
        self,
        bank_version: int,
        preparation: Preparation,
        shared: SharedRepository,
        unit: EvaluationUnit,
    ) -> ScoredUnit:
        """Score a unit, prepared by any worker, with the experts of one bank version."""
        start_s = time.perf_counter()
        results: list[ProbeResult] = []
        for part, experts in _parts(preparation.cases, shared.repository(), unit):
            results += self._scorer.score(
                part, experts, protocols=unit.protocols, max_new_tokens=self._max_new_tokens
            )
        return ScoredUnit(
            bank_version=bank_version,
            results=tuple(results),
            prepare_s=preparation.prepare_s,
            score_s=time.perf_counter() - start_s,
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
