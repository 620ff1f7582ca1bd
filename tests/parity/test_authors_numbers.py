"""Our modules, fed the authors' weights and inputs, give the authors' numbers.

Runs on each `*parity*.safetensors` in `$LIVEEDIT_PARITY_FIXTURES` (default: `fixtures/` here).
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from liveedit_core.method.authors_checkpoint import (
    our_name,
    read_authors_checkpoint,
    write_authors_checkpoint,
)
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.features import Features
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.routing import fused_residual, paired_similarity, route, similarity
from liveedit_core.states import LayerStates
from liveedit_core.training.losses import hard_neighbour, hard_sentinel, info_nce, soft_absolute

FOLDER = Path(os.environ.get("LIVEEDIT_PARITY_FIXTURES", Path(__file__).parent / "fixtures"))
FILES = sorted(FOLDER.glob("*parity*.safetensors"))
RELATIVE = 1e-4


class Fixture:
    """One recorded file: config, tensors, and a generator with its weights."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            recorded: dict[str, Any] = json.loads(file.metadata()["config"])
            self.tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.num_edits, self.num_queries = recorded["n_edits"], recorded["n_queries"]
        self.config = GeneratorConfig(
            hidden_size=recorded["hidden_size"],
            num_image_tokens=recorded["num_vision_tokens"],
            edit_layer=0,
            module_dim=recorded["module_dim"],
            num_attention_heads=recorded["num_heads"],
            num_queries=recorded["num_queries"],
            rank=recorded["rank"],
            expert_scale=recorded["scale"],
        )
        self.generator = LiveEditGenerator(self.config)
        weights = {
            name.removeprefix("weights."): tensor
            for name, tensor in self.tensors.items()
            if name.startswith("weights.")
        }
        self.generator.load_state_dict(
            {our_name(name): value for name, value in weights.items()}, strict=True
        )

    def states(self, prefix: str) -> LayerStates:
        """Recorded rows as the states of one input."""
        vision, prompt = (
            self.tensors[f"{prefix}.vision_reps"],
            self.tensors[f"{prefix}.prompt_reps"],
        )
        target = self.tensors.get(f"{prefix}.target_reps", vision[:0])
        image_end, prompt_end = len(vision), len(vision) + len(prompt)
        return LayerStates(
            hidden_TD=torch.cat([vision, prompt, target]),
            pyramid_E=vision[:0, 0],
            target_embeddings_OD=vision[:0],
            image_span=(0, image_end),
            prompt_span=(image_end, prompt_end),
            target_span=(prompt_end, prompt_end + len(target)),
            target_ids_O=torch.zeros(len(target), dtype=torch.int64),
        )

    def many(self, prefix: str, count: int) -> list[LayerStates]:
        """States of several inputs."""
        return [self.states(f"{prefix}.{index}") for index in range(count)]


def assert_close(ours: Tensor, name: str, theirs: Tensor) -> None:
    """Relative error 1e-4 on the scale of the tensor."""
    scale = theirs.abs().max().item() if theirs.numel() else 1.0
    torch.testing.assert_close(
        ours.float(),
        theirs.float(),
        rtol=RELATIVE,
        atol=RELATIVE * scale,
        msg=lambda m: f"{name}: {m}",
    )


def test_fixtures_are_there() -> None:
    assert FILES, f"no *parity*.safetensors in {FOLDER}"


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def recorded(request: pytest.FixtureRequest) -> Fixture:
    return Fixture(request.param)


@torch.no_grad()
def test_experts_and_edit_features(recorded: Fixture) -> None:
    states = recorded.many("edits", recorded.num_edits)
    features = recorded.generator.edit_features(states)
    down_NRD, up_NRD = recorded.generator.write_matrices(states)
    for i in range(recorded.num_edits):
        for ours, name in (
            (features.visual_BQM[i], "visual_routing_key"),
            (features.prompt_BQM[i], "text_routing_key"),
            (down_NRD[i], "expert_down"),
            (up_NRD[i], "expert_up"),
        ):
            assert_close(ours, f"edits.{i}.{name}", recorded.tensors[f"edits.{i}.{name}"])


