"""The evaluation protocol: probes, scores, summaries (METHOD.md 7).

`prepare` does everything that no edit can change, once: rows at l_e and the unedited answers.
`score` then replays the probes against any repository, running only the layers after l_e, and only
where at least one expert is kept: elsewhere the answer is the unedited one, bit for bit.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.editor import NOTHING_KEPT, Answer, Editor, Routing
from liveedit_core.repository import ExpertRepository
from liveedit_core.schema import PAPER_METRICS, Case, Probe, ProbeKind
from liveedit_core.state_source import BackboneStates, StateSource
from liveedit_core.states import LayerStates, hidden_rows

TEACHER_FORCED = "teacher_forced"
FREE_GENERATION = "free_generation"
PROTOCOLS = (TEACHER_FORCED, FREE_GENERATION)
MAX_LOCALITY_TOKENS = 6
"""Length of the unedited answer that stands in for the missing target of a locality probe."""


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """One probe scored under one protocol."""

    case_id: str
    edit_id: str
    probe_index: int
    kind: ProbeKind
    protocol: str
    score: float
    """In 0..1: share of right tokens (teacher_forced), or exact match (free_generation)."""
    target: str
    answer_before: str
    answer_after: str
    kept: tuple[str, ...]
    """edit_ids of the experts that answered, best weight first."""
    weights: tuple[float, ...]
    own_expert_kept: bool


@dataclass(frozen=True, kw_only=True)
class PreparedProbe:
    """A probe and all about it that no edit can change."""

    case_id: str
    edit_id: str
    probe_index: int
    kind: ProbeKind
    question: BackboneInput
    states: LayerStates
    unedited_ids: tuple[int, ...]
    """The backbone's argmax at each target position."""
    unedited_answer: str | None
    """Its free answer; None when free generation was not asked for."""


@dataclass(frozen=True, kw_only=True)
class PreparedCases:
    """Prepared probes of some cases, in order."""

    probes: tuple[PreparedProbe, ...]


@dataclass(frozen=True, kw_only=True)
class MetricSummary:
    """Mean of one metric under one protocol."""

    mean: float
    num_samples: int
    empty_fraction: float
    """Share of probes for which no expert was kept."""
    own_kept_fraction: float
    """Share of probes for which the expert of their own edit was kept."""


def normalize_answer(text: str) -> str:
    """Lower case, no punctuation at the ends, single spaces: what exact match compares."""
    return re.sub(r"\s+", " ", text.lower()).strip(" .,;:!?\"'")


class CaseScorer:
    """Scores cases against repositories.

    Args:
        editor: backbone and generator; its own repository plays no part.
        batch_size: probes per forward.
    """

    def __init__(self, editor: Editor, *, batch_size: int = 16) -> None:
        self.editor = editor
        self.batch_size = batch_size

    @property
    def backbone(self) -> Backbone:
        """The frozen model."""
        return self.editor.backbone

    @torch.no_grad()
    def prepare(
        self,
        cases: Sequence[Case],
        *,
        has_free_answers: bool = False,
        max_new_tokens: int = 12,
        source: StateSource | None = None,
    ) -> PreparedCases:
        """Everything bank-independent about the probes of some cases.

        A locality probe without a target is scored on the backbone's own greedy answer.

        Args:
            cases: cases.
            has_free_answers: also generate the unedited answers of accuracy probes.
            max_new_tokens: bound of those.
            source: of the states; the backbone by default.
        """
        owners = [(case, i, probe) for case in cases for i, probe in enumerate(case.all_probes())]
        probes = self._with_targets([probe for _, _, probe in owners])
        inputs = [probe_input(probe) for probe in probes]
        states = (source or BackboneStates(self.backbone)).states(inputs)
        unedited = self._argmax_ids(states, [None] * len(states))
        free: dict[int, str] = {}
        if has_free_answers:
            asked = [i for i, probe in enumerate(probes) if not probe.kind.is_locality]
            texts = self.backbone.generate(
                [inputs[i] for i in asked], None, max_new_tokens=max_new_tokens
            )
            free = dict(zip(asked, texts, strict=True))
        prepared = [
            PreparedProbe(
                case_id=case.case_id,
                edit_id=case.edit.edit_id,
                probe_index=index,
                kind=probe.kind,
                question=inputs[i],
                states=states[i],
                unedited_ids=unedited[i],
                unedited_answer=free.get(i),
            )
            for i, ((case, index, _), probe) in enumerate(zip(owners, probes, strict=True))
        ]
        return PreparedCases(probes=tuple(prepared))

    def _with_targets(self, probes: Sequence[Probe]) -> list[Probe]:
        """Locality probes without a target get the backbone's greedy answer as one."""
        filled = list(probes)
        missing = [i for i, probe in enumerate(probes) if not probe.target]
        texts = self.backbone.generate(
            [probe_input(probes[i]) for i in missing], None, max_new_tokens=MAX_LOCALITY_TOKENS
        )
        for i, text in zip(missing, texts, strict=True):
            filled[i] = replace(probes[i], target=text or "nothing")
        return filled

    @torch.no_grad()
    def score(
        self,
        prepared: PreparedCases,
        repository: ExpertRepository,
        *,
        protocols: Sequence[str] = (TEACHER_FORCED,),
        max_new_tokens: int = 12,
    ) -> list[ProbeResult]:
        """Score all probes against a repository.

        Free generation is scored on accuracy probes that were prepared with free answers.
        """
        editor = self.editor.with_repository(repository)
        results: list[ProbeResult] = []
        if TEACHER_FORCED in protocols:
            results += self._score_teacher_forced(editor, prepared.probes)
        if FREE_GENERATION in protocols:
            asked = [probe for probe in prepared.probes if probe.unedited_answer is not None]
            results += self._score_free_generation(editor, asked, max_new_tokens)
        return results

    def _score_teacher_forced(
        self, editor: Editor, probes: Sequence[PreparedProbe]
    ) -> list[ProbeResult]:
        routings: list[Routing] = [NOTHING_KEPT] * len(probes)
        edited_ids = [probe.unedited_ids for probe in probes]
        seen = [i for i, probe in enumerate(probes) if probe.states.has_image]
        for chosen in self._batches(seen, probes):
            states = [probes[i].states for i in chosen]
            routing = editor.route(states)
            residual = editor.residual(routing)
            for i, explained in zip(chosen, editor.explain(routing), strict=True):
                routings[i] = explained
            if residual is None:
                continue
            hidden_BTD = hidden_rows(states).rows_BSD
            added_BTD = residual(hidden_BTD)
            kept = routing.kept_BN.any(1).nonzero().flatten().tolist()
            ids = self._argmax_ids([states[row] for row in kept], [added_BTD[row] for row in kept])
            for row, answer in zip(kept, ids, strict=True):
                edited_ids[chosen[row]] = answer
        return [
            teacher_forced_result(probe, edited_ids[i], routings[i], self.backbone.decode)
            for i, probe in enumerate(probes)
        ]

    def _score_free_generation(
        self, editor: Editor, probes: Sequence[PreparedProbe], max_new_tokens: int
    ) -> list[ProbeResult]:
        answers = editor.answer([probe.question for probe in probes], max_new_tokens)
        return [
            free_generation_result(probe, answer)
            for probe, answer in zip(probes, answers, strict=True)
        ]

    def _batches(
        self, index: Sequence[int], probes: Sequence[PreparedProbe]
    ) -> Iterable[list[int]]:
        """Positions in batches of similar length."""
        order = sorted(index, key=lambda i: probes[i].states.num_tokens)
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def _argmax_ids(
        self, states: Sequence[LayerStates], residuals: Sequence[Tensor | None]
    ) -> list[tuple[int, ...]]:
        """Argmax token at each target position, after the layers behind l_e."""
        order = sorted(range(len(states)), key=lambda i: states[i].num_tokens)
        ids: list[tuple[int, ...]] = [()] * len(states)
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            batch = [states[i] for i in chosen]
            hidden_BTD = hidden_rows(batch).rows_BSD
            for row, i in enumerate(chosen):
                added = residuals[i]
                if added is not None:
                    length = batch[row].num_tokens
                    hidden_BTD[row, :length] += added[:length]
            for i, logits in zip(
                chosen, self.backbone.target_logits(batch, hidden_BTD), strict=True
            ):
                ids[i] = tuple(logits.argmax(-1).tolist())
        return ids


