"""The authors' checkpoint files: read without running code, refused with a reason."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from liveedit_core.errors import ConfigError, InputError, NumericsError
from liveedit_core.method.authors_checkpoint import (
    our_name,
    read_authors_checkpoint,
    their_name,
    to_authors,
    write_authors_checkpoint,
)
from tests.unit.tiny_models import CONFIG, TinyModels

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def content() -> dict[str, Any]:
    """What their trainer saves, at the size of the tiny generator."""
    modules = to_authors(dict(TinyModels().load_generator().state_dict()))
    optimizer = {"state": {}, "param_groups": [{"lr": 1e-4}]}
    return {"i": 7, "epoch": 1, "loss": np.float64(0.5), "train_modules": modules, "opt": optimizer}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "Best"


def read(path: Path, **options: Any) -> Any:
    return read_authors_checkpoint(path, **{"edit_layer": 1, "num_attention_heads": 2, **options})


def test_names_translate_there_and_back() -> None:
    for name in TinyModels().load_generator().state_dict():
        assert our_name(their_name(name)) == name


def test_reads_a_file_of_their_trainer(path: Path, content: dict[str, Any]) -> None:
    torch.save(content, path)
    generator = read(path)
    assert generator.config == CONFIG
    expected = TinyModels().load_generator().state_dict()
    assert all(torch.equal(generator.state_dict()[name], value) for name, value in expected.items())
    assert not any(parameter.requires_grad for parameter in generator.parameters())


def test_written_file_reads_back_equal(path: Path) -> None:
    generator = TinyModels().load_generator()
    write_authors_checkpoint(generator, path)
    again = read(path)
    for name, value in generator.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    assert os.listdir(path.parent) == [path.name]


class RunsCode:
    """Its pickle makes a folder when it is loaded."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("made-by-a-pickle",)


def test_a_pickle_that_runs_code_is_refused(
    path: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    torch.save({**content, "extra": RunsCode()}, path)
    with pytest.raises(InputError, match="can run code"):
        read(path)
    assert not (path.parent / "made-by-a-pickle").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("train_modules"), "expected a dict `train_modules`"),
        (lambda c: c["train_modules"].pop("moegen_r"), "found .*moegen_c"),
        (lambda c: c["train_modules"]["moegen_r"].pop("phi"), "moegen_r.phi is missing"),
        (lambda c: c["train_modules"]["moegen_c"].pop("phi"), "moegen_c.phi is missing"),
        (
            lambda c: c["train_modules"]["moegen_c"].update(phi=torch.zeros(3)),
            r"moegen_c.phi has shape \(3,\)",
        ),
        (
            lambda c: c["train_modules"]["moegen_c"].update(surprise=torch.zeros(1)),
            "moegen_c.surprise is unknown",
        ),
        (
            lambda c: c["train_modules"]["moegen_r"].update(phi=torch.zeros(1, 2, 9)),
            r"moegen_r.phi has shape \(1, 2, 9\), expected \(1, 2, 8\)",
        ),
        (
            lambda c: c["train_modules"]["moegen_c"].update(phi="text"),
            "moegen_c.phi is not a floating-point tensor",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    change: Change, message: str, path: Path, content: dict[str, Any]
) -> None:
    change(content)
    torch.save(content, path)
    with pytest.raises(InputError, match=message):
        read(path)


def test_not_a_number_is_refused(path: Path, content: dict[str, Any]) -> None:
    content["train_modules"]["moegen_c"]["phi"][0, 0, 0] = float("nan")
    torch.save(content, path)
    with pytest.raises(NumericsError, match=r"moegen_c\.phi"):
        read(path)


def test_a_large_missing_or_damaged_file_is_refused(path: Path, content: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read(path)
    torch.save(content, path)
    with pytest.raises(InputError, match="limit of 100"):
        read(path, max_bytes=100)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"damaged|no torch"):
        read(path)


def test_impossible_heads_are_named(path: Path, content: dict[str, Any]) -> None:
    torch.save(content, path)
    with pytest.raises(ConfigError, match="num_attention_heads"):
        read(path, num_attention_heads=3)


def test_our_variants_do_not_fit_their_layout(path: Path) -> None:
    generator = TinyModels().load_generator()
    generator.config = CONFIG.with_changes(gain=2.0, max_kept=4)
    with pytest.raises(ConfigError, match=r"gain = 2.0 .*max_kept = 4"):
        write_authors_checkpoint(generator, path)
    assert not path.exists()
