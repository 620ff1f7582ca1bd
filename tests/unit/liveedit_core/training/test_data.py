"""Training data: the same draws and losses wherever states come from, and none kept in memory."""

import gc
import random
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from infra.cache.cached_states import CachedStates
from infra.cache.state_cache import StateCache
from infra.cache.stored_inputs import StoredInputs
from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.schema import Case
from liveedit_core.state_source import BackboneStates, StateIdentity, StateSource
from liveedit_core.states import LayerStates
from liveedit_core.training.data import (
    IMAGE_LOCALITY,
    TrainingData,
    draw_training_data,
)
from liveedit_core.training.micro_batches import JointBatch, draw
from liveedit_core.training.step import joint_losses
from pipelines.job.state_cache import image_chunks
from tests.tiny_backbone import TINY_CONFIG, case, plain_convolutions, tiny_backbone, tiny_generator
from tests.unit.tiny_models import TinyBackbone
from workers.state_encoder import StateEncoder


def drawn(cases: Sequence[Case], source: StateSource) -> TrainingData:
    return draw_training_data(
        cases,
        source,
        num_pairs=6,
        localities=IMAGE_LOCALITY,
        random_target=lambda rng: rng.choice(("kettle", "harbor")),
        rng=random.Random(3),
    )


def filled(cache: StateCache, encoder: StateEncoder, data: TrainingData) -> None:
    for chunk in image_chunks(cache.missing(data.inputs), 64):
        cache.commit(encoder.write([data.inputs[position] for position in chunk], cache.writer))


def test_the_same_seed_draws_the_same_inputs() -> None:
    source = BackboneStates(TinyBackbone())
    cases = [case(seed) for seed in range(5)]
    one, other = drawn(cases, source), drawn(cases, source)
    assert one.inputs == other.inputs
    assert one.pairs == other.pairs
    assert [case.edit for case in one.cases] == [0, 6, 12, 18, 24]
    assert one.inputs[one.cases[2].edit].target == cases[2].edit.target


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float16", 5e-2)])
def test_losses_with_the_cache_are_those_without(
    dtype: str, tolerance: float, tmp_path: Path
) -> None:
    backbone = tiny_backbone()
    with plain_convolutions():
        encoder = StateEncoder(lambda: backbone)
        cache = StateCache(
            ObjectStore(tmp_path),
            StateIdentity.of(backbone, dtype),  # type: ignore[arg-type]
        )
        computed = BackboneStates(backbone)
        cases = [replace(case(seed), entity=f"entity {seed // 2}") for seed in range(4)]
        data = drawn(cases, computed)
        filled(cache, encoder, data)
        stored = CachedStates(cache, None)
        generator = tiny_generator(TINY_CONFIG)
        losses = []
        for source in (computed, stored):
            data.source = source
            batch = draw(data, "joint", 4, seed=7, step=0, number=0)
            assert isinstance(batch, JointBatch)
            parts, _ = joint_losses(generator, backbone.suffix(), batch)
            losses.append({name: part.item() for name, part in parts.items()})
    assert losses[0] == pytest.approx(losses[1], rel=tolerance, abs=tolerance)


class LongBackbone(TinyBackbone):
    """States of about 20 kilobytes."""

    def _encode(self, item: BackboneInput) -> LayerStates:
        state = super()._encode(item)
        return replace(state, hidden_TD=state.hidden_TD.repeat(40, 1))


def held_bytes() -> int:
    """Bytes of all that Python and torch hold."""
    gc.collect()
    tensors = [
        item
        for item in gc.get_objects()
        if issubclass(type(item), torch.Tensor) and not item.is_mkldnn  # packed, without a storage
    ]
    storages: dict[int, int] = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors
    }
    traced, _ = tracemalloc.get_traced_memory()
    return traced + sum(storages.values())


def growth(folder: Path, num_cases: int) -> tuple[int, int]:
    """Bytes held after 200 batches beyond those before, and bytes of all states."""
    backbone = LongBackbone()
    cases = [
        replace(base, edit=replace(base.edit, prompt=f"Is it number {seed}?"))
        for seed, base in ((seed, case(seed % 8)) for seed in range(num_cases))
    ]
    cache = StateCache(ObjectStore(folder), StateIdentity.of(backbone, "float32"))
    data = drawn(cases, BackboneStates(backbone))
    filled(cache, StateEncoder(lambda: backbone), data)
    inputs = StoredInputs(ObjectStore(folder), "inputs")
    inputs.write(data.inputs)
    data.save(folder / "cases.json")
    num_bytes = cache.num_bytes
    del cases, data, cache
    tracemalloc.start()
    before = held_bytes()
    cache = StateCache(ObjectStore(folder), StateIdentity.of(backbone, "float32"))
    data = TrainingData.load(folder / "cases.json", inputs, CachedStates(cache, None))
    rng = random.Random(0)
    for _ in range(200):
        chosen = rng.choices(data.cases, k=4)
        assert len(data.states([case.edit for case in chosen])) == 4
    after = held_bytes()
    tracemalloc.stop()
    return after - before, num_bytes


def test_memory_of_training_does_not_grow_with_the_states(tmp_path: Path) -> None:
    small, small_states = growth(tmp_path / "small", 10)
    large, large_states = growth(tmp_path / "large", 70)
    assert large_states - small_states > 60 * 10_000
    assert large - small < 0.1 * (large_states - small_states)
