#!/usr/bin/env python
"""Make a bank version the champion if it passes every gate, or roll back to the previous one.

    promotion.py                                 the newest registered version
    promotion.py --version 7 --why "new logos"
    promotion.py --store s3://bucket/prefix
    promotion.py --rollback --why "wrong answers about flags"

Run nightly_evaluation.py first. Every change is written to an audit log in the store.
"""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

if __name__ == "__main__":  # the packages lie one folder above this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pipelines.job import entry
from pipelines.operations.recipe import DEFAULT_RECIPE, PromotionRecipe

EXIT_CODES = """exit codes:
  0    the version is the champion (now or already), or the rollback is done
  1    an error, or a wrong option or setting; the message says what to do
  2    refused; every failed gate is listed
  5    another process changed the champion at the same time
"""


class _Parser(argparse.ArgumentParser):
    """Exits with 1 on a wrong option: 2 is a refusal."""

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and exit."""
        self.print_usage(sys.stderr)
        self.exit(1, f"error: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return entry.run_entry(
        lambda: entry.resolve(PromotionRecipe, options),
        lambda recipe: run_job(recipe, options),
        is_dry_run=options.dry_run,
        wrong_setting=entry.FAILED,
    )


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = entry.job_parser(__doc__, EXIT_CODES, parser_class=_Parser)
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--version", metavar="N", type=int, help="version of liveedit-bank; default: the newest"
    )
    action.add_argument(
        "--rollback", action="store_true", help="make the previous champion the champion again"
    )
    about = "operations store, as in nightly_evaluation.py; a folder or s3://..."
    entry.add_settings(parser, ("--store", "store", "URI", about))
    parser.add_argument("--why", metavar="TEXT", default="", help="reason, for the audit log")
    who = "for the audit log; default: the current user"
    parser.add_argument("--who", metavar="NAME", help=who)
    return entry.parse_job(
        parser, arguments, recipe=DEFAULT_RECIPE, recipe_help="thresholds and tolerances"
    )


def run_job(recipe: PromotionRecipe, options: argparse.Namespace) -> int:
    """Promote or roll back and print the decision; returns the exit code."""
    from infra.tracking.model_registry import BANK_MODEL, ModelVersions
    from infra.tracking.tracker import default_tracking_uri
    from pipelines.operations.promoter import Promoter, PromotionConflictError, print_decision

    promoter = Promoter(
        recipe=recipe,
        versions=ModelVersions(default_tracking_uri(Path(recipe.run_root))),
        who=options.who or entry.current_user(),
        why=options.why,
        say=print,
    )
    try:
        if options.rollback:
            return print_decision(promoter.roll_back())
        uri = f"models:/{BANK_MODEL}/{options.version}" if options.version is not None else ""
        return print_decision(promoter.promote(uri))
    except PromotionConflictError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 5


if __name__ == "__main__":
    sys.exit(main())
