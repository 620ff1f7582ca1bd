"""Two processes that share a model compute what one alone does, and survive the death of one."""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
import ray
import torch

from liveedit_core.backbones.huggingface import HuggingFaceBackbone
from liveedit_core.generator import LiveEditGenerator
from liveedit_core.limits import InputLimits
from liveedit_core.schema import EditRequest
from liveedit_core.training_recipe import OptimizationSection, Phase
from pipelines.config import RaySection
from pipelines.session import open_session
from tests.tiny_backbone import OUR_CONFIG, request, tiny_backbone, tiny_generator
from tests.tiny_training import TinySource, beginning, plan
from workers.generator_group import GeneratorGroup
from workers.generator_worker import GeneratorWorker
from workers.messages import GeneratedBatch, NumberedRequest
from workers.sharding_config import ShardingSection
from workers.training_group import TrainingGroup
from workers.training_messages import Snapshot, StepFigures
from workers.training_worker import TrainingWorker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    config = RaySection(object_store_memory_bytes=100 * 1024 * 1024)
    with open_session(config, needed_cpus=4):
        yield


def sharding(stage: int = 3) -> ShardingSection:
    return ShardingSection(shards=2, zero_stage=stage, timeout_s=30, start_timeout_s=120)


def largest_difference(alone: Sequence[StepFigures], gang: Sequence[StepFigures]) -> float:
    assert [step.step for step in alone] == [step.step for step in gang]
    return max(
        abs(one.figures[name] - other.figures[name])
        for one, other in zip(alone, gang, strict=True)
        for name in one.figures
    )


def test_a_sharded_run_is_the_run_of_one_process() -> None:
    """Same global batch: all losses of 20 steps, with half of the weights in each process; and a
    snapshot of the gang goes on alone."""
    optimization = OptimizationSection(max_gradient_norm=0.5, has_activation_checkpointing=True)
    training = plan(optimization=optimization)
    alone = TrainingWorker(training, TinySource())
    group = TrainingGroup(training, TinySource(), sharding())
    start = beginning("joint")
    alone.begin(start)
    group.begin(start)
    whole = alone.parameter_bytes()
    for own in group.parameter_bytes():
        assert own == pytest.approx(whole / 2, rel=0.01)
    expected, found = alone.advance(20), group.advance(20)
    assert largest_difference(expected, found) < 1e-4
    assert expected[0].gradient_norm > 0.5
    assert found[0].gradient_norm == pytest.approx(expected[0].gradient_norm, rel=1e-4)
    taken = group.snapshot()
    group.close()
    kept = alone.snapshot()
    assert kept is not None
    assert {k: v.shape for k, v in taken.tensors.items()} == {
        k: v.shape for k, v in kept.tensors.items()
    }
    half = Snapshot(config=taken.config, phase="joint", step=15, tensors=taken.tensors)
    also = Snapshot(config=kept.config, phase="joint", step=15, tensors=kept.tensors)
    alone.begin(half)
    from_gang = alone.advance(5)
    alone.begin(also)
    assert largest_difference(alone.advance(5), from_gang) < 1e-4


@pytest.mark.parametrize("stage", [2, 3])
def test_a_gang_that_loses_a_process_ends_with_the_same_weights(stage: int) -> None:
    phase: Phase = "experts"
    group = TrainingGroup(plan(8), TinySource(), sharding(stage))

    def train(*, is_disturbed: bool) -> Snapshot:
        group.begin(beginning(phase))
        group.advance(3)
        group.snapshot()
        group.advance(1)
        if is_disturbed:
            victim = ray.get(group.gang.actors[1].process_id.remote())
            os.kill(victim, signal.SIGKILL)
        figures = group.advance(4)
        assert [step.step for step in figures] == [4, 5, 6, 7]
        return group.snapshot()

    undisturbed, disturbed = train(is_disturbed=False), train(is_disturbed=True)
    group.close()
    assert undisturbed.step == disturbed.step == 8
    for name, tensor in undisturbed.tensors.items():
        assert torch.allclose(tensor, disturbed.tensors[name], atol=1e-4), name


@dataclass(frozen=True)
class TinyHuggingFace:
    """Names the tiny backbone and a generator with every variant of ours."""

    def load_backbone(self) -> HuggingFaceBackbone:
        tiny_backbone.cache_clear()
        return tiny_backbone()

    def load_generator(self) -> LiveEditGenerator:
        return tiny_generator(OUR_CONFIG)


def numbered(requests: Sequence[EditRequest]) -> list[NumberedRequest]:
    return [NumberedRequest(sequence=i, request=item) for i, item in enumerate(requests, 1)]


def test_experts_of_a_sharded_gang_are_those_of_one_actor() -> None:
    """Also where the parts are not equal, a request is refused, or a shard has nothing to do."""
    bad = EditRequest(image_bytes=b"no picture", prompt="What is shown here?", target="a thing")
    batches = [
        numbered([request(seed) for seed in range(5)]),
        numbered([request(seed) for seed in range(5, 16)]),  # more than the backbone takes at once
        numbered([request(20)]),
        numbered([bad, request(21)]),
        numbered([bad]),
    ]
    alone = GeneratorWorker(TinyHuggingFace(), InputLimits())
    group = GeneratorGroup(TinyHuggingFace(), InputLimits(), shards=2, max_in_flight=2)
    assert group.describe() == alone.describe()
    found: list[GeneratedBatch] = list(group.stream(batches))
    group.close()
    for expected, batch in zip(alone.stream(batches), found, strict=True):
        assert batch.last_sequence == expected.last_sequence
        assert batch.rejected == expected.rejected
        assert [e.sequence for e in batch.experts] == [e.sequence for e in expected.experts]
        for one, other in zip(expected.experts, batch.experts, strict=True):
            assert one.expert.edit_id == other.expert.edit_id
            for name in ("visual_feature_QM", "prompt_feature_QM", "down_RD", "up_RD"):
                first, second = getattr(one.expert, name), getattr(other.expert, name)
                assert torch.allclose(first, second, atol=1e-5, rtol=1e-5), name
