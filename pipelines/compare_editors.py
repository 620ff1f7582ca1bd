#!/usr/bin/env python
"""The evaluation job of editors: LiveEdit and the baselines on the same edits and probes.

    compare_editors.py                                        1, 10 and 100 built-in edits
    compare_editors.py --edits 1000 --groups 1 --editors liveedit,grace
    compare_editors.py --generator paper=FOLDER --generator paper=FOLDER
    compare_editors.py --benchmark evqa --data DIR
    compare_editors.py --backbone FOLDER --editors ft-l,lora,grace
    compare_editors.py --tune --split validation              choose the other editors' settings

For each number of edits N every editor learns a group of N edits, scored on cases of the
group, and restored, group after group. Leaves one table, as JSON and in MLflow, and a figure of the
average over N. One process, no Ray: run it again for the same numbers; groups that are finished in
the run's folder are not taught again.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # the packages lie one folder above this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pipelines.baselines.recipe import EDITORS, CompareRecipe
from pipelines.job import entry

if TYPE_CHECKING:
    from liveedit_core.backbones.protocol import Backbone
    from liveedit_core.backbones.vision_language import VisionLanguageBackbone
    from liveedit_core.state_source import StateSource
    from pipelines.baselines.compare import Comparison
    from pipelines.baselines.editors import Generators

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
        run_tuning if options.tune else run_job,
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
    entry.add_settings(
        parser,
        ("--backbone", "backbone.name", "NAME", "a checkpoint folder, or owner/model of the hub"),
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

    from pipelines.baselines.compare import compare
    from pipelines.baselines.console_tables import to_tables
    from pipelines.baselines.tables import write_files
    from pipelines.job.cases import load_evaluation_cases
    from pipelines.job.progress import say_on

    console = Console()
    say = say_on(console)
    reader = f"{recipe.job} {recipe.run_name}"
    cases = load_evaluation_cases(recipe.benchmark, reader=reader, say=say)
    backbone, generators = load_models(recipe)
    with state_source(recipe, backbone) as source:
        comparison = compare(recipe, backbone, generators, cases, source, say)
    # The table has its own width, whatever the terminal's: columns that wrap cannot be read.
    Console(width=max(console.width, TABLE_WIDTH)).print(*to_tables(comparison))
    files = write_files(comparison)
    say(f"written to {' and '.join(map(str, files))}")
    record(comparison, files)
    return 0


def run_tuning(recipe: CompareRecipe) -> int:
    """Try the search space of every editor; leave all trials and a recipe with the best."""
    from rich.console import Console

    from pipelines.baselines.tuning import to_recipe, tune
    from pipelines.job.cases import load_evaluation_cases
    from pipelines.job.progress import say_on

    say = say_on(Console())
    cases = load_evaluation_cases(recipe.benchmark, reader=recipe.job, say=say)
    backbone, _ = load_models(recipe)
    with state_source(recipe, backbone) as source:
        tree = tune(recipe, backbone, cases, source, say)
    found, chosen = recipe.run_folder / "tuned_editors.json", recipe.run_folder / TUNED.name
    found.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    chosen.write_text(to_recipe(tree["chosen"]), encoding="utf-8")
    say(f"written to {found} and {chosen}")
    return 0


def load_models(recipe: CompareRecipe) -> "tuple[VisionLanguageBackbone, Generators]":
    """The backbone, and the generators that editors need."""
    from liveedit_core.builtin.backbone import load_named_backbone
    from pipelines.baselines.editors import OWN, NamedGenerator, names_of
    from workers.models import ModelNames

    options = recipe.backbone.options(recipe.benchmark.protocol)
    options = options.with_changes(batch_size=recipe.batch_size)
    folders = {row: folder for row, _, folder in names_of(recipe.generators)}
    if recipe.needs_generator:
        folders = {OWN: recipe.generator} | folders
    generators = {
        row: NamedGenerator(ModelNames(generator=folder).load_generator(), folder)
        for row, folder in folders.items()
    }
    for found in generators.values():
        if options.edit_layer < 0:
            options = options.with_changes(edit_layer=found.generator.config.edit_layer)
    backbone = load_named_backbone(
        recipe.backbone.name, options, builtin_batch_size=recipe.batch_size
    )
    return backbone, generators


@contextlib.contextmanager
def state_source(recipe: CompareRecipe, backbone: "Backbone") -> "Iterator[StateSource]":
    """The backbone, behind the state cache where the recipe asks for one."""
    from infra.cache.cached_states import CachedStates
    from liveedit_core.state_source import BackboneStates
    from pipelines.job.state_cache import open_cache

    computed = BackboneStates(backbone)
    cache = open_cache(recipe.states, recipe.run_root, backbone)
    if cache is None:
        yield computed
        return
    cached = CachedStates(cache, computed, is_filling=True)
    yield cached
    cached.flush()


def record(comparison: "Comparison", files: "Sequence[Path]") -> None:
    """Settings, numbers by N, table and figure in MLflow; an outage only delays them."""
    from infra.tracking.tracker import Tracker
    from pipelines.baselines.tables import metric_values
    from pipelines.job.recipe_loader import to_flat_dict
    from pipelines.job.run_folder import run_facts

    recipe = comparison.recipe
    tracker = Tracker(
        Path(recipe.run_root), experiment=recipe.tracking.experiment, run_name=recipe.run_name
    )
    tracker.log_params(to_flat_dict(recipe))
    tracker.set_tags({**run_facts(), **comparison.digests})
    for scores in comparison.scores:
        tracker.log_metrics(metric_values(scores), step=scores.num_edits)
    for file in files:
        tracker.log_artifact(file)
    tracker.end()


if __name__ == "__main__":
    sys.exit(main())
