"""What a training report is made of: plain values, so that one can be made from anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from infra.reports.data import Example


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
