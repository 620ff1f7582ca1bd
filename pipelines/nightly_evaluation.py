#!/usr/bin/env python
"""Examine the newest bank version and the champion on the fixed cases, once a date.

    nightly_evaluation.py                        today, on the built-in cases
    nightly_evaluation.py --date 2026-11-25 --cases cases.jsonl --store s3://bucket/prefix

The same command again goes on where a killed one stopped, and does nothing once the night is done.
"""

import argparse
import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING

_PROJECT = str(Path(__file__).resolve().parents[1])
if sys.path[0] != _PROJECT:
    # Run as a script: Python put this folder first, the packages lie one above it.
    sys.path[0] = _PROJECT

from liveedit_core.errors import ConfigError  # noqa: E402
from pipelines.job.entry import (  # noqa: E402  # noqa: E402
    add_benchmark_options,
    benchmark_settings,
    job_parser,
    parse_job,
    resolve,
    run_entry,
)
from pipelines.operations.recipe import NightlyRecipe  # noqa: E402

if TYPE_CHECKING:
    from pipelines.operations.nightly import NightResult

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "nightly_evaluation.toml"
EXIT_CODES = """exit codes:
  0    nothing is worse than in the champion; or the night was done before, whatever it found
  1    an error; the message says what to do
  2    a wrong option or setting
  3    a regression; each one is listed
  5    another process is at this night
  130  stopped by Ctrl-C, 143 by SIGTERM; the same command goes on
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    options = parse_arguments(arguments)
    return run_entry(
        lambda: resolve_recipe(options),
        lambda recipe: run_job(recipe, night_of(options.date)),
        is_dry_run=options.dry_run,
    )


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = job_parser(__doc__, EXIT_CODES)
    parser.add_argument("--date", metavar="YYYY-MM-DD", help="of the night; by default today (UTC)")
    cases = parser.add_mutually_exclusive_group()
    cases.add_argument(
        "--cases", metavar="FILE.jsonl", help="fixed cases, one a line; all of them are taken"
    )
    add_benchmark_options(parser, cases)
    parser.add_argument("--store", metavar="URI", help="file:///folder or s3://bucket/prefix")
    return parse_job(
        parser, arguments, recipe=DEFAULT_RECIPE, recipe_help="cases, tolerances, workers"
    )


def resolve_recipe(options: argparse.Namespace) -> NightlyRecipe:
    """Recipe, then overrides, then the options that name a setting.

    Raises:
        ConfigError: A setting is unknown, of the wrong type or impossible.
    """
    has_own_cases = options.cases is not None or options.benchmark is not None
    return resolve(
        NightlyRecipe,
        options,
        [
            ("cases.path", options.cases),
            ("store", options.store),
            *benchmark_settings(options),
        ],
        defaults=["cases.limit=0"] if has_own_cases else [],
    )


def night_of(date: str | None) -> str:
    """The label of a night.

    Raises:
        ConfigError: That is no date.
    """
    if date is None:
        return datetime.datetime.now(datetime.UTC).date().isoformat()
    try:
        return datetime.date.fromisoformat(date).isoformat()
    except ValueError as error:
        raise ConfigError(f"--date must be like 2026-11-25, got {date!r}") from error


def run_job(recipe: NightlyRecipe, label: str) -> int:
    """Do what is left of a night and say what came of it; returns the exit code."""
    from rich.console import Console

    from pipelines.job.ray_session import prepare_environment

    prepare_environment(recipe.ray)
    from pipelines.operations.nightly import NightBusyError
    from pipelines.operations.nightly_run import run_night

    try:
        result, stop_code = run_night(recipe, label, Console())
    except NightBusyError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 5
    if result.outcome is None:
        print("stopped; the same command goes on from here")
        return stop_code
    return say_outcome(result, label, recipe.run_folder / label)


def say_outcome(result: "NightResult", label: str, folder: Path) -> int:
    """Print what a night found; returns the exit code."""
    outcome = result.outcome
    assert outcome is not None
    if result.was_done:
        found = "; ".join(outcome.regressions)
        print(
            f"done: the night {label} was finished at {outcome.evaluated_at}, "
            + (f"with {len(outcome.regressions)} regressions: {found}" if found else "all fine")
        )
        return 0
    for improvement in outcome.improvements:
        print(f"improvement  {improvement}")
    for regression in outcome.regressions:
        print(f"REGRESSION   {regression}", file=sys.stderr)
    print(f"pages: {folder}")
    against = f"champion, version {outcome.champion}" if outcome.champion else "no other champion"
    print(
        f"version {outcome.newest} against {against}: "
        f"{outcome.num_results} results, {len(outcome.regressions)} regressions"
    )
    return 3 if outcome.regressions else 0


if __name__ == "__main__":
    sys.exit(main())
