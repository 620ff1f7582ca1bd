"""The editors that can be compared: name in recipes and on the command line -> how one is made.

A new one is a file in `liveedit_core/baselines/`, a section in `recipe.py` and an
entry here. A trained one reads its checkpoint from the folder that its section names. Nothing heavy
is imported before an editor is made.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from liveedit_core.backbones.vision_language import VisionLanguageBackbone
    from liveedit_core.baselines.protocol import ComparedEditor
    from liveedit_core.method.generator import LiveEditGenerator
    from pipelines.baselines.recipe import CompareRecipe

    Maker = Callable[[CompareRecipe, VisionLanguageBackbone, LiveEditGenerator], ComparedEditor]


def _live_edit(
    recipe: "CompareRecipe", backbone: "VisionLanguageBackbone", generator: "LiveEditGenerator"
) -> "ComparedEditor":
    from liveedit_core.baselines.live_edit import LiveEdit
    from liveedit_core.method.editor import Editor
    from liveedit_core.method.repository import ExpertRepository

    editor = Editor(backbone, generator, ExpertRepository.empty(generator.config))
    return LiveEdit(editor, batch_size=recipe.batch_size)


def _fine_tuning(
    recipe: "CompareRecipe", backbone: "VisionLanguageBackbone", generator: "LiveEditGenerator"
) -> "ComparedEditor":
    from liveedit_core.baselines.fine_tuning import FineTuning

    return FineTuning(backbone, recipe.fine_tuning, batch_size=recipe.batch_size)


def _masked_fine_tuning(
    recipe: "CompareRecipe", backbone: "VisionLanguageBackbone", generator: "LiveEditGenerator"
) -> "ComparedEditor":
    from liveedit_core.baselines.fine_tuning import MaskedFineTuning

    return MaskedFineTuning(backbone, recipe.masked_fine_tuning, batch_size=recipe.batch_size)


def _lora(
    recipe: "CompareRecipe", backbone: "VisionLanguageBackbone", generator: "LiveEditGenerator"
) -> "ComparedEditor":
    from liveedit_core.baselines.lora import Lora

    return Lora(backbone, recipe.lora, batch_size=recipe.batch_size)


def _in_context(
    recipe: "CompareRecipe", backbone: "VisionLanguageBackbone", generator: "LiveEditGenerator"
) -> "ComparedEditor":
    from liveedit_core.baselines.in_context import InContext

    return InContext(backbone, recipe.in_context, batch_size=recipe.batch_size)


def _grace(
    recipe: "CompareRecipe", backbone: "VisionLanguageBackbone", generator: "LiveEditGenerator"
) -> "ComparedEditor":
    from liveedit_core.baselines.grace import Grace

    return Grace(backbone, recipe.grace, batch_size=recipe.batch_size)


def _wise(
    recipe: "CompareRecipe", backbone: "VisionLanguageBackbone", generator: "LiveEditGenerator"
) -> "ComparedEditor":
    from liveedit_core.baselines.wise import Wise, unrelated_questions
    from liveedit_core.builtin.benchmark import load_builtin_cases

    unrelated = unrelated_questions(load_builtin_cases("train"), recipe.wise)
    return Wise(backbone, recipe.wise, unrelated=unrelated, batch_size=recipe.batch_size)


def _unedited(
    recipe: "CompareRecipe", backbone: "VisionLanguageBackbone", generator: "LiveEditGenerator"
) -> "ComparedEditor":
    from liveedit_core.baselines.unedited import Unedited

    return Unedited(backbone)


EDITORS: "Mapping[str, Maker]" = {
    "liveedit": _live_edit,
    "ft-l": _fine_tuning,
    "ft-m": _masked_fine_tuning,
    "lora": _lora,
    "ike": _in_context,
    "grace": _grace,
    "wise": _wise,
    "unedited": _unedited,
}
"""In the order of the table."""
