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
from pipelines.job.recipe_loader import load_recipe
from pipelines.training.estimate import (
    Workload,
    card_lines,
    encoding_lines,
    format_bytes,
    format_time,
    layer_activation_bytes,
    state_bytes,
    time_lines,
)
from pipelines.training.model_sizes import (
    BackboneSizes,
    count_generator,
    generator_config,
    read_backbone,
)
from pipelines.training.recipe import ModelSection, TrainRecipe
from tests.tiny_backbone import EDIT_LAYER, NUM_LAYERS, OUR_CONFIG, TINY_CONFIG, case, tiny_backbone

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


@pytest.mark.parametrize(
    ("name", "total", "image_tokens", "layer"),
    [
        ("blip2_opt_2_7b", 3_744_761_856, 32, 21),
        ("qwen2_5_vl_7b", 8_292_166_656, 144, 18),
        ("minigpt4_7b", 7_832_688_128, 32, 21),
    ],
)
def test_other_layouts_are_counted_too(
    name: str, total: int, image_tokens: int, layer: int
) -> None:
    """The first two totals are those of the published checkpoints."""
    sizes = read_backbone(CONFIGS / f"{name}.json")
    assert (sizes.total, sizes.num_image_tokens, sizes.edit_layer) == (total, image_tokens, layer)
    embeddings = sizes.vocabulary_size * sizes.hidden_size
    rest = sizes.total - sizes.image_tower - sizes.prefix - sizes.suffix
    assert 0 <= rest <= 1.1 * embeddings


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
    suffix = copy.deepcopy(backbone.suffix().trunk).to(getattr(torch, dtype))
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
    measured = state.hidden_TD.nbytes + state.target_embeddings_OD.nbytes
    num_prompt = state.num_tokens - backbone.num_image_tokens - num_target
    expected = state_bytes(tiny, "float32", prompt_tokens=num_prompt, target_tokens=num_target)
    assert expected == measured


def workload(backbone: BackboneSizes, *overrides: str, num_cases: int = 0) -> Workload:
    steps = [f"{phase}.accumulation=4" for phase in ("prompt", "experts", "joint")]
    return Workload(
        recipe=load_recipe(TrainRecipe, None, [*steps, *overrides]),
        backbone=backbone,
        generator=TINY_CONFIG,
        num_cases=num_cases,
    )


def card_bytes(backbone: BackboneSizes, *overrides: str) -> dict[str, float]:
    return {line.what: line.amount for line in card_lines(workload(backbone, *overrides))}


def test_shards_hold_their_part_of_weights_gradients_and_moments(tiny: BackboneSizes) -> None:
    one, two = card_bytes(tiny), card_bytes(tiny, "sharding.shards=2")
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
    whole = card_bytes(tiny)
    four = card_bytes(tiny, "sharding.shards=4", f"sharding.zero_stage={stage}")
    levels = {
        "optimizer: Adam's moments": 1,
        "gradients": 2,
        "parameters: layers after l_e, head": 3,
    }
    for what, level in levels.items():
        assert four[what] == whole[what] / (4 if level in shared else 1)


def test_offloaded_tensors_take_no_memory_of_the_card(tiny: BackboneSizes) -> None:
    gpus = ("sharding.shards=2", "sharding.gpus_per_shard=1", "sharding.has_cpu_offload=true")
    offloaded = card_bytes(tiny, *gpus)
    assert offloaded["parameters: generator"] == offloaded["optimizer: Adam's moments"] == 0
    assert offloaded["gradients"] == card_bytes(tiny)["gradients"] / 2
    offloaded = card_bytes(tiny, *gpus, "sharding.zero_stage=2")
    assert offloaded["optimizer: Adam's moments"] == 0
    assert offloaded["parameters: generator"] == card_bytes(tiny)["parameters: generator"]


def test_checkpointing_and_half_precision_save_activations(tiny: BackboneSizes) -> None:
    what = "activations: layers after l_e"
    whole = card_bytes(tiny)[what]
    assert card_bytes(tiny, "optimization.dtype=bfloat16")[what] < whole
    assert card_bytes(tiny, "optimization.has_activation_checkpointing=true")[what] < whole


def test_states_are_those_that_training_reads(tiny: BackboneSizes) -> None:
    overrides = ["data.num_pairs=3", "states.max_bytes=1000"]
    assert workload(tiny, *overrides, num_cases=10).num_states == 10 * 4 + 2 * 3
    joint = workload(tiny, *overrides, "joint.steps=1", num_cases=10)
    assert joint.num_states == 10 * 6 + 2 * 3
    assert "the budget is 1.0 kB" in encoding_lines(joint)[0].ground


def test_the_most_demanding_phase_with_steps_is_estimated(tiny: BackboneSizes) -> None:
    overrides = ["prompt.steps=9", "experts.steps=5"]
    assert workload(tiny, *overrides).phase == "experts"
    joint = workload(tiny, *overrides, "joint.steps=7", "joint.batch_size=3")
    assert joint.phase == "joint"
    texts = [line.text() for line in time_lines(joint)]
    assert "time of a step (12 items)" in texts[1]
    assert texts[2].endswith("7 steps")


def test_shards_and_gpus_save_time(tiny: BackboneSizes) -> None:
    def step_s(*overrides: str) -> float:
        return time_lines(workload(tiny, *overrides))[1].amount

    assert step_s("sharding.shards=4", "sharding.zero_stage=2") == step_s() / 4
    assert step_s("sharding.shards=4") > step_s("sharding.shards=4", "sharding.zero_stage=2")
    assert step_s("sharding.gpus_per_shard=1") < step_s()


def test_a_pyramid_needs_its_levels(tiny: BackboneSizes) -> None:
    model = ModelSection(num_sentinels=7, nearest_sentinels=6)
    with pytest.raises(ConfigError, match="visual_source"):
        generator_config(model, tiny, num_entities=5)
    pyramid = replace(tiny, visual_size=2560)
    config = generator_config(model, pyramid, num_entities=5)
    assert (config.visual_size, config.num_sentinels, config.nearest_sentinels) == (2560, 5, 5)
    config = generator_config(model, pyramid, num_entities=9)
    assert (config.num_sentinels, config.nearest_sentinels) == (7, 6)
    few = model.with_changes(num_sentinels=3)
    assert generator_config(few, pyramid, num_entities=9).nearest_sentinels == 3
    model = model.with_changes(visual_source="edit_layer")
    plain = generator_config(model, tiny, num_entities=5)
    assert (plain.num_sentinels, plain.visual_gate, plain.max_kept) == (1, 0.0, model.max_kept)


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
