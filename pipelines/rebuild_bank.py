#!/usr/bin/env python
"""Make a new bank from the request log with another generator.

    rebuild_bank.py --store s3://bucket/prefix --generator runs/train/generator --bank main-2
    rebuild_bank.py --store runs/quickstart/store --generator FOLDER --bank new --from quickstart

The old bank stays as it is. The same command resumes an interrupted rebuild.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # the packages lie one folder above this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from liveedit_core.errors import ConfigError
from pipelines.editing.recipe import RebuildRecipe
from pipelines.job import entry

if TYPE_CHECKING:
    from pipelines.editing.rebuild import RebuildResult

EXIT_CODES = """exit codes:
  0    every request is in the new bank
  1    an error; the message says what to do
  2    a wrong option or setting
  4    done, but some requests were refused (the table `rejects` says why)
  130  stopped by Ctrl-C, 143 by SIGTERM, after a window; the same command resumes
"""


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return entry.run_entry(
        lambda: entry.resolve(RebuildRecipe, options), run_job, is_dry_run=options.dry_run
    )


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = entry.job_parser(__doc__, EXIT_CODES)
    entry.add_settings(
        parser,
        ("--store", "store", "URI", "holds the request log"),
        ("--generator", "generator.checkpoint", "FOLDER", "checkpoint that writes the experts"),
        ("--bank", "bank.name", "NAME", "of the new bank"),
        ("--from", "source.bank", "NAME", "only the edits that this bank holds"),
        entry.RUN_NAME,
    )
    return entry.parse_job(parser, arguments)


def run_job(recipe: RebuildRecipe) -> int:
    """Run the job and report its end."""
    if not recipe.store:
        raise ConfigError("store must name the store of the request log: --store URI")
    from rich.console import Console

    from pipelines.job.run_folder import log_to_file, write_recipe

    write_recipe(recipe)
    log_to_file(recipe.run_folder)
    from pipelines.job.ray_session import prepare_environment

    prepare_environment(recipe.ray)
    from pipelines.editing.rebuild import do_rebuild

    result = do_rebuild(recipe, Console())
    print(ending(recipe, result))
    if result.was_stopped:
        return result.stop_code
    return 4 if result.num_refused else 0


def ending(recipe: RebuildRecipe, result: "RebuildResult") -> str:
    """The last line."""
    name = f"bank {recipe.bank.name!r}, version {result.version}"
    if result.was_stopped:
        return f"stopped with {result.num_edits} edits in {name}; the same command resumes"
    refused = f"{result.num_refused} requests refused" if result.num_refused else "none refused"
    registered = f"; {result.registered}" if result.registered else ""
    return (
        f"{result.num_edits} edits in {name}, {result.num_new} of them new; {refused}{registered}"
    )


if __name__ == "__main__":
    sys.exit(main())
