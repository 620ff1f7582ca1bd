#!/usr/bin/env python
"""From the published files of a benchmark to the paper's table: train, edit 1 000 facts, evaluate.

Calls `train_generator.py` with the recipe, then `compare_editors.py` with paper_table.toml on the
trained generator. Both resume: the same command goes on where it was interrupted.

    reproduce_paper.py --recipe pipelines/recipes/paper_llava_1_5_7b.toml --data DIR
    reproduce_paper.py --recipe pipelines/recipes/paper_blip2_opt_2_7b.toml --data DIR
    reproduce_paper.py --recipe pipelines/recipes/paper_qwen2_5_vl_7b.toml --data DIR
    reproduce_paper.py --recipe pipelines/recipes/paper_minigpt4_7b.toml --data DIR
        --minigpt4 FILE.pth --blip2 FOLDER --llama FOLDER
    reproduce_paper.py --recipe pipelines/recipes/paper_llava_1_5_7b.toml --dry-run
        --price 2.5                                        hardware, hours and cost; loads nothing

Settings: SECTION.KEY=VALUE of training, table.SECTION.KEY=VALUE of the comparison.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__":  # the packages lie one folder above this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from liveedit_core.errors import ConfigError
from pipelines import compare_editors, convert_checkpoint, train_generator
from pipelines.baselines.recipe import CompareRecipe
from pipelines.job import entry
from pipelines.training.recipe import TrainRecipe

RECIPES = Path(__file__).parent / "recipes"
CONFIGS = Path(__file__).parent / "backbone_configs"
PREFIX = "paper_"
NUM_CASES = {"evqa": 6346, "eic": 2849, "vlkeb": 5000}
"""Training cases of the published files, for the estimate."""
TABLE = "table."


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = entry.job_parser(__doc__)
    parser.add_argument("--benchmark", choices=tuple(NUM_CASES), default="evqa", help="(evqa)")
    parser.add_argument("--data", metavar="DIR", help="folder with its published files")
    parser.add_argument("--images", metavar="ROOT", help="where image paths start from")
    parser.add_argument("--backbone", metavar="NAME", help="another place of the same backbone")
    for option, about in (
        ("--minigpt4", "its published file, which is converted first"),
        ("--blip2", "the BLIP-2 model that MiniGPT-4's image tower is of"),
        ("--llama", "the language model that it was trained with"),
    ):
        parser.add_argument(option, metavar="PATH", help=about)
    parser.add_argument(
        "--price", type=float, default=2.5, metavar="X", help="of a GPU hour, for --dry-run (2.5)"
    )
    return entry.parse_job(
        parser,
        arguments,
        recipe=RECIPES / f"{PREFIX}llava_1_5_7b.toml",
        recipe_help="of the training, with its backbone (paper_llava_1_5_7b.toml)",
        dry_run_help="print hardware, hours and cost of both jobs, and end",
    )


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return entry.exit_code_of(lambda: reproduce(options))


def reproduce(options: argparse.Namespace) -> int:
    """Convert if asked to, train, compare; the first step that fails ends it."""
    if options.dry_run:
        print("\n".join(estimate(options)))
        return 0
    if not options.data:
        raise ConfigError(
            f"--data DIR is missing: the folder with the files of {options.benchmark}"
        )
    given, recipe = training(options)
    steps: list[tuple[Callable[[list[str]], int], list[str]]] = []
    target = Path(recipe.backbone.name)
    if options.minigpt4 and not (target / "config.json").exists():
        if not (options.blip2 and options.llama):
            raise ConfigError("--minigpt4 needs --blip2 FOLDER and --llama FOLDER too")
        parts = [f"--blip2={options.blip2}", f"--llama={options.llama}"]
        steps.append((convert_checkpoint.main, ["minigpt4", options.minigpt4, str(target), *parts]))
    steps.append((train_generator.main, given))
    steps.append((compare_editors.main, comparison(options, recipe)))
    for run, arguments in steps:
        if code := run(arguments):
            return code
    return 0


def training(options: argparse.Namespace) -> tuple[list[str], TrainRecipe]:
    """Arguments of `train_generator.py`, and the recipe that they give."""
    own = [item for item in options.overrides if not item.startswith(TABLE)]
    given = [f"--recipe={options.recipe}", *_benchmark(options), *own]
    if options.backbone:
        given.append(f"--backbone={options.backbone}")
    return given, train_generator.resolve_recipe(train_generator.parse_arguments(given))


def comparison(options: argparse.Namespace, recipe: TrainRecipe) -> list[str]:
    """Arguments of `compare_editors.py`, on what training leaves."""
    more = [i.removeprefix(TABLE) for i in options.overrides if i.startswith(TABLE)]
    backbone = recipe.backbone
    return [
        f"--recipe={RECIPES / 'paper_table.toml'}",
        *_benchmark(options),
        f"--backbone={backbone.name}",
        f"--run-name={recipe.run_name}_table",
        f"backbone.dtype={backbone.dtype}",
        f"backbone.device={backbone.device}",
        f"generator={recipe.run_folder / 'generator'}",
        f"run_root={recipe.run_root}",
        *more,
    ]


def _benchmark(options: argparse.Namespace) -> list[str]:
    if not options.data:
        return []
    given = [f"--benchmark={options.benchmark}", "--protocol=paper", f"--data={options.data}"]
    return [*given, *([f"--images={options.images}"] if options.images else [])]


def estimate(options: argparse.Namespace) -> Sequence[str]:
    """Memory, disk, hours and cost; the price is for each GPU hour."""
    from pipelines.baselines.estimate import comparison_lines
    from pipelines.training.estimate import (
        GPU,
        GPU_TERAFLOPS,
        EstimateLine,
        estimate_recipe,
        format_time,
        read_recipe_backbone,
        training_seconds,
    )

    _, recipe = training(options)
    file = Path(recipe.backbone.name) / "config.json"
    if not file.is_file():
        file = CONFIGS / f"{Path(options.recipe).stem.removeprefix(PREFIX)}.json"
    num_cases = None if options.data else NUM_CASES[options.benchmark]
    lines = estimate_recipe(recipe, config_file=file, num_cases=num_cases)
    backbone = read_recipe_backbone(recipe, file, None)
    table = entry.resolve(
        CompareRecipe, compare_editors.parse_arguments(comparison(options, recipe))
    )
    compared: list[EstimateLine] = comparison_lines(table, backbone)
    cards = max(1, recipe.sharding.shards * recipe.sharding.gpus_per_shard)
    trained_s = training_seconds(recipe, config_file=file, num_cases=num_cases)
    compared_s = sum(line.amount for line in compared)
    hours = (trained_s * cards + compared_s) / 3600
    whole = f"{format_time(trained_s + compared_s)} on {cards} x {GPU} at {GPU_TERAFLOPS:g} TFLOP/s"
    return [
        *lines,
        *(line.text().rstrip() for line in compared),
        f"all in all: {whole}, {hours:.1f} GPU hours; at {options.price:g} each: "
        f"{hours * options.price:.0f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
