"""The recipe of `nightly_evaluation.py`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from liveedit_core.errors import ConfigError
from liveedit_core.inputs.limits import InputLimits
from pipelines.editing.recipe import PROTOCOLS, RaySection, TrackingSection
from pipelines.evaluation.sections import (
    NightLeaseSection,
    RegressionSection,
    TolerancesSection,
    check_names,
    operations_uri,
)
from pipelines.job.benchmark_options import BenchmarkSection
from pipelines.job.states_config import StatesSection


@dataclass(frozen=True, kw_only=True)
class CasesSection:
    """The fixed cases; the same ones every night."""

    path: str = ""
    """JSONL file of cases; empty for those of `benchmark`, or the built-in evaluation cases."""
    limit: int = 200
    """Only the first so many; 0 takes all."""

    def __post_init__(self) -> None:
        """Refuse a negative limit."""
        if self.limit < 0:
            raise ConfigError(f"limit must be at least 0, got {self.limit}")


@dataclass(frozen=True, kw_only=True)
class ReplaySection:
    """How cases are scored, and by how many workers."""

    protocols: tuple[str, ...] = PROTOCOLS
    """How to score: "teacher_forced", "free_generation"."""
    free_generation_cases: int = 50
    """Free generation is slow: it scores at most so many cases; 0 takes all."""
    max_new_tokens: int = 12
    """Longest answer under free generation, in tokens."""
    device: str = "cpu"
    """Where a backbone that is not the built-in one computes: "cpu", "cuda" or "auto"."""
    num_workers: int = 2
    """Most actors in the pool; they start as there is work for them."""
    batch_size: int = 16
    """Probes in one forward pass."""
    num_threads: int = 1
    """Threads of torch in each actor."""
    num_cpus: float = 1.0
    """CPUs that Ray sets aside for each actor; for placement only, and may be a fraction."""
    node_resource: str = ""
    """Custom Ray resource that marks the nodes to run on; empty for any node."""

    def __post_init__(self) -> None:
        """Refuse counts below their floor and unknown protocols."""
        for name, least in (
            ("free_generation_cases", 0),
            ("max_new_tokens", 1),
            ("num_workers", 1),
            ("batch_size", 1),
            ("num_threads", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0.0 <= self.num_cpus < float("inf"):
            raise ConfigError(f"num_cpus must be 0 or more, got {self.num_cpus}")
        if not self.protocols or not set(self.protocols) <= set(PROTOCOLS):
            raise ConfigError(
                f"protocols must name one at least of {', '.join(PROTOCOLS)}; "
                f"got {list(self.protocols)}"
            )


@dataclass(frozen=True, kw_only=True)
class NightlyRecipe:
    """Settings of `nightly_evaluation.py`."""

    job: ClassVar[str] = "nightly_evaluation"

    seed: int = 0
    """Of the cases drawn for free generation and of the statistics."""
    run_root: str = "runs"
    """Folder of all runs; holds MLflow's database where MLFLOW_TRACKING_URI names no server."""
    run_name: str = "nightly"
    """Folder of the pages under `run_root`, and name of the nights: one a name and date."""
    store: str = ""
    """Root URI of the store for results, evaluations, audit log and leases; the one that
    `promotion.py` uses. Empty: the folder `operations` under `run_root`."""
    cases: CasesSection = field(default_factory=CasesSection)
    benchmark: BenchmarkSection = field(default_factory=BenchmarkSection)
    limits: InputLimits = field(default_factory=InputLimits)
    evaluation: ReplaySection = field(default_factory=ReplaySection)
    regression: RegressionSection = field(default_factory=RegressionSection)
    tolerances: TolerancesSection = field(default_factory=TolerancesSection)
    lease: NightLeaseSection = field(default_factory=NightLeaseSection)
    states: StatesSection = field(default_factory=StatesSection)
    ray: RaySection = field(default_factory=RaySection)
    tracking: TrackingSection = field(default_factory=TrackingSection)

    def __post_init__(self) -> None:
        """Refuse what no night could be named or stored by."""
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must lie in [0, 2**32), got {self.seed}")
        if self.cases.path and self.benchmark.is_on:
            raise ConfigError("benchmark.name and cases.path are both set; set one of them")
        check_names(run_root=self.run_root, run_name=self.run_name, store=self.store)

    @property
    def run_folder(self) -> Path:
        """Folder of the pages."""
        return Path(self.run_root) / self.run_name

    @property
    def store_uri(self) -> str:
        """Root URI of the store, with the default filled in."""
        return operations_uri(self.store, self.run_root)
