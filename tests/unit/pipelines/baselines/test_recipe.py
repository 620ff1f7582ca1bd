"""Settings of the comparison, from options and overrides."""

import pytest

from liveedit_core.errors import ConfigError
from pipelines.baselines.recipe import CompareRecipe
from pipelines.compare_editors import parse_arguments
from pipelines.job.entry import resolve


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("edits=[0]", "edits"),
        ("edits=[]", "edits"),
        ("editors=['rome']", "editors"),
        ("fine_tuning.steps=3", "fine_tuning.max_steps"),
        ("groups=[1,2]", "groups: expected one number"),
        ("generators=['folder']", "NAME=FOLDER"),
        ("generators=['a/b=folder']", "NAME=FOLDER"),
        ("max_new_tokens=12", "max_new_tokens is 12, but targets of up to 32 tokens"),
    ],
)
def test_wrong_settings_are_refused_by_name(argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(CompareRecipe, parse_arguments([argument]))


def test_liveedit_needs_a_generator_of_the_backbone() -> None:
    with pytest.raises(ConfigError, match="set generator=FOLDER"):
        resolve(CompareRecipe, parse_arguments(["--backbone", "owner/model"]))
    options = ["--backbone", "owner/model", "--editors", "lora"]
    assert resolve(CompareRecipe, parse_arguments(options)).backbone.name == "owner/model"


def test_a_trained_editor_needs_a_part_of_the_backbone() -> None:
    named = ["--backbone", "owner/model", "--editors", "mend,lora"]
    with pytest.raises(ConfigError, match="mend must be trained for owner/model"):
        resolve(CompareRecipe, parse_arguments(named))
    found = resolve(CompareRecipe, parse_arguments([*named, "mend.checkpoint=a"]))
    assert found.section("mend").checkpoint == "a"


def test_options_are_settings() -> None:
    options = parse_arguments(
        [
            *("--edits=7,1", "--groups=4", "--editors=ike,lora", "--output=a.json"),
            *("--generator=a=b c", "--generator=a=d", "fine_tuning.max_steps=3"),
        ]
    )
    recipe = resolve(CompareRecipe, options)
    assert (recipe.sizes, recipe.editors) == ((1, 7), ("ike", "lora"))
    assert recipe.ladders == ((4, (1, 7)),)
    assert recipe.generators == ("a=b c", "a=d")
    assert (recipe.output, recipe.fine_tuning.max_steps) == ("a.json", 3)
