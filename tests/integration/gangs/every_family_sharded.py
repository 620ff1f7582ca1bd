"""Shards every family in one process (ZeRO-3 with a gang of one) and compares with plain torch.

Run by a test in a process of its own, as DeepSpeed keeps state in it. Prints one line of JSON for
each family: largest differences of experts and of training losses, and what was left whole.
"""

import json

import torch

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.editor import Editor
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.training.data import TrainingData
from liveedit_core.training.micro_batches import draw
from liveedit_core.training.recipe import LossSection, OptimizationSection
from liveedit_core.training.step import TrainingModule
from tests.tiny_backbone import TINY_CONFIG, request, tiny_generator
from tests.tiny_families import EDIT_LAYER, FAMILIES, model_and_processor
from tests.tiny_training import tiny_data
from workers.gang import own_rendezvous
from workers.generator_gang import ExpertWriter
from workers.sharding import ShardedEngine, join_gang, shard_for_inference
from workers.sharding_config import ShardingSection
from workers.training_engine import TorchEngine

ALONE = ShardingSection(shards=1)
STEPS = 3


def fresh_backbone(name: str, dtype: torch.dtype) -> VisionLanguageBackbone:
    """One of its own, as sharding takes it apart."""
    model, processor = model_and_processor(name)
    return VisionLanguageBackbone(
        model.to(dtype), processor, edit_layer=EDIT_LAYER, digest=name, batch_size=4
    )


def config_of(backbone: VisionLanguageBackbone) -> GeneratorConfig:
    """A tiny generator for it."""
    return TINY_CONFIG.with_changes(num_image_tokens=backbone.num_image_tokens)


def difference_of_experts(name: str, dtype: torch.dtype) -> tuple[float, int]:
    """Largest difference in what is written, and how many parameters were not shared out."""
    backbone = fresh_backbone(name, dtype)
    config = config_of(backbone)
    editor = Editor(backbone, tiny_generator(config), ExpertRepository.empty(config))
    requests = [request(seed) for seed in range(5)]
    expected = editor.write_experts(requests, check_finite=False)
    writer = ExpertWriter(editor, backbone)
    engine = shard_for_inference(writer, ALONE)
    found = writer(requests)
    whole = sum(parameter.shape != (0,) for parameter in writer.parameters())
    engine.destroy()
    pairs = zip(expected, found, strict=True)
    return max(float((one.down_RD - other.down_RD).abs().max()) for one, other in pairs), whole


def losses(engine: TorchEngine | ShardedEngine, data: TrainingData) -> list[float]:
    """Totals of some steps of the joint phase."""
    totals = []
    for step in range(STEPS):
        batch = draw(data, "joint", 3, seed=3, step=step, number=0)
        totals.append(engine.backward(batch)["total"])
        engine.step(1e-3)
    engine.close()
    return totals


def module_of(backbone: VisionLanguageBackbone) -> TrainingModule:
    """Generator with equal weights each time, and the suffix."""
    torch.manual_seed(1)
    generator = LiveEditGenerator(config_of(backbone))
    suffix = backbone.suffix(has_activation_checkpointing=True)
    return TrainingModule(generator, suffix, LossSection())


def difference_of_losses(name: str) -> float:
    """Largest difference between plain torch and ZeRO-3."""
    backbone, optimization = fresh_backbone(name, torch.float32), OptimizationSection()
    data = tiny_data(backbone)
    plain = module_of(backbone)
    trained = plain.train_only("joint")
    expected = losses(TorchEngine(plain, trained, {}, optimization, 1, torch.device("cpu")), data)
    sharded = module_of(fresh_backbone(name, torch.float32))
    engine = ShardedEngine(sharded, sharded.train_only("joint"), {}, optimization, 1, ALONE)
    return max(abs(a - b) for a, b in zip(expected, losses(engine, data), strict=True))


def main() -> None:
    """All families, one line each."""
    torch.set_num_threads(1)
    torch.backends.mkldnn.set_flags(False)  # as `plain_convolutions`
    join_gang(0, own_rendezvous(), ALONE)
    for name in FAMILIES:
        experts, whole = difference_of_experts(name, torch.float32)
        rounded, _ = difference_of_experts(name, torch.bfloat16)
        row = {"family": name, "experts": experts, "bfloat16": rounded, "whole": whole}
        print(json.dumps(row | {"losses": difference_of_losses(name)}), flush=True)


if __name__ == "__main__":
    main()
