"""Groups and pools on a real Ray: bounded, ordered, and whole again after a death."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from liveedit_core.errors import InputError, WorkerLostError
from liveedit_core.inputs.limits import InputLimits
from pipelines.job.ray_session import open_session
from pipelines.job.sections import GeneratorSection, RaySection
from pipelines.job.start_workers import start_generator
from tests.unit.tiny_inputs import request
from tests.unit.tiny_models import TinyModels
from workers.actor_pool import ActorPool, actor_options
from workers.failures import MAX_ATTEMPTS, WorkerStartError
from workers.generator_worker import GeneratorWorker
from workers.messages import NumberedRequest


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    config = RaySection(object_store_memory_bytes=100 * 1024 * 1024)
    with open_session(config, needed_cpus=8):
        yield


class Worker:
    """Does what a test asks, and dies when it asks for that."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def double(self, number: int) -> int:
        return 2 * number

    def die_once(self, number: int) -> int:
        mark = self._folder / f"died-{number}"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def refuse(self) -> None:
        raise InputError("prompt is empty")


def pool_of(folder: Path, num_workers: int = 2, max_in_flight: int = 3) -> ActorPool:
    options = actor_options(num_cpus=0.5)
    actor = ray.remote(Worker).options(**options)
    actors = [actor.remote(folder) for _ in range(num_workers)]
    return ActorPool("test pool", actors, max_in_flight=max_in_flight)


def test_answers_come_in_order_and_calls_are_taken_as_there_is_room(tmp_path: Path) -> None:
    pool = pool_of(tmp_path)
    taken = 0

    def calls() -> Iterator[Any]:
        nonlocal taken
        for number in range(20):
            taken += 1
            yield lambda actor, number=number: actor.double.remote(number)

    for index, answer in enumerate(pool.in_order(calls())):
        assert answer == 2 * index
        assert taken - index <= 3
    assert taken == 20
    pool.close()


def test_a_dead_worker_is_replaced_and_its_work_done(tmp_path: Path) -> None:
    pool = pool_of(tmp_path)
    calls = [lambda actor, n=n: actor.die_once.remote(n) for n in (1, 2)]
    assert list(pool.in_order(calls)) == [1, 2]
    pool.close()


def test_what_kills_every_worker_ends_after_some_attempts(tmp_path: Path) -> None:
    pool = pool_of(tmp_path)
    with pytest.raises(WorkerLostError, match="test pool"):
        list(pool.in_order([lambda actor: actor.die.remote()]))
    pool.close()
    assert MAX_ATTEMPTS < 10


def test_data_errors_arrive_unchanged(tmp_path: Path) -> None:
    pool = pool_of(tmp_path)
    with pytest.raises(InputError) as caught:
        list(pool.in_order([lambda actor: actor.refuse.remote()]))
    assert type(caught.value) is InputError
    assert caught.value.message == "prompt is empty"
    pool.close()


class UnloadableModels(TinyModels):
    """Names models that are not there."""

    def load_backbone(self) -> Any:
        raise InputError("no such checkpoint")


def test_a_worker_that_cannot_start_says_why() -> None:
    group = start_generator(UnloadableModels(), InputLimits(), GeneratorSection(num_cpus=0.5))
    with pytest.raises(WorkerStartError, match="no such checkpoint"):
        group.describe()
    group.close()


def test_a_group_of_gangs_writes_what_one_plain_worker_writes() -> None:
    batches = [[NumberedRequest(sequence=n + 1, request=request(n))] for n in range(6)]
    plain = GeneratorWorker(TinyModels(), InputLimits())
    group = start_generator(TinyModels(), InputLimits(), GeneratorSection(gangs=2, num_cpus=0.5))
    assert group.describe() == plain.describe()
    for one, other in zip(plain.stream(batches), group.stream(batches), strict=True):
        assert one.last_sequence == other.last_sequence
        for a, b in zip(one.experts, other.experts, strict=True):
            assert a.expert.down_RD.equal(b.expert.down_RD)
            assert a.request == b.request
    group.close()
