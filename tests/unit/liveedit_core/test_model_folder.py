"""A folder of a saved model that is damaged or altered is refused."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from liveedit_core.edited_model import EditedModel
from liveedit_core.errors import IntegrityError, RepositoryMismatchError
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.model_folder import read_model
from tests.tiny_backbone import (
    AS_WRITTEN,
    OUR_CONFIG,
    image,
    plain_convolutions,
    tiny_backbone,
    tiny_generator,
)

WHAT = "What is shown here?"
CONFIG = OUR_CONFIG.with_changes(gain=60.0, min_gate=0.0)


@pytest.fixture(scope="module")
def backbone() -> Iterator[Any]:
    with plain_convolutions():
        yield tiny_backbone()


def saved(backbone: Any, folder: Path) -> None:
    generator = tiny_generator(CONFIG)
    empty = replace(ExpertRepository.empty(CONFIG), traffic_MR=torch.eye(3)[:2])
    model = EditedModel(backbone, generator, empty, refine=AS_WRITTEN)
    model.edit(image(0), WHAT, "an entity")
    model.save(folder)


def opened(backbone: Any, folder: Path) -> ExpertRepository:
    return read_model(folder, backbone.digest, tiny_generator(CONFIG))[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": []}, "names no parts"),
        ({"not_held": [5]}, "positions that they do not have"),
        ({"traffic": "edits.json"}, "edits.json"),
        ({"false_activation": 2.0}, "above 0 and at most"),
    ],
)
def test_a_damaged_folder_is_refused(
    backbone: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    saved(backbone, tmp_path)
    file = tmp_path / "edits.json"
    content = json.loads(file.read_text()) | change
    file.write_text(json.dumps(content))
    with pytest.raises(IntegrityError, match="is altered, its sha256 differs"):
        opened(backbone, tmp_path)
    del content["sha256"]  # as earlier releases wrote it
    file.write_text(json.dumps(content))
    with pytest.raises(IntegrityError, match=message):
        opened(backbone, tmp_path)
    file.write_text("[]")
    with pytest.raises(IntegrityError):
        opened(backbone, tmp_path)


def test_any_change_of_any_byte_is_noticed(backbone: Any, tmp_path: Path) -> None:
    saved(backbone, tmp_path)
    generator = tiny_generator(CONFIG)
    expected = read_model(tmp_path, backbone.digest, generator)
    draw = random.Random(3)
    for file in sorted(tmp_path.glob("[a-z]*.*")):
        whole = file.read_bytes()
        for _ in range(60):
            data = bytearray(whole)
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            file.write_bytes(data if draw.random() < 0.8 else data[: draw.randrange(len(data))])
            try:
                found = read_model(tmp_path, backbone.digest, generator)
            except (IntegrityError, RepositoryMismatchError):
                continue
            assert found[1] == expected[1]  # a space became another one
            assert found[0].false_activation == expected[0].false_activation
        file.write_bytes(whole)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"parts": [{}], "not_held": []}',
        "null",
        '{"not_held": [0.5]}',
        '{"textual": ["0"]}',
        '{"parts": 5}',
        '{"backbone_digest": {}, "traffic": 3}',
    ],
)
def test_whatever_the_list_of_parts_holds_it_is_an_error_of_ours(
    backbone: Any, tmp_path: Path, content: str
) -> None:
    saved(backbone, tmp_path)
    file = tmp_path / "edits.json"
    try:
        good = json.loads(file.read_text())
        del good["sha256"]
        file.write_text(json.dumps(good | json.loads(content)))
    except (RecursionError, TypeError):
        file.write_text(content)
    with pytest.raises((IntegrityError, RepositoryMismatchError)):
        opened(backbone, tmp_path)


@pytest.mark.parametrize("pattern", ["experts-*", "facts-*", "traffic-*"])
def test_a_flipped_bit_in_a_folder_is_refused(backbone: Any, tmp_path: Path, pattern: str) -> None:
    saved(backbone, tmp_path)
    assert len(opened(backbone, tmp_path)) == 1
    (file,) = tmp_path.glob(pattern)
    data = bytearray(file.read_bytes())
    data[data.index(b"entity") if pattern == "facts-*" else -9] ^= 1
    file.write_bytes(data)
    with pytest.raises(IntegrityError, match="is altered, its sha256 differs"):
        opened(backbone, tmp_path)
