"""Logical GPUs of a real Ray: stages reserve them, actors are told theirs, and gangs get theirs."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.errors import ConfigError, DeadlineError
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.method.generator import LiveEditGenerator
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.writers import start_writers
from pipelines.job.gpus import gpus_of_each, placed
from pipelines.job.sections import (
    EmbeddingSection,
    EvaluationSection,
    GeneratorSection,
    StatesSection,
)
from pipelines.job.start_workers import start_embedder, start_evaluator, start_generator
from pipelines.training import job as training_job
from pipelines.training.recipe import TrainRecipe, ValidationSection
from pipelines.training.validation import Validation
from tests.tiny_backbone import OUR_CONFIG, case, tiny_backbone
from tests.tiny_training import fresh_backbone
from tests.unit.tiny_models import TinyModels
from workers.gang import Gang, Rendezvous
from workers.models import ModelNames
from workers.sharding_config import ShardingSection


@pytest.fixture(scope="module", autouse=True)
def two_gpus() -> Iterator[None]:
    ray.init("local", num_cpus=8, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def free_gpus() -> float:
    return float(ray.available_resources().get("GPU", 0.0))


def test_the_default_command_reserves_a_gpu_for_generator_and_evaluation() -> None:
    recipe, models = LifelongEditRecipe(), TinyModels()
    writers = start_writers(recipe, models, beside=(recipe.evaluation,))
    others = (recipe.generator, recipe.embedding)
    evaluator = start_evaluator(models, recipe.evaluation, beside=others)
    try:
        writers.generator.describe()
        evaluator.describe()
        assert free_gpus() == 0.0
    finally:
        writers.generator.close()
        writers.embedder.close()
        evaluator.close()


@pytest.mark.parametrize(
    ("generator", "evaluation", "expected"),
    [
        ({}, {}, (1.0, 1.0)),
        ({}, {"num_workers": 2}, (0.5, 0.5)),
        ({"shards": 2}, {}, (1.0, 0.0)),
        ({"shards": 3}, {}, (0.0, 1.0)),
        ({"num_gpus": 2}, {}, (2.0, 0.0)),
        ({"num_gpus": 0.5}, {}, (0.5, 1.0)),
        ({"device": "cpu"}, {"num_workers": 2}, (0.0, 1.0)),
        ({"node_resource": "elsewhere"}, {}, (0.0, 1.0)),
    ],
)
def test_stages_share_the_gpus_that_are_there(
    generator: dict[str, Any], evaluation: dict[str, Any], expected: tuple[float, float]
) -> None:
    first, second = GeneratorSection(**generator), EvaluationSection(**evaluation)
    assert (gpus_of_each(first, [second]), gpus_of_each(second, [first])) == expected


def test_a_gpu_that_nobody_reserves_is_refused() -> None:
    with pytest.raises(ConfigError, match="set num_gpus of the same section"):
        GeneratorSection(device="cuda", num_gpus=0)
    models = ModelNames(options=LoadOptions(device="cuda"))
    with pytest.raises(ConfigError, match="generator: device is 'cuda', but no GPU is reserved"):
        placed(models, GeneratorSection(), 0.0)
    with pytest.raises(ConfigError, match="one whole GPU"):
        GeneratorSection(shards=2, num_gpus=0.5)
    for section, num_gpus, device in (
        (GeneratorSection(), 1.0, "cuda"),
        (GeneratorSection(device="cpu"), 1.0, "cpu"),
        (StatesSection(device="cuda", num_gpus=1), 1.0, "cuda"),
    ):
        found = placed(models, section, num_gpus)
        assert isinstance(found, ModelNames)
        assert found.options.device == device
    free = placed(ModelNames(), GeneratorSection(), 0.0)
    assert isinstance(free, ModelNames)
    assert free.options.device == "cpu"  # even where a process sees the GPUs of others


def test_validation_has_the_gpu_that_the_shards_leave() -> None:
    sharding = ShardingSection(gpus_per_shard=1)
    section = ValidationSection(num_cases=2, bank_edits=4, num_cpus=0.5)
    states = StatesSection(is_cached=False)
    recipe = TrainRecipe(sharding=sharding, validation=section, states=states)
    held_out = [case(number) for number in range(20, 24)]
    generator = LiveEditGenerator(OUR_CONFIG)
    remote = Validation(recipe, tiny_backbone(), held_out, load_backbone=fresh_backbone)
    here = Validation(recipe.with_changes(sharding=ShardingSection()), tiny_backbone(), held_out)
    try:
        found = remote(generator)
        assert free_gpus() == 1.0, "the other one is for the gang, which has not started"
        # An actor has another number of threads, and so other sums.
        assert found.figures == pytest.approx(here(generator).figures, rel=1e-4, abs=1e-5)
        assert remote(generator).figures == found.figures
    finally:
        remote.close()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 1),
        ({"sharding": ShardingSection(shards=2)}, 1),
        ({"sharding": ShardingSection(shards=3)}, 0),
        ({"sharding": ShardingSection(gpus_per_shard=0)}, 0),
        ({"run_root": "runs"}, 0),  # a folder of this node
    ],
)
def test_a_training_on_a_cluster_with_gpus_leaves_all_to_actors(
    changes: dict[str, Any], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = TrainRecipe(**{"run_root": "/runs", **changes})
    assert training_job.on_cluster(recipe) is recipe, "without a cluster it stays as it is"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(training_job, "open_session", lambda *_, **__: contextlib.nullcontext())
    found = training_job.on_cluster(recipe)
    assert found.sharding.gpus_per_shard == expected
    assert found.has_actors == (expected > 0 or recipe.sharding.shards > 1)


class Rank:
    """Tells which GPU it was given."""

    def rendezvous(self) -> Rendezvous:
        return Rendezvous("127.0.0.1", 1)

    def join(self, rendezvous: Rendezvous) -> None:
        pass

    def gpus(self) -> list[int]:
        return [int(number) for number in ray.get_gpu_ids()]


def create(options: dict[str, Any], rank: int) -> Any:
    return ray.remote(Rank).options(**options).remote()


def gang(**sharding: Any) -> Gang:
    section = ShardingSection(gpus_per_shard=1, cpus_per_shard=0.5, timeout_s=1, **sharding)
    return Gang("gang", create, section)


def test_each_rank_of_a_gang_has_a_gpu_of_its_own() -> None:
    pair = gang(shards=2)
    ask: Callable[[bool], list[list[int]]] = lambda _: pair.ask(lambda one: one.gpus.remote())  # noqa: E731
    try:
        assert sorted(pair.retrying(ask)) == [[0], [1]]
        assert free_gpus() == 0.0
    finally:
        pair.close()


def test_a_gang_without_room_says_what_it_wants() -> None:
    with pytest.raises(DeadlineError, match=r"3 times .*'GPU': 1"):
        gang(shards=3, start_timeout_s=2.0, max_rebuilds=0).retrying(lambda _: None)


def test_a_stage_refuses_a_device_before_an_actor_starts() -> None:
    models = ModelNames(options=LoadOptions(device="cuda"))
    with pytest.raises(ConfigError, match=r"generator: .* no GPU is reserved"):
        start_generator(models, InputLimits(), GeneratorSection(node_resource="elsewhere"))
    section = EmbeddingSection(
        num_workers=1, device="cuda", num_gpus="auto", node_resource="elsewhere"
    )
    with pytest.raises(ConfigError, match=r"embedding: .* no GPU is reserved"):
        start_embedder(section)
