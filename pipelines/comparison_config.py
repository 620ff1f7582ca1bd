"""Sections of a recipe that say when one bank version is worse than another, or good enough."""

from dataclasses import dataclass, fields

from liveedit_core.errors import ConfigError
from liveedit_core.schema import ProbeKind


@dataclass(frozen=True, kw_only=True)
class RegressionSection:
    """The statistical test of `liveedit_core.paired_test`, made for all metrics together."""

    alpha: float = 0.05
    """Chance of a false alarm that is accepted, over all metrics of a night (Holm)."""
    num_resamples: int = 10_000
    """Sign assignments and bootstrap samples that are drawn."""

    def __post_init__(self) -> None:
        """Refuse a level that is none, and so few resamples that nothing could be significant."""
        if not 0.0 < self.alpha < 1.0:
            raise ConfigError(f"alpha must lie in (0, 1), got {self.alpha}")
        if self.num_resamples < 100:
            raise ConfigError(f"num_resamples must be at least 100, got {self.num_resamples}")


@dataclass(frozen=True, kw_only=True)
class _OfEachMetric:
    """A share for each kind of probe."""

    reliability: float = 0.0
    text_generality: float = 0.0
    modal_generality: float = 0.0
    text_locality: float = 0.0
    modal_locality: float = 0.0
    image_swap_locality: float = 0.0
    prompt_swap_locality: float = 0.0
    portability: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        for item in fields(self):
            value = getattr(self, item.name)
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"{item.name} must lie in [0, 1], got {value}")

    def of(self, kind: ProbeKind) -> float:
        """The value of one metric."""
        value: float = getattr(self, kind.value)
        return value


@dataclass(frozen=True, kw_only=True)
class TolerancesSection(_OfEachMetric):
    """By how much a metric may fall before a significant fall counts as a regression."""

    reliability: float = 0.01
    text_generality: float = 0.01
    modal_generality: float = 0.02
    text_locality: float = 0.0
    modal_locality: float = 0.01
    image_swap_locality: float = 0.02
    prompt_swap_locality: float = 0.02
    portability: float = 0.02


@dataclass(frozen=True, kw_only=True)
class ThresholdsSection(_OfEachMetric):
    """Least mean of each metric (teacher_forced) of a version that is promoted; 0 asks nothing."""

    reliability: float = 0.9
    text_generality: float = 0.85
    modal_generality: float = 0.5
    text_locality: float = 1.0
    modal_locality: float = 0.9


@dataclass(frozen=True, kw_only=True)
class GatesSection:
    """What is asked of an evaluation, whatever its numbers are."""

    max_age_hours: float = 36.0
    """Oldest evaluation that counts."""
    min_samples: int = 30
    """Least number of probes behind each metric that has a threshold."""

    def __post_init__(self) -> None:
        """Refuse an age or a number that no evaluation could have."""
        if not self.max_age_hours > 0.0:
            raise ConfigError(f"max_age_hours must be above 0, got {self.max_age_hours}")
        if self.min_samples < 1:
            raise ConfigError(f"min_samples must be at least 1, got {self.min_samples}")
