"""Every committed recipe is accepted by the loader that the jobs use."""

from pathlib import Path

import pytest

from tests.architecture.project import ROOT, project_files
from tests.recipe_classes import load_by_job

RECIPES = [
    path
    for path in project_files()
    if path.suffix == ".toml" and path.parent == Path("pipelines/recipes")
]


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_loads(path: Path) -> None:
    assert load_by_job(ROOT / path).job
