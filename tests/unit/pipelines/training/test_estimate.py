"""The estimate of --dry-run against what models really hold."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from liveedit_core.errors import ConfigError
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.editor import edit_input
from liveedit_core.method.generator import LiveEditGenerator
from pipelines.editing.recipe import load_recipe
from pipelines.training.estimate import (
    estimate,
    format_bytes,
    format_time,
    layer_activation_bytes,
    num_states,
    state_bytes,
)
from pipelines.training.estimate_settings import EstimateSettings, generator_shape, settings_of
from pipelines.training.model_sizes import BackboneSizes, count_generator, read_backbone
from pipelines.training.recipe import TrainRecipe
from tests.tiny_backbone import (
    EDIT_LAYER,
    NUM_LAYERS,
    OUR_CONFIG,
    TINY_CONFIG,
    case,
    tiny_backbone,
)

CONFIGS = Path(__file__).parents[4] / "pipelines" / "backbone_configs"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> BackboneSizes:
    path = tmp_path_factory.mktemp("tiny") / "config.json"
    path.write_text(tiny_backbone().model.config.to_json_string())
    return read_backbone(path, EDIT_LAYER)


def size(*modules: nn.Module) -> int:
    return sum(parameter.numel() for parameter in nn.ModuleList(modules).parameters())


def test_a_backbone_is_counted_as_it_is(tiny: BackboneSizes) -> None:
    model = tiny_backbone().model
    decoder = model.model.language_model
    assert tiny.total == size(model)
    assert tiny.prefix == size(*decoder.layers[: EDIT_LAYER + 1])
    assert tiny.suffix == size(*decoder.layers[EDIT_LAYER + 1 :], decoder.norm, model.lm_head)
    assert tiny.image_tower == size(model.model.vision_tower, model.model.multi_modal_projector)
    assert (tiny.num_layers, tiny.num_image_tokens) == (NUM_LAYERS, 4)


@pytest.mark.parametrize("config", [TINY_CONFIG, OUR_CONFIG], ids=["paper", "ours"])
def test_a_generator_is_counted_as_it_is(config: GeneratorConfig) -> None:
    assert count_generator(config) == size(LiveEditGenerator(config))


def test_llava_has_seven_billion_parameters() -> None:
    llava = read_backbone(CONFIGS / "llava_1_5_7b.json")
    assert llava.total == 7_063_427_072
    assert llava.edit_layer == 21


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_those_that_autograd_keeps(tiny: BackboneSizes, dtype: str) -> None:
    backbone = tiny_backbone()
    suffix = copy.deepcopy(backbone.suffix).to(getattr(torch, dtype))
    weights = {parameter.untyped_storage().data_ptr() for parameter in suffix.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    rows = torch.randn(2, 64, tiny.hidden_size, dtype=getattr(torch, dtype), requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        suffix(inputs_embeds=rows, use_cache=False)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    num_layers = NUM_LAYERS - EDIT_LAYER - 1
    estimated = 2 * 64 * num_layers * layer_activation_bytes(tiny, dtype)
    # the final norm and the statistics of norms and attention come on top
    assert estimated <= measured <= 1.15 * estimated


def test_a_state_has_the_bytes_of_its_rows(tiny: BackboneSizes) -> None:
    edit = case(0).edit
    backbone = tiny_backbone()
    (state,) = backbone.encode([edit_input(edit)])
    num_target = len(state.target_ids_O)
    settings = EstimateSettings(
        prompt_tokens=state.num_tokens - backbone.num_image_tokens - num_target,
        target_tokens=num_target,
        state_dtype="float32",
    )
    measured = state.hidden_TD.nbytes + state.target_embeddings_OD.nbytes
    assert state_bytes(tiny, settings) == measured


def amounts(backbone: BackboneSizes, settings: EstimateSettings) -> dict[str, float]:
    done = estimate(backbone, TINY_CONFIG, settings)
    return {line.what: line.amount for line in (*done.card, *done.elsewhere)}


def test_shards_hold_their_part_of_weights_gradients_and_moments(tiny: BackboneSizes) -> None:
    one = amounts(tiny, EstimateSettings())
    two = amounts(tiny, EstimateSettings(shards=2, accumulation=2))
    for what in (
        "parameters: layers after l_e, head",
        "parameters: generator",
        "gradients",
        "optimizer: Adam's moments",
    ):
        assert two[what] == one[what] / 2
    trained = size(LiveEditGenerator(TINY_CONFIG))
    assert one["parameters: generator"] == 4 * trained
    assert one["optimizer: Adam's moments"] == 8 * trained
    assert "buffer: gathered parameters" not in one


@pytest.mark.parametrize(("stage", "shared"), [(1, {1}), (2, {1, 2}), (3, {1, 2, 3})])
def test_each_stage_shares_more(stage: int, shared: set[int], tiny: BackboneSizes) -> None:
    whole = amounts(tiny, EstimateSettings())
    four = amounts(tiny, EstimateSettings(shards=4, zero_stage=stage, accumulation=4))
    levels = {
        "optimizer: Adam's moments": 1,
        "gradients": 2,
        "parameters: layers after l_e, head": 3,
    }
    for what, level in levels.items():
        assert four[what] == whole[what] / (4 if level in shared else 1)


def test_checkpointing_and_half_precision_save_activations(tiny: BackboneSizes) -> None:
    what = "activations: layers after l_e"
    plain = EstimateSettings()
    whole = amounts(tiny, plain)[what]
    assert amounts(tiny, replace(plain, dtype="bfloat16"))[what] < whole
    assert amounts(tiny, replace(plain, has_activation_checkpointing=True))[what] < whole


def test_states_are_those_that_training_reads(tiny: BackboneSizes) -> None:
    settings = EstimateSettings(num_cases=10, num_pairs=3)
    assert num_states(settings) == 10 * 4 + 2 * 3
    assert num_states(replace(settings, phase="joint")) == 10 * 6 + 2 * 3
    done = estimate(tiny, TINY_CONFIG, replace(settings, state_budget_bytes=1000))
    assert any("the budget is 1.0 kB" in line for line in done.lines())


def test_a_recipe_says_what_is_estimated(tiny: BackboneSizes) -> None:
    overrides = [
        "experts.steps=5",
        "joint.steps=7",
        "joint.batch_size=4",
        "sharding.shards=2",
        "sharding.gpus_per_shard=1",
        *(f"{phase}.accumulation=6" for phase in ("prompt", "experts", "joint")),
        "optimization.dtype=bfloat16",
        "optimization.has_activation_checkpointing=true",
        "data.num_pairs=9",
        "states.dtype=float32",
        "states.max_bytes=5",
    ]
    settings = settings_of(load_recipe(TrainRecipe, None, overrides), num_cases=11)
    assert settings == EstimateSettings(
        state_dtype="float32",
        state_budget_bytes=5,
        shards=2,
        dtype="bfloat16",
        has_activation_checkpointing=True,
        phase="joint",
        steps=7,
        batch_size=4,
        accumulation=6,
        num_cases=11,
        num_pairs=9,
        card_teraflops=100.0,
        link_gigabytes_per_s=100.0,
    )


def test_a_pyramid_needs_its_levels(tiny: BackboneSizes) -> None:
    with pytest.raises(ConfigError, match="visual_source"):
        generator_shape(TrainRecipe(), tiny, visual_size=0, num_entities=5)
    shape = generator_shape(TrainRecipe(), tiny, visual_size=2560, num_entities=5)
    assert (shape.visual_size, shape.num_sentinels) == (2560, 5)


@pytest.mark.parametrize("text", ["{}", "[]", '{"model_type": "bert"}', "no json"])
def test_a_file_that_is_no_backbone_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="no configuration"):
        read_backbone(path)


def test_amounts_read_well() -> None:
    assert [format_bytes(n) for n in (5e2, 2.5e6, 3e9, 4e12)] == [
        "0.5 kB",
        "2.50 MB",
        "3.00 GB",
        "4.00 TB",
    ]
    assert [format_time(s) for s in (0.25, 5.0, 90.0, 5400.0)] == [
        "250.0 ms",
        "5.0 s",
        "1.5 min",
        "1.5 h",
    ]
