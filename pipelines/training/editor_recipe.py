"""The recipe of `train_editor.py`."""

from typing import ClassVar

from liveedit_core.baselines.trained.settings import (
    LteTraining,
    MendTraining,
    RecipeTraining,
    RivalName,
    SeracTraining,
)
from liveedit_core.settings import Count, Name, Positive, PositiveInt, Settings
from liveedit_core.training.recipe import PhaseSection
from pipelines.job.sections import BackboneSection, BenchmarkSection, RunRecipe, StatesSection


class EditorDataSection(Settings):
    """The cases that an editor is trained on: those of `train_generator.py`, drawn alike."""

    cases: str = ""
    """JSONL file of training cases; empty for the training split of the built-in benchmark."""
    num_cases: PositiveInt = 400
    """Most training cases, each of another entity."""
    num_pairs: Count = 300
    """Edits with a random target of any kind."""
    held_out_edits: Count = 100
    """Edits of entities that are held out, as by `train_generator.py`."""
    validation_cases: PositiveInt = 32
    """Of them, the cases on which the loss is measured at the end."""


class TrainEditorRecipe(RunRecipe):
    """Settings of `train_editor.py`."""

    job: ClassVar[str] = "train_editor"

    run_name: Name = "train_editor"
    editor: RivalName = "mend"
    """Which editor to train: "mend", "serac", "recipe" or "lte"."""
    backbone: BackboneSection = BackboneSection()
    states: StatesSection = StatesSection()
    benchmark: BenchmarkSection = BenchmarkSection()
    data: EditorDataSection = EditorDataSection()
    optimization: PhaseSection = PhaseSection(steps=300, batch_size=10, learning_rate=1e-3)
    max_gradient_norm: Positive = 1.0
    """Gradients of a step are scaled down to this norm."""
    checkpoint_steps: PositiveInt = 25
    """Steps between two checkpoints."""
    mend: MendTraining = MendTraining()
    serac: SeracTraining = SeracTraining()
    recipe: RecipeTraining = RecipeTraining()
    lte: LteTraining = LteTraining()

    @property
    def settings(self) -> Settings:
        """Of the editor that is trained."""
        section: Settings = getattr(self, self.editor)
        return section
