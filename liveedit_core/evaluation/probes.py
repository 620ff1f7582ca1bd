"""Probes with all about them that no edit can change, and how an answer to one is scored."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.method.editor import Routing
from liveedit_core.schema import Probe, ProbeKind
from liveedit_core.states import LayerStates

TEACHER_FORCED = "teacher_forced"
FREE_GENERATION = "free_generation"
PROTOCOLS = (TEACHER_FORCED, FREE_GENERATION)
NOT_KEPT = -1
"""Rank of an expert that does not answer."""


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
    """edit_ids of the experts that answered, best weight first."""
    weights: tuple[float, ...]
    own_expert_kept: bool
    own_rank: int
    """Place of the probe's own expert among the kept ones, 0 for the best weight; -1: not kept."""
    own_weight: float
    """Its weight; 0 when it was not kept."""


def normalize_answer(text: str) -> str:
    """Lower case, no punctuation at the ends, single spaces: what exact match compares."""
    return re.sub(r"\s+", " ", text.lower()).strip(" .,;:!?\"'")


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


def probe_input(probe: Probe) -> BackboneInput:
    """A probe as the teacher-forced input that scores it."""
    return BackboneInput(prompt=probe.prompt, target=probe.target, image_bytes=probe.image_bytes)


def teacher_forced_result(
    probe: PreparedProbe,
    ids: Sequence[int],
    routing: Routing,
    decode: Callable[[Sequence[int]], str],
) -> ProbeResult:
    """Score an edited model's argmax at each target position of a probe."""
    right = probe.states.target_ids_O.tolist()
    expected = probe.unedited_ids if probe.kind.is_locality else right
    hits = [a == b for a, b in zip(ids, expected, strict=True)]
    return _result(
        probe,
        TEACHER_FORCED,
        score=sum(hits) / len(right),
        is_exact=all(hits),
        before=decode(probe.unedited_ids),
        after=decode(ids),
        routing=routing,
    )


def free_generation_result(probe: PreparedProbe, text: str, routing: Routing) -> ProbeResult:
    """Score an edited model's free answer to a probe.

    Exact match, after normalisation, with the target; for a locality probe with what the unedited
    backbone says.
    """
    before = probe.unedited_answer or ""
    expected = before if probe.kind.is_locality else probe.question.target
    is_exact = normalize_answer(text) == normalize_answer(expected)
    return _result(
        probe,
        FREE_GENERATION,
        score=float(is_exact),
        is_exact=is_exact,
        before=before,
        after=text,
        routing=routing,
    )


def _result(
    probe: PreparedProbe,
    protocol: str,
    *,
    score: float,
    is_exact: bool,
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
        score=score,
        is_exact=is_exact,
        target=probe.question.target,
        answer_before=before,
        answer_after=after,
        kept=routing.kept,
        weights=routing.weights,
        own_expert_kept=is_kept,
        own_rank=rank,
        own_weight=routing.weights[rank] if is_kept else 0.0,
    )
