"""How the editors that a recipe names are made.

A new one is a file in `liveedit_core/baselines/`, a section in `recipe.py`, its name in `EDITORS`
there, and an entry here. A trained one reads its checkpoint from the folder that its section names.
"""

from collections.abc import Callable

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.fine_tuning import FineTuning, MaskedFineTuning
from liveedit_core.baselines.grace import Grace
from liveedit_core.baselines.in_context import InContext
from liveedit_core.baselines.live_edit import LiveEdit
from liveedit_core.baselines.lora import Lora
from liveedit_core.baselines.protocol import ComparedEditor
from liveedit_core.baselines.unedited import Unedited
from liveedit_core.baselines.wise import Wise, unrelated_questions
from liveedit_core.builtin.benchmark import load_builtin_cases
from liveedit_core.errors import ConfigError
from liveedit_core.method.editor import Editor
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.repository import ExpertRepository
from pipelines.baselines.recipe import CompareRecipe


def make_editors(
    recipe: CompareRecipe, backbone: VisionLanguageBackbone, generator: LiveEditGenerator | None
) -> list[ComparedEditor]:
    """The recipe's editors, in its order, all on one backbone."""
    size = recipe.batch_size

    def live_edit() -> LiveEdit:
        if generator is None:
            raise ConfigError("editors: liveedit needs a generator")
        editor = Editor(backbone, generator, ExpertRepository.empty(generator.config))
        return LiveEdit(editor, batch_size=size)

    def unrelated() -> list[BackboneInput]:
        return unrelated_questions(load_builtin_cases("train"), recipe.wise)

    makers: dict[str, Callable[[], ComparedEditor]] = {
        "liveedit": live_edit,
        "ft-l": lambda: FineTuning(backbone, recipe.fine_tuning, batch_size=size),
        "ft-m": lambda: MaskedFineTuning(backbone, recipe.masked_fine_tuning, batch_size=size),
        "lora": lambda: Lora(backbone, recipe.lora, batch_size=size),
        "ike": lambda: InContext(backbone, recipe.in_context, batch_size=size),
        "grace": lambda: Grace(backbone, recipe.grace, batch_size=size),
        "wise": lambda: Wise(backbone, recipe.wise, unrelated=unrelated(), batch_size=size),
        "unedited": lambda: Unedited(backbone),
    }
    return [makers[name]() for name in recipe.editors]
