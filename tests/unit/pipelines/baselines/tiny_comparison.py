"""A comparison of all editors on a tiny random model, in seconds."""

from collections.abc import Sequence
from pathlib import Path

from liveedit_core.baselines.settings import (
    FineTuningConfig,
    GraceConfig,
    LoraConfig,
    TensorExpertConfig,
    WiseConfig,
)
from liveedit_core.baselines.trained.settings import RIVALS
from liveedit_core.schema import Case
from liveedit_core.state_source import BackboneStates
from pipelines.baselines.compare import Comparison, compare
from pipelines.baselines.editors import OWN, NamedGenerator, names_of
from pipelines.baselines.recipe import EDITORS, CompareRecipe
from pipelines.baselines.scores import EditorScores
from tests.tiny_backbone import OUR_CONFIG, case, tiny_backbone, tiny_generator
from tests.unit.tiny_editors import save_tiny_parts

NAMES = (
    "LiveEdit lookup FT-L FT-M LoRA IKE GRACE WISE TIME-like MEND SERAC RECIPE LTE unedited".split()
)
RECIPE = CompareRecipe(
    editors=EDITORS,
    edits=(3, 1),
    groups=(1, 3),
    scored_cases=0,
    free_cases=1,
    cold_edits=1,
    max_new_tokens=4,
    batch_size=8,
    lora=LoraConfig(max_steps=8),
    grace=GraceConfig(max_steps=8),
    wise=WiseConfig(max_steps=2),
    tensor_experts=TensorExpertConfig(max_steps=2, num_unrelated=2),
    fine_tuning=FineTuningConfig(max_steps=8, learning_rate=3e-2),
    projector_tuning=FineTuningConfig(max_steps=1),
)
CASES = [case(seed) for seed in range(5)]
GENERATOR = NamedGenerator(
    tiny_generator(OUR_CONFIG.with_changes(gain=60.0, min_gate=0.0)), "builtin", 2.5
)


def compared(recipe: CompareRecipe, run_root: Path, cases: Sequence[Case] = CASES) -> Comparison:
    """In a run of its own, or the one that is there."""
    backbone = tiny_backbone()
    source = BackboneStates(backbone)
    generators = {row: GENERATOR for row, _, _ in names_of(recipe.generators)} | {OWN: GENERATOR}
    has_trained = bool(set(RIVALS) & set(recipe.editors))
    parts = save_tiny_parts(run_root / "parts", backbone) if has_trained else {}
    recipe = recipe.with_changes(run_root=str(run_root), **parts)
    return compare(recipe, backbone, generators, cases, source, lambda text: None)


def of(comparison: Comparison, name: str, num_edits: int) -> EditorScores:
    (found,) = (s for s in comparison.scores if (s.name, s.num_edits) == (name, num_edits))
    return found
