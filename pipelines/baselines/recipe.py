"""The recipe of `compare_editors.py`: which editors, at how many edits, on how many cases."""

import math
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from liveedit_core.baselines.settings import (
    FineTuningConfig,
    GraceConfig,
    InContextConfig,
    LoraConfig,
    MaskedFineTuningConfig,
    WiseConfig,
)
from liveedit_core.inputs.limits import MAX_TARGET_TOKENS
from liveedit_core.settings import Count, List, PositiveInt, Text, rule
from pipelines.job.sections import (
    BackboneSection,
    BenchmarkSection,
    FolderRecipe,
    StatesSection,
    TrackingSection,
)

EDITORS = ("liveedit", "ft-l", "ft-m", "lora", "ike", "grace", "wise", "unedited")
"""Names of all editors, in the order of the table."""

_Sizes = Annotated[
    List[PositiveInt],
    Field(min_length=1),
    rule(lambda sizes: len(set(sizes)) == len(sizes), "be different numbers of at least 1"),
]
_Editors = Annotated[
    List[str],
    Field(min_length=1),
    rule(lambda names: set(names) <= set(EDITORS), f"be some of {', '.join(EDITORS)}"),
]


class CompareRecipe(FolderRecipe):
    """Settings of `compare_editors.py`."""

    job: ClassVar[str] = "compare_editors"

    run_name: Text = "compare-editors"
    """Folder of the run under `run_root`, and its name in MLflow."""
    seed: Count = 0
    """Decides which evaluation cases are edited, and in which order."""
    edits: _Sizes = (1, 10, 100)
    """Numbers of edits, N: every editor learns groups of N cases, one group after another."""
    min_cases: PositiveInt = 20
    """At each N, edit at least this many cases, in as many groups as that takes."""
    scored_cases: Count = 20
    """At each N, score this many of the edited cases, evenly spread; 0 for all."""
    free_cases: Count = 10
    """Score this many of them under free generation as well, evenly spread."""
    max_new_tokens: PositiveInt = MAX_TARGET_TOKENS
    """Longest free answer, in tokens."""
    batch_size: PositiveInt = 16
    """Probes in one forward pass."""
    editors: _Editors = EDITORS
    """Which to compare; liveedit needs a generator made for the backbone."""
    backbone: BackboneSection = BackboneSection()
    """The model that is edited, by default at the generator's edit layer; without liveedit among
    the editors, at that of the built-in backbone or two thirds of the depth."""
    benchmark: BenchmarkSection = BenchmarkSection()
    """Cases of a published benchmark; by default the built-in evaluation cases."""
    generator: str = "builtin"
    """Folder of LiveEdit's generator checkpoint, or "builtin"."""
    output: str = ""
    """JSON file for the table; empty: comparison.json in the run folder."""
    tracking: TrackingSection = TrackingSection()
    states: StatesSection = StatesSection(is_cached=False, dtype="float32")
    fine_tuning: FineTuningConfig = FineTuningConfig()
    masked_fine_tuning: MaskedFineTuningConfig = MaskedFineTuningConfig()
    lora: LoraConfig = LoraConfig()
    in_context: InContextConfig = InContextConfig()
    grace: GraceConfig = GraceConfig()
    wise: WiseConfig = WiseConfig()

    @model_validator(mode="after")
    def _check_generator(self) -> Self:
        is_other = self.backbone.name != "builtin"
        if is_other and "liveedit" in self.editors and self.generator == "builtin":
            raise ValueError(
                f"editors: liveedit needs a generator made for {self.backbone.name}; set "
                "generator=FOLDER, or name the other editors with --editors"
            )
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of edits, smallest first."""
        return tuple(sorted(self.edits))

    def num_groups(self, size: int) -> int:
        """Groups at one number of edits."""
        return math.ceil(self.min_cases / size)

    @property
    def num_cases(self) -> int:
        """Cases needed at the number of edits that needs the most."""
        return max(size * self.num_groups(size) for size in self.edits)

    @property
    def output_file(self) -> Path:
        """Takes the table; the figure lies beside it."""
        return Path(self.output) if self.output else self.run_folder / "comparison.json"
