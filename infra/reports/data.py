"""What a report is made of: plain values, so that a report can be made and tested from anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from liveedit_core.inputs.rejects import Rejected


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One metric after one number of edits, under one protocol."""

    num_edits: int
    kind: str
    """A `ProbeKind`."""
    protocol: str
    """"teacher_forced" or "free_generation"; never two of them in one column."""
    mean: float
    """Mean score, 0 to 1."""
    num_samples: int
    own_kept_fraction: float | None = None
    """Share of probes for which the edit's own expert passed the hard filter; None: unknown."""
    empty_kept_fraction: float | None = None
    """Share of probes for which no expert passed the hard filter; None: unknown."""
    num_cases: int | None = None
    """Cases that the probes belong to; None: unknown. So for all that follows."""
    low: float | None = None
    """Lower end of the 95 % interval of the mean."""
    high: float | None = None
    """Upper end of the 95 % interval of the mean."""
    exact_mean: float | None = None
    """Share of probes whose answer is right as a whole."""
    exact_low: float | None = None
    exact_high: float | None = None
    kept_mean: float | None = None
    """Experts that passed the hard filter, on average over probes."""
    kept_p95: float | None = None
    """The same, 95th percentile."""
    own_first_fraction: float | None = None
    """Share of probes for which the edit's own expert had the largest weight of all."""
    own_rank_mean: float | None = None
    """Place of the edit's own expert by weight where it was kept, 1 is the first; a mean."""
    own_weight_mean: float | None = None
    """Soft-routing weight of the edit's own expert where it was kept; a mean."""


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One number of edits of a lifelong curve: all cases, in groups of so many."""

    num_edits: int
    """Edits of a group; the last group may hold fewer."""
    num_groups: int
    metrics: Sequence[MetricRow]
    """Over all groups; each row has this number of edits."""


@dataclass(frozen=True, kw_only=True)
class EditView:
    """An edit as a reader sees it."""

    edit_id: str
    prompt: str
    target: str
    image_bytes: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class KeptExpert:
    """An expert that passed the hard filter for a probe."""

    edit: EditView
    weight: float
    """Its soft-routing weight, 0 to 1."""
    is_own: bool = False
    """Whether it is the expert of the very edit that the probe examines."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One examined probe: what the model said before and after the edits."""

    case_id: str
    num_edits: int
    kind: str
    protocol: str
    score: float
    """0 to 1."""
    prompt: str
    target: str
    answer_before: str
    answer_after: str
    image_bytes: bytes | None = None
    kept: Sequence[KeptExpert] = ()


@dataclass(frozen=True, kw_only=True)
class SimilarPair:
    """Two edits whose images are alike."""

    relation: str
    """"duplicate", "near_duplicate" or "conflict" (alike, with different targets)."""
    similarity: float
    """Cosine of the two image embeddings."""
    first: EditView
    second: EditView


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """How long one stage of the job took."""

    stage: str
    num_items: int
    unit: str
    """What was counted: "edits", "probes", "windows"."""
    duration_s: float

    @property
    def items_per_s(self) -> float:
        """Throughput; 0 when the stage took no measurable time."""
        return self.num_items / self.duration_s if self.duration_s > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything that one report shows."""

    title: str
    subtitle: str = ""
    seed: int
    facts: Mapping[str, str] = field(default_factory=dict)
    """Facts of the run by name: recipe, git commit, versions, digests, bank versions."""
    num_edits: int
    """Edits in the bank at the end."""
    num_edits_before: int = 0
    """Of these, how many the bank held already and were not done again."""
    num_rejects: int = 0
    """Inputs that were refused; `rejects` may list fewer."""
    duration_s: float
    metrics: Sequence[MetricRow] = ()
    curve: Sequence[CurvePoint] = ()
    """The lifelong curve of the newest version, by number of edits; empty: none was asked for."""
    examples: Sequence[Example] = ()
    worst_cases: Sequence[Example] = ()
    rejects: Sequence[Rejected] = ()
    similar_pairs: Sequence[SimilarPair] = ()
    stages: Sequence[StageTime] = ()
    warnings: Sequence[str] = ()
