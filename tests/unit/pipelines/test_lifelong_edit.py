"""The command line: which recipe, which settings, which exit code."""

from pathlib import Path

import pytest

from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.errors import ConfigError
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.lifelong_edit import main, parse_arguments, resolve_recipe


def resolved(*arguments: str) -> LifelongEditRecipe:
    return resolve_recipe(parse_arguments(list(arguments)))


def test_without_arguments_it_is_the_quickstart() -> None:
    config = resolved()
    assert (config.run_name, config.requests.limit) == ("quickstart", 100)


def test_own_facts_are_not_cut_to_the_quickstart() -> None:
    for arguments in (["--requests", "a.jsonl"], ["requests.cases=a.jsonl"]):
        config = resolved(*arguments)
        assert (config.run_name, config.requests.limit) == ("lifelong_edit", 0)


def test_options_and_overrides_may_be_mixed() -> None:
    config = resolved("seed=3", "--store", "s3://bucket/p", "bank.name=b", "--run-name", "x")
    assert (config.seed, config.store_uri, config.bank.name) == (3, "s3://bucket/p", "b")
    assert config.run_name == "x"


def test_a_backbone_is_named_with_its_revision_and_how_it_is_loaded() -> None:
    config = resolved("--backbone", "owner/model@v2", "backbone.dtype=bfloat16")
    assert config.backbone.name == "owner/model@v2"
    assert config.backbone.options() == LoadOptions(dtype="bfloat16")
    assert main(["--dry-run", "backbone.device=gpu"]) == 2


def test_resuming_what_does_not_exist_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--resume", f"run_root={tmp_path}"]) == 2
    assert "--resume" in capsys.readouterr().err


def test_answers_shorter_than_accepted_targets_are_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=r"max_new_tokens is 12, but targets of up to 32 tokens"):
        resolved("evaluation.max_new_tokens=12")
    short = resolved("evaluation.max_new_tokens=12", "limits.max_target_tokens=12")
    assert short.evaluation.max_new_tokens == 12
    assert resolved().evaluation.max_new_tokens == 32
