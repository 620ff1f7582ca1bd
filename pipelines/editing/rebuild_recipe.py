"""The recipe of rebuild_bank.py: a bank made anew from the request log by another generator."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from infra.bank.policy import GrowthPolicy
from liveedit_core.errors import ConfigError
from liveedit_core.inputs.limits import InputLimits
from pipelines.editing.recipe import (
    BackboneSection,
    BankSection,
    EmbeddingSection,
    EvaluationSection,
    GeneratorSection,
    LifelongEditRecipe,
    RaySection,
    TrackingSection,
)
from pipelines.job.states_config import StatesSection


@dataclass(frozen=True, kw_only=True)
class RebuildSourceSection:
    """Which requests of the log the new bank is made from."""

    bank: str = ""
    """Only the edits that this bank of the store holds; empty: every request of the log. Edits that
    were removed never come back, whatever is named here."""
    version: str = ""
    """Number or tag of a version of it; empty: the newest when the job starts."""

    def __post_init__(self) -> None:
        """Refuse a version of no bank."""
        if self.version and not self.bank:
            raise ConfigError("version needs source.bank")


@dataclass(frozen=True, kw_only=True)
class RebuiltBankSection(BankSection):
    """The new bank."""

    name: str = "rebuilt"
    """Name of the bank in the store; another one than that of the source."""
    window_edits: int = 1000
    """Edits of one window; what a killed job has to write again at most."""


@dataclass(frozen=True, kw_only=True)
class RebuildRecipe:
    """Settings of `rebuild_bank.py`."""

    job: ClassVar[str] = "rebuild_bank"

    run_root: str = "runs"
    """Folder of all runs; holds MLflow's database too."""
    run_name: str = "rebuild_bank"
    """Folder of this run under `run_root`: its settings and its log."""
    store: str = ""
    """Root URI of the store that holds the request log, file:///... or s3://bucket/prefix."""
    alias: str = "challenger"
    """Alias of the new version in MLflow, for promotion.py; empty sets none."""
    source: RebuildSourceSection = field(default_factory=RebuildSourceSection)
    limits: InputLimits = field(default_factory=InputLimits)
    backbone: BackboneSection = field(default_factory=BackboneSection)
    generator: GeneratorSection = field(default_factory=GeneratorSection)
    embedding: EmbeddingSection = field(default_factory=EmbeddingSection)
    bank: RebuiltBankSection = field(default_factory=RebuiltBankSection)
    growth: GrowthPolicy = field(default_factory=GrowthPolicy)
    states: StatesSection = field(default_factory=lambda: StatesSection(is_cached=False))
    ray: RaySection = field(default_factory=RaySection)
    tracking: TrackingSection = field(default_factory=TrackingSection)

    def __post_init__(self) -> None:
        """Refuse to rebuild a bank into itself, and what no run could be named or stored by."""
        if self.source.bank == self.bank.name:
            raise ConfigError(
                f"bank.name must be another one than source.bank, both are {self.bank.name!r}"
            )
        self.editing()

    @property
    def run_folder(self) -> Path:
        """Folder of this run."""
        return Path(self.run_root) / self.run_name

    def editing(self) -> LifelongEditRecipe:
        """The editing job that this is: no new requests, no evaluation."""
        return LifelongEditRecipe(
            run_root=self.run_root,
            run_name=self.run_name,
            store=self.store,
            limits=self.limits,
            backbone=self.backbone,
            generator=self.generator,
            embedding=self.embedding,
            bank=self.bank,
            growth=self.growth,
            evaluation=EvaluationSection(at=(), num_cpus=0.0),
            states=self.states,
            ray=self.ray,
            tracking=self.tracking,
        )
