"""The recipes of `nightly_evaluation.py` and of `promotion.py`."""

from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from liveedit_core.inputs.limits import InputLimits
from liveedit_core.settings import (
    Amount,
    Count,
    Fraction,
    Name,
    Positive,
    PositiveInt,
    Settings,
    StoreUri,
)
from pipelines.evaluation.recipe import ComparingRecipe, MetricFractions
from pipelines.job.sections import (
    BenchmarkSection,
    RaySection,
    RunRecipe,
    ScoringSection,
    StatesSection,
    TrackingSection,
    store_uri,
)

DEFAULT_RECIPE = Path(__file__).parents[1] / "recipes" / "promotion.toml"
"""The recipe of promotion.py that is used when none is named."""


class CasesSection(Settings):
    """The fixed cases, the same for every nightly run."""

    path: str = ""
    """JSONL file of cases; empty for those of `benchmark`, or the built-in development cases."""
    limit: Count = 200
    """Use only the first this many; 0 for all."""


class ReplaySection(ScoringSection):
    """How the fixed cases are scored, and by how many workers."""

    num_workers: PositiveInt = 2


class LeaseSection(Settings):
    """How long a dead process blocks the next one on another machine."""

    term_s: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 600.0
    """Seconds after which a lease that was not renewed expires; renewed four times per term."""


class NightlyLeaseSection(LeaseSection):
    """The lease of a nightly run, which may wait for another process."""

    wait_s: Amount = 0.0
    """Seconds to wait for another nightly run before failing; more than `term_s` to take over from
    a lost machine without another start."""


class GatesSection(Settings):
    """What an evaluation must fulfil besides its metrics."""

    max_age_hours: Positive = 36.0
    """Greatest age of an evaluation."""
    min_samples: PositiveInt = 30
    """Least number of probes of each metric with a threshold."""


class ThresholdsSection(MetricFractions):
    """Least mean of each metric (teacher_forced) of a version to promote; 0 for no threshold."""

    reliability: Fraction = 0.9
    text_generality: Fraction = 0.85
    modal_generality: Fraction = 0.5
    text_locality: Fraction = 1.0
    modal_locality: Fraction = 0.9


class _OperationsRecipe(RunRecipe, ComparingRecipe):
    store: StoreUri = ""
    """Root URI of the store shared by nightly runs and promotions; empty: `run_root`/operations."""

    @property
    def store_uri(self) -> str:
        """Root URI of the store, with the default filled in."""
        return store_uri(self.store, Path(self.run_root) / "operations")


class NightlyRecipe(_OperationsRecipe):
    """Settings of `nightly_evaluation.py`; the seed draws free-generation cases and statistics."""

    job: ClassVar[str] = "nightly_evaluation"

    run_name: Name = "nightly"
    """Folder of the pages under `run_root`; with the date, the name of a nightly run."""
    cases: CasesSection = CasesSection()
    benchmark: BenchmarkSection = BenchmarkSection()
    limits: InputLimits = InputLimits()
    evaluation: ReplaySection = ReplaySection()
    lease: NightlyLeaseSection = NightlyLeaseSection()
    states: StatesSection = StatesSection()
    ray: RaySection = RaySection()
    tracking: TrackingSection = TrackingSection()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.cases.path and self.benchmark.is_on:
            raise ValueError("benchmark.name and cases.path are both set; set one of them")
        return self

    def check_start(self) -> None:
        self.evaluation.check_length(self.limits)


class PromotionRecipe(_OperationsRecipe):
    """Settings of `promotion.py`; the seed is that of the statistics."""

    job: ClassVar[str] = "promotion"

    run_name: Name = "promotion"
    """Name of the recipe, for people."""
    gates: GatesSection = GatesSection()
    thresholds: ThresholdsSection = ThresholdsSection()
    lease: LeaseSection = LeaseSection()
