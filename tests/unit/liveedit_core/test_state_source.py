"""Equal ids mean equal states: whatever changes the states changes the id."""

from dataclasses import replace

import pytest

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.state_source import StateIdentity

IDENTITY = StateIdentity(
    backbone_digest="backbone",
    edit_layer=3,
    encoding='["{prompt} Answer:", []]',
    hidden_size=8,
    prompt_size=0,
    dtype="float32",
)
ITEM = BackboneInput(prompt="What is it?", target="a kettle", image_bytes=b"image")


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "What is it"},
        {"target": ""},
        {"also_asked": ("What is it?",)},
        {"image_bytes": b"another"},
        {"image_bytes": None},
        {"image_bytes": b""},
        {"prompt": "What is it?a", "target": " kettle"},
    ],
)
def test_another_input_has_another_id(change: dict[str, object]) -> None:
    assert IDENTITY.state_id(replace(ITEM, **change)) != IDENTITY.state_id(ITEM)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "has_other_image"),
    [
        ({"backbone_digest": "other"}, True),
        ({"encoding": "{prompt}"}, True),
        ({"dtype": "float16"}, True),
        ({"edit_layer": 4}, False),
    ],
)
def test_another_backbone_gives_other_ids(change: dict[str, object], has_other_image: bool) -> None:
    other = replace(IDENTITY, **change)  # type: ignore[arg-type]
    assert other.state_id(ITEM) != IDENTITY.state_id(ITEM)
    assert (other.image_id(b"p") != IDENTITY.image_id(b"p")) == has_other_image


def test_no_image_and_an_empty_image_differ() -> None:
    without, empty = (replace(ITEM, image_bytes=image) for image in (None, b""))
    assert IDENTITY.state_id(without) != IDENTITY.state_id(empty)
