#!/usr/bin/env python
"""The same training steps three ways, in one run, at equal losses.

    item by item    every edit and question encoded alone at each step, experts written one by one,
                    the suffix run on one sequence at a time: how the authors' code trains
    batched         padded batches, encoded at each step
    cached          padded batches, states read from the cache

    python -m tests.benchmarks.training_steps [--steps 3] [--batch-size 32] [--at-least 8]

Phase `experts` of the built-in generator on the built-in backbone, from the same weights. Losses
must agree to 1e-4; filling the cache is not counted, as it happens once for hundreds of steps.
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infra.cache.cached_states import CachedStates
from infra.cache.state_cache import StateCache
from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.image_tower import ImageFeatureCache
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.builtin.backbone import builtin_generator_folder, load_builtin_backbone
from liveedit_core.builtin.benchmark import load_builtin_cases
from liveedit_core.method.generator import load_generator
from liveedit_core.state_source import BackboneStates, StateIdentity, StateSource
from liveedit_core.states import LayerStates
from liveedit_core.training.data import TrainingData, draw_training_data
from liveedit_core.training.losses import target_nll
from liveedit_core.training.micro_batches import ExpertBatch, draw
from liveedit_core.training.recipe import LossSection, OptimizationSection
from liveedit_core.training.step import TrainingModule, edited_logits
from tests.benchmarks.frame import machine, parser_of, publish
from workers.training_engine import TorchEngine

SEED = 5
LEARNING_RATE = 1e-4
NUM_CASES = 200
AGREEMENT = 1e-4


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What one way of training did."""

    losses: list[float]
    seconds: list[float]
    """Of each step, state reading or encoding included."""


class SingleStates:
    """Encodes each input alone, remembering nothing."""

    def __init__(self, backbone: VisionLanguageBackbone) -> None:
        self._backbone = backbone

    def states(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        """See `StateSource.states`."""
        return [self._backbone.encode([item])[0] for item in inputs]


def new_module(backbone: VisionLanguageBackbone) -> TrainingModule:
    """The built-in generator, ready to be trained on."""
    generator = load_generator(builtin_generator_folder()).train()
    return TrainingModule(generator, backbone.suffix(), LossSection())


def train_batched(
    backbone: VisionLanguageBackbone, data: TrainingData, steps: int, batch_size: int
) -> Timed:
    """Steps as the trainer takes them."""
    module = new_module(backbone)
    trained = module.train_only("experts")
    engine = TorchEngine(module, trained, {}, OptimizationSection(), 1, torch.device("cpu"))
    losses, seconds = [], []
    for step in range(steps):
        start_s = time.perf_counter()
        batch = draw(data, "experts", batch_size, seed=SEED, step=step, number=0)
        losses.append(engine.backward(batch)["total"])
        engine.step(LEARNING_RATE)
        seconds.append(time.perf_counter() - start_s)
    return Timed(losses=losses, seconds=seconds)


def train_item_by_item(
    backbone: VisionLanguageBackbone, data: TrainingData, steps: int, batch_size: int
) -> Timed:
    """The same steps in loops over items."""
    module = new_module(backbone)
    parameters = [parameter for _, parameter in module.train_only("experts")]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    losses, seconds = [], []
    for step in range(steps):
        start_s = time.perf_counter()
        batch = draw(data, "experts", batch_size, seed=SEED, step=step, number=0)
        assert isinstance(batch, ExpertBatch)
        total = torch.stack(list(item_losses(module, batch))).mean()
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, OptimizationSection().max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item())
        seconds.append(time.perf_counter() - start_s)
    return Timed(losses=losses, seconds=seconds)


def item_losses(module: TrainingModule, batch: ExpertBatch) -> Iterator[Tensor]:
    """NLL of one question after another, with the experts of its row of weights."""
    experts = [module.generator.write_matrices([edit]) for edit in batch.edits]
    down_NRD = torch.cat([down for down, _ in experts])
    up_NRD = torch.cat([up for _, up in experts])
    end = torch.tensor([module.suffix.end_id])
    for question, weights_N in zip(batch.questions, batch.weights_BB, strict=True):
        used = weights_N.nonzero().flatten()
        logits = edited_logits(
            module.generator,
            module.suffix,
            [question],
            weights_N[None, used],
            down_NRD[used],
            up_NRD[used],
        )
        yield target_nll(logits, [torch.cat([question.target_ids_O, end])])


@contextmanager
def filled_cache(
    backbone: VisionLanguageBackbone, data: TrainingData, steps: int, batch_size: int
) -> Iterator[StateSource]:
    """A cache on disk that holds the states of the steps."""
    with tempfile.TemporaryDirectory() as folder:
        identity = StateIdentity.of(backbone, "float32")
        cache = StateCache(ObjectStore(Path(folder)), identity, max_bytes=10**10)
        filling = CachedStates(cache, BackboneStates(backbone), is_filling=True)
        warm = TrainingData(data.inputs, filling, data.cases, data.pairs)
        for step in range(steps):
            draw(warm, "experts", batch_size, seed=SEED, step=step, number=0)
        filling.flush()
        yield CachedStates(cache, None)


def compare(steps: int, batch_size: int) -> dict[str, Any]:
    """Train three ways.

    Returns:
        Seconds a step (median), ratios, losses, and what they were measured with.
    """
    backbone = load_builtin_backbone(batch_size=batch_size)
    assert backbone.image_tower is not None
    backbone.image_tower.cache = ImageFeatureCache(0)  # nothing is cached
    cases = load_builtin_cases("train")[:NUM_CASES]
    data = draw_training_data(
        cases,
        BackboneStates(backbone),
        num_pairs=NUM_CASES,
        random_target=lambda rng: rng.choice(("silver kettle", "Modern Creek", "1984")),
        rng=random.Random(SEED),
    )

    def reading(source: StateSource) -> TrainingData:
        return TrainingData(data.inputs, source, data.cases, data.pairs)

    ways = {"batched": train_batched(backbone, data, steps, batch_size)}
    with filled_cache(backbone, data, steps, batch_size) as cache:
        ways["cached"] = train_batched(backbone, reading(cache), steps, batch_size)
    single = reading(SingleStates(backbone))
    ways["item by item"] = train_item_by_item(backbone, single, steps, batch_size)
    seconds = {name: statistics.median(way.seconds) for name, way in ways.items()}
    slowest = seconds["item by item"]
    pairs = zip(*(way.losses for way in ways.values()), strict=True)
    return {
        "seconds_per_step": {name: round(value, 3) for name, value in seconds.items()},
        "times_faster": {name: round(slowest / value, 2) for name, value in seconds.items()},
        "losses": {name: way.losses for name, way in ways.items()},
        "largest_difference": max(max(row) - min(row) for row in pairs),
        "steps": steps,
        "batch_size": batch_size,
        "seed": SEED,
        **machine(),
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison; exit code 1 when losses differ or the ratio is too small."""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--at-least", type=float, default=0.0, metavar="RATIO")
    options = parser.parse_args(arguments)
    result = compare(options.steps, options.batch_size)
    publish(result, options.output)
    ratio = result["times_faster"]["cached"]
    is_equal = result["largest_difference"] <= AGREEMENT
    return 0 if is_equal and ratio >= options.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
