"""The command that converts checkpoints, from file to folder and back."""

import json
from pathlib import Path

import pytest
import torch

from liveedit_core.method.authors_checkpoint import write_authors_checkpoint
from liveedit_core.method.generator import load_generator
from pipelines.convert_checkpoint import main
from tests.unit.tiny_models import CONFIG, TinyModels

SHAPES = ["--edit-layer=1", "--num-attention-heads=2"]


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    path = tmp_path / "theirs.pt"
    write_authors_checkpoint(TinyModels().load_generator(), path)
    return path


def test_to_ours_and_back(theirs: Path, tmp_path: Path) -> None:
    folder, again = tmp_path / "ours", tmp_path / "again.pt"
    assert main(["to-ours", str(theirs), str(folder), *SHAPES, "--hidden-size=16"]) == 0
    assert load_generator(folder).config == CONFIG.with_changes(prompt_protocol="paper")
    assert json.loads((folder / "config.json").read_text())["prompt_protocol"] == "paper"
    assert main(["to-authors", str(folder), str(again)]) == 0
    before = torch.load(theirs, weights_only=True)["train_modules"]
    after = torch.load(again, weights_only=True)["train_modules"]
    assert before.keys() == after.keys()
    for module, state in before.items():
        assert state.keys() == after[module].keys()
        assert all(torch.equal(value, after[module][name]) for name, value in state.items())


def test_a_stated_shape_that_is_wrong_writes_nothing(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "ours"
    assert main(["to-ours", str(theirs), str(folder), *SHAPES, "--hidden-size=4096"]) == 2
    message = "hidden_size: the option says 4096, the tensors of the file say 16"
    assert message in capsys.readouterr().err
    assert not folder.exists()


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "nothing.pt")
    assert main(["to-ours", missing, str(tmp_path / "ours"), *SHAPES]) == 1
    assert capsys.readouterr().err.count("\n") == 1
