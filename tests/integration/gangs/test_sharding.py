"""Two processes that share a model compute what one alone does, and survive the death of one."""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.errors import NumericsError
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.method.config import RefineSection
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.schema import EditRequest
from liveedit_core.training.recipe import OptimizationSection, PhaseSection
from liveedit_core.training.snapshot import MODEL, Snapshot, StepFigures
from pipelines.job.ray_session import open_session
from pipelines.job.sections import GeneratorSection, RaySection
from pipelines.job.start_workers import start_generator
from pipelines.training.data import Material, Pyramids
from pipelines.training.loop import Curve, GeneratorTrainer
from pipelines.training.recipe import CheckpointSection, ModelSection, TrainRecipe
from tests.tiny_backbone import (
    AS_WRITTEN,
    OUR_CONFIG,
    PROMPTS,
    plain_convolutions,
    request,
    tiny_backbone,
    tiny_generator,
)
from tests.tiny_training import beginning, fresh_backbone, plan, tiny_data, tiny_source
from tests.unit.tiny_inputs import logged
from workers.generator_worker import GeneratorWorker
from workers.sharding_config import ShardingSection
from workers.training_group import TrainingGroup
from workers.training_worker import TrainingWorker

pytestmark = pytest.mark.slow


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


def held_bytes(worker: TrainingWorker) -> int:
    """What a process holds of the parameters between two steps."""
    engine: Any = worker._engine
    held = (getattr(p, "ds_tensor", p) for p in engine._module.parameters())
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


PLAN = plan(
    optimization=OptimizationSection(max_gradient_norm=0.5, has_activation_checkpointing=True)
)


@pytest.fixture(scope="module")
def group(session: None) -> Iterator[TrainingGroup]:
    """One gang for several tests, as starting takes the most of their time."""
    group = TrainingGroup(PLAN, tiny_source(), sharding())
    yield group
    group.close()


def test_a_sharded_run_is_the_run_of_one_process(group: TrainingGroup) -> None:
    """Same global batch: all losses of 20 steps, with half of the weights in each process; and
    both go on from a snapshot of the gang."""
    alone = TrainingWorker(PLAN, tiny_source())
    alone.begin(beginning("joint"))
    group.begin(beginning("joint"))
    whole = held_bytes(alone)
    for own in ray.get([actor.__ray_call__.remote(held_bytes) for actor in group.gang.actors]):
        assert own == pytest.approx(whole / 2, rel=0.01)
    expected, found = alone.advance(20), group.advance(20)
    assert largest_difference(expected, found) < 1e-4
    assert expected[0].gradient_norm > 0.5
    assert found[0].gradient_norm == pytest.approx(expected[0].gradient_norm, rel=1e-4)
    check_both_go_on(alone, group)


class InterruptedRunError(Exception):
    """Raised in the middle of a run."""


def test_a_run_of_one_process_goes_on_in_two() -> None:
    """Checkpoints do not depend on the number of processes; here the gang shares moments and
    gradients only (stage 2)."""
    backbone = tiny_backbone()
    material = Material(data=tiny_data(), pyramids=Pyramids(rows=torch.zeros(0), by_entity=()))
    recipe = TrainRecipe(
        model=ModelSection(
            module_dim=16, num_queries=2, rank=4, visual_source="edit_layer", visual_query="learned"
        ),
        experts=PhaseSection(steps=6, batch_size=3, accumulation=2),
        checkpoint=CheckpointSection(every_steps=2),
    )
    whole = GeneratorTrainer(recipe, backbone, material)
    steps: dict[str, list[float]] = {"whole": [], "parts": []}
    whole.on_step = lambda phase, step, figures: steps["whole"].append(figures["total"])
    whole.run()

    def stop(generator: LiveEditGenerator, snapshot: Snapshot, curve: Curve) -> None:
        raise InterruptedRunError

    first = GeneratorTrainer(recipe, backbone, material, on_checkpoint=stop)
    first.on_step = lambda phase, step, figures: steps["parts"].append(figures["total"])
    with pytest.raises(InterruptedRunError):
        first.run()
    second = GeneratorTrainer(
        recipe.with_changes(sharding=sharding(2)),
        backbone,
        material,
        on_step=first.on_step,
        load_backbone=fresh_backbone,
    )
    second.resume(first.snapshot, first.curve)
    second.run()
    assert len(steps["parts"]) == 6
    assert steps["parts"] == pytest.approx(steps["whole"], abs=1e-4)


