"""Command lines of the nightly job, of promotion, and of promotion at the end of editing."""

import datetime
from pathlib import Path

import pytest

from liveedit_core.errors import ConfigError, InputError
from pipelines import lifelong_edit, nightly_evaluation, promotion
from pipelines.job.recipe_loader import load_recipe
from pipelines.operations import promote_at_end as edit_promotion
from pipelines.operations.nightly_run import each_case
from pipelines.operations.recipe import NightlyRecipe


def nightly(*arguments: str) -> NightlyRecipe:
    options = nightly_evaluation.parse_arguments(list(arguments))
    return nightly_evaluation.resolve_recipe(options)


def test_cases_of_a_file_are_all_taken_unless_a_limit_is_given() -> None:
    assert nightly().cases.limit == 200
    mine = nightly("--cases", "mine.jsonl", "--store", "s3://bucket/x")
    assert (mine.cases.path, mine.cases.limit, mine.store_uri) == ("mine.jsonl", 0, "s3://bucket/x")
    assert nightly("--cases", "mine.jsonl", "cases.limit=5").cases.limit == 5
    assert nightly("--cases", "mine.jsonl", "cases.path=other.jsonl").cases.path == "mine.jsonl"


def test_the_label_is_today_or_a_date() -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    assert nightly_evaluation.date_label(None) in {
        today.isoformat(),
        (today + datetime.timedelta(days=1)).isoformat(),
    }
    assert nightly_evaluation.date_label("2026-11-25") == "2026-11-25"
    with pytest.raises(ConfigError, match="--date must be like 2026-11-25"):
        nightly_evaluation.date_label("yesterday")


def test_exit_codes_of_wrong_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert nightly_evaluation.main(["--dry-run", "cases.limit=7"]) == 0
    assert "limit = 7" in capsys.readouterr().out
    assert nightly_evaluation.main(["regression.alpha=2"]) == 2
    assert "regression.alpha must be more than 0 and less than 1, got 2" in capsys.readouterr().err
    assert promotion.main(["--dry-run"]) == 0
    assert "[thresholds]" in capsys.readouterr().out
    assert promotion.main(["thresholds.reliability=90"]) == 1  # 2 is a refusal
    assert (
        "thresholds.reliability must be at least 0 and at most 1, got 90" in capsys.readouterr().err
    )
    with pytest.raises(SystemExit) as exit_info:
        promotion.main(["--version", "7", "--rollback"])
    assert exit_info.value.code == 1


def test_before_anything_is_registered_both_say_so(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for main in (nightly_evaluation.main, promotion.main):
        assert main([f"run_root={run_root}"]) == 1
        assert "there is no version of liveedit-bank" in capsys.readouterr().err


def test_a_line_that_is_not_a_case_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text('{"edit": 3}\n')
    recipe = load_recipe(NightlyRecipe, None, [f"cases.path={path}"])
    with pytest.raises(InputError, match=r"cases\.jsonl: 1 lines are no cases: line 1: "):
        list(each_case(recipe))
    path.write_text("")
    with pytest.raises(InputError, match="holds no case"):
        list(each_case(recipe))


def test_promotion_at_the_end_evaluates_the_cases_of_the_run(tmp_path: Path) -> None:
    arguments = ["--promote", f"run_root={tmp_path}", "seed=3", "--run-name", "mine"]
    config = lifelong_edit.resolve_recipe(lifelong_edit.parse_arguments(arguments))
    assert config.promotion.at_end
    recipe = edit_promotion.nightly_recipe(config)
    assert (recipe.run_name, recipe.seed, recipe.cases.limit) == ("mine-promotion", 3, 100)
    decide = edit_promotion.promotion_recipe(config)
    assert decide.store_uri == recipe.store_uri == (tmp_path / "operations").as_uri()
    assert decide.thresholds.reliability == 0.9
    elsewhere = ["--promote", "--store", "s3://bucket/prefix"]
    away = lifelong_edit.resolve_recipe(lifelong_edit.parse_arguments(elsewhere))
    for job in (edit_promotion.nightly_recipe(away), edit_promotion.promotion_recipe(away)):
        assert job.store_uri == "s3://bucket/prefix"
    plain = lifelong_edit.parse_arguments(["--requests", "facts.jsonl", "--promote"])
    fixed = edit_promotion.nightly_recipe(lifelong_edit.resolve_recipe(plain))
    assert (fixed.cases.path, fixed.cases.limit) == ("", 200)
