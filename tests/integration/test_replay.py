"""Evaluation by real actors: one copy of the experts a node, equal numbers whoever dies."""

import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray._private.internal_api import memory_summary

from infra.bank.traffic import write_traffic
from infra.storage.object_store import ObjectStore
from infra.tracking.results import ResultsTable
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.states import LayerStates
from pipelines.evaluation.bank_evaluation import BankEvaluation
from pipelines.job.ray_session import open_session
from pipelines.job.sections import EvaluationSection
from pipelines.job.start_workers import start_evaluator
from tests.inline_evaluator import InlineEvaluator
from tests.integration.edit_job import kill_at, start_module
from tests.integration.replay_job import CASES, NUM_RESULTS, SESSION, evaluate, slow_pool
from tests.tiny_bank import bank_with_edits
from tests.unit.tiny_models import TinyBackbone, TinyModels
from workers.evaluation_worker import EvaluationWorker
from workers.messages import SharedRepository


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with open_session(SESSION, needed_cpus=4):
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    """Holds a bank of all cases."""
    store = ObjectStore(tmp_path_factory.mktemp("store"))
    bank_with_edits(store, TinyModels(), CASES)
    return store


@pytest.fixture(scope="module")
def undisturbed(store: ObjectStore) -> BankEvaluation:
    """By one plain worker."""
    done = evaluate(store, InlineEvaluator(EvaluationWorker(TinyModels())), "undisturbed")
    assert len(done.results) == NUM_RESULTS
    assert any(result.kept for result in done.results)
    return done


def num_objects() -> int:
    """Objects in the shared memory of this node."""
    address = ray.get_runtime_context().gcs_address  # other tests run beside this one
    text = memory_summary(address=address, stats_only=True)
    found = re.search(r"Plasma memory usage \d+ MiB, (\d+) objects", text)
    assert found, text
    return int(found[1])


def wait_for_objects(count: int) -> None:
    """Ray frees what nobody refers to a moment later."""
    end_s = time.monotonic() + 10
    while num_objects() != count:
        assert time.monotonic() < end_s, f"{num_objects()} objects, not {count}"
        time.sleep(0.2)


@pytest.mark.usefixtures("session")
def test_an_evaluation_leaves_nothing_in_the_object_store(tmp_path: Path) -> None:
    """With a version that is too large for a message, and states that no cache holds."""
    store = ObjectStore(tmp_path)
    bank = bank_with_edits(store, TinyModels(), CASES)
    traffic = write_traffic(store, np.eye(300, dtype=np.float32))
    epoch = bank.acquire_writer()
    bank.calibrate(traffic=traffic, author="ada", reason="large", epoch=epoch)
    before = num_objects()
    pool = start_evaluator(TinyModels(), EvaluationSection(num_workers=1))
    most = 0

    def look(num_done: int, num_units: int) -> None:
        nonlocal most
        most = max(most, num_objects())

    first = evaluate(store, pool, "no trace", look)
    assert first.is_complete
    assert most == before + 1, "the experts of the version, which a worker has loaded"
    wait_for_objects(before)
    assert_equal(evaluate(store, pool, "again"), first)
    wait_for_objects(before)
    pool.close()


def assert_equal(done: BankEvaluation, undisturbed: BankEvaluation) -> None:
    assert done.is_complete
    assert done.results == undisturbed.results, "bit for bit, weights included"
    assert done.summary == undisturbed.summary


