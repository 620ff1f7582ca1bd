#!/usr/bin/env python
"""Compare LiveEdit with fine-tuning the last layer (FT-L) and with the unedited backbone.

    compare_editors.py                                        100 built-in edits
    compare_editors.py --edits 1000 --output comparison.json

All edits are taught one after another, then the probes of all of them are scored. One process, no
Ray, no store: run it again for the same numbers.
"""

import argparse
import sys
from pathlib import Path

_PROJECT = str(Path(__file__).resolve().parents[1])
if sys.path[0] != _PROJECT:
    # Run as a script: Python put this folder first, the packages lie one above it.
    sys.path[0] = _PROJECT

from liveedit_core.errors import ConfigError, LiveEditError  # noqa: E402
from pipelines.editor_comparison import CompareRecipe  # noqa: E402
from pipelines.recipe_loader import load_recipe, to_toml  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    options = parse_arguments(arguments)
    try:
        recipe = resolve_recipe(options)
        if options.dry_run:
            print(to_toml(recipe), end="")
            return 0
        return run_job(recipe)
    except ConfigError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    except LiveEditError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--edits", metavar="N", help="edits to teach (100)")
    parser.add_argument("--output", metavar="FILE.json", help="also write the table there")
    parser.add_argument("--recipe", metavar="FILE.toml", type=Path, help="settings")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and end")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings over the recipe's"
    )
    return parser.parse_intermixed_args(arguments)


def resolve_recipe(options: argparse.Namespace) -> CompareRecipe:
    """Recipe, then overrides, then the options that name a setting.

    Raises:
        ConfigError: A setting is unknown, of the wrong type or impossible.
    """
    overrides: list[str] = list(options.overrides)
    for name, value in (("edits", options.edits), ("output", options.output)):
        if value is not None:
            overrides.append(f"{name}={value}")
    return load_recipe(CompareRecipe, options.recipe, overrides)


def run_job(recipe: CompareRecipe) -> int:
    """Load the models, compare, print and write the table."""
    from rich.console import Console

    from liveedit_core.builtin.backbone import load_builtin_backbone
    from liveedit_core.builtin.benchmark import load_builtin_cases
    from pipelines.editor_comparison import compare, to_tables, write_json
    from workers.models import ModelNames

    console = Console()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    generator = ModelNames(generator=recipe.generator).load_generator()
    backbone = load_builtin_backbone(
        say=say, edit_layer=generator.config.edit_layer, batch_size=recipe.batch_size
    )
    comparison = compare(recipe, backbone, generator, load_builtin_cases("evaluation"), say)
    for table in to_tables(comparison):
        console.print(table)
    if recipe.output:
        write_json(comparison, Path(recipe.output))
        say(f"written to {recipe.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
