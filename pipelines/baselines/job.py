"""What the comparison's script does with cases that are loaded: models, states, MLflow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra.tracking.tracker import Tracker
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.builtin.backbone import load_named_backbone
from liveedit_core.schema import Case
from pipelines.baselines.compare import Comparison, GroupRunner, Say, compare
from pipelines.baselines.editors import OWN, Generators, NamedGenerator, make_editors, names_of
from pipelines.baselines.recipe import CompareRecipe
from pipelines.baselines.tables import metric_values
from pipelines.baselines.tuning import tune
from pipelines.job.accepted_cases import accepted_cases, answer_alone, on_cases
from pipelines.job.cases import protocol_note
from pipelines.job.recipe_loader import to_flat_dict
from pipelines.job.run_folder import run_facts
from pipelines.job.state_cache import state_source
from pipelines.training.job import seconds_of_training
from workers.models import ModelNames


def compare_on(recipe: CompareRecipe, cases: Sequence[Case], say: Say) -> Comparison:
    """Load the models and compare on some cases."""
    backbone, generators = load_models(recipe)
    cases = accepted_cases(cases, backbone, say)
    with state_source(recipe.states, recipe.run_root, backbone) as source:

        def check(case: Case) -> None:
            rows = make_editors(recipe, backbone, generators)
            GroupRunner(recipe, backbone, source).check(rows, case)

        return on_cases(
            cases, lambda some: compare(recipe, backbone, generators, some, source, say), check, say
        )


def tune_on(recipe: CompareRecipe, cases: Sequence[Case], say: Say) -> dict[str, Any]:
    """Load the models and try the search space of every editor on some cases."""
    backbone, _ = load_models(recipe)
    cases = accepted_cases(cases, backbone, say)
    with state_source(recipe.states, recipe.run_root, backbone) as source:
        return on_cases(
            cases,
            lambda some: tune(recipe, backbone, some, source, say),
            lambda case: answer_alone(backbone, case),
            say,
        )


def load_models(recipe: CompareRecipe) -> tuple[VisionLanguageBackbone, Generators]:
    """The backbone, and the generators that editors need."""
    options = recipe.backbone.options(recipe.benchmark.protocol)
    options = options.with_changes(batch_size=recipe.batch_size, keeps_float32=True)
    folders = {row: folder for row, _, folder in names_of(recipe.generators)}
    if recipe.needs_generator:
        folders = {OWN: recipe.generator} | folders
    generators = {
        row: NamedGenerator(
            names.load_generator(), folder, seconds_of_training(names.generator_folder())
        )
        for row, folder in folders.items()
        for names in [ModelNames(generator=folder)]
    }
    for found in generators.values():
        trained = found.generator.config.prompt_protocol
        if note := protocol_note(trained, recipe.benchmark.protocol):
            print(f"{found.source}: {note}")
        options = found.generator.config.load_options(options)
    backbone = load_named_backbone(
        recipe.backbone.name, options, builtin_batch_size=recipe.batch_size
    )
    return backbone, generators


def record(comparison: Comparison, files: Sequence[Path]) -> None:
    """Settings, numbers by N, table and figure in MLflow; an outage only delays them."""
    recipe = comparison.recipe
    tracker = Tracker(
        Path(recipe.run_root), experiment=recipe.tracking.experiment, run_name=recipe.run_name
    )
    tracker.log_params(to_flat_dict(recipe))
    tracker.set_tags({**run_facts(), **comparison.digests})
    for scores in comparison.scores:
        tracker.log_metrics(metric_values(scores), step=scores.num_edits)
    for file in files:
        tracker.log_artifact(file)
    tracker.end()
