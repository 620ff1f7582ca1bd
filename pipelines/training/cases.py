"""What a training run learns from: the built-in benchmark, a published one, or cases of a file."""

import hashlib
import json
from collections.abc import Sequence

from liveedit_core.errors import ConfigError
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.schema import Case, Probe, ProbeKind
from pipelines.training.recipe import TrainRecipe

_SHOWN = 5


def training_cases(recipe: TrainRecipe) -> list[Case]:
    """All training cases that a recipe names, in their order.

    Raises:
        ConfigError: a case cannot be trained on.
        InputError: a file cannot be read, or records of a published benchmark are wrong.
    """
    if recipe.benchmark.is_on:
        from pipelines.job.cases import load_training_cases

        return load_training_cases(recipe.benchmark)
    from liveedit_core.training.cases import trainable_cases

    if recipe.data.cases:
        return trainable_cases(cases_of_file(recipe.data.cases))
    from liveedit_core.builtin.benchmark import load_builtin_cases

    return load_builtin_cases("train")


def cases_of_file(path: str) -> list[Case]:
    """The cases of a JSONL file.

    Raises:
        ConfigError: lines are wrong; the first of them are named.
        InputError: the file cannot be opened.
    """
    from liveedit_core.inputs.datasets import load_cases

    cases: list[Case] = []
    refused: list[Rejected] = []
    for item in load_cases(path):
        if isinstance(item, Rejected):
            refused.append(item)
        else:
            cases.append(item)
    if refused:
        shown = "; ".join(f"line {item.line_number}: {item.message}" for item in refused[:_SHOWN])
        raise ConfigError(f"{path}: {len(refused)} lines are no cases: {shown}")
    return cases


def cases_digest(cases: Sequence[Case]) -> str:
    """sha256 over all that cases teach and ask, whatever their order."""
    names = sorted(
        json.dumps([case.case_id, case.edit.edit_id, case.entity, *map(_asked, case.probes)])
        for case in cases
    )
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _asked(probe: Probe) -> list[str]:
    image = hashlib.sha256(probe.image_bytes or b"").hexdigest()
    return [probe.kind, probe.prompt, probe.target, image]


def images_by_entity(
    recipe: TrainRecipe, cases: Sequence[Case], held_out_entities: frozenset[str]
) -> list[list[bytes]]:
    """Images of every entity that is trained on, for a pyramid's key.

    The built-in benchmark has drawings that no case shows; elsewhere an entity has the images of
    its edits and of its probes of modal generality. Entities with one image say nothing about
    what images of an entity have in common, and are left out.

    Args:
        recipe: says where the cases come from.
        cases: all of them.
        held_out_entities: names of entities that are not trained on.
    """
    if not (recipe.data.cases or recipe.benchmark.is_on):
        from liveedit_core.builtin.benchmark import load_entities

        return [
            [image_bytes for _, image_bytes in sorted(entity.images.items())]
            for entity in load_entities("train", "known_train")
            if entity.name not in held_out_entities
        ]
    by_entity: dict[str, dict[bytes, None]] = {}
    for case in cases:
        if case.entity in held_out_entities:
            continue
        images = by_entity.setdefault(case.entity, {})
        images[case.edit.image_bytes] = None
        for probe in case.probes:
            if probe.kind is ProbeKind.MODAL_GENERALITY and probe.image_bytes is not None:
                images[probe.image_bytes] = None
    return [list(images) for images in by_entity.values() if len(images) > 1]
