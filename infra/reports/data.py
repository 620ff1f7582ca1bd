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


@dataclass(frozen=True, kw_only=True)
class EvaluationReportData:
    """Everything that the page of one evaluation shows."""

    title: str
    subtitle: str = ""
    seed: int
    """Of samples and intervals."""
    bank: str
    bank_version: int
    num_edits: int
    """Edits that the version holds."""
    num_cases: int
    """Cases that were examined."""
    is_complete: bool
    """Whether every probe asked for has a result."""
    duration_s: float = 0.0
    """What scoring took; 0: unknown."""
    metrics: Sequence[MetricRow] = ()
    """Of this version."""
    curve: Sequence[MetricRow] = ()
    """Of this version and others of its bank, by number of edits."""
    examples: Sequence[Example] = ()
    worst_cases: Sequence[Example] = ()
    warnings: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


REGRESSION = "regression"
IMPROVEMENT = "improvement"
NO_DIFFERENCE = "no difference"
WITHIN_TOLERANCE = "within tolerance"
NOT_SIGNIFICANT = "not significant"

LOST = "lost"
"""Right under the older version, wrong under the newer one."""
GAINED = "gained"
"""Wrong under the older version, right under the newer one."""


@dataclass(frozen=True, kw_only=True)
class VersionView:
    """One of the two versions."""

    label: str
    """What people call it: "champion", "newest"."""
    bank: str
    bank_version: int
    num_edits: int


@dataclass(frozen=True, kw_only=True)
class MetricDifference:
    """One metric under one protocol, on the probes that both versions answered."""

    kind: str
    """A `ProbeKind`."""
    protocol: str
    old_mean: float
    new_mean: float
    difference: float
    """Newer minus older, -1 to 1."""
    low: float
    """Lower end of the 95 % interval of the difference."""
    high: float
    p_value: float
    """One-sided: how often chance alone makes the newer one look so bad, or worse."""
    num_samples: int
    """Pairs of probes."""
    num_cases: int
    adjusted_p_value: float | None = None
    """The same after correction for many metrics; None: not corrected."""
    tolerance: float | None = None
    """Loss that is accepted; None: none was stated."""
    verdict: str = ""
    """One of the verdicts above; empty: nobody judged."""


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A probe that one version answered right as a whole and the other did not."""

    direction: str
    """`LOST` or `GAINED`."""
    case_id: str
    kind: str
    protocol: str
    prompt: str
    target: str
    answer_unedited: str
    answer_old: str
    answer_new: str
    score_old: float
    score_new: float
    image_bytes: bytes | None = None
    kept_old: Sequence[KeptExpert] = ()
    kept_new: Sequence[KeptExpert] = ()


@dataclass(frozen=True, kw_only=True)
class FlipCount:
    """How many probes of one metric flipped, each way."""

    kind: str
    protocol: str
    num_lost: int
    num_gained: int
    num_samples: int


@dataclass(frozen=True, kw_only=True)
class ComparisonReportData:
    """Everything that the page of a comparison shows."""

    title: str
    subtitle: str = ""
    seed: int
    """Of the test and the intervals."""
    old: VersionView
    new: VersionView
    num_cases: int
    """Cases that both versions were examined on."""
    differences: Sequence[MetricDifference] = ()
    flip_counts: Sequence[FlipCount] = ()
    num_lost: int = 0
    """Probes that were lost under one protocol at least; `flips` may list fewer."""
    num_gained: int = 0
    """The same of those that were gained."""
    flips: Sequence[Flip] = ()
    test: str = ""
    """How the p-values were computed, in words."""
    warnings: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Distributions of one number, drawn over one another."""

    title: str
    caption: str
    x_label: str
    samples: Mapping[str, Sequence[float]]
    """Values by label; an empty one is left out."""
    threshold: float | None = None
    """Where a decision changes."""


@dataclass(frozen=True, kw_only=True)
class TrainingReportData:
    """Everything that one training report shows."""

    title: str
    subtitle: str = ""
    seed: int
    duration_s: float
    """Of this start; an earlier one of a resumed run is not in it."""
    phase_steps: Mapping[str, int]
    """Optimizer steps of each phase, in their order."""
    curve: Sequence[Mapping[str, float | str]]
    """Rows of `phase`, `step` and figures. A figure named `validation.*` or `routing.*` was
    measured on held-out entities, any other on the step's batch."""
    histograms: Sequence[Histogram] = ()
    worst_cases: Sequence[Example] = ()
    warnings: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    recipe_text: str = ""
    """The resolved recipe, TOML."""
