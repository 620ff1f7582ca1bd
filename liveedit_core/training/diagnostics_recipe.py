"""Thresholds of the warnings about a generator in training (`training_diagnostics`)."""

from dataclasses import dataclass

from liveedit_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DiagnosticsRecipe:
    """When validation warns."""

    max_empty_fraction: float = 0.2
    """Warn when more of the probes that an expert must answer have no candidate at all."""
    max_kept_fraction: float = 0.8
    """Warn when more of the bank is kept, on the average over probes with an image."""
    max_norm_ratio: float = 20.0
    """Warn when the largest expert is so many times the median one."""
    max_norm_growth: float = 50.0
    """Warn when the median expert is so many times that of the first validation."""

    def __post_init__(self) -> None:
        for name in ("max_empty_fraction", "max_kept_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be above 0, at most 1, got {getattr(self, name)}")
        for name in ("max_norm_ratio", "max_norm_growth"):
            if getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be more than 1, got {getattr(self, name)}")
