"""Recipes: what is read, from where, and how mistakes are named."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveedit_core.errors import ConfigError
from pipelines.editing.recipe import QUICKSTART, LifelongEditRecipe
from pipelines.job.recipe_loader import Recipe, load_recipe, to_dict, to_toml
from tests.architecture.project import run
from tests.recipe_classes import RECIPE_CLASSES


def _recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_no_file_and_no_override_gives_the_defaults() -> None:
    assert load_recipe(LifelongEditRecipe) == LifelongEditRecipe()


def test_a_file_sets_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    path = _recipe(tmp_path, "seed = 3\n[evaluation]\nat = [2, 4]\n[embedding]\nnum_workers = 2\n")
    recipe = load_recipe(LifelongEditRecipe, path)
    default = LifelongEditRecipe()
    assert recipe == default.with_changes(
        seed=3,
        evaluation=default.evaluation.with_changes(at=(2, 4)),
        embedding=default.embedding.with_changes(num_workers=2),
    )


def test_the_quickstart_teaches_a_hundred_built_in_cases() -> None:
    recipe = load_recipe(LifelongEditRecipe, QUICKSTART)
    assert (recipe.requests.path, recipe.requests.cases, recipe.requests.limit) == ("", "", 100)
    assert recipe.evaluation.at == (1, 10, 100)
    assert recipe.ray.address == ""


def test_later_overrides_win_over_earlier_ones_and_the_file(tmp_path: Path) -> None:
    path = _recipe(tmp_path, "[generator]\nbatch_size = 2\n")
    overrides = ["generator.batch_size=3", "generator.batch_size = 4", "evaluation.at=[5, 6]"]
    recipe = load_recipe(LifelongEditRecipe, path, overrides)
    assert recipe.generator.batch_size == 4
    assert recipe.evaluation.at == (5, 6)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("night", "night"),
        ("2026-11-23", "2026-11-23"),
        ("7", "7"),
        ('"quoted"', "quoted"),
        ("true", "true"),
    ],
)
def test_texts_need_no_quotes_in_overrides(text: str, value: str) -> None:
    assert load_recipe(LifelongEditRecipe, None, [f"run_name={text}"]).run_name == value


def test_a_value_may_hold_equals_signs() -> None:
    recipe = load_recipe(LifelongEditRecipe, None, ["requests.path=a=b.jsonl"])
    assert recipe.requests.path == "a=b.jsonl"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sed = 1", "sed is no known setting; did you mean seed?"),
        ("[evalution]\nat = [1]", "evalution is no known setting; did you mean evaluation?"),
        ("[evaluation]\nbatchsize = 1", "did you mean evaluation.batch_size?"),
        (
            "[benchmark]\nmissing_pictures = 'fatal'",
            "benchmark.missing_pictures is now called benchmark.missing_images",
        ),
        ("[bank]\nxyzzy = 1", "bank.xyzzy is no known setting; known keys: name, window_edits"),
        ("seed = true", "seed must be a whole number, got True"),
        ("evaluation = 3", "evaluation is a section: write [evaluation]"),
        ("[evaluation]\nat = [1, 'x']", "evaluation.at[1] must be a whole number, got 'x'"),
        ("[evaluation]\nat = [10, 1]", "evaluation.at must be rising"),
        (
            "[evaluation]\nprotocols = []",
            "evaluation.protocols must be a list with an item at least",
        ),
        (
            "[evaluation]\nprotocols = ['loose']",
            "evaluation.protocols[0] must be one of 'teacher_forced'",
        ),
        ("[embedding]\nopen_clip_model = 'ViT-B-32'", "open_clip_pretrained must name"),
        ("[embedding]\nopen_clip_pretrained = 'x'", "needs embedding.open_clip_model"),
        ("[bank]\nname = '../up'", "bank.name must be made of letters"),
        ("[requests]\npath = 'a'\ncases = 'b'", "requests.path and requests.cases are both set"),
        ("[ray]\nobject_store_memory_bytes = 5", "ray.object_store_memory_bytes must be 0 or"),
        ("store = 'http://host/x'", "store must be a folder"),
        ("seed = -1", "seed must be at least 0 and less than 4,294,967,296, got -1"),
        ("job = 'train_generator'", "recipe of the job 'train_generator'"),
        ("seed = ", "not valid TOML"),
    ],
)
def test_mistakes_name_the_field_and_the_file(tmp_path: Path, text: str, reason: str) -> None:
    path = _recipe(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(LifelongEditRecipe, path)
    assert reason in caught.value.message
    assert caught.value.message.startswith(str(path))


def test_a_recipe_of_endless_brackets_is_no_traceback(tmp_path: Path) -> None:
    path = _recipe(tmp_path, "seed = " + "[" * 20_000 + "]" * 20_000)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(LifelongEditRecipe, path)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("seed=" + "[" * 20_000, "seed must be a whole number"),
        ("seed=" + "9" * 5_000, "seed must be a whole number"),
        ("seed", "must look like section.key=value"),
        ("evaluation.bath_size=1", "did you mean evaluation.batch_size?"),
        ("evluation.batch_size=1", "did you mean evaluation?"),
        ("evaluation=1", "set one of its keys"),
        ("seed.x=1", "seed is a single value"),
        ("seed=1\nrun_name='x'", "seed must be a whole number"),
        ("evaluation.batch_size=0", "evaluation.batch_size must be at least 1, got 0"),
        ("job=train_generator", "job is no known setting"),
    ],
)
def test_mistakes_in_overrides(override: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(LifelongEditRecipe, None, [override])
    assert reason in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_recipe(LifelongEditRecipe, tmp_path / "none.toml")


@pytest.mark.parametrize("kind", ["/dev/zero", "pipe", "folder", "sparse"])
def test_a_recipe_that_is_no_file_of_text_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(10 * 1024**3)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(LifelongEditRecipe, path)


@pytest.mark.parametrize("recipe_class", RECIPE_CLASSES.values(), ids=RECIPE_CLASSES)
def test_the_resolved_recipe_reads_back_equal(tmp_path: Path, recipe_class: type[Recipe]) -> None:
    recipe = load_recipe(recipe_class, None, ["run_root=elsewhere"])
    path = _recipe(tmp_path, to_toml(recipe))
    assert load_recipe(recipe_class, path) == recipe
    assert to_dict(recipe)["job"] == recipe.job


@given(text=st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_text_reads_back_from_toml(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    recipe = load_recipe(LifelongEditRecipe, None, [])
    recipe = recipe.with_changes(requests=recipe.requests.with_changes(path=text))
    path = _recipe(tmp_path_factory.mktemp("toml"), "")
    path.write_bytes(to_toml(recipe).encode())
    assert load_recipe(LifelongEditRecipe, path) == recipe


def test_the_default_store_lies_in_the_folder_of_the_run(tmp_path: Path) -> None:
    recipe = LifelongEditRecipe(run_root=str(tmp_path), run_name="first")
    assert recipe.store_uri == (tmp_path / "first" / "store").as_uri()
    assert recipe.run_folder == tmp_path / "first"
    assert LifelongEditRecipe(store="s3://bucket/x").store_uri == "s3://bucket/x"
    assert LifelongEditRecipe(store=str(tmp_path)).store_uri == tmp_path.as_uri()


def test_recipes_load_without_heavy_libraries() -> None:
    code = (
        "import sys; from tests.recipe_classes import RECIPE_CLASSES\n"
        "for recipe in RECIPE_CLASSES.values(): recipe()\n"
        "print(*{'torch', 'ray', 'transformers', 'mlflow', 'PIL', 'numpy'} & set(sys.modules))"
    )
    assert run(sys.executable, "-c", code, check=True).stdout.strip() == ""
