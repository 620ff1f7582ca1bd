"""Probes prepared for scoring, and their results: what every metric is computed from (METHOD.md 7).

    teacher_forced     the target's earlier tokens are given; score = share of right tokens
    free_generation    greedy answer; score = 1 where it is the target after `normalize_answer`

A locality probe is right where the edited model gives the unedited backbone's answer, token by
token or as a free answer. Numbers of different protocols are never mixed.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.method.editor import Routing
from liveedit_core.schema import Probe, ProbeKind
from liveedit_core.states import LayerStates

TEACHER_FORCED = "teacher_forced"
FREE_GENERATION = "free_generation"
PROTOCOLS = (TEACHER_FORCED, FREE_GENERATION)
NOT_KEPT = -1
"""Rank of an expert that was not kept."""

ResultKey = tuple[str, int, str]
"""case_id, probe_index, protocol: identifies a result within one evaluation."""


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
    is_exact: bool
    """Whether every target token is right (teacher_forced), or the answer matches."""
    target: str
    answer_before: str
    answer_after: str
    kept: tuple[str, ...]
    """edit_ids of the experts kept, largest weight first."""
    weights: tuple[float, ...]
    own_expert_kept: bool
    own_rank: int
    """Rank of the probe's own expert among those kept, 0 for the largest weight; -1: not kept."""
    own_weight: float
    """Its weight; 0 if it was not kept."""

    @property
    def key(self) -> ResultKey:
        return self.case_id, self.probe_index, self.protocol


def normalize_answer(text: str) -> str:
    """The form that exact match compares: lower case, no outer punctuation, single spaces."""
    return re.sub(r"\s+", " ", text.lower()).strip(" .,;:!?\"'")


@dataclass(frozen=True, kw_only=True)
class PreparedProbe:
    """A probe with everything about it that no edit can change."""

    case_id: str
    edit_id: str
    probe_index: int
    kind: ProbeKind
    question: BackboneInput
    states: LayerStates
    unedited_ids: tuple[int, ...]
    """The backbone's argmax at each target position."""
    unedited_answer: str | None
    """The backbone's free answer; None if free generation is not scored."""


@dataclass(frozen=True, kw_only=True)
class PreparedCases:
    """Prepared probes of some cases, in order."""

    probes: tuple[PreparedProbe, ...]


def probe_input(probe: Probe) -> BackboneInput:
    """The teacher-forced input of a probe."""
    return BackboneInput(prompt=probe.prompt, target=probe.target, image_bytes=probe.image_bytes)


def teacher_forced_result(
    probe: PreparedProbe,
    ids: Sequence[int],
    routing: Routing,
    decode: Callable[[Sequence[int]], str],
) -> ProbeResult:
    """Score the edited model's argmax at each target position of a probe. Where an answer is
    shorter or longer than what is expected, each position that one of them lacks is wrong."""
    target = probe.states.target_ids_O.tolist()
    expected = probe.unedited_ids if probe.kind.is_locality else target
    hits = [a == b for a, b in zip_longest(ids, expected)]
    before, after = decode(probe.unedited_ids), decode(ids)
    return _result(probe, TEACHER_FORCED, hits, before, after, routing)


def free_generation_result(probe: PreparedProbe, text: str, routing: Routing) -> ProbeResult:
    """Exact match of the edited model's free answer with the target (locality: with the unedited
    answer), after `normalize_answer`."""
    before = probe.unedited_answer or ""
    expected = before if probe.kind.is_locality else probe.question.target
    is_exact = normalize_answer(text) == normalize_answer(expected)
    return _result(probe, FREE_GENERATION, [is_exact], before, text, routing)


def _result(
    probe: PreparedProbe,
    protocol: str,
    hits: Sequence[bool],
    before: str,
    after: str,
    routing: Routing,
) -> ProbeResult:
    is_kept = probe.edit_id in routing.kept
    rank = routing.kept.index(probe.edit_id) if is_kept else NOT_KEPT
    return ProbeResult(
        case_id=probe.case_id,
        edit_id=probe.edit_id,
        probe_index=probe.probe_index,
        kind=probe.kind,
        protocol=protocol,
        score=sum(hits) / len(hits),
        is_exact=all(hits),
        target=probe.question.target,
        answer_before=before,
        answer_after=after,
        kept=routing.kept,
        weights=routing.weights,
        own_expert_kept=is_kept,
        own_rank=rank,
        own_weight=routing.weights[rank] if is_kept else 0.0,
    )
