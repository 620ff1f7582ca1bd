"""Equally many trials of each editor, on validation only; the best is what the recipe holds."""

import json
from pathlib import Path
from typing import Any

import pytest

from liveedit_core.baselines.trained.settings import SeracConfig
from liveedit_core.errors import ConfigError
from liveedit_core.state_source import BackboneStates
from pipelines.baselines import tuning
from pipelines.baselines.recipe import EDITORS, NEED_GENERATOR, SECTIONS, CompareRecipe
from pipelines.baselines.search_space import NUM_TRIALS, SEARCH_SPACE, Changes
from pipelines.baselines.tuning import chosen, default_section, to_recipe, tune
from pipelines.compare_editors import TUNED
from pipelines.job.recipe_loader import load_recipe
from pipelines.job.sections import BenchmarkSection
from tests.tiny_backbone import case, tiny_backbone
from tests.unit.tiny_editors import save_tiny_parts

CASES = [case(seed) for seed in range(4)]
VALIDATION = BenchmarkSection(split="validation")


def test_every_rival_has_as_many_trials() -> None:
    assert set(SEARCH_SPACE) == {*EDITORS, "unedited"} - {*NEED_GENERATOR, "unedited"}
    for name, trials in SEARCH_SPACE.items():
        assert len(trials) == NUM_TRIALS
        assert trials[0] == {}
        default = getattr(CompareRecipe(), SECTIONS[name])
        tried = {default.with_changes(**changes).model_dump_json() for changes in trials}
        assert len(tried) == NUM_TRIALS


def test_trials_are_scored_kept_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space: dict[str, tuple[Changes, ...]] = {
        "ft-l": ({}, {"max_steps": 60, "learning_rate": 3e-2}),
        "ike": ({}, {"num_facts": 1}),
    }
    monkeypatch.setattr(tuning, "SEARCH_SPACE", space)
    backbone = tiny_backbone()
    recipe = CompareRecipe(
        run_root=str(tmp_path), benchmark=VALIDATION, tuning_edits=2, max_new_tokens=4
    )
    said: list[str] = []
    tree = tune(recipe, backbone, CASES, BackboneStates(backbone), said.append)
    assert [(one["editor"], one["trial"]) for one in tree["trials"]] == [
        ("ft-l", 0),
        ("ft-l", 1),
        ("ike", 0),
        ("ike", 1),
    ]
    for trial in tree["trials"]:
        metrics = trial["metrics"]
        forced = [value for name, value in metrics.items() if name.endswith("teacher_forced")]
        free = metrics["reliability.free_generation"]
        assert trial["objective"] == pytest.approx((sum(forced) / 4 + free) / 2, abs=1e-3)
        assert set(trial["num_samples"].values()) == {2}
    assert tree["chosen"]["fine_tuning"] == space["ft-l"][1]
    monkeypatch.setattr(tuning, "_trial", lambda *arguments: pytest.fail("taught again"))
    assert tune(recipe, backbone, CASES, BackboneStates(backbone), said.append) == tree


def test_settings_are_chosen_on_validation_only(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    for split in ("development", "test"):
        recipe = CompareRecipe(run_root=str(tmp_path), benchmark=BenchmarkSection(split=split))
        with pytest.raises(ConfigError, match="nowhere else"):
            tune(recipe, backbone, CASES, BackboneStates(backbone), print)


def test_of_equal_trials_the_first_wins() -> None:
    def trial(editor: str, rank: int, objective: float) -> dict[str, Any]:
        return {"editor": editor, "changes": {"rank": rank}, "objective": objective}

    trials = [trial("lora", 1, 0.5), trial("lora", 2, 0.6), trial("lora", 3, 0.6)]
    assert chosen(trials) == {"lora": {"rank": 2}}


def test_the_recipe_holds_what_was_chosen(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(to_recipe({"lora": {"rank": 3, "learning_rate": 3e-05}, "wise": {}}))
    recipe = load_recipe(CompareRecipe, file)
    assert (recipe.lora.rank, recipe.lora.learning_rate) == (3, 3e-05)
    assert recipe.wise == CompareRecipe().wise


def test_the_committed_recipe_is_that_of_the_committed_trials() -> None:
    tree = json.loads(Path("tests/benchmarks/tuned_editors.json").read_text())
    assert chosen(tree["trials"]) == tree["chosen"]
    assert TUNED.read_text() == to_recipe(tree["chosen"])
    for name in SEARCH_SPACE:
        assert sum(trial["editor"] == name for trial in tree["trials"]) == NUM_TRIALS


def test_a_trained_part_is_that_of_the_recipe_in_every_trial() -> None:
    recipe = CompareRecipe(serac=SeracConfig(checkpoint="elsewhere", least_scope=0.9))
    assert default_section(recipe, "serac") == SeracConfig(checkpoint="elsewhere")
    assert default_section(recipe, "grace") == CompareRecipe().grace


def test_a_part_that_is_trained_anew_is_tried_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "SEARCH_SPACE", {"recipe": ({},)})
    backbone = tiny_backbone()
    sections = save_tiny_parts(tmp_path, backbone)
    recipe = CompareRecipe(
        run_root=str(tmp_path),
        benchmark=VALIDATION,
        editors=("recipe",),
        tuning_edits=1,
        max_new_tokens=4,
    ).with_changes(recipe=sections["recipe"])
    source = BackboneStates(backbone)
    (first,) = tune(recipe, backbone, CASES, source, print)["trials"]
    assert tune(recipe, backbone, CASES, source, print)["trials"] == [first]
    config = tmp_path / "recipe" / "config.json"
    config.write_text(config.read_text().replace('"seed": 0', '"seed": 1'))
    (again,) = tune(recipe, backbone, CASES, source, print)["trials"]
    assert again["part"] != first["part"]
