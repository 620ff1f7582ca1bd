"""Compares an editor by its name in a recipe; run with the changed sources first on the path."""

import json
import sys
from pathlib import Path

from pipelines.baselines.tables import to_tree
from tests.unit.pipelines.baselines.tiny_comparison import RECIPE, compared

name, root = sys.argv[1:]
recipe = RECIPE.with_changes(editors=(name,), edits=(2,), groups=(1,))
(row,) = to_tree(compared(recipe, Path(root)))["rows"]
print(json.dumps({key: row[key] for key in ("editor", "num_edits", "num_trials", "train_s")}))
