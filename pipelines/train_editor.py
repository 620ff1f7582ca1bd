#!/usr/bin/env python
"""Train an editor that LiveEdit is compared with: MEND, SERAC, RECIPE or LTE.

One loop for all, on the training cases and hidden states that `train_generator.py` uses. Interrupt
it at any time; the same command resumes with the same numbers. `compare_editors.py` reads the
result from the folder that `<editor>.checkpoint` names.

    train_editor.py --editor mend
    train_editor.py --editor lte --run-name lte optimization.steps=500
    train_editor.py --editor recipe --backbone FOLDER --benchmark evqa --data DIR
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # the packages lie one folder above this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from liveedit_core.baselines.trained.settings import RIVALS
from pipelines.job import entry
from pipelines.training.editor_recipe import TrainEditorRecipe

RECIPE = Path(__file__).parent / "recipes" / "train_editors.toml"
EXIT_CODES = """exit codes:
  0  the trained part is written
  1  an error; the message says what to do
  2  a wrong option or setting
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = entry.job_parser(__doc__, EXIT_CODES)
    parser.add_argument("--editor", choices=RIVALS, help="which one to train (mend)")
    entry.add_settings(
        parser,
        ("--cases", "data.cases", "FILE.jsonl", "training cases, one a line"),
        entry.BACKBONE,
        entry.RUN_NAME,
    )
    entry.add_benchmark_options(parser)
    return entry.parse_job(parser, arguments, recipe=RECIPE)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return entry.run_entry(
        lambda: entry.resolve(TrainEditorRecipe, options), run_job, is_dry_run=options.dry_run
    )


def run_job(recipe: TrainEditorRecipe) -> int:
    """Train, or resume."""
    from pipelines.training.editors import train_editor

    print(f"written to {train_editor(recipe, lambda text: print(text, flush=True))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