@torch.no_grad()
def test_routing_and_residual(recorded: Fixture) -> None:
    generator, tensors = recorded.generator, recorded.tensors
    edits = recorded.many("edits", recorded.num_edits)
    edit_features = generator.edit_features(edits)
    down_NRD, up_NRD = generator.write_matrices(edits)
    visual_NK = edit_features.visual_BQM.flatten(1)
    prompt_NK = edit_features.prompt_BQM.flatten(1)
    features = generator.input_features(recorded.many("queries", recorded.num_queries))
    assert features.sentinel_BQM is not None
    routing = route(features, visual_NK, prompt_NK, recorded.config)
    threshold = paired_similarity(features.visual_BQM, features.sentinel_BQM)
    scores = similarity(features.visual_BQM, visual_NK)
    for j in range(recorded.num_queries):
        kept = tensors[f"queries.{j}.selected"].bool()
        assert routing.kept_BN[j].tolist() == kept.tolist()
        hidden = tensors[f"queries.{j}.hidden_states"]
        normed = generator.hidden_norm(hidden)[None]
        residual = fused_residual(normed, routing.weights_BN[j : j + 1], down_NRD, up_NRD, 1.0)[0]
        for ours, name in (
            (features.visual_BQM[j], "visual_query"),
            (features.prompt_BQM[j], "text_query"),
            (features.sentinel_BQM[j], "sentinel_query"),
            (scores[j], "visual_similarity"),
            (threshold[j : j + 1], "sentinel_similarity"),
            (routing.weights_BN[j][kept], "fusion_weights"),
            (residual, "residual"),
        ):
            assert_close(ours, f"queries.{j}.{name}", tensors[f"queries.{j}.{name}"])


def feature_pairs(recorded: Fixture) -> tuple[Features, Features]:
    """Input-side and edit-side features of the recorded loss batch."""
    size = int(recorded.tensors["losses.batch_size"])
    inputs = recorded.generator.input_features(recorded.many("losses.input", size))
    return inputs, recorded.generator.edit_features(recorded.many("edits", size))


@torch.no_grad()
def test_losses(recorded: Fixture) -> None:
    inputs, edits = feature_pairs(recorded)
    assert inputs.sentinel_BQM is not None
    soft = similarity(inputs.prompt_BQM, edits.prompt_BQM.flatten(1))
    hard = similarity(inputs.visual_BQM, edits.visual_BQM.flatten(1))
    sentinel = paired_similarity(inputs.visual_BQM, inputs.sentinel_BQM)
    for ours, name in (
        (info_nce(soft), "soft_relative"),
        (soft_absolute(soft), "soft_absolute"),
        (hard_neighbour(hard, sentinel), "hard_neighbour"),
        (hard_sentinel(hard, sentinel), "hard_sentinel"),
    ):
        assert_close(ours, name, recorded.tensors[f"losses.{name}"][0])


@torch.no_grad()
def test_checkpoint_file_of_theirs_round_trips(recorded: Fixture, tmp_path: Path) -> None:
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in recorded.tensors.items():
        if name.startswith("weights."):
            module, _, rest = name.removeprefix("weights.").partition(".")
            modules.setdefault(module, {})[rest] = tensor
    theirs, again = tmp_path / "theirs.pt", tmp_path / "again.pt"
    torch.save({"epoch": 1, "train_modules": modules}, theirs)
    generator = read_authors_checkpoint(
        theirs,
        edit_layer=recorded.config.edit_layer,
        num_attention_heads=recorded.config.num_attention_heads,
        expert_scale=recorded.config.expert_scale,
    )
    assert generator.config == recorded.config
    down_NRD, up_NRD = generator.write_matrices(recorded.many("edits", 1))
    assert_close(down_NRD[0], "expert_down", recorded.tensors["edits.0.expert_down"])
    assert_close(up_NRD[0], "expert_up", recorded.tensors["edits.0.expert_up"])
    write_authors_checkpoint(generator, again)
    back = torch.load(again, weights_only=True)["train_modules"]
    assert {m: set(state) for m, state in back.items()} == {m: set(s) for m, s in modules.items()}
    assert all(torch.equal(back[m][n], t) for m, s in modules.items() for n, t in s.items())
