"""What the page of a comparison is made of: plain values, whatever computed them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from infra.reports.data import KeptExpert

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
