"""The joint is merged as it was trained: LORA_SCALE * B A on top of the pretrained weights."""

from pathlib import Path

import torch

from liveedit_core.builtin.assembly import LORA_SCALE, load_image_tower, merge_lora


def test_lora_is_added_to_its_own_projection() -> None:
    down, up = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [-1.0]])
    weights = {
        "layers.0.q_proj.weight": torch.ones(2, 2),
        "layers.1.q_proj.weight": torch.ones(2, 2),
    }
    joint = {
        "lora.layers.0.q_proj.a": down.half(),
        "lora.layers.0.q_proj.b": up.half(),
        "projector.linear_1.weight": torch.ones(2, 2),
    }
    merge_lora(weights, joint)
    expected = 1 + LORA_SCALE * torch.tensor([[3.0, 6.0], [-1.0, -2.0]])
    assert torch.equal(weights["layers.0.q_proj.weight"], expected)
    assert torch.equal(weights["layers.1.q_proj.weight"], torch.ones(2, 2))
    assert sorted(weights) == ["layers.0.q_proj.weight", "layers.1.q_proj.weight"]


def test_image_tower_weights_are_renamed_in_order(tmp_path: Path) -> None:
    path = tmp_path / "tower.pth"
    torch.save({"theirs.a": torch.tensor([1.0]), "theirs.b": torch.tensor([2.0])}, path)
    loaded = load_image_tower(path, ["ours.x", "ours.y"])
    assert {name: tensor.item() for name, tensor in loaded.items()} == {"ours.x": 1, "ours.y": 2}
