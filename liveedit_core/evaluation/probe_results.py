"""One probe, scored under one protocol: what every number of ours is made of (METHOD.md 7).

    teacher_forced     the tokens before each target token are given; score = share of right tokens
    free_generation    greedy answer; score = 1 where it is the target after `normalize_answer`

A locality probe is right where the edited model says what the unedited backbone says, token by
token or as a free answer. Numbers of different protocols are never mixed.
"""

import re
from dataclasses import dataclass

from liveedit_core.schema import ProbeKind

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
