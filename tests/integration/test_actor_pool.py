"""Groups and pools on a real Ray: bounded, ordered, and whole again after a death."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from liveedit_core.errors import InputError, WorkerLostError
from liveedit_core.inputs.limits import InputLimits
from pipelines.job.ray_session import open_session
from pipelines.job.sections import GeneratorSection, RaySection
from pipelines.job.start_workers import start_generator
from tests.integration.pool_worker import Worker
from tests.unit.tiny_inputs import logged, request
from tests.unit.tiny_models import TinyModels
from workers import actor_pool
from workers.actor_pool import CALLS_PER_ACTOR, WorkerPool, actor_options
from workers.failures import MAX_ATTEMPTS, WorkerStartError
from workers.generator_worker import GeneratorWorker


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    config = RaySection(object_store_memory_bytes=100 * 1024 * 1024)
    with open_session(config, needed_cpus=8):
        yield


def pool_of(
    folder: Path, call: Callable[[Any, Any], Any], *, num_workers: int = 2
) -> WorkerPool[Any, Any, None]:
    options = actor_options(num_cpus=0.5)
    actor = ray.remote(Worker).options(**options)
    actors = [actor.remote(folder) for _ in range(num_workers)]
    return WorkerPool("test pool", actors, call, max_in_flight=1)


def test_answers_come_in_order_and_items_are_taken_as_there_is_room(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, lambda actor, number: actor.double.remote(number))
    taken = 0

    def numbers() -> Iterator[int]:
        nonlocal taken
        for number in range(200):
            taken += 1
            yield number

    for index, answer in enumerate(pool.stream(numbers())):
        assert answer == 2 * index
        assert len(pool.in_flight) <= CALLS_PER_ACTOR * 2
        assert taken - index <= 80
    assert taken == 200
    pool.close()


def test_an_actor_gets_its_next_call_before_it_has_ended_one(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, lambda actor, name: actor.wait_for.remote(name))
    stream = iter(pool.stream(["", "", *["end"] * 20]))
    assert [next(stream), next(stream)] == ["", ""]
    assert len(pool.in_flight) == CALLS_PER_ACTOR * 2
    pool.close()


def test_a_slow_call_holds_back_no_work_of_others(tmp_path: Path) -> None:
    """The last but one of the first pool is late: what the second pool makes of the earlier ones
    arrives, and so is the last one's, behind it."""
    first = pool_of(tmp_path, lambda actor, name: actor.wait_for.remote(name))
    second = pool_of(tmp_path, lambda actor, name: actor.wait_for.remote(name), num_workers=1)
    stream = iter(second.stream(first.stream(["", "", "late", ""])))
    assert [next(stream), next(stream)] == ["", ""]
    (tmp_path / "late").touch()
    assert list(stream) == ["late", ""]
    first.close()
    second.close()


def test_a_second_result_goes_from_pool_to_pool_without_the_driver(tmp_path: Path) -> None:
    first = pool_of(tmp_path, lambda actor, n: actor.halves.options(num_returns=2).remote(n))

    def size(actor: Any, answer: tuple[int, Any]) -> Any:
        _, data = answer
        assert isinstance(data, ray.ObjectRef)
        return actor.size.options(num_returns=2).remote(data)

    second = pool_of(tmp_path, size, num_workers=1)
    answers = list(second.stream(first.stream(range(5))))
    assert [(length, ray.get(byte)) for length, byte in answers] == [(200_000, n) for n in range(5)]
    first.close()
    second.close()


def test_what_waits_between_pools_is_bounded_by_its_bytes(tmp_path: Path) -> None:
    """10 MB an answer, in a quarter of an object store of 100 MB."""
    actors = [ray.remote(Worker).options(num_cpus=0.5).remote(tmp_path) for _ in range(2)]

    def large(actor: Any, number: int) -> Any:
        return actor.sized.options(num_returns=2).remote(10_000_000)

    def size(actor: Any, answer: tuple[int, Any]) -> Any:
        return actor.size.remote(answer[1])

    num_given, waiting = 0, list[int]()

    def numbers() -> Iterator[int]:
        for number in range(40):
            waiting.append(number - num_given)
            yield number

    first = WorkerPool[int, Any, None]("first", actors[:1], large, max_in_flight=12)
    second = WorkerPool[Any, Any, None]("second", actors[1:], size, max_in_flight=12)
    for _ in second.stream(first.stream(numbers())):
        num_given += 1
    assert num_given == 40
    assert max(waiting[:12]) == 11, "nothing is known of the first answers"
    assert max(waiting[24:]) <= 3
    first.close()
    second.close()


def test_actors_start_for_what_waits_and_end_when_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = ray.remote(Worker).options(num_cpus=0.5)
    pool = WorkerPool[str, str, None](
        "test pool",
        [actor.remote(tmp_path)],
        lambda actor, name: actor.wait_for.remote(name),
        max_in_flight=1,
        start_actor=lambda: actor.remote(tmp_path),
        max_actors=3,
    )
    stream = iter(pool.stream(["", *["end"] * 20]))
    assert next(stream) == ""
    assert len(pool.actors) == 3
    pool.adapt()
    (tmp_path / "end").touch()
    assert list(stream) == ["end"] * 20
    assert len(pool.actors) == 3, "they were not idle for long"
    monkeypatch.setattr(actor_pool, "IDLE_S", 0.0)
    for count in (2, 1, 1):
        pool.adapt()
        assert len(pool.actors) == count
    assert list(pool.stream(["", ""])) == ["", ""]
    pool.close()


def test_a_dead_worker_is_replaced_and_its_work_done(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, lambda actor, number: actor.die_once.remote(number))
    assert list(pool.stream([1, 2])) == [1, 2]
    pool.close()


def test_what_kills_every_worker_ends_after_some_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of ours, each of two of Ray's: every one starts a process."""
    assert 2 < MAX_ATTEMPTS < 10
    monkeypatch.setattr(actor_pool, "MAX_ATTEMPTS", 2)
    pool = pool_of(tmp_path, lambda actor, _: actor.die.remote())
    with pytest.raises(WorkerLostError, match="test pool"):
        list(pool.stream([None]))
    pool.close()
    assert 2 <= len(list(tmp_path.glob("died-*"))) <= 4


def test_data_errors_arrive_unchanged(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, lambda actor, _: actor.refuse.remote())
    with pytest.raises(InputError) as caught:
        list(pool.stream([None]))
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


def test_a_group_of_gangs_writes_what_one_plain_worker_writes(tmp_path: Path) -> None:
    batches, log = logged(tmp_path, [[request(n)] for n in range(6)])
    plain = GeneratorWorker(TinyModels(), InputLimits())
    group = start_generator(TinyModels(), InputLimits(), GeneratorSection(gangs=2, num_cpus=0.5))
    assert group.describe() == plain.describe()
    answers = [ray.get(batch) for _, batch in group.stream(batches, log)]
    for one, other in zip(plain.stream(batches, log), answers, strict=True):
        assert one.last_sequence == other.last_sequence
        for a, b in zip(one.experts, other.experts, strict=True):
            assert a.expert.down_RD.equal(b.expert.down_RD)
            assert a.request == b.request
    group.close()