class MortalBackbone(TinyBackbone):
    """Kills its process in the middle of the replay, once."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def encode(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        images = {item.image_bytes for item in inputs}
        if CASES[30].edit.image_bytes in images and not self._mark.exists():
            self._mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(inputs)


@dataclass(frozen=True)
class MortalModels(TinyModels):
    """Loads it."""

    mark: Path = Path()

    def load_backbone(self) -> MortalBackbone:
        return MortalBackbone(self.mark)


def sum_of_bits(tensor: torch.Tensor) -> int:
    """A checksum that does not depend on the number of threads, as a sum of floats does."""
    return int(tensor.view(torch.int32).sum())


class Reader:
    """Says where in memory the experts lie that it was given."""

    def place(self, shared: SharedRepository) -> tuple[int, str, int]:
        tensor = shared.repository().down_LD
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, _, offset, _, inode, *_ = line.split()
            start, stop = (int(number, 16) for number in span.split("-"))
            if start <= tensor.data_ptr() < stop:
                position = tensor.data_ptr() - start + int(offset, 16)
                return os.getpid(), f"{inode}:{position}", sum_of_bits(tensor)
        raise AssertionError("the tensor lies nowhere")


@pytest.mark.usefixtures("session")
def test_the_actors_of_a_node_read_the_same_memory() -> None:
    experts = ExpertRepository(
        edit_ids=tuple(str(n) for n in range(200)),
        visual=torch.rand(200, 8),
        prompt=torch.rand(200, 8),
        ranks_N=torch.full((200,), 4),
        down=torch.rand(800, 64),
        up=torch.rand(800, 64),
    )
    shared = ray.put(SharedRepository.of(experts))
    actor: Any = ray.remote(Reader)
    readers = [actor.options(num_cpus=0.1).remote() for _ in range(2)]
    first, second = ray.get([reader.place.remote(shared) for reader in readers])
    assert first[0] != second[0], "two processes"
    assert first[1] == second[1], "one file of shared memory, one place in it"
    assert first[1] != "0:0"
    assert first[2] == second[2] == sum_of_bits(experts.down_LD)
    for reader in readers:
        ray.kill(reader)


@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_what_a_stopped_evaluation_left_in_the_pool_is_nobody_elses(
    store: ObjectStore, undisturbed: BankEvaluation
) -> None:
    pool = slow_pool(store, num_workers=1)
    stopped = evaluate(store, pool, "stopped", should_stop=lambda: True)
    assert not stopped.is_complete
    assert_equal(evaluate(store, pool, "after a stop"), undisturbed)
    pool.close()


@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_a_killed_actor_changes_no_number(
    store: ObjectStore, undisturbed: BankEvaluation, tmp_path: Path
) -> None:
    models = MortalModels(mark=tmp_path / "died")
    pool = start_evaluator(models, EvaluationSection(num_workers=2), max_in_flight=3)
    assert_equal(evaluate(store, pool, "killed actor"), undisturbed)
    pool.close()
    assert models.mark.exists()


def test_results_and_answers_live_on_s3(undisturbed: BankEvaluation, s3_root: str) -> None:
    store = ObjectStore(s3_root)
    bank_with_edits(store, TinyModels(), CASES)

    def fresh() -> InlineEvaluator:
        return InlineEvaluator(EvaluationWorker(TinyModels(), answers_uri=store.root_uri))

    done_units: list[int] = []
    stopped = evaluate(
        store,
        fresh(),
        "on s3",
        lambda num_done, num_units: done_units.append(num_done),
        should_stop=lambda: len(done_units) > 2,
    )
    assert 0 < stopped.num_new_results < NUM_RESULTS
    done = evaluate(store, fresh(), "on s3")
    assert done.num_new_results == NUM_RESULTS - stopped.num_new_results
    assert_equal(done, undisturbed)


@pytest.mark.slow
def test_a_killed_driver_goes_on_where_it_was(
    store: ObjectStore, undisturbed: BankEvaluation, request: pytest.FixtureRequest
) -> None:
    job = start_module("tests.integration.replay_job", store.root_uri, "killed driver")
    kill_at(job, "scored 3 of 8")
    num_stored = len(ResultsTable(store, "killed driver").read())
    assert 0 < num_stored < NUM_RESULTS
    request.getfixturevalue("session")
    pool = slow_pool(store, num_workers=1)
    done = evaluate(store, pool, "killed driver")
    pool.close()
    assert done.num_new_results == NUM_RESULTS - num_stored
    assert_equal(done, undisturbed)
