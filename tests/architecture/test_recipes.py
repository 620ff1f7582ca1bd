"""Every committed recipe is accepted by the loader that the jobs use."""

from pathlib import Path

import pytest

from pipelines.cli.all_recipes import load_recipe_file
from tests.architecture.project import ROOT, project_files

RECIPES = [
    path
    for path in project_files()
    if path.suffix == ".toml" and path.parent == Path("pipelines/recipes")
]


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_loads(path: Path) -> None:
    recipe = load_recipe_file(ROOT / path)
    assert recipe.run_name
