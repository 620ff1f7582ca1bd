"""Sections about comparing, judging and promoting bank versions, shared by the recipes of jobs."""

import re
from dataclasses import dataclass, fields
from pathlib import Path

from liveedit_core.errors import ConfigError
from liveedit_core.schema import ProbeKind

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class RegressionSection:
    """The paired test of `liveedit_core.evaluation.statistics`, over all metrics together."""

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


@dataclass(frozen=True, kw_only=True)
class PromotionAtEndSection:
    """Whether the editing job ends with an evaluation against the champion and a promotion."""

    at_end: bool = False
    """Promote the newest version at the end, if it passes every gate."""
    nightly_recipe: str = ""
    """Recipe of `nightly_evaluation.py` by which to evaluate; empty for its defaults."""
    recipe: str = ""
    """Recipe of `promotion.py` by which to decide; empty for its defaults."""


@dataclass(frozen=True, kw_only=True)
class LeaseSection:
    """How long a dead process blocks the next one."""

    term_s: float = 600.0
    """A lease that was not renewed for so long is free; it is renewed four times as often."""

    def __post_init__(self) -> None:
        """Refuse a term in which no renewal could arrive."""
        if not 1.0 <= self.term_s < float("inf"):
            raise ConfigError(f"term_s must be at least 1, got {self.term_s}")


@dataclass(frozen=True, kw_only=True)
class NightLeaseSection(LeaseSection):
    """The same of a night, which may wait for its turn."""

    wait_s: float = 0.0
    """So long another process may be at the night before this one gives up. More than `term_s` lets
    a new machine take over from one that was lost, without another start."""

    def __post_init__(self) -> None:
        """Refuse what is no time."""
        super().__post_init__()
        if not 0.0 <= self.wait_s < float("inf"):
            raise ConfigError(f"wait_s must be 0 or more, got {self.wait_s}")


def operations_uri(store: str, run_root: str) -> str:
    """Root URI of the store for evaluations, audit log and leases.

    Args:
        store: As the recipe names it; "" for the folder `operations` of the run root.
        run_root: Of the recipe.
    """
    if "://" in store:
        return store
    return Path(store or Path(run_root) / "operations").absolute().as_uri()


def check_names(*, run_root: str, run_name: str, store: str) -> None:
    """Refuse what nothing could be named or stored by."""
    if not run_root.strip():
        raise ConfigError("run_root must not be empty")
    if not _NAME.fullmatch(run_name):
        raise ConfigError(
            f"run_name must be made of letters, digits, '.', '_' and '-', got {run_name!r}"
        )
    scheme, separator, _ = store.partition("://")
    if separator and scheme not in ("file", "s3"):
        raise ConfigError(f"store must be a folder, file:///... or s3://..., got {store!r}")
