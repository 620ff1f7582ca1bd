"""The evaluation worker: cases and a bank version in, one result for each probe out.

Owns: one frozen backbone and one trained generator, loaded when it starts; no other state.
    With a state cache it reads the rows of known probes there and adds those of new ones.
Receives: cases to prepare (they are encoded up to layer l_e once, METHOD.md 6), and prepared cases
    to score against the experts of one pinned bank version. Prepared cases and experts live in
    Ray's object store, so any worker can score any of them.
Returns: prepared cases; results.
When it dies: nothing is lost. The pool starts the process again, and encodes and scores the
    unfinished cases again; results already stored are not asked for again.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import ray

from liveedit_core.editor import Editor
from liveedit_core.metrics import FREE_GENERATION, CaseScorer, PreparedCases, ProbeResult
from liveedit_core.repository import ExpertRepository
from liveedit_core.schema import Case
from workers.failures import converted_failures
from workers.models import ModelSource, limit_threads
from workers.state_sources import CacheNames, open_states


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Cases ready to be scored."""

    cases: PreparedCases
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Results of prepared cases."""

    results: tuple[ProbeResult, ...]
    prepare_s: float
    """What the preparation had taken, once."""
    score_s: float


class EvaluationWorker:
    """Scores cases with a backbone and a generator held in memory."""

    @converted_failures
    def __init__(
        self,
        models: ModelSource,
        *,
        batch_size: int = 16,
        max_new_tokens: int = 12,
        num_threads: int = 1,
        cache: CacheNames | None = None,
    ) -> None:
        """Load the models.

        Args:
            models: Which ones.
            batch_size: Probes in one forward pass.
            max_new_tokens: Longest answer under free generation.
            num_threads: Threads of torch in this process.
            cache: Of states; None computes them all.
        """
        limit_threads(num_threads)
        generator = models.load_generator()
        nothing = ExpertRepository.empty(generator.config)
        editor = Editor(models.load_backbone(), generator, nothing)
        self._states = open_states(editor.backbone, cache)
        self._scorer = CaseScorer(editor, batch_size=batch_size)
        self._max_new_tokens = max_new_tokens

    @converted_failures
    def prepare(self, cases: Sequence[Case], protocols: Sequence[str]) -> Preparation:
        """Encode the probes of cases, whatever the bank will be.

        Args:
            cases: At least one.
            protocols: Under which they will be scored.
        """
        start_s = time.perf_counter()
        prepared = self._scorer.prepare(
            cases,
            has_free_answers=FREE_GENERATION in protocols,
            max_new_tokens=self._max_new_tokens,
            source=self._states,
        )
        return Preparation(cases=prepared, duration_s=time.perf_counter() - start_s)

    @converted_failures
    def score(
        self, preparation: Preparation, repository: ExpertRepository, protocols: Sequence[str]
    ) -> Scores:
        """Score prepared cases with the experts of one bank version.

        Args:
            preparation: From `prepare`, of this or another worker.
            repository: Experts of the version.
            protocols: How to score.
        """
        start_s = time.perf_counter()
        results = self._scorer.score(
            preparation.cases,
            repository,
            protocols=protocols,
            max_new_tokens=self._max_new_tokens,
        )
        return Scores(
            results=tuple(results),
            prepare_s=preparation.duration_s,
            score_s=time.perf_counter() - start_s,
        )


EvaluationActor = ray.remote(EvaluationWorker)
