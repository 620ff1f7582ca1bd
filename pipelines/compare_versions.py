#!/usr/bin/env python
"""Compare two bank versions by results that the store holds, and write the page.

    compare_versions.py --store runs/quickstart/store --results quickstart \\
        --old 1 --new 6 bank=quickstart
    compare_versions.py --store s3://bucket/nightly bank_store=s3://bucket/prefix \\
        old.results=nightly-2026-11-24-v6 new.results=nightly-2026-11-25-v7 cases=fixed.jsonl

Nothing is evaluated and no model is loaded: name runs that evaluated both versions.
"""

import argparse
import sys
from pathlib import Path

_PROJECT = str(Path(__file__).resolve().parents[1])
if sys.path[0] != _PROJECT:
    # Run as a script: Python put this folder first, the packages lie one above it.
    sys.path[0] = _PROJECT

from liveedit_core.errors import ConfigError, LiveEditError  # noqa: E402
from pipelines.recipe_loader import load_recipe, to_toml  # noqa: E402
from pipelines.version_comparison_config import VersionComparisonRecipe  # noqa: E402

EXIT_CODES = """exit codes:
  0  no metric became worse by more than its tolerance
  1  an error; the message says what to do
  2  a wrong option or setting
  3  a regression; the page is written all the same
"""


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
        description=__doc__,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--store", metavar="URI", help="holds the results; a folder or s3://...")
    parser.add_argument("--results", metavar="RUN", help="results table of both versions")
    parser.add_argument("--old", metavar="N", help="older version of the bank")
    parser.add_argument("--new", metavar="N", help="newer version; by default the newest")
    parser.add_argument("--cases", metavar="FILE.jsonl", help="the cases that were examined")
    parser.add_argument("--output", metavar="FILE.html", help="the page")
    parser.add_argument("--recipe", metavar="FILE.toml", type=Path, help="settings")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and end")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings over the recipe's"
    )
    return parser.parse_intermixed_args(arguments)


def resolve_recipe(options: argparse.Namespace) -> VersionComparisonRecipe:
    """Recipe, then overrides, then the options that name a setting.

    Raises:
        ConfigError: A setting is unknown, of the wrong type or impossible.
    """
    overrides: list[str] = list(options.overrides)
    for name, value in (
        ("store", options.store),
        ("old.results", options.results),
        ("new.results", options.results),
        ("old.version", options.old),
        ("new.version", options.new),
        ("cases", options.cases),
        ("output", options.output),
    ):
        if value is not None:
            overrides.append(f"{name}={value}")
    return load_recipe(VersionComparisonRecipe, options.recipe, overrides)


def run_job(recipe: VersionComparisonRecipe) -> int:
    """Compare, print what was found, and write the page."""
    from pipelines.version_comparison import compare_versions

    comparison = compare_versions(recipe)
    for item in comparison.comparisons:
        mark = "WORSE" if item.is_regression else "better" if item.is_improvement else "same"
        print(f"{mark:7} {item.sentence()}")
    for warning in comparison.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"page: {comparison.page}")
    return 3 if comparison.regressions else 0


if __name__ == "__main__":
    sys.exit(main())
