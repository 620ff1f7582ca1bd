"""A folder of a saved model that is damaged or altered is refused."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from liveedit_core.edited_model import EditedModel
from liveedit_core.errors import IntegrityError
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
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(IntegrityError, match=message):
        opened(backbone, tmp_path)
    file.write_text("[]")
    with pytest.raises(IntegrityError):
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
