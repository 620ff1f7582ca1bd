"""The training cases and the backbone that a recipe names."""

from collections.abc import Sequence
from dataclasses import replace

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.schema import Case, ProbeKind
from pipelines.job.accepted_cases import accepted_cases
from pipelines.job.cases import load_training_cases
from pipelines.training.recipe import TrainRecipe
from workers.models import ModelNames

_BATCH_SIZE = 32
"""Sequences of the built-in backbone in one forward pass."""


def training_cases(
    recipe: TrainRecipe, backbone: VisionLanguageBackbone | None = None
) -> list[Case]:
    """All training cases that a recipe names, and that a backbone takes if one is given."""
    cases = load_training_cases(recipe.benchmark, recipe.data.cases)
    if backbone is None or not (recipe.data.cases or recipe.benchmark.is_published):
        return cases
    return accepted_cases(cases, backbone, print)


def images_by_entity(
    recipe: TrainRecipe, cases: Sequence[Case], held_out_entities: frozenset[str]
) -> list[list[bytes]]:
    """At least two images of each training entity that is not held out, to fit the visual key.

    The built-in benchmark has images that no case shows. Elsewhere an entity has the images of its
    edits and modal generality probes; entities with a single image are left out.
    """
    if not (recipe.data.cases or recipe.benchmark.is_published):
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
        probes = [probe for probe in case.probes if probe.kind is ProbeKind.MODAL_GENERALITY]
        shown = [case.edit.image_bytes, *(probe.image_bytes for probe in probes)]
        by_entity.setdefault(case.entity, {}).update(
            dict.fromkeys(image for image in shown if image is not None)
        )
    return [list(images) for images in by_entity.values() if len(images) > 1]


def sentinel_images(recipe: TrainRecipe) -> list[bytes]:
    """Images of other kinds than those of the training entities: photographs, drawings, pages,
    charts and screenshots of the user's world, but none of its validation."""
    if recipe.model.visual_filter == "sentinel":
        return []
    from liveedit_core.builtin.benchmark import load_builtin_cases

    shown, validation = (
        dict.fromkeys(case.edit.image_bytes for case in load_builtin_cases(split, "user_world"))
        for split in ("development", "validation")
    )
    return [image for image in shown if image is not None and image not in validation]


def training_models(recipe: TrainRecipe) -> ModelNames:
    """The backbone by name, for processes that encode."""
    options = recipe.backbone.options(recipe.benchmark.protocol)
    options = options.with_changes(
        has_prompt_encoder=recipe.model.prompt_source == "sentences",
        has_image_views=recipe.model.visual_filter == "runner_up",
        keeps_float32=True,
    )
    return ModelNames(backbone=recipe.backbone.name, generator="", options=options)


def suffix_models(recipe: TrainRecipe) -> ModelNames:
    """The backbone by name, for processes that train: they load it on the CPU, keep the layers
    after l_e, and move those to the training device."""
    models = training_models(recipe)
    return replace(models, options=models.options.with_changes(device="cpu"))


def load_training_backbone(
    recipe: TrainRecipe, *, has_actors: bool = False
) -> VisionLanguageBackbone:
    """The backbone in this process: encodes, trains and validates, or on the CPU beside actors that
    do so."""
    from liveedit_core.builtin.backbone import load_named_backbone

    models = suffix_models(recipe) if has_actors else training_models(recipe)
    return load_named_backbone(recipe.backbone.name, models.options, builtin_batch_size=_BATCH_SIZE)
