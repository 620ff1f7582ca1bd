"""The recipe of `final_numbers.py`."""

from pathlib import Path
from typing import ClassVar, Literal

from liveedit_core.backbones.load_options import ComputeDtype
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.method.config import RefineSection
from liveedit_core.settings import Count, List, Name, PositiveInt, Seed, Text
from pipelines.baselines.recipe import EDITORS
from pipelines.job.sections import FolderRecipe, RaySection, RisingCounts, ScoringSection

RECIPES = Path(__file__).parents[1] / "recipes"
RESULTS = Path(__file__).parents[2] / "tests" / "benchmarks"
"""Where results that are committed with the code lie."""


class FinalScoringSection(ScoringSection):
    """How the cases are scored, and by how many workers."""

    num_workers: PositiveInt = 2
    num_cpus: float = 0.5
    compute_dtype: ComputeDtype = "float32"
    """Of writing too; one that every processor has, so that numbers do not depend on it."""
    free_generation_cases: Count = 0


class FinalNumbersRecipe(FolderRecipe):
    """Settings of `final_numbers.py`."""

    job: ClassVar[str] = "final_numbers"

    run_name: Name = "final"
    """Beginning of the names of its runs; the generator's digest follows."""
    seed: Seed = 0
    """Of the groups and the intervals."""
    split: Literal["test", "validation"] = "test"
    """Split of both built-in benchmarks; the test split is scored once for a generator."""
    max_cases: Count = 0
    """Most cases; 0 for all."""
    generator: Text = "builtin"
    """"builtin", or the folder of a generator checkpoint."""
    curve_at: RisingCounts = (1, 10, 100)
    """Group sizes N of the lifelong curve; all cases in one bank follow as its end."""
    large_bank: Count = 5000
    """Edits of a bank in which false activations are counted as well; 0 leaves it out."""
    comparison: str = "compare_editors.toml"
    """Recipe in `pipelines/recipes` by which `compare_editors.py` scores other editors on the same
    cases; empty leaves them out."""
    editors: List[str] = EDITORS
    """Editors of the comparison."""
    groups: List[PositiveInt] = (100, 100, 10)
    """Groups of 1, 10 and 100 edits that the other editors learn."""
    generators: List[str] = ()
    """More generators to compare, NAME=FOLDER; several of one name are seeds."""
    evaluation: FinalScoringSection = FinalScoringSection()
    refine: RefineSection = RefineSection()
    """As in `lifelong_edit.py`; a run with `refine.derived` has a folder of its own."""
    ray: RaySection = RaySection()
    output: str = ""
    """JSON file of the results; empty: `numbers.json` in the run's folder."""

    def check_start(self) -> None:
        self.evaluation.check_length(InputLimits())

    def folder(self, generator_digest: str) -> Path:
        """The run's folder for a generator."""
        forms = "-derived" if self.refine.derived else ""
        return Path(self.run_root) / f"{self.run_name}-{generator_digest[:12]}{forms}"

    def output_file(self, generator_digest: str) -> Path:
        """JSON file of the results."""
        return Path(self.output) if self.output else self.folder(generator_digest) / "numbers.json"
