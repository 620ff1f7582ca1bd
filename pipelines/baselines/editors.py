"""How the editors that a recipe names are made.

A new one is a file in `liveedit_core/baselines/`, a section in `recipe.py`, its name in `EDITORS`
there, and an entry here. A trained one reads its checkpoint from the folder that its section names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.fine_tuning import FineTuning
from liveedit_core.baselines.grace import Grace
from liveedit_core.baselines.in_context import InContext
from liveedit_core.baselines.live_edit import LiveEdit
from liveedit_core.baselines.lookup import Lookup
from liveedit_core.baselines.lora import Lora
from liveedit_core.baselines.projector_tuning import ProjectorTuning
from liveedit_core.baselines.protocol import ComparedEditor
from liveedit_core.baselines.settings import TensorExpertConfig, WiseConfig
from liveedit_core.baselines.tensor_experts import TensorExperts
from liveedit_core.baselines.trained.checkpoint import load_rival
from liveedit_core.baselines.trained.makers import make_editor
from liveedit_core.baselines.trained.settings import RIVALS, RivalName
from liveedit_core.baselines.unedited import Unedited
from liveedit_core.baselines.wise import Wise, unrelated_questions
from liveedit_core.builtin.benchmark import load_builtin_cases
from liveedit_core.errors import ConfigError
from liveedit_core.method.config import RefineSection
from liveedit_core.method.editor import Editor
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.refine import refiner_for
from liveedit_core.method.repository import ExpertRepository
from pipelines.baselines.recipe import SECTIONS, CompareRecipe
from pipelines.baselines.search_space import SEARCH_SPACE

OWN = "LiveEdit"
"""Row of the recipe's `generator`; those of `generators` have their own names."""


@dataclass(frozen=True, kw_only=True)
class EditorRow:
    """An editor of a comparison."""

    name: str
    """In tables; several seeds of one configuration are numbered."""
    configuration: str
    """Its name without the number."""
    editor: ComparedEditor
    trained_on: str
    """What was trained before the first edit, on what; empty if nothing was."""
    train_s: float | None = None
    """Seconds of that training; None where they were not recorded."""
    num_trained: int = 0
    """Parameters that it trained."""
    num_trials: int = 0
    """Trials on validation by which the default settings were chosen."""
    identity: str
    """Everything that its answers depend on beside backbone and edits: settings, generator."""


class NamedGenerator:
    """A generator and where it came from."""

    def __init__(
        self, generator: LiveEditGenerator, source: str, train_s: float | None = None
    ) -> None:
        self.generator = generator
        self.source = source
        self.train_s = train_s
        is_builtin = source == "builtin"
        self.num_parameters = sum(part.numel() for part in generator.parameters())
        self.trained_on = "generator and router: " + (
            "built-in training split" if is_builtin else source
        )


WRITING = " refined, later edits win"
"""How rows with a generator learn, beside its digest: part of the identity of their scores."""
Generators = Mapping[str, NamedGenerator]
"""By row; `OWN` is the recipe's own."""


def names_of(items: Sequence[str]) -> list[tuple[str, str, str]]:
    """Row, configuration and folder of each NAME=FOLDER; repeated names are numbered."""
    pairs = [(name, folder) for name, _, folder in (item.partition("=") for item in items)]
    names = [name for name, _ in pairs]
    seen: dict[str, int] = {}
    rows = []
    for name, folder in pairs:
        seen[name] = seen.get(name, 0) + 1
        rows.append((f"{name} {seen[name]}" if names.count(name) > 1 else name, name, folder))
    return rows


def make_editors(
    recipe: CompareRecipe, backbone: VisionLanguageBackbone, generators: Generators
) -> list[EditorRow]:
    """The recipe's editors in its order, then those of more generators, all on one backbone."""
    rows = [_row(recipe, backbone, generators, name) for name in recipe.editors]
    for name, configuration, _ in names_of(recipe.generators):
        found = generators[name]
        rows.append(
            EditorRow(
                name=name,
                configuration=configuration,
                editor=LiveEdit(_empty(backbone, found), batch_size=recipe.batch_size),
                trained_on=found.trained_on,
                train_s=found.train_s,
                num_trained=found.num_parameters,
                identity=found.generator.digest + WRITING,
            )
        )
    taken = {row.name for row in rows}
    if len(taken) < len(rows):
        raise ConfigError(
            f"generators: one has the name of another row; taken are {', '.join(sorted(taken))}"
        )
    return rows


