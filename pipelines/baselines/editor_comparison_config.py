"""The recipe of `compare_editors.py`: which editors, at how many edits, on how many cases."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from liveedit_core.baselines.settings import (
    FineTuningConfig,
    GraceConfig,
    InContextConfig,
    LoraConfig,
    MaskedFineTuningConfig,
    WiseConfig,
)
from liveedit_core.errors import ConfigError
from pipelines.baselines.editors import EDITORS
from pipelines.editing.recipe import TrackingSection
from pipelines.job.benchmark_options import BenchmarkSection
from pipelines.job.states_config import StatesSection


@dataclass(frozen=True, kw_only=True)
class CompareRecipe:
    """Settings of `compare_editors.py`."""

    job: ClassVar[str] = "compare_editors"

    run_name: str = "compare-editors"
    """Folder of the run under `run_root`, and its name in MLflow."""
    run_root: str = "runs"
    """Holds run folders, and MLflow's database where MLFLOW_TRACKING_URI names no server."""
    seed: int = 0
    """Decides which evaluation cases are edited, and in which order."""
    edits: tuple[int, ...] = (1, 10, 100)
    """Numbers of edits, N: cases are taken in groups of N, and every editor is taught a group,
    scored on cases of the group, and restored."""
    min_cases: int = 20
    """At each N, so many cases are taught at least: their number divided by N, rounded up, is the
    number of groups."""
    scored_cases: int = 20
    """At each N, score so many of the taught cases, evenly spread; 0 takes all."""
    free_cases: int = 10
    """Of the scored cases, so many are scored under free generation as well, evenly spread."""
    max_new_tokens: int = 12
    """Longest free answer, in tokens."""
    batch_size: int = 16
    """Probes in one forward pass."""
    editors: tuple[str, ...] = tuple(EDITORS)
    """Which to compare."""
    benchmark: BenchmarkSection = field(default_factory=BenchmarkSection)
    """Cases of a published benchmark; by default the built-in evaluation cases."""
    generator: str = "builtin"
    """Folder of LiveEdit's generator checkpoint, or "builtin"."""
    output: str = ""
    """JSON file for the table; empty: comparison.json in the run folder."""
    tracking: TrackingSection = field(default_factory=TrackingSection)
    states: StatesSection = field(
        default_factory=lambda: StatesSection(is_cached=False, dtype="float32")
    )
    fine_tuning: FineTuningConfig = field(default_factory=FineTuningConfig)
    masked_fine_tuning: MaskedFineTuningConfig = field(default_factory=MaskedFineTuningConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    in_context: InContextConfig = field(default_factory=InContextConfig)
    grace: GraceConfig = field(default_factory=GraceConfig)
    wise: WiseConfig = field(default_factory=WiseConfig)

    def __post_init__(self) -> None:
        """Refuse counts below their floor and unknown editors."""
        for name, least in (
            ("seed", 0),
            ("min_cases", 1),
            ("scored_cases", 0),
            ("free_cases", 0),
            ("max_new_tokens", 1),
            ("batch_size", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.run_name:
            raise ConfigError("run_name must not be empty")
        if not self.edits or min(self.edits) < 1 or len(set(self.edits)) < len(self.edits):
            raise ConfigError(
                f"edits must be different numbers of at least 1, got {list(self.edits)}"
            )
        if not self.editors or not set(self.editors) <= set(EDITORS):
            raise ConfigError(
                f"editors must be some of {', '.join(EDITORS)}; got {list(self.editors)}"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of edits, smallest first."""
        return tuple(sorted(self.edits))

    def num_groups(self, size: int) -> int:
        """Groups that are taught at a number of edits."""
        return math.ceil(self.min_cases / size)

    @property
    def num_cases(self) -> int:
        """Cases that are taught at the number of edits that needs most."""
        return max(size * self.num_groups(size) for size in self.edits)

    @property
    def run_folder(self) -> Path:
        """Takes table and figure."""
        return Path(self.run_root) / self.run_name

    @property
    def output_file(self) -> Path:
        """Takes the table; the figure lies beside it."""
        return Path(self.output) if self.output else self.run_folder / "comparison.json"
