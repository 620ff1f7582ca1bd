"""The command line of training: what is printed without training, and what is refused."""

from pathlib import Path

import pytest

from pipelines.job.recipe_loader import load_recipe
from pipelines.train_generator import main
from pipelines.training.recipe import TrainRecipe

PIPELINES = Path(__file__).parents[3] / "pipelines"
LLAVA = [
    f"--recipe={PIPELINES / 'recipes' / 'train_llava_7b.toml'}",
    f"--backbone-config={PIPELINES / 'backbone_configs' / 'llava_1_5_7b.json'}",
    "--num-cases=6000",
]


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["--dry-run", *arguments]) == 0
    return capsys.readouterr().out


def test_a_dry_run_is_a_recipe_with_an_estimate_below(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = dry_run(capsys, *LLAVA, "seed=5")
    (tmp_path / "resolved.toml").write_text(text)
    assert load_recipe(TrainRecipe, tmp_path / "resolved.toml").seed == 5
    for expected in (
        "# llava, 7,063,427,072 parameters, edited after layer 21 of 32; 8 shards, ZeRO 3",
        "# parameters: layers after l_e, head         538.79 MB",
        "# optimizer: Adam's moments",
        "# activations: layers after l_e",
        "# sum for each card",
        "# state cache, on disk",
    ):
        assert expected in text


def test_fewer_shards_hold_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert "parameters: layers after l_e, head           2.16 GB" in dry_run(
        capsys, *LLAVA, "--shards=2"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shards=3"], "cannot be shared equally"),
        (["--resume", "--run-name=no-such-run"], "there is no run"),
        (["--dry-run", *LLAVA, "--edit-layer=31"], "expected 0 to 30"),
        (["--dry-run", LLAVA[1]], "visual_source"),
        (["nonsense.field=1"], "no known setting"),
    ],
)
def test_a_wrong_setting_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
