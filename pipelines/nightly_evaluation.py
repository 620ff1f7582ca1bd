#!/usr/bin/env python
"""Evaluate the newest bank version and the champion on fixed cases, once per date.

    nightly_evaluation.py                        today, on the built-in cases
    nightly_evaluation.py --date 2026-11-25 --cases cases.jsonl --store s3://bucket/prefix

The same command resumes a killed run, and does nothing once the run is done.
"""

import argparse
import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # the packages lie one folder above this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from liveedit_core.errors import ConfigError
from pipelines.job import entry
from pipelines.operations.recipe import NightlyRecipe

if TYPE_CHECKING:
    from pipelines.operations.nightly import NightlyResult

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "nightly_evaluation.toml"
EXIT_CODES = """exit codes:
  0    no metric is worse than the champion's and the budget of false activations is kept; or the
       run was done before, whatever it found
  1    an error; the message says what to do
  2    a wrong option or setting
  3    regressions, each one is listed; or more than twice the budget of false activations
  5    another process works on this nightly run
  130  stopped by Ctrl-C, 143 by SIGTERM; the same command resumes
"""


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return entry.run_entry(
        lambda: resolve_recipe(options),
        lambda recipe: run_job(recipe, date_label(options.date)),
        is_dry_run=options.dry_run,
    )


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = entry.job_parser(__doc__, EXIT_CODES)
    parser.add_argument("--date", metavar="YYYY-MM-DD", help="of the run; default: today (UTC)")
    cases = parser.add_mutually_exclusive_group()
    about = "fixed cases, one per line; all are used"
    entry.add_settings(cases, ("--cases", "cases.path", "FILE.jsonl", about))
    entry.add_benchmark_options(parser, cases)
    entry.add_settings(parser, entry.STORE)
    return entry.parse_job(
        parser, arguments, recipe=DEFAULT_RECIPE, recipe_help="cases, tolerances, workers"
    )


def resolve_recipe(options: argparse.Namespace) -> NightlyRecipe:
    """The recipe; without a limit where an option names the cases."""
    named = vars(options)
    has_own_cases = named["cases.path"] is not None or named["benchmark.name"] is not None
    return entry.resolve(
        NightlyRecipe, options, defaults=["cases.limit=0"] if has_own_cases else []
    )


def date_label(date: str | None) -> str:
    """The label of a nightly run: a date, by default today; ConfigError if it is not a date."""
    if date is None:
        return datetime.datetime.now(datetime.UTC).date().isoformat()
    try:
        return datetime.date.fromisoformat(date).isoformat()
    except ValueError as error:
        raise ConfigError(f"--date must be like 2026-11-25, got {date!r}") from error


def run_job(recipe: NightlyRecipe, label: str) -> int:
    """Run or resume a nightly run and print the outcome; returns the exit code."""
    from rich.console import Console

    from pipelines.job.ray_session import prepare_environment

    prepare_environment(recipe.ray)
    from pipelines.operations.nightly import NightlyRunBusyError
    from pipelines.operations.nightly_run import run_nightly

    try:
        result, stop_code = run_nightly(recipe, label, Console())
    except NightlyRunBusyError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 5
    if result.outcome is None:
        print("stopped; the same command resumes")
        return stop_code
    return print_outcome(result, label, recipe.run_folder / label)


def print_outcome(result: "NightlyResult", label: str, folder: Path) -> int:
    """Print what a nightly run found; returns the exit code."""
    outcome = result.outcome
    assert outcome is not None
    if result.was_done:
        found = "; ".join(outcome.regressions) or "none"
        print(
            f"done: the nightly run {label} was finished at {outcome.evaluated_at}; "
            f"{len(outcome.regressions)} regressions: {found}"
        )
        return 0
    for improvement in outcome.improvements:
        print(f"improvement  {improvement}")
    for regression in outcome.regressions:
        print(f"REGRESSION   {regression}", file=sys.stderr)
    if outcome.exceeded:
        print(f"FALSE ACTIVATIONS  {outcome.exceeded}", file=sys.stderr)
    print(f"pages: {folder}")
    against = f"champion, version {outcome.champion}" if outcome.champion else "no other champion"
    print(
        f"version {outcome.newest} against {against}: "
        f"{outcome.num_results} results, {len(outcome.regressions)} regressions"
    )
    return 3 if outcome.regressions or outcome.exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
