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
        json.dumps([case.case_id, case.edit.edit_id, case.thing, *map(_asked, case.probes)])
        for case in cases
    )
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _asked(probe: Probe) -> list[str]:
    picture = hashlib.sha256(probe.image_bytes or b"").hexdigest()
    return [probe.kind, probe.prompt, probe.target, picture]


def pictures_by_thing(
    recipe: TrainRecipe, cases: Sequence[Case], held_out_things: frozenset[str]
) -> list[list[bytes]]:
    """Pictures of every thing that is trained on, for a pyramid's key.

    The built-in benchmark has drawings that no case shows; elsewhere a thing has the pictures of
    its edits and of its probes of modal generality. Things with one picture say nothing about
    what pictures of a thing have in common, and are left out.

    Args:
        recipe: says where the cases come from.
        cases: all of them.
        held_out_things: names of things that are not trained on.
    """
    if not (recipe.data.cases or recipe.benchmark.is_on):
        from liveedit_core.builtin.benchmark import load_things

        return [
            [image_bytes for _, image_bytes in sorted(thing.pictures.items())]
            for thing in load_things("train", "known_train")
            if thing.name not in held_out_things
        ]
    by_thing: dict[str, dict[bytes, None]] = {}
    for case in cases:
        if case.thing in held_out_things:
            continue
        pictures = by_thing.setdefault(case.thing, {})
        pictures[case.edit.image_bytes] = None
        for probe in case.probes:
            if probe.kind is ProbeKind.MODAL_GENERALITY and probe.image_bytes is not None:
                pictures[probe.image_bytes] = None
    return [list(pictures) for pictures in by_thing.values() if len(pictures) > 1]
