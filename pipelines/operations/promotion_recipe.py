"""The recipe of `promotion.py`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pipelines.evaluation.sections import (
    GatesSection,
    LeaseSection,
    RegressionSection,
    ThresholdsSection,
    TolerancesSection,
    check_names,
    operations_uri,
)

DEFAULT_RECIPE = Path(__file__).parents[1] / "recipes" / "promotion.toml"
"""The recipe that is used when none is named."""


@dataclass(frozen=True, kw_only=True)
class PromotionRecipe:
    """Settings of `promotion.py`."""

    job: ClassVar[str] = "promotion"

    seed: int = 0
    """Of the statistics."""
    run_root: str = "runs"
    """Folder of all runs; holds MLflow's database where MLFLOW_TRACKING_URI names no server."""
    run_name: str = "promotion"
    """Name of the recipe, for people."""
    store: str = ""
    """Root URI of the store for results, evaluations, audit log and leases; the one that
    `nightly_evaluation.py` uses. Empty: the folder `operations` under `run_root`."""
    gates: GatesSection = field(default_factory=GatesSection)
    thresholds: ThresholdsSection = field(default_factory=ThresholdsSection)
    regression: RegressionSection = field(default_factory=RegressionSection)
    tolerances: TolerancesSection = field(default_factory=TolerancesSection)
    lease: LeaseSection = field(default_factory=LeaseSection)

    def __post_init__(self) -> None:
        """Refuse what nothing could be stored by."""
        check_names(run_root=self.run_root, run_name=self.run_name, store=self.store)

    @property
    def store_uri(self) -> str:
        """Root URI of the store, with the default filled in."""
        return operations_uri(self.store, self.run_root)