def _empty(backbone: VisionLanguageBackbone, found: NamedGenerator) -> Editor:
    """As the job edits: what it writes is verified and refined."""
    generator = found.generator
    refiner = refiner_for(backbone, generator, RefineSection())
    return Editor(backbone, generator, ExpertRepository.empty(generator.config), refiner)


def _row(
    recipe: CompareRecipe, backbone: VisionLanguageBackbone, generators: Generators, name: str
) -> EditorRow:
    size = recipe.batch_size

    def empty() -> Editor:
        if OWN not in generators:
            raise ConfigError(f"editors: {name} needs a generator")
        return _empty(backbone, generators[OWN])

    def unrelated(section: WiseConfig | TensorExpertConfig) -> list[BackboneInput]:
        return unrelated_questions(load_builtin_cases("train"), section)

    name_of_rival = next((rival for rival in RIVALS if rival == name), None)
    if name_of_rival is not None:
        return _trained_row(recipe, backbone, name_of_rival)
    makers: dict[str, Callable[[], ComparedEditor]] = {
        "liveedit": lambda: LiveEdit(empty(), batch_size=size),
        "lookup": lambda: Lookup(empty(), batch_size=size),
        "ft-l": lambda: FineTuning(backbone, recipe.fine_tuning, batch_size=size),
        "ft-m": lambda: ProjectorTuning(backbone, recipe.projector_tuning, batch_size=size),
        "lora": lambda: Lora(backbone, recipe.lora, batch_size=size),
        "ike": lambda: InContext(backbone, recipe.in_context, batch_size=size),
        "grace": lambda: Grace(backbone, recipe.grace, batch_size=size),
        "wise": lambda: Wise(
            backbone, recipe.wise, unrelated=unrelated(recipe.wise), batch_size=size
        ),
        "time": lambda: TensorExperts(
            backbone,
            recipe.tensor_experts,
            unrelated=unrelated(recipe.tensor_experts),
            batch_size=size,
        ),
        "unedited": lambda: Unedited(backbone),
    }
    editor = makers[name]()
    settings = recipe.section(name).model_dump_json() if name in SECTIONS else ""
    trained_on, digest, num_trained = "", "", 0
    train_s: float | None = None
    if name in ("liveedit", "lookup"):
        own = generators[OWN]
        trained_on, digest = own.trained_on, own.generator.digest + WRITING
        num_trained, train_s = own.num_parameters, own.train_s
    if name in ("wise", "time"):
        number = recipe.section(name).num_unrelated
        trained_on = f"nothing; {number} questions of the training split"
    return EditorRow(
        name=editor.name,
        configuration=editor.name,
        editor=editor,
        trained_on=trained_on or "nothing",
        train_s=train_s,
        num_trained=num_trained,
        num_trials=len(SEARCH_SPACE.get(name, ())),
        identity=settings or digest,
    )


def _trained_row(
    recipe: CompareRecipe, backbone: VisionLanguageBackbone, name: RivalName
) -> EditorRow:
    """An editor whose trained part comes from the folder that its section names."""
    section = recipe.section(name)
    part = load_rival(name, section.checkpoint, backbone)
    editor = make_editor(name, part.rival, section, backbone, batch_size=recipe.batch_size)
    return EditorRow(
        name=editor.name,
        configuration=editor.name,
        editor=editor,
        trained_on=part.facts.trained_on,
        train_s=part.facts.seconds,
        num_trained=part.facts.num_parameters,
        num_trials=len(SEARCH_SPACE.get(name, ())),
        identity=section.model_dump_json() + part.digest,
    )
