"""What each page shows: the core's own results and summaries, with titles, counts and facts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from infra.reports.outcomes import OutcomeRow
from liveedit_core.evaluation.comparable import ComparableGroup
from liveedit_core.evaluation.comparison import MetricComparison, Pair, direction_of
from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.evaluation.retention import Retention
from liveedit_core.evaluation.scope import ScopeSummary
from liveedit_core.evaluation.statistics import Interval
from liveedit_core.evaluation.summaries import LabelSummary, Summary
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.schema import EditRequest, Probe

MAX_FLIPS = 40
"""Cards that a comparison shows in each direction."""


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The metrics after one number of edits."""

    num_edits: int
    summary: Summary
    by_variant: LabelSummary = field(default_factory=dict)
    by_tag: Mapping[str, LabelSummary] = field(default_factory=dict)
    """By tag of the cases, then by its values."""
    scope: ScopeSummary = field(default_factory=dict)
    num_groups: int = 1
    """Lifelong curves evaluate the cases in groups of `num_edits`; the last may be smaller."""
    comparable_group: str = ""
    """How it was measured: "E-VQA, paper prompts, groups of 10 edits, ..."."""
    retention: Mapping[str, Retention] = field(default_factory=dict)
    """By protocol, on lifelong curves beyond one edit."""
    budget: float | None = None
    """Of false activations; None: its visual filter follows none."""


@dataclass(frozen=True, kw_only=True)
class KeptExpert:
    """An expert that passed the hard filter for a probe."""

    edit_id: str
    edit: EditRequest | None
    """None if the request log does not hold it."""
    weight: float
    """Its soft-routing weight, 0 to 1."""
    is_own: bool = False
    """Whether it is the expert of the edit that the probe belongs to."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One scored probe: the model's answers before and after the edits."""

    result: ProbeResult
    probe: Probe
    num_edits: int
    kept: Sequence[KeptExpert] = ()


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A probe that was entirely right under one of two versions only."""

    old: ProbeResult
    new: ProbeResult
    probe: Probe
    kept_old: Sequence[KeptExpert] = ()
    kept_new: Sequence[KeptExpert] = ()

    @property
    def direction(self) -> str:
        """`LOST` or `GAINED`."""
        return direction_of((self.old, self.new))


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
        """Throughput; 0 if the stage took no measurable time."""
        return self.num_items / self.duration_s if self.duration_s > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class SimilarPair:
    """Two edits with similar images."""

    first: EditRequest
    second: EditRequest
    relation: str
    """"near_duplicate" or "conflict" (same prompt, different targets)."""
    similarity: float
    """Cosine of the two image embeddings."""


@dataclass(frozen=True, kw_only=True)
class PageData:
    """What every page shows."""

    seed: int
    """Of samples, tests and intervals."""
    warnings: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    """Shown as they are: recipe, git commit, digests, bank versions."""


@dataclass(frozen=True, kw_only=True)
class ReportData(PageData):
    """The report of an editing run."""

    title: str
    subtitle: str = ""
    num_edits: int
    """Edits in the bank at the end."""
    num_edits_before: int = 0
    """Of these, how many the bank held before this run."""
    num_rejects: int = 0
    """Rejected inputs; `rejects` may list fewer."""
    duration_s: float
    metrics: Sequence[CurvePoint] = ()
    curve: Sequence[CurvePoint] = ()
    """The lifelong curve of the newest version; empty: none was evaluated."""
    examples: Sequence[Example] = ()
    worst_cases: Sequence[Example] = ()
    rejects: Sequence[Rejected] = ()
    similar_pairs: Sequence[SimilarPair] = ()
    stages: Sequence[StageTime] = ()
    outcomes: Sequence[OutcomeRow] = ()
    """Of the edits of this run; empty: none was verified."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedVersion:
    """A bank version with its results."""

    bank: str
    bank_version: int
    num_edits: int
    """Experts that each probe was scored against."""
    results: Sequence[ProbeResult]
    label: str = ""
    """Its role: "champion", "newest"."""
    is_complete: bool = True
    """Whether every probe has its results."""
    comparable_group: ComparableGroup | None = None
    """How they were measured; None for results of earlier releases."""
    budget: float | None = None
    """Of false activations; None: its visual filter follows none."""


@dataclass(frozen=True, kw_only=True)
class EvaluationReportData(PageData):
    """The page of one evaluation of one bank version."""

    version: EvaluatedVersion
    summary: Summary
    by_variant: LabelSummary = field(default_factory=dict)
    by_tag: Mapping[str, LabelSummary] = field(default_factory=dict)
    scope: ScopeSummary = field(default_factory=dict)
    duration_s: float = 0.0
    """Time of scoring; 0: unknown."""
    curve: Sequence[CurvePoint] = ()
    """Other numbers of edits of the same bank."""
    examples: Sequence[Example] = ()
    worst_cases: Sequence[Example] = ()


@dataclass(frozen=True, kw_only=True)
class ComparisonReportData(PageData):
    """The page that compares two bank versions on the same probes."""

    old: EvaluatedVersion
    new: EvaluatedVersion
    pairs: Sequence[Pair] = ()
    comparisons: Sequence[MetricComparison] = ()
    flips: Sequence[Flip] = ()
    """A selection of the probes that flipped."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number about one editor after N edits."""

    editor: str
    num_edits: int
    name: str
    """A metric, or one of `editors.MEASURES`."""
    protocol: str
    """Empty for what no protocol changes: seconds and bytes."""
    value: float
    interval: Interval | None = None
    """95 %; None: it has none, or was stored without."""
    num_samples: int = 0
    """What it is a mean of; 0: of nothing."""


@dataclass(frozen=True, kw_only=True)
class EditorsReportData(PageData):
    """The page that compares editors over the number of edits."""

    title: str
    subtitle: str = ""
    measures: Sequence[Measure] = ()
    trained_on: Mapping[str, str] = field(default_factory=dict)
    """By editor: what was trained before the first edit, on what."""
    num_trials: Mapping[str, int] = field(default_factory=dict)
    """By editor: on validation, before its settings were chosen."""
    reference: str = "unedited"
    """The editor that learns nothing; it is never the best one."""

    @property
    def editors(self) -> list[str]:
        """Names in order."""
        return list(dict.fromkeys(item.editor for item in self.measures))

    @property
    def sizes(self) -> list[int]:
        """Numbers of edits, smallest first."""
        return sorted({item.num_edits for item in self.measures})


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Distributions of one quantity, drawn over one another."""

    title: str
    caption: str
    x_label: str
    samples: Mapping[str, Sequence[float]]
    """Values by label; an empty one is left out."""
    threshold: float | None = None
    """Where a decision changes."""


@dataclass(frozen=True, kw_only=True)
class TrainingReportData(PageData):
    """The report of a training run."""

    title: str
    subtitle: str = ""
    duration_s: float
    """Of this start, without earlier starts of a resumed run."""
    phase_steps: Mapping[str, int]
    """Optimizer steps of each phase, in order."""
    curve: Sequence[Mapping[str, float | str]]
    """Rows of `phase`, `step` and quantities; `validation.*` and `routing.*` were measured on
    held-out entities, any other quantity on the step's batch."""
    histograms: Sequence[Histogram] = ()
    worst_cases: Sequence[Example] = ()
    recipe_text: str = ""
    """The resolved recipe, TOML."""
