"""The recipe of `compare_editors.py`: which editors, at how many edits, on how many cases."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from liveedit_core.baselines.settings import (
    FineTuningConfig,
    GraceConfig,
    InContextConfig,
    LoraConfig,
    TensorExpertConfig,
    WiseConfig,
)
from liveedit_core.baselines.trained.settings import (
    RIVALS,
    LteConfig,
    MendConfig,
    RecipeConfig,
    SeracConfig,
)
from liveedit_core.errors import ConfigError
from liveedit_core.inputs.limits import MAX_TARGET_TOKENS
from liveedit_core.settings import Count, List, PositiveInt, Text, rule
from pipelines.job.sections import (
    BackboneSection,
    BenchmarkSection,
    FolderRecipe,
    StatesSection,
    TrackingSection,
)

EDITORS = (
    "liveedit",
    "lookup",
    "ft-l",
    "ft-m",
    "lora",
    "ike",
    "grace",
    "wise",
    "time",
    *RIVALS,
    "unedited",
)
"""Names of all editors, in the order of the table."""
SECTIONS: Mapping[str, str] = {
    "ft-l": "fine_tuning",
    "ft-m": "projector_tuning",
    "lora": "lora",
    "ike": "in_context",
    "grace": "grace",
    "wise": "wise",
    "time": "tensor_experts",
    **{name: name for name in RIVALS},
}
"""Sections of the editors that have settings."""
NEED_GENERATOR = ("liveedit", "lookup")

_GENERATOR = re.compile(r"[A-Za-z0-9._-]+=.+")
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
_Generators = Annotated[
    List[str],
    rule(
        lambda items: all(_GENERATOR.fullmatch(item) for item in items),
        "be texts NAME=FOLDER, the name of letters, digits, '.', '_' and '-'",
    ),
]


class CompareRecipe(FolderRecipe):
    """Settings of `compare_editors.py`."""

    job: ClassVar[str] = "compare_editors"

    run_name: Text = "compare-editors"
    """Folder of the run under `run_root`, and its name in MLflow; groups that are finished there
    are not taught again."""
    seed: Count = 0
    """Decides which cases are edited, and in which order."""
    edits: _Sizes = (1, 10, 100)
    """Numbers of edits, N: every editor learns groups of N cases, one group after another."""
    groups: Annotated[List[PositiveInt], Field(min_length=1)] = (100, 100, 10)
    """Most groups at each N, or one number for all; fewer where there are fewer cases. Numbers of
    edits with equally many groups are taught together: the smaller one is the larger one's
    beginning."""
    scored_cases: Count = 100
    """At each N, score at least this many of the edited cases, equally many of each group; 0 for
    all."""
    free_cases: Count = 100
    """Score at least this many of them under free generation as well; 0 for none."""
    unrelated_questions: Count = 300
    """At each N, ask at least this many questions about entities of other cases, of which nothing
    was taught, equally many of each group; fewer where there are fewer."""
    max_new_tokens: PositiveInt = MAX_TARGET_TOKENS
    """Longest free answer, in tokens."""
    cold_edits: PositiveInt = 5
    """Edits that are timed one at a time, from the image's bytes on."""
    tuning_edits: PositiveInt = 15
    """Edits of one trial of `--tune`; all are scored."""
    batch_size: PositiveInt = 16
    """Probes in one forward pass."""
    editors: _Editors = tuple(name for name in EDITORS if name not in RIVALS)
    """Which to compare; liveedit and lookup need a generator made for the backbone; mend, serac,
    recipe and lte, which have to be named, a part that was trained for it."""
    backbone: BackboneSection = BackboneSection()
    """The model that is edited, by default at the generator's edit layer; without liveedit among
    the editors, at that of the built-in backbone or two thirds of the depth."""
    benchmark: BenchmarkSection = BenchmarkSection()
    """Cases of a benchmark; by default the built-in development cases."""
    cases: str = ""
    """JSONL file of your own cases (`lifelong_edit.py --cases`) in place of a benchmark's."""
    generator: str = "builtin"
    """Folder of LiveEdit's generator checkpoint, or "builtin"; lookup shares its router."""
    generators: _Generators = ()
    """More generators for the backbone, NAME=FOLDER, a row each; those of one name are seeds of one
    configuration, shown as mean and range."""
    output: str = ""
    """JSON file for the table; empty: comparison.json in the run folder."""
    tracking: TrackingSection = TrackingSection()
    states: StatesSection = StatesSection(is_cached=False, dtype="float32")
    fine_tuning: FineTuningConfig = FineTuningConfig()
    projector_tuning: FineTuningConfig = FineTuningConfig()
    lora: LoraConfig = LoraConfig()
    in_context: InContextConfig = InContextConfig()
    grace: GraceConfig = GraceConfig()
    wise: WiseConfig = WiseConfig()
    tensor_experts: TensorExpertConfig = TensorExpertConfig()
    mend: MendConfig = MendConfig()
    serac: SeracConfig = SeracConfig()
    recipe: RecipeConfig = RecipeConfig()
    lte: LteConfig = LteConfig()

    @model_validator(mode="after")
    def _check_generator(self) -> Self:
        is_other = self.backbone.name != "builtin"
        if is_other and self.needs_generator and self.generator == "builtin":
            raise ValueError(
                f"editors: liveedit and lookup need a generator made for {self.backbone.name}; set "
                "generator=FOLDER, or name the other editors with --editors"
            )
        lacking = [
            n for n in RIVALS if n in self.editors and self.section(n).checkpoint == "builtin"
        ]
        if is_other and lacking:
            raise ValueError(
                f"editors: {', '.join(lacking)} must be trained for {self.backbone.name} "
                f"(train_editor.py); set {lacking[0]}.checkpoint=FOLDER, or name the other editors "
                "with --editors"
            )
        return self

    @model_validator(mode="after")
    def _check_cases(self) -> Self:
        if self.cases and self.benchmark.is_on:
            raise ValueError(f"cases: a file is named, and the benchmark {self.benchmark.name!r}")
        return self

    @model_validator(mode="after")
    def _check_groups(self) -> Self:
        if len(self.groups) not in (1, len(self.edits)):
            raise ValueError(
                f"groups: expected one number, or one for each of edits {list(self.edits)}, got "
                f"{list(self.groups)}"
            )
        return self

    def check_start(self) -> None:
        if self.max_new_tokens < MAX_TARGET_TOKENS:
            raise ConfigError(
                f"max_new_tokens is {self.max_new_tokens}, but targets of up to "
                f"{MAX_TARGET_TOKENS} tokens are accepted: longer ones would count as wrong"
            )

    def section(self, editor: str) -> Any:
        """The settings of an editor that has some."""
        return getattr(self, SECTIONS[editor])

    @property
    def title(self) -> str:
        """What the cases are called."""
        return Path(self.cases).name if self.cases else self.benchmark.title

    @property
    def needs_generator(self) -> bool:
        return any(name in self.editors for name in NEED_GENERATOR)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of edits, smallest first."""
        return tuple(sorted(self.edits))

    @property
    def ladders(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Numbers of groups and, for each, the numbers of edits that are taught together."""
        groups = self.groups if len(self.groups) > 1 else self.groups * len(self.edits)
        of_size = dict(zip(self.edits, groups, strict=True))
        counts = dict.fromkeys(of_size[size] for size in self.sizes)
        return tuple(
            (count, tuple(size for size in self.sizes if of_size[size] == count))
            for count in counts
        )

    @property
    def output_file(self) -> Path:
        """Takes the table; the figure lies beside it."""
        return Path(self.output) if self.output else self.run_folder / "comparison.json"
