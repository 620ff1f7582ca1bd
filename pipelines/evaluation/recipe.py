"""The recipe of `compare_versions.py`, and the sections about regressions that other jobs share."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from liveedit_core.errors import ConfigError
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.schema import ProbeKind
from liveedit_core.settings import Count, Fraction, OpenFraction, Seed, Settings, StoreUri
from pipelines.job.recipe_loader import Recipe
from pipelines.job.sections import BenchmarkSection, store_uri


class RegressionSection(Settings):
    """The paired test of two versions, over all metrics together."""

    alpha: OpenFraction = 0.05
    """Accepted chance of a false alarm, over all metrics of an evaluation (Holm)."""
    num_resamples: Annotated[int, Field(ge=100)] = 10_000
    """Sign assignments and bootstrap samples that are drawn."""


class MetricFractions(Settings):
    """A fraction for each kind of probe."""

    reliability: Fraction = 0.0
    text_generality: Fraction = 0.0
    modal_generality: Fraction = 0.0
    text_locality: Fraction = 0.0
    modal_locality: Fraction = 0.0
    image_swap_locality: Fraction = 0.0
    prompt_swap_locality: Fraction = 0.0
    neighbour_locality: Fraction = 0.0
    neighbour_generality: Fraction = 0.0
    portability: Fraction = 0.0
    correction: Fraction = 0.0

    def of(self, kind: ProbeKind) -> float:
        return float(getattr(self, kind.value))


class TolerancesSection(MetricFractions):
    """By how much a metric may fall before a significant fall counts as a regression."""

    reliability: Fraction = 0.01
    text_generality: Fraction = 0.01
    modal_generality: Fraction = 0.02
    modal_locality: Fraction = 0.01
    image_swap_locality: Fraction = 0.02
    prompt_swap_locality: Fraction = 0.02
    neighbour_locality: Fraction = 0.02
    neighbour_generality: Fraction = 0.02
    portability: Fraction = 0.02
    correction: Fraction = 0.02


class ComparingRecipe(Recipe):
    """The recipe of a job that compares two bank versions."""

    seed: Seed = 0
    """Of the test and the intervals."""
    regression: RegressionSection = RegressionSection()
    tolerances: TolerancesSection = TolerancesSection()


class VersionSection(Settings):
    """One of the two bank versions, by the results that the store holds of it."""

    results: str = ""
    """Name of the results table, which is that of the run that evaluated."""
    version: Count = 0
    """Version of the bank; 0: the newest one that the table has results of."""
    label: str = ""
    """What the page calls it; empty: its number."""


class VersionComparisonRecipe(ComparingRecipe):
    """Settings of `compare_versions.py`."""

    job: ClassVar[str] = "compare_versions"

    run_root: str = "runs"
    store: StoreUri = ""
    """Root URI of the store that holds the results; a folder, file:///... or s3://..."""
    bank_store: StoreUri = ""
    """Root URI of the store that holds the bank and its requests; empty: the same store."""
    bank: str = "main"
    old: VersionSection = VersionSection()
    new: VersionSection = VersionSection()
    cases: str = ""
    """JSONL file of the cases that were evaluated; empty for those of `benchmark`."""
    benchmark: BenchmarkSection = BenchmarkSection()
    limits: InputLimits = InputLimits()
    output: str = ""
    """The page; empty: `comparisons/<bank>-<old>-<new>.html` under `run_root`."""

    def check_complete(self) -> None:
        """Refuse a recipe that names nothing to compare; `--dry-run` may show one."""
        old, new = self.old.results, self.new.results
        for name, value in (("store", self.store), ("old.results", old), ("new.results", new)):
            if not value.strip():
                raise ConfigError(f"{name} is not set: see --help")

    @property
    def store_uri(self) -> str:
        return store_uri(self.store, Path())

    @property
    def bank_store_uri(self) -> str:
        return store_uri(self.bank_store or self.store, Path())

    def page(self, old_version: int, new_version: int) -> Path:
        name = f"{self.bank}-{old_version}-{new_version}.html"
        return Path(self.output or Path(self.run_root) / "comparisons" / name)
