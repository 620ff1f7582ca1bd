#!/usr/bin/env python
"""Score the sealed test split once for a generator, and write the tables of README and data card.

    final_numbers.py                       the built-in generator on test: hours, resumable
    final_numbers.py --generator FOLDER    another generator
    final_numbers.py --recipe pipelines/recipes/daily_numbers.toml    validation, ten minutes
    final_numbers.py --write-tables        tables from the stored JSON, without a model

Settings are chosen on validation and nowhere else: the job says who looked at the test split
before, and records its own look.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # the packages lie one folder above this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pipelines.final.recipe import RECIPES, FinalNumbersRecipe
from pipelines.job import entry


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = entry.job_parser(__doc__)
    entry.add_settings(
        parser,
        ("--generator", "generator", "FOLDER", "a generator checkpoint"),
        ("--output", "output", "FILE.json", "where the results go"),
        entry.RUN_NAME,
    )
    parser.add_argument(
        "--write-tables",
        action="store_true",
        help="write the tables of README and data card from the JSON file and end",
    )
    return entry.parse_job(parser, arguments, recipe=RECIPES / "final_numbers.toml")


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return entry.run_entry(
        lambda: entry.resolve(FinalNumbersRecipe, options),
        lambda recipe: run_job(recipe, tables_only=options.write_tables),
        is_dry_run=options.dry_run,
    )


def run_job(recipe: FinalNumbersRecipe, *, tables_only: bool = False) -> int:
    """Score what is left to score, write the JSON, print the tables."""
    from rich.console import Console

    from pipelines.final.tables import print_tables, write_tables

    console = Console()
    if tables_only:
        write_tables()
        return 0
    from pipelines.final.job import final_numbers

    numbers, was_stopped = final_numbers(recipe, console)
    if was_stopped:
        console.print("stopped; the same command resumes")
        return 1
    print_tables(numbers, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