def teacher_forced_result(
    probe: PreparedProbe,
    ids: Sequence[int],
    routing: Routing,
    decode: Callable[[Sequence[int]], str],
) -> ProbeResult:
    """Score an edited model's argmax at each target position of a probe."""
    right = probe.states.target_ids_O.tolist()
    expected = probe.unedited_ids if probe.kind.is_locality else right
    hits = sum(a == b for a, b in zip(ids, expected, strict=True))
    return _result(
        probe,
        TEACHER_FORCED,
        score=hits / len(right),
        before=decode(probe.unedited_ids),
        after=decode(ids),
        routing=routing,
    )


def free_generation_result(probe: PreparedProbe, answer: Answer) -> ProbeResult:
    """Score an edited model's free answer to a probe by exact match."""
    is_exact = normalize_answer(answer.text) == normalize_answer(probe.question.target)
    return _result(
        probe,
        FREE_GENERATION,
        score=float(is_exact),
        before=probe.unedited_answer or "",
        after=answer.text,
        routing=answer.routing or NOTHING_KEPT,
    )


def _result(
    probe: PreparedProbe,
    protocol: str,
    *,
    score: float,
    before: str,
    after: str,
    routing: Routing,
) -> ProbeResult:
    return ProbeResult(
        case_id=probe.case_id,
        edit_id=probe.edit_id,
        probe_index=probe.probe_index,
        kind=probe.kind,
        protocol=protocol,
        score=score,
        target=probe.question.target,
        answer_before=before,
        answer_after=after,
        kept=routing.kept,
        weights=routing.weights,
        own_expert_kept=probe.edit_id in routing.kept,
    )


def probe_input(probe: Probe) -> BackboneInput:
    """A probe as the teacher-forced input that scores it."""
    return BackboneInput(prompt=probe.prompt, target=probe.target, image_bytes=probe.image_bytes)


def summarize(results: Iterable[ProbeResult]) -> dict[tuple[ProbeKind, str], MetricSummary]:
    """Means by metric and protocol; numbers of different protocols are never mixed."""
    groups: dict[tuple[ProbeKind, str], list[ProbeResult]] = {}
    for result in results:
        groups.setdefault((result.kind, result.protocol), []).append(result)
    return {
        key: MetricSummary(
            mean=sum(r.score for r in group) / len(group),
            num_samples=len(group),
            empty_fraction=sum(not r.kept for r in group) / len(group),
            own_kept_fraction=sum(r.own_expert_kept for r in group) / len(group),
        )
        for key, group in groups.items()
    }


def paper_average(summary: dict[tuple[ProbeKind, str], MetricSummary]) -> float:
    """Mean of the paper's five teacher-forced metrics (those that were measured)."""
    means = [
        summary[kind, TEACHER_FORCED].mean
        for kind in PAPER_METRICS
        if (kind, TEACHER_FORCED) in summary
    ]
    return sum(means) / len(means) if means else float("nan")