def check_both_go_on(alone: TrainingWorker, group: TrainingGroup) -> None:
    """A snapshot of the gang holds what one of a single process holds, and either can resume it."""
    taken, kept = group.snapshot(), alone.snapshot()
    assert kept is not None
    shapes = {name: value.shape for name, value in kept.tensors.items()}
    assert {name: value.shape for name, value in taken.tensors.items()} == shapes
    middle = replace(taken, step=10)
    alone.begin(middle)
    group.begin(middle)
    together = group.advance(3)
    assert largest_difference(alone.advance(3), together) < 1e-4
    alone.begin(replace(kept, step=10))
    assert largest_difference(alone.advance(3), together) < 1e-4


def test_a_gang_that_loses_a_process_ends_with_the_same_weights(group: TrainingGroup) -> None:
    def train(*, is_disturbed: bool) -> Snapshot:
        group.begin(beginning("experts"))
        group.advance(3)
        group.snapshot()
        group.advance(1)
        if is_disturbed:
            victim = ray.get(group.gang.actors[1].__ray_call__.remote(lambda worker: os.getpid()))
            os.kill(victim, signal.SIGKILL)
        assert [step.step for step in group.advance(4)] == [4, 5, 6, 7]
        return group.snapshot()

    undisturbed, disturbed = train(is_disturbed=False), train(is_disturbed=True)
    assert undisturbed.step == disturbed.step == 8
    for name, tensor in undisturbed.tensors.items():
        assert torch.allclose(tensor, disturbed.tensors[name], atol=1e-4), name


def test_a_failure_of_the_program_is_not_tried_again(group: TrainingGroup) -> None:
    """NaN on one rank ends the run with its reason, though the other rank waits for it."""
    broken = beginning("experts")
    broken.tensors[f"{MODEL}hidden_norm.weight"].fill_(float("nan"))
    group.begin(broken)
    with pytest.raises(NumericsError, match="phase experts, step 0"):
        group.advance(1)


@dataclass(frozen=True)
class TinyHuggingFace:
    """Names the tiny backbone and a generator with every variant of ours."""

    def load_backbone(self) -> VisionLanguageBackbone:
        torch.backends.mkldnn.set_flags(False)  # as `plain_convolutions` in another process
        tiny_backbone.cache_clear()
        return tiny_backbone()

    def load_generator(self) -> LiveEditGenerator:
        return tiny_generator(OUR_CONFIG.with_changes(min_gate=0.5))


def kill_a_process_of(actor: str) -> None:
    """Of those that this session started."""
    family = psutil.Process().children(recursive=True)
    victims = [process for process in family if actor in " ".join(process.cmdline())]
    victims[-1].kill()


@pytest.mark.parametrize("refine", [AS_WRITTEN, RefineSection(max_steps=4)])
def test_experts_of_a_sharded_gang_are_those_of_one_actor(
    refine: RefineSection, tmp_path: Path
) -> None:
    """Also where the parts are not equal, a request is refused, a shard has nothing to do, or one
    has died; and where some edits are refined and others not."""
    bad = EditRequest(image_bytes=b"no image", prompt="What is shown here?", target="an entity")
    requests = [
        [replace(request(0), also_asked=PROMPTS[1:]), *map(request, range(1, 5))],
        [request(seed) for seed in range(5, 16)],  # more than the backbone takes at once
        [request(20)],
        [bad, request(21)],
        [bad],
    ]
    batches, log = logged(tmp_path, requests)
    group = start_generator(
        TinyHuggingFace(),
        InputLimits(),
        GeneratorSection(shards=2),
        refine=refine,
        weak="commit",
        max_in_flight=2,
    )
    with plain_convolutions():
        alone = GeneratorWorker(TinyHuggingFace(), InputLimits(), refine=refine, weak="commit")
        assert group.describe() == alone.describe()
        whole = list(alone.stream(batches, log))
    answers = list(group.stream(batches[:3], log))
    if refine is not AS_WRITTEN:
        kill_a_process_of("GeneratorShard")
    answers += group.stream(batches[3:], log)
    found = [ray.get(batch) for _, batch in answers]
    group.close()
    outcomes = {(e.expert.outcome.reason, e.expert.outcome.steps) for b in whole for e in b.experts}
    assert outcomes == ({("", 0)} if refine is AS_WRITTEN else {("gate", 0), ("text", 4)})
    for expected, batch in zip(whole, found, strict=True):
        assert batch.last_sequence == expected.last_sequence
        assert batch.rejected == expected.rejected
        assert [e.sequence for e in batch.experts] == [e.sequence for e in expected.experts]
        for one, other in zip(expected.experts, batch.experts, strict=True):
            assert one.expert.edit_id == other.expert.edit_id
            assert one.expert.outcome == other.expert.outcome
            for name in ("visual_feature_QM", "prompt_feature_QM", "down_RD", "up_RD"):
                first, second = getattr(one.expert, name), getattr(other.expert, name)
                assert torch.allclose(first, second, atol=1e-5, rtol=1e-5), name
