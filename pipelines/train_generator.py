#!/usr/bin/env python
"""Train a generator for a backbone, on hidden states that are computed once.

The training cases (by default the training split of EmblemEdit) are encoded to the edit layer, then
the phases of the recipe run one after another: visual key, prompt key, experts, joint. Interrupt it
at any time; the same command resumes from the last checkpoint with the same numbers.

    train_generator.py [--recipe FILE.toml] [SECTION.FIELD=VALUE ...]
    train_generator.py --backbone llava-hf/llava-1.5-7b-hf --benchmark evqa --data DIR
    train_generator.py --backbone FOLDER --cases cases.jsonl
    train_generator.py --find-layer layer_search.layers='[12, 16, 20]'
    train_generator.py --dry-run --backbone-config config.json --num-cases 6000 --shards 8
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # the packages lie one folder above this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from liveedit_core.errors import ConfigError
from liveedit_core.masking import masked
from pipelines.job import entry
from pipelines.job.recipe_loader import to_toml
from pipelines.training.recipe import TrainRecipe

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "train_generator.toml"
OTHER_RECIPE = Path(__file__).parent / "recipes" / "train_any_backbone.toml"
"""When another backbone is named, and no recipe."""
EXIT_CODES = """exit codes:
  0    done
  1    an error; the message says what to do
  2    a wrong option or setting
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = entry.job_parser(__doc__, EXIT_CODES)
    source = parser.add_mutually_exclusive_group()
    entry.add_settings(
        source, ("--cases", "data.cases", "FILE.jsonl", "training cases, one a line")
    )
    entry.add_benchmark_options(parser, source)
    entry.add_settings(
        parser,
        entry.BACKBONE,
        entry.RUN_NAME,
        ("--store", "keep.store", "URI", "of checkpoints: file:///folder or s3://bucket/prefix"),
        ("--shards", "sharding.shards", "K", "processes that share the weights (ZeRO)"),
    )
    parser.add_argument(
        "--resume", action="store_true", help="resume a run; refuse to start a new one"
    )
    parser.add_argument(
        "--no-cache",
        dest="states.is_cached",
        action="store_const",
        const="false",
        help="compute states at each step instead of caching them",
    )
    parser.add_argument(
        "--find-layer",
        action="store_true",
        help="try candidate edit layers on a short run, recommend one, and stop",
    )
    estimate = parser.add_argument_group("for --dry-run")
    estimate.add_argument(
        "--backbone-config",
        type=Path,
        metavar="FILE.json",
        help="config.json of a transformers model (the built-in backbone's)",
    )
    estimate.add_argument("--edit-layer", type=int, metavar="N", help="(two thirds of the depth)")
    estimate.add_argument(
        "--num-cases", type=int, metavar="N", help="training cases (those of the built-in split)"
    )
    return entry.parse_job(
        parser,
        arguments,
        recipe_help=f"settings; by default {DEFAULT_RECIPE.name}, or {OTHER_RECIPE.name} with "
        "--backbone",
        dry_run_help="print the resolved recipe, and the memory, disk and time that it needs",
    )


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return entry.run_entry(
        lambda: resolve_recipe(options), lambda recipe: run_job(recipe, options), is_dry_run=False
    )


def run_job(recipe: TrainRecipe, options: argparse.Namespace) -> int:
    """Estimate, search or train."""
    if options.dry_run:
        print(to_toml(recipe))
        print_estimate(recipe, options)
        return 0
    if options.find_layer:
        return find_layer(recipe)
    if options.resume and not recipe.run_folder.exists():
        raise ConfigError(f"--resume: there is no run in {str(recipe.run_folder)!r}")
    return train(recipe)


def resolve_recipe(options: argparse.Namespace) -> TrainRecipe:
    """The recipe; by default one that fits the backbone."""
    if options.recipe is None:
        name = entry.given_settings(TrainRecipe, options).get("backbone.name", "builtin")
        options.recipe = DEFAULT_RECIPE if name == "builtin" else OTHER_RECIPE
    return entry.resolve(TrainRecipe, options)


def print_estimate(recipe: TrainRecipe, options: argparse.Namespace) -> None:
    """The estimate as comments, so that the whole output stays a recipe."""
    from pipelines.training.estimate import estimate_recipe

    lines = estimate_recipe(
        recipe,
        config_file=options.backbone_config,
        edit_layer=options.edit_layer,
        num_cases=options.num_cases,
    )
    print("\n".join(f"# {line}" for line in lines))


def find_layer(recipe: TrainRecipe) -> int:
    """Rank candidate edit layers of a backbone."""
    from rich.console import Console

    from pipelines.job.accepted_cases import answer_alone, on_cases
    from pipelines.training.cases import load_training_backbone, training_cases
    from pipelines.training.layer_search import find_layer as search
    from pipelines.training.layer_search import to_table

    console = Console()
    backbone = load_training_backbone(recipe)
    ranking = on_cases(
        training_cases(recipe, backbone),
        lambda cases: search(
            recipe.layer_search,
            recipe.model,
            backbone,
            cases,
            seed=recipe.seed,
            say=lambda text: print(text, flush=True),
        ),
        lambda case: answer_alone(backbone, case),
        print,
    )
    console.print(to_table(ranking))
    path = recipe.run_folder / "layer_search.json"
    ranking.save(path)
    if ranking.runners_up:
        layers = ", ".join(map(str, ranking.runners_up))
        print(
            f"not clearly worse (less than two standard errors): {layers}; more "
            "layer_search.num_cases and layer_search.steps tell them apart"
        )
    print(
        f"edit layer {ranking.recommended} is recommended (backbone.edit_layer="
        f"{ranking.recommended}); written to {path}"
    )
    return 0


def train(recipe: TrainRecipe) -> int:
    """Prepare the data, run the phases, publish the generator, write the report."""
    from pipelines.job.run_folder import write_recipe
    from pipelines.training.cases import load_training_backbone, training_cases
    from pipelines.training.job import on_cluster, train_on

    recipe = on_cluster(recipe)
    write_recipe(recipe, "recipe.toml")
    backbone = load_training_backbone(recipe, has_actors=recipe.has_actors)
    done = train_on(recipe, backbone, training_cases(recipe, backbone))
    for warning in done.warnings:
        print(f"warning: {warning}")
    print(f"generator {done.digest[:16]} written to {done.folder}")
    print(f"report: {done.report}")
    if done.num_record_failures:
        place = masked(done.tracking_uri)
        print(f"MLflow at {place} did not take {done.num_record_failures} records yet")
    return 0


if __name__ == "__main__":
    sys.exit(main())
