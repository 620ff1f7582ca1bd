"""A run remembers what it was made with, and refuses to become another."""

import json
from pathlib import Path

import pytest

from liveedit_core.errors import ConfigError
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.job.recipe_loader import load_recipe
from pipelines.job.run_folder import enter_run_folder


def recipe(root: Path, *overrides: str) -> LifelongEditRecipe:
    return load_recipe(LifelongEditRecipe, None, [f"run_root={root}", *overrides])


def test_every_start_is_written_down(tmp_path: Path) -> None:
    config = recipe(tmp_path, "seed=7")
    assert enter_run_folder(config) is False
    assert enter_run_folder(config, must_exist=True) is True
    folder = config.run_folder
    assert load_recipe(LifelongEditRecipe, folder / "config.toml") == config
    starts = [json.loads(line) for line in (folder / "starts.jsonl").read_text().splitlines()]
    assert [start["seed"] for start in starts] == [7, 7]
    assert {"git_commit", "python", "torch_version", "argv"} <= set(starts[0])


def test_what_may_change_may_change(tmp_path: Path) -> None:
    enter_run_folder(recipe(tmp_path))
    assert enter_run_folder(recipe(tmp_path, "requests.limit=5", "generator.batch_size=2"))


@pytest.mark.parametrize("change", ["bank.name=other", "seed=1", "store=/tmp/elsewhere"])
def test_what_results_depend_on_may_not(tmp_path: Path, change: str) -> None:
    enter_run_folder(recipe(tmp_path))
    with pytest.raises(ConfigError, match=change.partition("=")[0]):
        enter_run_folder(recipe(tmp_path, change))
