"""What the page of one evaluation is made of: plain values, whatever computed them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from infra.reports.data import Example, MetricRow


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
