#!/usr/bin/env python
"""The evaluation job of editors: LiveEdit and the baselines on the same edits and probes.

    compare_editors.py                                        1, 10 and 100 built-in edits
    compare_editors.py --edits 1000 --groups 1 --editors liveedit,grace
    compare_editors.py --generator paper=FOLDER --generator paper=FOLDER
    compare_editors.py --benchmark evqa --data DIR
    compare_editors.py --cases cases.jsonl --edits 1,4
    compare_editors.py --backbone FOLDER --editors ft-l,lora,grace
    compare_editors.py --tune --benchmark builtin --split validation
                                                              choose the other editors' settings
    compare_editors.py --page A/comparison.json B/comparison.json --run-name both
                                                              one page of comparisons that are done

For each number of edits N every editor learns a group of N edits, scored on cases of the
group, and restored, group after group. Leaves one table, as JSON and in MLflow, and a page over N
with its figures (SVG) and tables (CSV, LaTeX) beside it. One process, no Ray: run it again for the
same numbers; groups that are finished in the run's folder are not taught again.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # the packages lie one folder above this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pipelines.baselines.recipe import EDITORS, CompareRecipe
from pipelines.job import entry

TABLE_WIDTH = 190
TUNED = Path(__file__).parent / "recipes" / "compare_editors.toml"
"""The recipe that is used by default: settings as `--tune` chose them."""
EXIT_CODES = """exit codes:
  0  the table is written
  1  an error; the message says what to do
  2  a wrong option or setting
"""


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return entry.run_entry(
        lambda: entry.resolve(CompareRecipe, options),
        run_tuning
        if options.tune
        else partial(run_page, options.page)
        if options.page
        else run_job,
        is_dry_run=options.dry_run,
    )


def _toml_list(names: str) -> str:
    return json.dumps(names.split(","))


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = entry.job_parser(__doc__, EXIT_CODES)
    names = f"some of {', '.join(EDITORS)}"
    parser.add_argument("--editors", type=_toml_list, metavar="NAME,NAME", help=names)
    numbers = "numbers of edits (1,10,100)"
    parser.add_argument("--edits", type="[{}]".format, metavar="N,N", help=numbers)
    groups = "most groups at each of them, or one number for all (100,100,10)"
    parser.add_argument("--groups", type="[{}]".format, metavar="N,N", help=groups)
    more = "a row with another generator for the backbone; several of one name are its seeds"
    parser.add_argument(
        "--generator", dest="generators", action="append", metavar="NAME=FOLDER", help=more
    )
    parser.add_argument(
        "--tune", action="store_true", help="choose settings on validation; compare nothing"
    )
    parser.add_argument(
        "--page",
        type=Path,
        nargs="+",
        default=(),
        metavar="FILE.json",
        help="write the page of finished comparisons into the run's folder; compare nothing",
    )
    entry.add_settings(
        parser,
        ("--backbone", "backbone.name", "NAME", "a checkpoint folder, or owner/model of the hub"),
        ("--cases", "cases", "FILE.jsonl", "your own cases, one a line"),
        ("--output", "output", "FILE.json", "where the table goes"),
        ("--run-name", "run_name", "NAME", "folder under runs/, and in MLflow"),
    )
    entry.add_benchmark_options(parser)
    options = entry.parse_job(parser, arguments, recipe=TUNED)
    if options.generators is not None:
        options.generators = json.dumps(options.generators)
    return options


def run_job(recipe: CompareRecipe) -> int:
    """Load the models, compare; print, write and record the table."""
    from rich.console import Console

    from pipelines.baselines.console_tables import to_tables
    from pipelines.baselines.job import compare_on, record
    from pipelines.baselines.tables import write_files
    from pipelines.job.cases import load_evaluation_cases
    from pipelines.job.progress import say_on

    console = Console()
    say = say_on(console)
    reader = f"{recipe.job} {recipe.run_name}"
    cases = load_evaluation_cases(recipe.benchmark, recipe.cases, reader=reader, say=say)
    comparison = compare_on(recipe, cases, say)
    # The table has its own width, whatever the terminal's: columns that wrap cannot be read.
    Console(width=max(console.width, TABLE_WIDTH)).print(*to_tables(comparison))
    files = write_files(comparison)
    say(f"written to {files[0].parent}: {', '.join(file.name for file in files)}")
    record(comparison, files)
    return 0


def run_page(files: Sequence[Path], recipe: CompareRecipe) -> int:
    """One page of comparisons that other runs left."""
    from pipelines.baselines.page import write_page_of

    print(f"written to {write_page_of(files, recipe.run_folder)[0]}")
    return 0


def run_tuning(recipe: CompareRecipe) -> int:
    """Try the search space of every editor; leave all trials and a recipe with the best."""
    from rich.console import Console

    from pipelines.baselines.job import tune_on
    from pipelines.baselines.tuning import check_split, to_recipe
    from pipelines.job.cases import load_evaluation_cases
    from pipelines.job.progress import say_on

    check_split(recipe)  # before a sealed split is looked at
    say = say_on(Console())
    cases = load_evaluation_cases(recipe.benchmark, reader=recipe.job, say=say)
    tree = tune_on(recipe, cases, say)
    found, chosen = recipe.run_folder / "tuned_editors.json", recipe.run_folder / TUNED.name
    found.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    chosen.write_text(to_recipe(tree["chosen"]), encoding="utf-8")
    say(f"written to {found} and {chosen}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
