"""The recipe of `compare_versions.py`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from liveedit_core.errors import ConfigError
from liveedit_core.inputs.limits import InputLimits
from pipelines.evaluation.sections import RegressionSection, TolerancesSection


@dataclass(frozen=True, kw_only=True)
class VersionSection:
    """One of the two bank versions, by the results that the store holds of it."""

    results: str = ""
    """Name of the results table, which is that of the run that evaluated."""
    version: int = 0
    """Version of the bank; 0: the newest one that the table has results of."""
    label: str = ""
    """What the page calls it; empty: its number."""

    def __post_init__(self) -> None:
        """Refuse a negative version."""
        if self.version < 0:
            raise ConfigError(f"version must be at least 0, got {self.version}")


@dataclass(frozen=True, kw_only=True)
class VersionComparisonRecipe:
    """Settings of `compare_versions.py`."""

    job: ClassVar[str] = "compare_versions"

    seed: int = 0
    """Of the test and the intervals."""
    run_root: str = "runs"
    """Folder of all runs."""
    store: str = ""
    """Root URI of the store that holds the results; a folder, file:///... or s3://..."""
    bank_store: str = ""
    """Root URI of the store that holds the bank and its requests; empty: the same store."""
    bank: str = "main"
    """Name of the bank."""
    old: VersionSection = field(default_factory=VersionSection)
    new: VersionSection = field(default_factory=VersionSection)
    cases: str = ""
    """JSONL file of the cases that were examined; empty for the built-in evaluation cases."""
    limits: InputLimits = field(default_factory=InputLimits)
    regression: RegressionSection = field(default_factory=RegressionSection)
    tolerances: TolerancesSection = field(default_factory=TolerancesSection)
    output: str = ""
    """The page; empty: `comparisons/<bank>-<old>-<new>.html` under `run_root`."""

    def __post_init__(self) -> None:
        """Refuse a seed that is none."""
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must lie in [0, 2**32), got {self.seed}")

    def check_complete(self) -> None:
        """Refuse a recipe that names nothing to compare; `--dry-run` may show one.

        Raises:
            ConfigError: The store or a results table is not named.
        """
        for name, value in (
            ("store", self.store),
            ("old.results", self.old.results),
            ("new.results", self.new.results),
        ):
            if not value.strip():
                raise ConfigError(f"{name} is not set: see --help")

    @property
    def store_uri(self) -> str:
        """Root URI of the results."""
        return _uri(self.store)

    @property
    def bank_store_uri(self) -> str:
        """Root URI of the bank."""
        return _uri(self.bank_store or self.store)

    def page(self, old_version: int, new_version: int) -> Path:
        """Path of the page."""
        name = f"{self.bank}-{old_version}-{new_version}.html"
        return Path(self.output or Path(self.run_root) / "comparisons" / name)


def _uri(store: str) -> str:
    return store if "://" in store else Path(store).absolute().as_uri()
