#!/usr/bin/env python
"""Compare two bank versions by results that the store holds, and write the page.

    compare_versions.py --store runs/quickstart/store --results quickstart \\
        --old 1 --new 6 bank=quickstart
    compare_versions.py --store s3://bucket/nightly bank_store=s3://bucket/prefix \\
        old.results=nightly-2026-11-24-v6 new.results=nightly-2026-11-25-v7 cases=fixed.jsonl

Nothing is evaluated and no model is loaded; both versions must have been evaluated before.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # the packages lie one folder above this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pipelines.evaluation.recipe import VersionComparisonRecipe
from pipelines.job import entry

EXIT_CODES = """exit codes:
  0  no metric became worse by more than its tolerance
  1  an error; the message says what to do
  2  a wrong option or setting
  3  a regression; the page is written all the same
"""


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return entry.run_entry(lambda: resolve_recipe(options), run_job, is_dry_run=options.dry_run)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = entry.job_parser(__doc__, EXIT_CODES)
    parser.add_argument("--results", metavar="RUN", help="results table of both versions")
    entry.add_settings(
        parser,
        ("--store", "store", "URI", "store of the results; a folder or s3://..."),
        ("--old", "old.version", "N", "older version of the bank"),
        ("--new", "new.version", "N", "newer version; by default the newest"),
        ("--cases", "cases", "FILE.jsonl", "the cases that were evaluated"),
        ("--output", "output", "FILE.html", "the page to write"),
    )
    return entry.parse_job(parser, arguments)


def resolve_recipe(options: argparse.Namespace) -> VersionComparisonRecipe:
    """The recipe; `--results` names the table of both versions."""
    if options.results is not None:
        options.overrides += [f"{side}.results={options.results}" for side in ("old", "new")]
    return entry.resolve(VersionComparisonRecipe, options)


def run_job(recipe: VersionComparisonRecipe) -> int:
    """Compare, write the page and print each metric."""
    from pipelines.evaluation.versions import compare_versions

    page, data = compare_versions(recipe)
    for item in data.comparisons:
        mark = "WORSE" if item.is_regression else "better" if item.is_improvement else "same"
        print(f"{mark:7} {item.sentence()}")
    for warning in data.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"page: {page}")
    return 3 if any(item.is_regression for item in data.comparisons) else 0


if __name__ == "__main__":
    sys.exit(main())
